"""A /proc laid out in a directory: what topology, sampler and host read of one, and no more."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

FORKED = 0x40
EXECED = 0x400000

ARBITER = ("HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH", "CHLD")
DIRTY_ARBITER = ("HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "CHLD")
WORKER = ("QUIT", "INT", "TERM", "USR1", "WINCH", "ABRT", "TTIN", "TTOU")


class FakeProc:
    """process() makes or changes one; its parent's list of children follows."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "proc"
        self.path.mkdir()
        self.files = directory / "files"
        self.files.mkdir()
        self.meminfo()

    def meminfo(
        self, total: int = 8 << 20, available: int = 4 << 20, swap: int = 0, swap_free: int = 0
    ) -> None:
        """In kilobytes, as in the file."""
        (self.path / "meminfo").write_text(
            f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n"
            f"SwapTotal: {swap} kB\nSwapFree: {swap_free} kB\n"
        )

    def process(
        self,
        pid: int,
        parent: int = 1,
        *,
        start: int | None = None,
        name: str = "python",
        state: str = "S",
        flags: int = FORKED,
        cmdline: str = "python\0-m\0gunicorn\0app",
        catches: Iterable[str] = (),
        heartbeats: Iterable[str] = (),
        files: int = 0,
        sockets: Iterable[int] = (),
        environ: str = "",
        threads: int = 1,
        cpu: tuple[int, int] = (0, 0),
        pages: tuple[int, int] = (1000, 200),
        swap: int = 0,
        peak: int = 0,
        listed: bool = True,
    ) -> int:
        """heartbeats: names of heartbeat files it holds, as fd 10 and up; files: how many others;
        sockets: inodes of its sockets.

        cpu: user and system, in ticks; pages: resident and shared; swap, peak: kilobytes.
        """
        directory = self.path / str(pid)
        old = self.ppid(pid)
        if old is not None and old != parent:
            self._unlist(pid, old)
        (directory / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        start = 1000 + pid if start is None else start
        stat = (
            f"{pid} ({name}) {state} {parent} {pid} {pid} 0 -1 {flags} 0 0 0 0 {cpu[0]} {cpu[1]}"
            f" 77 88 20 0 {threads} 0 {start} 123456 {pages[0]} 18446744073709551615 1 1 0\n"
        )
        self._write(directory / "stat", stat)
        self._write(directory / "task" / str(pid) / "stat", stat)
        self._write(directory / "statm", f"9999 {pages[0]} {pages[1]} 1 0 500 0\n")
        self._write(directory / "cmdline", cmdline + "\0")
        self._write(directory / "environ", environ)
        mask = sum(1 << (signal.Signals["SIG" + name] - 1) for name in catches)
        self._write(
            directory / "status",
            f"Name:\tx\nVmHWM:\t   {peak} kB\nVmSwap:\t   {swap} kB\n"
            f"SigIgn:\t0000000000000000\nSigCgt:\t{mask:016x}\n",
        )
        children = directory / "task" / str(pid) / "children"
        if not children.exists():
            children.write_text("")
        self._open_files(directory / "fd", heartbeats, files, sockets)
        above = self.path / str(parent) / "task" / str(parent) / "children"
        if listed and above.exists() and str(pid) not in above.read_text().split():
            above.write_text(above.read_text() + f"{pid} ")
        return pid

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)

    def _open_files(
        self, directory: Path, heartbeats: Iterable[str], files: int, sockets: Iterable[int]
    ) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for number in range(files):
            os.symlink("/dev/null", directory / str(number + 1000))
        for number, name in enumerate(heartbeats):
            target = self.heartbeat(name)
            os.symlink(target, directory / str(number + 10))
        for inode in sockets:
            os.symlink(f"socket:[{inode}]", directory / str(inode + 2000))

    def heartbeat(self, name: str) -> Path:
        """The heartbeat file of that name; as old as a worker that has not started yet."""
        path = self.files / f"wgunicorn-{name}"
        if not path.exists():
            path.write_text("")
            path.chmod(0o600)
            os.utime(path, (1.79e9, 1.79e9))
        return path

    def beat(self, name: str) -> None:
        """The run loop of its worker has started (gunicorn 22 and newer)."""
        os.utime(self.heartbeat(name), (4711, 4711))

    def ppid(self, pid: int) -> int | None:
        path = self.path / str(pid) / "stat"
        return int(path.read_text().rpartition(")")[2].split()[1]) if path.exists() else None

    def _unlist(self, pid: int, parent: int) -> None:
        path = self.path / str(parent) / "task" / str(parent) / "children"
        if path.exists():
            left = [word for word in path.read_text().split() if word != str(pid)]
            path.write_text("".join(f"{word} " for word in left))

    def end(self, pid: int, listed: bool = False) -> None:
        """It has gone; `listed`: its parent's list still shows it."""
        parent = self.ppid(pid)
        shutil.rmtree(self.path / str(pid))
        if not listed and parent is not None:
            self._unlist(pid, parent)

    def without_children_files(self) -> None:
        """A kernel without CONFIG_PROC_CHILDREN."""
        for path in self.path.glob("*/task/*/children"):
            path.unlink()

    def gunicorn(self, master: int = 100, workers: int = 2, parent: int = 1) -> None:
        """A master and its workers, with the pids behind its own, holding files h101, ..."""
        names = [f"h{master + n}" for n in range(1, workers + 1)]
        self.process(master, parent, flags=EXECED, catches=ARBITER, heartbeats=names)
        for number, name in enumerate(names, 1):
            self.process(master + number, master, catches=WORKER, heartbeats=[name])
