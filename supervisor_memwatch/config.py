"""What the configuration says to us: the [memwatch] sections, and what follows from them.

How the file is read is inifile.py's, which file it is finding.py's, what an option means
and how it is spelled options.py's.
"""

from __future__ import annotations

import os
import re
from binascii import crc32  # eight hex digits; hashlib would load OpenSSL's 2 MB for them
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from . import options, units
from .finding import find as find
from .inifile import NOT_SHOWN, IniFile, Server, Setting
from .inifile import ConfigError as ConfigError
from .inifile import Problem as Problem

_STATE_OF_ROOT = "/var/lib/memwatch"


@dataclass(frozen=True)
class Config:
    """What the file says, for every program."""

    path: str  # the real path of the main file
    identifier: str  # supervisord's
    files: tuple[str, ...]  # every file that was read, the main one first
    server_url: str | None  # the RPC, as supervisorctl would find it
    username: str | None
    password: str | None = field(repr=False)
    listeners: frozenset[str]  # the groups of event listeners: never watched
    listener: tuple[str, dict[str, str]] | None  # our own: its group, its options as written
    sections: tuple[str, ...]  # NAME of every [memwatch:NAME]
    warnings: tuple[str, ...]  # options that are set and have no effect
    ignored: tuple[Problem, ...]  # options left out because an ENV_X is missing (not strict)
    _values: dict[str, dict[str, Any]] = field(repr=False)  # by NAME; "": for every program
    _programs: dict[tuple[str, str], str] = field(repr=False)
    _servers: tuple[Server, ...] = field(repr=False)
    _user: str | None = field(repr=False)  # the listener's, where the file names one
    _here: str = field(repr=False)  # what a relative `journal` is relative to

    def options_of(self, namespec: str) -> options.Options:
        """`options` of a program by its namespec."""
        group, _, process = namespec.partition(":")
        return self.options(group, process or group)

    def options(self, group: str, process: str) -> options.Options:
        """What this program is watched with: the most exact section wins, option by option."""
        values = dict(self._values[""])
        for name in self._names(group, process):
            values.update(self._values.get(name, {}))
        return options.Options(**values)

    def own_options(self, group: str, process: str) -> frozenset[str]:
        """The options that a section of its own sets for this program."""
        sections = (self._values.get(name, {}) for name in self._names(group, process))
        return frozenset(option for section in sections for option in section)

    def watched(self, group: str, process: str) -> bool:
        """Whether `programs` and `exclude` want it; an event listener never is."""
        if group.strip() in self.listeners:
            return False
        names = {f"{group}:{process}", namespec(group, process)}
        common = options.Options(**self._values[""])
        return _any(names, common.programs) and not _any(names, common.exclude)

    def targets(self) -> tuple[str, ...]:
        """Where news goes, of all sections."""
        sections = self._values.values()
        return tuple(dict.fromkeys(url for values in sections for url in values.get("notify", ())))

    def unmatched(self, programs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """The NAMEs that match none of these (group, process): perhaps misspelt."""
        used = {
            name
            for group, process in programs
            if group.strip() not in self.listeners
            for name in self._names(group, process)
        }
        return tuple(name for name in self.sections if name not in used)

    def credentials(self, url: str) -> tuple[str | None, str | None]:
        """User name and password for the RPC at `url`; (None, None) where none are set."""
        for server in self._servers:
            if server.url == url and server.username is not None:
                return server.username, server.password
        return self.username, self.password

    def journal_path(self) -> str:
        """Where the history is kept, an absolute path; nothing is created."""
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", self.identifier)[:64].lstrip(".-")
        name = f"{safe or 'supervisor'}-{crc32(os.fsencode(self.path)):08x}.sqlite"
        wanted = self._values[""].get("journal")
        if not wanted:
            return os.path.join(_state_directory(self._user), name)
        path: str = os.path.join(self._here, wanted)
        if path.endswith("/") or os.path.isdir(path):
            return os.path.join(path, name)
        return path

    def _names(self, group: str, process: str) -> tuple[str, ...]:
        """The NAMEs that mean this program, the most exact one last."""
        program = self._programs.get((group, process), group)
        return (program, group, f"{group}:{process}")


def namespec(group: str, process: str) -> str:
    """`web` for web:web, else `web:web_00`."""
    return process if group == process else f"{group}:{process}"


def named(asked: str, spec: str) -> bool:
    """Whether what a person wrote means the program with this namespec.

    `web` and `web:web` are one; `web`, and `web:*` as supervisorctl has it, are all of a group.
    """
    group = asked.removesuffix(":*")
    return asked in (spec, f"{spec}:{spec}") or group == spec or spec.startswith(f"{group}:")


def listeners_of(path: str, environ: Mapping[str, str]) -> frozenset[str]:
    """The groups of the event listeners that the file names now; none if it cannot be read.

    `supervisorctl update` starts new ones while we run. Never raises.
    """
    try:
        return IniFile(path, environ).listeners()
    except (ConfigError, OSError):
        return frozenset()


def _any(names: Iterable[str], globs: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in options.words(globs) for name in names)


def load(path: str, environ: Mapping[str, str], *, strict: bool = True) -> Config:
    """Read the file and everything it includes.

    A missing ENV_X is an error where `strict`; else the option counts as not set and is
    listed in `ignored`. Raises ConfigError with every problem there is.
    """
    ini = IniFile(path, environ)
    problems, missing = ini.problems, ini.missing
    values: dict[str, dict[str, Any]] = {"": {}}
    warnings: list[str] = []
    here = os.path.dirname(ini.path)

    for section, settings in ini.sections.items():
        name = _name_of(section)
        if name is None:
            problems.extend(_misspelt(section, settings, ini.path))
            continue
        own = values.setdefault(name, {})
        for option, setting in settings.items():
            try:
                own[option] = _value(ini, section, option, setting)
            except _Missing as error:
                missing.extend(error.problems)
            except ConfigError as error:
                problems.extend(error.problems)
            else:
                warnings.extend(_without_effect(section, option, setting, own[option]))
                if option == "journal":
                    here = os.path.dirname(setting.file)

    if strict:
        problems.extend(missing)
    if problems:
        raise ConfigError(problems)
    rpc = ini.rpc()
    return Config(
        path=os.path.realpath(ini.path),
        identifier=ini.get("supervisord", "identifier") or "supervisor",
        files=tuple(dict.fromkeys(ini.files)),
        server_url=rpc.url or None,
        username=rpc.username,
        password=rpc.password,
        listeners=ini.listeners(),
        listener=ini.our_listener(),
        sections=tuple(name for name in values if name),
        warnings=tuple(warnings),
        ignored=tuple(missing),
        _values=values,
        _programs=ini.programs(),
        _servers=ini.servers(),
        _user=ini.listeners_user(),
        _here=here,
    )


class _Missing(ConfigError):
    """An option that needs an environment variable which is not set."""


def _name_of(section: str) -> str | None:
    """NAME of [memwatch:NAME], "" of [memwatch], None of any other section."""
    head, colon, name = section.partition(":")
    if head.strip() != "memwatch" or (colon and not name.strip()):
        return None
    return name.strip()


def _misspelt(section: str, settings: dict[str, Setting], main: str) -> list[Problem]:
    """The complaint about a section that was probably meant for us."""
    letters = re.sub(r"[^a-z]", "", section.partition(":")[0].lower())
    if not letters.startswith("mem"):
        return []
    if not letters.startswith("memwatch"):
        import difflib  # only for somebody's section whose name begins like ours

        if not difflib.get_close_matches(letters, ["memwatch"], cutoff=0.8):
            return []
    file = next((setting.file for setting in settings.values()), main)
    return [Problem(file, section, what="no such section", valid="[memwatch] or [memwatch:NAME]")]


def _value(ini: IniFile, section: str, option: str, setting: Setting) -> Any:
    """What an option of ours is set to. Raises ConfigError, _Missing where ENV_X is missing."""
    if option not in options.FIELDS:
        raise ConfigError([_unknown(section, option, setting)])
    problem = Problem(setting.file, section, option, _shown(option, setting))
    if _name_of(section) and not options.FIELDS[option].metadata["everywhere"]:
        raise ConfigError([problem._replace(what="allowed in [memwatch] only")])
    try:
        text = ini.expand(setting)
    except KeyError as error:
        what = f"{units.printable(error.args[0], 100)} is not set in the environment"
        raise _Missing([problem._replace(what=what)]) from None
    try:
        return options.parse(option, text)
    except ValueError as error:
        what = "" if text == setting.text else "expanded, it is something else"
        valid = str(error).removeprefix("valid: ")
        raise ConfigError([problem._replace(what=what, valid=valid)]) from None


def _unknown(section: str, option: str, setting: Setting) -> Problem:
    import difflib  # only for a mistake

    close = difflib.get_close_matches(option, options.FIELDS)
    # A URL whose line was not indented is taken for an option: it is not shown either.
    shown = option if re.fullmatch(r"[\w.-]{1,40}", option) else NOT_SHOWN
    valid = ", ".join(close or options.FIELDS)
    return Problem(setting.file, section, shown, what="no such option", valid=valid)


def _shown(option: str, setting: Setting) -> str:
    """The value as it may stand in an error: a URL is as good as a password."""
    if option == "notify" or "//" in setting.text:
        return NOT_SHOWN
    return units.printable(setting.text, 100)


def _without_effect(section: str, option: str, setting: Setting, value: Any) -> list[str]:
    if option not in options.NOT_YET or value in (options.FIELDS[option].default, "off"):
        return []
    what = f"has no effect: {options.NOT_YET[option]}"
    return [str(Problem(setting.file, section, option, _shown(option, setting), what=what))]


def _state_directory(user: str | None) -> str:
    """Where the history of a listener that runs as `user` (None: as we do) is kept.

    By the passwd entry: HOME is still supervisord's where `user=` has changed the user.
    """
    import pwd

    try:
        if user is None:
            entry = pwd.getpwuid(os.geteuid())
        elif user.isdigit():
            entry = pwd.getpwuid(int(user))
        else:
            entry = pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):  # a container's user without an entry
        return _STATE_OF_ROOT
    if entry.pw_uid == 0:
        return _STATE_OF_ROOT
    return os.path.join(entry.pw_dir, ".local/state/memwatch")
