"""A supervisord.conf, read the way supervisord reads it: comments, sections, includes, `%`.

What the file says of programs, event listeners and the RPC is told here; what it says to
us is config.py's, and whether supervisord would accept it is supervisord's own business.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from . import units

NOT_SHOWN = "(not shown)"
_MOST_PROCESSES = 10_000  # of one program whose names are worked out; supervisord has no bound


class Problem(NamedTuple):
    """One thing that is wrong in a file: where, what it is, and what would be valid.

    `value` is as written in the file, NOT_SHOWN where it may hold a secret, None where it
    does not matter.
    """

    file: str
    section: str = ""
    option: str = ""
    value: str | None = None
    valid: str = ""
    what: str = ""

    def __str__(self) -> str:
        place = f"[{units.printable(self.section, 100)}] " if self.section else ""
        if self.option:
            place += units.printable(self.option, 100)
            if self.value is not None:
                place += f" = {units.printable(self.value, 100)}" if self.value else " ="
        says = [self.what, f"valid: {self.valid}" if self.valid else ""]
        parts = [units.printable(self.file), place.strip(), "; ".join(filter(None, says))]
        return ": ".join(filter(None, parts))


class ConfigError(Exception):
    """What is wrong with the configuration, all of it; str() has one line for each problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Setting(NamedTuple):
    """The text of an option, as written, and the file it stands in."""

    text: str
    file: str


class Server(NamedTuple):
    """An address of the RPC (`unix:///path` or `http://host:port`) and how to log in."""

    url: str
    username: str | None
    password: str | None


Sections = dict[str, dict[str, Setting]]


def parse(file: str) -> Sections:
    """The sections of one file, with the parser settings of supervisord.

    Raises ConfigError; nothing of the text is shown, for a broken line may hold a secret.
    """
    # A section name that cannot occur: [DEFAULT] is then a section like any other, and does
    # not show up as unknown options of [memwatch]. IniFile.get() gives it its meaning.
    parser = configparser.RawConfigParser(
        inline_comment_prefixes=(";", "#"), strict=False, default_section=""
    )
    try:
        with open(file, encoding="utf-8") as stream:
            parser.read_file(stream)
    except UnicodeDecodeError:
        raise ConfigError([Problem(file, what=f"line {_broken_line(file)} is not UTF-8")]) from None
    except configparser.MissingSectionHeaderError as error:
        what = f"line {error.lineno} stands before any [section]"
        raise ConfigError([Problem(file, what=what)]) from None
    except configparser.ParsingError as error:
        raise ConfigError(
            Problem(file, what=f"line {line} is not understood", valid="option = value")
            for line, _ in error.errors
        ) from None
    except (OSError, ValueError, configparser.Error) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError([Problem(file, what=f"cannot be read: {reason}")]) from None
    return {
        section: {option: Setting(text, file) for option, text in parser.items(section)}
        for section in parser.sections()
    }


def _broken_line(file: str) -> int | str:
    """The number of the first line that is not UTF-8."""
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return "?"  # mended meanwhile


