"""A fingerprint of the code a program would load, by a process of its own: `fingerprint.py JSON`.

Run as a script, not imported: walking an environment's packages takes too long for the listener.
The argument says what to look at (see `main`); one line of JSON on stdout says what was found:

number    changes whenever a code file comes, goes or changes; null where not all could be seen
why       what kept it from seeing all of it, in words
newest    when a code file last changed (ctime: cp -p and tar set mtime, nobody sets ctime), and
changed   which one that was
absent    those of the files asked for that are not there, and
unseen    which of the settings `gunicorn --check-config` does not apply are in them
touched   the same, or later where files have come or gone since in a directory with code

Code is what Python or its packages read at import, or an application usually does: see below.
JSON counts for `number` alone: many applications write theirs while they run.
"""

import json
import os
import sys
import zlib

CODE = (".py", ".pyc", ".so", ".pth", ".toml", ".cfg", ".ini", ".env", ".yaml", ".yml")
DATA = (".json",)
NAMES = (".env", "entry_points.txt")
UNSEEN = ("raw_env", "pythonpath")
SKIPPED = {
    *("__pycache__", "node_modules", ".git", ".hg", ".svn", ".tox", ".nox"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".cache"),
}


class Walk:
    """What was seen so far, and how much more may be looked at."""

    def __init__(self, most: int, seconds: float) -> None:
        self.number = 0
        self.files = 0
        self.newest = 0.0
        self.changed = ""
        self.touched = 0.0
        self.why = ""
        self._left = most
        self._until = os.times().elapsed + seconds
        self._visited: set[tuple[int, int]] = set()

    def file(self, path: str, code: bool = True) -> None:
        """Count one file; one that is not there counts as that."""
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._count(path, "absent")
            return
        except OSError as error:
            self._incomplete(f"{path}: {error.strerror}")
            return
        self._count(
            path,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_dev,
            status.st_ino,
        )
        if code:
            self._changed(path, status.st_ctime)

    def links(self, path: str) -> None:
        """Count the symbolic links on the way to a place: a release is made current by one."""
        place = ""
        for name in path.split("/")[1:]:
            place += "/" + name
            try:
                if os.path.islink(place):
                    status = os.lstat(place)
                    self._count(place, os.readlink(place))
                    self._changed(place, status.st_ctime)
            except OSError:
                return

    def tree(self, root: str) -> None:
        """Count the code below a directory, through symbolic links, each directory once."""
        root = os.path.realpath(root)
        if root == "/":
            self._incomplete("/ itself is never searched for code")
            return
        if os.path.isfile(root):  # a zip archive may stand in PYTHONPATH
            self.file(root)
            return
        waiting = [root]
        while waiting and not self._exhausted():
            waiting += self._directory(waiting.pop(), root)

    def _directory(self, path: str, root: str) -> list[str]:
        """Count the files of one directory; the directories in it."""
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in self._visited:
                return []
            self._visited.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            self._count(path, "absent")
            return []
        except OSError as error:
            self._incomplete(f"{path}: {error.strerror}")
            return []
        self._left -= len(found)
        below, has_code = [], False
        for entry in found:
            code = entry.name.endswith(CODE) or entry.name in NAMES
            if _is_directory(entry):
                if entry.name not in SKIPPED and not (entry.is_symlink() and _above(entry, root)):
                    below.append(entry.path)
            elif code or entry.name.endswith(DATA):
                has_code = has_code or code
                self.file(entry.path, code)
        if has_code:
            self._came_or_went(path, status.st_mtime)
        return below

    def _came_or_went(self, path: str, at: float) -> None:
        """A directory's mtime, unless it is only that Python has made its __pycache__ there."""
        try:
            compiled = os.stat(os.path.join(path, "__pycache__")).st_mtime
        except OSError:
            compiled = 0.0
        if at > compiled:
            self.touched = max(self.touched, at)

    def _count(self, *what: object) -> None:
        self.files += 1
        self.number = zlib.crc32(repr(what).encode("utf-8", "surrogateescape"), self.number)

    def _changed(self, path: str, at: float) -> None:
        if at > self.newest:
            self.newest, self.changed = at, path

    def _incomplete(self, why: str) -> None:
        self.why = self.why or why

    def _exhausted(self) -> bool:
        if self._left <= 0:
            self._incomplete("there are too many files")
        elif os.times().elapsed > self._until:
            self._incomplete("reading its directories takes too long")
        else:
            return False
        return True


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _above(entry: os.DirEntry[str], root: str) -> bool:
    """Whether a symbolic link leads to where it would take the whole machine in."""
    real = os.path.realpath(entry.path)
    return real == "/" or _of_the_kernel(real) or root.startswith(real + "/")


def _of_the_kernel(path: str) -> bool:
    return (path + "/").startswith(("/proc/", "/sys/", "/dev/"))


# -- which Python, and where its packages are


def interpreter(words: list[str], path: str, cwd: str) -> str:
    """The Python that a command line starts, itself or by a script's first line; "" for none."""
    program = _which(words[0], path, cwd) if words else ""
    if not program or _is_python(program):
        return program
    try:
        with open(program, "rb") as file:
            first, second = file.readline(4096), file.readline(4096)
    except OSError:
        return ""
    shebang = os.fsdecode(first).split()
    if not first.startswith(b"#!") or not shebang:
        return ""
    shebang[0] = shebang[0][2:]
    named = [word for word in shebang if word]
    # For long paths pip writes a shell script that is Python, too: '''exec' /python "$0" "$@"
    if second.startswith(b"'''exec' "):
        named += [os.fsdecode(second).split("'''exec' ", 1)[1].split(' "$0"')[0].strip('"')]
    for word in named:
        if _is_python(word):
            return _which(word, path, cwd)
    return ""


