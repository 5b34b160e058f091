"""`supervisorctl memwatch ...`: memwatch's commands inside supervisorctl.

    [ctlplugin:memwatch]
    supervisor.ctl_factory = supervisor_memwatch.ctlplugin:make_controller_plugin

The commands are cli.py's, with supervisorctl's configuration file, address and login put before
what the user typed. supervisorctl has to go on working whatever happens here: its plugins may not
raise, not print in its place, and not answer for topics of others.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from . import cli, units

LOOKING = ("status", "history", "explain")
ASKING = ("pause", "resume", "recycle", "reload", "restart")
COMMANDS = (*LOOKING, *ASKING)
USAGE = f"memwatch {'|'.join(COMMANDS)} ..."
TROUBLE = 1  # supervisorctl's GENERIC


def make_controller_plugin(controller: Any, **options: str) -> ControllerPlugin:
    """What supervisorctl calls at its start; options of the section have no meaning."""
    return ControllerPlugin(controller)


class ControllerPlugin(ControllerPluginBase):  # type: ignore[misc]
    """The command `memwatch`, its help and its completion."""

    name = "memwatch"

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        self._complete = getattr(controller, "complete", None)
        self._found: list[str] = []
        if self._complete is not None:
            # supervisorctl asks no plugin for completions.
            controller.complete = self.complete
        for other in getattr(controller.options, "plugins", []):
            # Each plugin is asked for help on everything and complains of what is not its own.
            for topic in ("memwatch", *(f"memwatch {command}" for command in COMMANDS)):
                setattr(other, f"help_{topic}", _nothing)

    def do_memwatch(self, arg: str) -> None:
        # No docstring: it would be printed as the help. A result would end supervisorctl's shell.
        try:
            words = shlex.split(arg)
        except ValueError as error:  # a quotation without its end
            self._say(f"memwatch: {error}; valid: {USAGE}")
            self.ctl.exitstatus = 2
            return
        try:
            status = self._run(words)
            self.ctl.stdout.flush()
        except KeyboardInterrupt:
            self.ctl.output("")
            status = TROUBLE
        except BrokenPipeError:
            # The reader of our output has gone (`... | head`): nobody is there to be told.
            _silence(self.ctl.stdout)
            status = 0
        except Exception as error:
            self._say(f"memwatch: {type(error).__name__}: {error}")
            status = TROUBLE
        if status:
            self.ctl.exitstatus = status

    def _run(self, words: list[str]) -> int:
        """A command's exit status; what it prints goes where supervisorctl's output goes."""
        if words in (["-h"], ["--help"]):
            self.help_memwatch()
            return 0
        if not words or words[0] not in COMMANDS:
            self._say(f"memwatch: valid: {USAGE}")
            return 2
        screen: Any = Screen(self.ctl.stdout)
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            try:
                arguments = cli.parser().parse_args([words[0], *self._own(words), *words[1:]])
                status: int = arguments.run(arguments)
            except SystemExit as ended:  # argparse's way out: usage, --help
                status = ended.code if isinstance(ended.code, int) else 2
        return status

    def _own(self, words: list[str]) -> list[str]:
        """supervisorctl's own file, address and login, as arguments."""
        options = self.ctl.options
        given = {"-c": getattr(options, "configfile", None)}
        if words[0] in ASKING:
            given |= {"-s": options.serverurl}
            # With an address or a name of the user's own, this password is somebody else's.
            if not any(word.startswith(("-s", "-u")) for word in words[1:]):
                given |= {"-u": options.username, "-p": options.password}
        # With "=", whatever a password begins with.
        return [f"{flag}={value}" for flag, value in given.items() if value is not None]

    def _say(self, text: str) -> None:
        self.ctl.output(units.printable(text, 1000))

    # -- help

    def help_memwatch(self) -> None:
        """Each command in a line."""
        self.ctl.output(f"{USAGE}\t\tAsk the memory watchdog, or for its action")
        for action in cli.parser()._actions:
            for found in getattr(action, "_choices_actions", ()):
                if found.dest in COMMANDS:
                    self.ctl.output(f"memwatch {found.dest}\t{found.help}")
        self.ctl.output("help memwatch <command>\tIts arguments")

    def do_help(self, arg: str) -> None:
        # Only on what is ours; without a topic, the list, in which a docstring would put "help".
        words = arg.split()
        if words == ["memwatch"]:
            self.help_memwatch()
        elif words[:1] == ["memwatch"]:
            self._run([words[1], "--help"])
        elif not words:
            super().do_help(arg)

    # -- completion

    def complete(self, text: str, state: int, line: str | None = None) -> str | None:
        """The completion number `state` of what is typed; supervisorctl's own where it is not
        for us."""
        try:
            typed = _typed() if line is None else line
            words = typed.split()
            if words[:1] == ["memwatch"] and (len(words) > 1 or typed.endswith(" ")):
                if state == 0:
                    before = words[1:] if not text else words[1:-1]
                    self._found = self._completions(text, before)
                return self._found[state] if state < len(self._found) else None
        except Exception:
            return None
        found: str | None = self._complete(text, state, line) if self._complete else None
        return found

    def _completions(self, text: str, before: list[str]) -> list[str]:
        if not before:
            found = [*COMMANDS]
        elif text.startswith("-"):
            found = [flag for flag, _ in _flags(before[0])]
        elif any(before[-1] == flag and takes for flag, takes in _flags(before[0])):
            found = []  # a time or a file: not for us to guess
        else:
            found = self._targets(before[0])
        return [f"{word} " for word in found if word.startswith(text)]

    def _targets(self, command: str) -> list[str]:
        """The watched programs, of `recycle` also their workers' pids."""
        from . import config, status

        path = config.find(getattr(self.ctl.options, "configfile", None), command=command)
        programs = status.document(config.load(path, os.environ, strict=False))["programs"]
        names = [program["namespec"] for program in programs]
        if command == "recycle":
            names += [str(worker["pid"]) for program in programs for worker in program["workers"]]
        return names


class Screen(io.TextIOBase):
    """supervisorctl's output; what its encoding does not have is escaped."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str) -> int:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._out.flush()


def _typed() -> str:
    import readline

    return readline.get_line_buffer()


def _silence(out: Any) -> None:
    """What is left in its buffer goes nowhere, so that nobody fails at it later."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)


def _flags(command: str) -> list[tuple[str, bool]]:
    """The options of a command, and whether a value follows."""
    for action in cli.parser()._actions:
        found = (getattr(action, "choices", None) or {}).get(command)
        if found is not None:
            return [
                (flag, option.nargs != 0)
                for option in found._actions
                for flag in option.option_strings
            ]
    return []


def _nothing() -> None:
    """In place of a complaint."""