class IniFile:
    """The main file and what it includes, as one set of sections.

    Raises ConfigError where the main file cannot be read; what is wrong with included ones
    is in `problems`, environment variables that [include] misses are in `missing`.
    """

    def __init__(self, path: str, environ: Mapping[str, str]) -> None:
        self.path = os.path.abspath(path)
        self.files = [self.path]
        self.problems: list[Problem] = []
        self.missing: list[Problem] = []
        self._environ = environ
        self.sections = parse(self.path)
        for file in self._included():
            self.files.append(file)
            try:
                self._merge(parse(file))
            except ConfigError as error:
                self.problems.extend(error.problems)

    def _included(self) -> list[str]:
        """The files that [include] names, in supervisord's order; directories are left out."""
        setting = self.sections.get("include", {}).get("files")
        if setting is None:
            return []
        try:
            patterns = self.expand(setting)
        except KeyError as error:
            what = f"{error.args[0]} is not set in the environment"
            self.missing.append(Problem(self.path, "include", "files", setting.text, what=what))
            return []
        import glob  # few need it

        files: list[str] = []
        for pattern in patterns.split():
            try:
                found = glob.glob(os.path.join(os.path.dirname(self.path), pattern))
            except ValueError:  # a null character
                continue
            files.extend(file for file in sorted(found) if not os.path.isdir(file))
        return files

    def _merge(self, more: Sections) -> None:
        for section, settings in more.items():
            self.sections.setdefault(section, {}).update(settings)

    # What the settings say.

    def expand(self, setting: Setting) -> str:
        """The text of an option of ours: any `%` but the known names is literal.

        Raises KeyError with the name of the ENV_X that is missing.
        """
        names = _Names(setting, self._variable, {})
        return _EXPANSION.sub(lambda match: str(names[match[1]]), setting.text)

    def get(self, section: str, option: str, **more: Any) -> str | None:
        """The text of one of Supervisor's own options, expanded Supervisor's way.

        `more` are the names that `%` knows besides. None: not set, or not to be expanded here.
        """
        setting = self.sections.get(section, {}).get(option)
        if setting is None:
            setting = self.sections.get("DEFAULT", {}).get(option)
        if setting is None:
            return None
        return _formatted(setting, _Names(setting, self._variable, more))

    def _variable(self, name: str) -> str:
        """An environment variable; else what the file gives to the listener under that name.

        The second is for a command in a terminal, which did not inherit what supervisord
        adds. Raises KeyError.
        """
        if name in self._environ:
            return self._environ[name]
        given: dict[str, str] = {}
        for section in ("supervisord", *self._our_listeners()):
            setting = self.sections.get(section, {}).get("environment")
            if setting is None:
                continue
            one = {"program_name": _suffix(section), "group_name": _suffix(section)}
            names = _Names(setting, self._environ.__getitem__, {**one, "process_num": 0})
            try:
                given.update(assignments(_formatted(setting, names) or ""))
            except ValueError:  # supervisord's to complain about
                pass
        return given[name]

    # Event listeners.

    def listeners(self) -> frozenset[str]:
        """The groups of the event listeners."""
        return frozenset(_suffix(section) for section in self._listeners())

    def listeners_user(self) -> str | None:
        """Whom our listener runs as, a name or a number; None: whoever started supervisord."""
        for section in (*self._our_listeners(), "supervisord"):
            if user := self.get(section, "user"):
                return user
        return None

    def our_listener(self) -> tuple[str, dict[str, str]] | None:
        """The group and the options (as written) of the section that starts us, if there is one."""
        for section in self._our_listeners():
            return _suffix(section), {k: s.text for k, s in self.sections[section].items()}
        return None

    def _listeners(self) -> list[str]:
        return [section for section in self.sections if section.startswith("eventlistener:")]

    def _our_listeners(self) -> list[str]:
        """The sections that start us, as far as the command tells."""
        nothing = Setting("", "")
        return [
            section
            for section in self._listeners()
            if "memwatch" in self.sections[section].get("command", nothing).text
        ]

    def given_to_us(self) -> frozenset[str]:
        """The names that `environment=` of our listener's section sets, whatever their values."""
        names: set[str] = set()
        for section in self._our_listeners():
            setting = self.sections[section].get("environment")
            try:
                names.update(assignments(setting.text % _Zeros()) if setting else ())
            except (ValueError, TypeError):  # supervisord would not have started us with that
                pass
        return frozenset(names)

    # Programs.

    def environment(self, group: str, process: str, environ: Mapping[str, str]) -> dict[str, str]:
        """What `environment=` of [supervisord] and of its own section gives to a process.

        `environ`: supervisord's own environment, for %(ENV_X)s. Raises ValueError, in words, where
        the file does not have that process or cannot be expanded.
        """
        found = self._bodies().get((group, process))
        if found is None:
            raise ValueError(f"no section of {self.path} makes it")
        section, number, count = found
        common = self._assigned("supervisord", {}, environ, times=2)
        known: dict[str, Any] = {"program_name": _suffix(section), "group_name": group}
        known.update(process_num=number, numprocs=count)
        return {**common, **self._assigned(section, known, {**environ, **common})}

    def _assigned(
        self, section: str, known: dict[str, Any], environ: Mapping[str, str], times: int = 1
    ) -> dict[str, str]:
        """`environment=` of a section; supervisord expands its own twice."""
        setting = self.sections.get(section, {}).get("environment")
        setting = setting or self.sections.get("DEFAULT", {}).get("environment")
        if setting is None:
            return {}
        names = _Names(setting, environ.__getitem__, known)
        for _ in range(times):
            text = _formatted(setting, names)
            if text is None:
                raise ValueError(f"environment of [{section}] cannot be expanded")
            setting = setting._replace(text=text)
        return assignments(setting.text)

    def programs(self) -> dict[tuple[str, str], str]:
        """(group, process) -> x of [program:x], for all of which that can be told."""
        return {pair: _suffix(section) for pair, (section, _, _) in self._bodies().items()}

    def _bodies(self) -> dict[tuple[str, str], tuple[str, int, int]]:
        """(group, process) -> its section, its process_num and its numprocs."""
        bodies = {
            _suffix(section): section
            for section in self.sections
            if section.startswith(("program:", "fcgi-program:"))
        }
        return {
            (group, process): (bodies[program], number, count)
            for group, members in self._groups(bodies).items()
            for program in members
            if program in bodies
            for process, number, count in self._processes(bodies[program], group)
        }

    def _groups(self, programs: Iterable[str]) -> dict[str, list[str]]:
        """The programs of each group; one that is in no [group:x] is its own."""
        groups: dict[str, list[str]] = {}
        for section in self.sections:
            if section.startswith("group:"):
                members = (self.get(section, "programs") or "").split(",")
                groups[_suffix(section)] = [member.strip() for member in members]
        grouped = {program for members in groups.values() for program in members}
        for program in programs:
            if program not in grouped:
                groups.setdefault(program, []).append(program)
        return groups

    def _processes(self, section: str, group: str) -> Iterator[tuple[str, int, int]]:
        """The names of a program's processes, with process_num and numprocs; fewer or none where
        they cannot be told."""
        program = _suffix(section)
        known: dict[str, Any] = {"program_name": program, "group_name": group}
        try:
            count = int(self.get(section, "numprocs", **known) or 1)
            first = int(self.get(section, "numprocs_start", **known) or 0)
        except ValueError:
            return
        if "process_name" not in {*self.sections[section], *self.sections.get("DEFAULT", {})}:
            yield program, first, count  # supervisord wants a process_name for more than one
            return
        for number in range(first, first + min(count, _MOST_PROCESSES)):
            known.update(process_num=number, numprocs=count)
            if name := self.get(section, "process_name", **known):
                yield name, number, count

    # The RPC.

    def servers(self) -> tuple[Server, ...]:
        """Where supervisord listens; the Unix sockets first, as it prefers them itself."""
        unix = [Server(_unix(file), *login) for file, *login in self._served("unix", "file")]
        inet = [Server(_inet(port), *login) for port, *login in self._served("inet", "port")]
        return (*unix, *inet)

    def rpc(self) -> Server:
        """The RPC as [supervisorctl] names it, else as the servers do; url "": there is none."""
        servers = self.servers()
        url = self.get("supervisorctl", "serverurl")
        if url and url.startswith("unix://"):
            url = _unix(url.removeprefix("unix://"))
        # http://localhost:9001 is often the server whose port is 127.0.0.1:9001 or *:9001.
        alike = [server for server in servers if url in (None, server.url)] or [
            server for server in servers if url and server.url[:4] == url[:4]
        ]
        server = alike[0] if alike else Server("", None, None)
        username = self.get("supervisorctl", "username")
        password = self.get("supervisorctl", "password")
        if username is None:
            username, password = server.username, server.password
        return Server(url or server.url, username, password)

    def _served(self, kind: str, option: str) -> Iterator[tuple[str, str | None, str | None]]:
        """Address, user name and password of each [unix_http_server] or [inet_http_server]."""
        for section in self.sections:
            if section.partition(":")[0] != f"{kind}_http_server":
                continue
            if place := self.get(section, option):
                username, password = self.get(section, "username"), self.get(section, "password")
                if (password or "").startswith("{SHA}"):  # a digest: nobody can log in with it
                    username = password = None
                yield place, username, password