def _which(program: str, path: str, cwd: str) -> str:
    """The file a program's name stands for; "" if there is none."""
    places = [""] if "/" in program else path.split(":")
    for place in places:
        file = os.path.join(cwd, place, program)
        if os.path.isfile(file):
            return file
    return ""


def _is_python(program: str) -> bool:
    return os.path.basename(program).startswith(("python", "pypy"))


def packages(python: str, home: str) -> list[str]:
    """The site-packages of an interpreter, and where their .pth files lead."""
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    prefixes = [prefix]
    settings = _settings(os.path.join(prefix, "pyvenv.cfg"))
    if settings is None:
        prefixes = [os.path.dirname(os.path.dirname(os.path.realpath(python)))]
    elif settings.get("include-system-site-packages") == "true":
        prefixes.append(os.path.dirname(settings.get("home", "")))
    if settings is None and home:
        prefixes.append(os.path.join(home, ".local"))
    found = [place for prefix in prefixes for place in _sites(prefix)]
    return found + [place for site in found for place in _led_to(site)]


def _settings(file: str) -> "dict[str, str] | None":
    """pyvenv.cfg; None where there is none."""
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            pairs = [line.partition("=") for line in lines]
    except OSError:
        return None
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _sites(prefix: str) -> list[str]:
    found = []
    for library in ("lib", "lib64", "local/lib"):
        directory = os.path.join(prefix, library)
        try:
            versions = sorted(n for n in os.listdir(directory) if n.startswith(("python", "pypy")))
        except OSError:
            continue
        for version in versions:
            for name in ("site-packages", "dist-packages"):
                place = os.path.join(directory, version, name)
                if os.path.isdir(place):
                    found.append(place)
    return found


def _led_to(site: str) -> list[str]:
    """The directories that .pth files add: what is installed to be edited in place."""
    found = []
    try:
        names = sorted(name for name in os.listdir(site) if name.endswith(".pth"))
    except OSError:
        return []
    for name in names:
        try:
            with open(os.path.join(site, name), encoding="utf-8", errors="replace") as lines:
                places = [os.path.join(site, line.strip()) for line in lines if line.strip()]
        except OSError:
            continue
        found += [place for place in places if os.path.isdir(place)]
    return found


def _running(pid: int, path: str, cwd: str, home: str) -> list[str]:
    """The site-packages of a running process: of its interpreter, and of what it has loaded."""
    found = []
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0")]
        if not words[0].startswith("gunicorn: ") and (python := interpreter(words, path, cwd)):
            found += packages(python, home)
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
            loaded = {line.split(None, 5)[-1].strip() for line in lines if "-packages/" in line}
    except OSError:
        return found
    for name in ("/site-packages/", "/dist-packages/"):
        found += sorted({file.split(name)[0] + name for file in loaded if name in file})
    return [place for place in found if os.path.isdir(place)]


def _places(words: list[str]) -> list[str]:
    """The absolute paths in a command line, also in the script of a shell."""
    text = " ".join(words)
    for mark in "'\"`=:,;&|()<>":
        text = text.replace(mark, " ")
    places = [word for word in text.split() if word.startswith("/")]
    return [place for place in places if not _of_the_kernel(place)]


def _mentions(file: str, setting: str) -> bool:
    try:
        with open(file, "rb") as text:
            return setting.encode() in text.read(1_000_000)
    except OSError:
        return False


def main(asked: "dict[str, object]") -> "dict[str, object]":
    """asked: `roots` and `files` to count, `words`: the command line, `path`, `home`, `cwd` of the
    program; `pid` of its master or 0; `environment`: whether its packages count too; and how much
    may be looked at: `most` entries, `seconds`."""
    path, home, cwd = str(asked["path"]), str(asked["home"]), str(asked["cwd"])
    roots, files, words = (list(asked[name]) for name in ("roots", "files", "words"))  # type: ignore[call-overload]
    walk = Walk(int(asked["most"]), float(asked["seconds"]))  # type: ignore[call-overload, arg-type]
    if asked["environment"]:
        python = interpreter(words, path, cwd)
        found = packages(python, home) if python else []
        found += _running(int(asked["pid"]), path, cwd, home)  # type: ignore[call-overload]
        if not found:
            walk.why = "the packages of its Python were not found"
        roots += found
    for place in dict.fromkeys([*roots, *_places(words)]):
        walk.links(place)
    for file in files:
        walk.file(file)
    for root in dict.fromkeys(roots):
        walk.tree(root)
    return {
        "number": None if walk.why else f"{walk.number:08x}-{walk.files}-{walk.newest:.6f}",
        "why": walk.why,
        "newest": walk.newest,
        "changed": walk.changed,
        "absent": [file for file in files if not os.path.exists(file)],
        "unseen": [name for name in UNSEEN if any(_mentions(file, name) for file in files)],
        "touched": max(walk.touched, walk.newest),
    }


if __name__ == "__main__":
    os.nice(19)
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