_EXPANSION = re.compile(r"%\((here|host_node_name|ENV_[^()\s]+)\)s")


class _Names:
    """What %(NAME)s may stand for in a setting. KeyError for anything else."""

    def __init__(
        self, setting: Setting, variable: Callable[[str], str], more: dict[str, Any]
    ) -> None:
        self._here = os.path.dirname(setting.file)
        self._variable = variable
        self._more = more

    def __getitem__(self, name: str) -> Any:
        if name == "here":
            return self._here
        if name == "host_node_name":
            return os.uname().nodename
        if name.startswith("ENV_"):
            try:
                return self._variable(name[4:])
            except KeyError:
                raise KeyError(name) from None
        return self._more[name]


class _Zeros(dict[str, int]):
    """Stands for every name that `%` may ask for, where only the text around it matters."""

    def __missing__(self, name: str) -> int:
        return 0


def assignments(text: str) -> dict[str, str]:
    """`KEY=value,OTHER="with, comma"` the way Supervisor reads it. Raises ValueError.

    Supervisor's own function would load 8 MB of modules into the listener.
    """
    import shlex

    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():"
    words = list(lexer)
    found = {}
    for start in range(0, len(words), 4):  # a name, "=", a value, and what parts it from the next
        entry = words[start : start + 3]
        if len(entry) < 3 or entry[1] != "=":
            raise ValueError("environment is not KEY=value,OTHER=value")
        found[entry[0]] = entry[2].strip("'\"")
    return found


def _formatted(setting: Setting, names: _Names) -> str | None:
    """As Supervisor does it, with Python's own `%`; None where that fails."""
    try:
        return str(setting.text % names).strip()
    except (LookupError, ValueError, TypeError, OverflowError, MemoryError):
        return None


def _suffix(section: str) -> str:
    return section.partition(":")[2].strip()


def _unix(path: str) -> str:
    return "unix://" + os.path.abspath(os.path.expanduser(path))


def _inet(port: str) -> str:
    host, _, port = port.rpartition(":")
    return f"http://{'localhost' if host in ('', '*') else host.lower()}:{port}"
