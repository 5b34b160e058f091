"""`memwatch migrate`: what a superlance memmon does, as sections of ours, and what will differ.

Reads memmon's own command line, or a supervisord.conf in which an event listener runs one. What is
printed is a configuration to paste; the rest of what is to be said stands in its comment lines. No
file is changed. Of `%` in a supervisord.conf nothing is expanded but what finds the included files.
"""

from __future__ import annotations

import getopt
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import options, preflight, units
from .inifile import ConfigError, IniFile

# memmon's own table of options; a test holds them to it.
SHORT = "hcp:g:a:s:m:n:u:"
LONG = [
    *("help", "cumulative", "program=", "group=", "any=", "sendmail_program=", "email="),
    *("uptime=", "name="),
]
_SHORT_OF = {
    f"--{word.rstrip('=')}": f"-{letter}" for letter, word in zip("hcpgasmun", LONG, strict=True)
}
_KNOWN = "-c, -p NAME=SIZE, -g NAME=SIZE, -a SIZE, -s, -m, -u, -n"
_SIZE = re.compile(r"[0-9]{1,15}(KB|MB|GB)?", re.ASCII | re.IGNORECASE)
_UPTIME = re.compile(r"[0-9]{1,15}[smhd]?", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[^\s:/\[\];#%]+(:[^\s:/\[\];#%]+)?")

# What of memmon's section is memmon's own; the rest says how a listener is run, and is kept.
_MEMMONS_OWN = {
    *("command", "events", "buffer_size", "priority", "autorestart", "startsecs", "numprocs"),
    *("numprocs_start", "process_name", "redirect_stderr", "result_handler", "stopwaitsecs"),
    *("stdout_logfile", "stderr_logfile"),
}
_RESTART = "actions = recycle, reload, restart"
_ACTS = ("mode = act", _RESTART)

Pairs = Mapping[tuple[str, str], str]  # (group, process) -> x of [program:x]


class MigrateError(Exception):
    """What cannot be migrated; the text says what to do."""


class Rule(NamedTuple):
    """One -p, -g or -a of one memmon."""

    flag: str
    name: str  # "" for -a
    size: str  # as it was written
    option: str  # ours for it: `limit` of a process, `total_limit` with all its children

    @property
    def bytes(self) -> int:
        return units.parse_size(self.size)

    def __str__(self) -> str:
        return f"{self.flag} {self.name}={self.size}" if self.name else f"{self.flag} {self.size}"

    def covers(self, group: str, process: str) -> bool:
        """Whether memmon compares this process with it."""
        if self.flag == "-p":
            return self.name in (process, f"{group}:{process}")
        return self.flag == "-a" or self.name == group


class Memmon(NamedTuple):
    """What one memmon was told."""

    rules: tuple[Rule, ...]
    cumulative: bool = False
    email: str | None = None
    sendmail: str | None = None
    uptime: str | None = None
    name: str | None = None
    name_lost: bool = False  # memmon loses a -n that stands before a -p or -g
    unread: tuple[str, ...] = ()  # words that memmon does not read


class Found(NamedTuple):
    """A memmon, and where it was found."""

    memmon: Memmon
    words: str  # its command line
    section: str = ""  # of which file's section it is the command
    file: str = ""
    settings: Mapping[str, str] = {}  # of that section, as written


# -- memmon's command line


def parse(words: Sequence[str]) -> Memmon:
    """memmon's arguments, without its own name. Raises MigrateError."""
    try:
        found, unread = getopt.getopt(list(words), SHORT, LONG)
    except getopt.GetoptError as error:
        text = units.printable(error, 100)
        raise MigrateError(f"{text}; memmon's options: {_KNOWN}") from None
    sizes: dict[tuple[str, str], str] = {}
    said: dict[str, str] = {}
    lost = False
    for option, value in found:
        flag = _SHORT_OF.get(option, option)
        if flag == "-h":
            raise MigrateError(
                "-h makes memmon print its help and end: there is nothing to migrate"
            )
        if flag in ("-p", "-g"):
            name, size = _pair(option, value)
            sizes[flag, name] = size
            lost = True
        elif flag == "-a":
            sizes[flag, ""] = _size(option, value)
        else:
            said[flag] = value
        if flag == "-n":
            lost = False
    if not sizes:
        raise MigrateError(f"no -p, -g or -a: it restarts nothing; memmon's options: {_KNOWN}")
    uptime = said.get("-u")
    if uptime is not None and not _UPTIME.fullmatch(uptime):
        raise MigrateError(f"-u {units.printable(uptime, 60)}: valid: 90, 90s, 10m, 2h or 1d")
    option = "total_limit" if "-c" in said else "limit"
    return Memmon(
        rules=tuple(Rule(flag, name, size, option) for (flag, name), size in sizes.items()),
        cumulative="-c" in said,
        email=said.get("-m"),
        sendmail=said.get("-s"),
        uptime=uptime,
        name=said.get("-n"),
        name_lost="-n" in said and lost,
        unread=tuple(unread),
    )


def _pair(option: str, value: str) -> tuple[str, str]:
    name, equals, size = value.partition("=")
    if not equals or not _NAME.fullmatch(name) or not name.isprintable():
        text = units.printable(value, 60)
        raise MigrateError(f"{option} {text}: valid: NAME=SIZE, such as web=200MB")
    if ":" in name and _SHORT_OF.get(option, option) == "-g":
        text = units.printable(name, 60)
        raise MigrateError(
            f"{option} {text}: a group has no colon in its name: use -p for a program"
        )
    return name, _size(f"{option} {name}", size)


def _size(what: str, text: str) -> str:
    if not _SIZE.fullmatch(text) or units.parse_size(text) == 0:
        shown = units.printable(text, 60)
        valid = "a number of bytes above 0, or a whole number with KB, MB or GB, such as 200MB"
        raise MigrateError(f"{units.printable(what, 60)}: size {shown}: valid: {valid}")
    return text.upper()


def arguments_of(words: Sequence[str]) -> list[str] | None:
    """What is given to memmon in a command line; None where none is started."""
    for index, word in enumerate(words):
        if os.path.basename(word) in ("memmon", "memmon.py") or (
            word == "superlance.memmon" and index and words[index - 1] == "-m"
        ):
            return list(words[index + 1 :])
    return None


# -- where memmon is found


def is_command_line(words: Sequence[str]) -> bool:
    """Whether these are memmon's, and not a file's name."""
    return words[:1] != [] and (words[0].startswith("-") or arguments_of(words) is not None)


def of_command_line(words: Sequence[str]) -> Found:
    """memmon's options, with or without what starts it before them. Raises MigrateError."""
    arguments = arguments_of(words)
    if arguments is None:
        if not words[0].startswith("-"):
            shown = units.printable(words[0], 60)
            raise MigrateError(
                f"{shown} is neither memmon nor the supervisord.conf that starts it: "
                "memwatch migrate -- memmon -p web=200MB"
            )
        arguments = list(words)
    return Found(parse(arguments), shlex.join(["memmon", *arguments]))


def of_file(ini: IniFile) -> list[Found]:
    """Every memmon that an [eventlistener:...] section starts.

    Raises MigrateError, ConfigError where an included file cannot be read.
    """
    if ini.problems:
        raise ConfigError(ini.problems)
    found = []
    for section, settings in ini.sections.items():
        if not section.startswith("eventlistener:") or "command" not in settings:
            continue
        command = settings["command"]
        arguments = arguments_of(preflight.split(command.text))
        if arguments is None:
            if "memmon" in command.text:
                shown = units.printable(command.text, 100)
                raise MigrateError(
                    f"{command.file}: [{units.printable(section, 60)}] command = {shown}: how "
                    "memmon is started here is not understood: memwatch migrate -- memmon OPTIONS"
                )
            continue
        try:
            memmon = parse(arguments)
        except MigrateError as error:
            where = f"{command.file}: [{units.printable(section, 60)}]"
            raise MigrateError(f"{where}: {error}") from None
        texts = {option: setting.text for option, setting in settings.items()}
        found.append(Found(memmon, command.text, section, command.file, texts))
    if not found:
        raise MigrateError(
            f"{ini.path}: no [eventlistener:...] section starts memmon; with its options: "
            "memwatch migrate -- memmon -p web=200MB"
        )
    return found


# -- ours


class Section(NamedTuple):
    """A section of ours: its NAME ("" for every program), its limits, and where these are from."""

    name: str
    limits: Mapping[str, str]
    because: tuple[Rule, ...]


def sections(rules: Sequence[Rule], pairs: Pairs) -> list[Section]:
    """[memwatch] and [memwatch:NAME]s in which every program has the lowest size that memmon would
    compare it with. `pairs`: the programs there are; empty where that is not known."""
    covered = {rule: _covered(rule, pairs) for rule in rules}
    named: dict[str, list[Rule]] = {"": [rule for rule in rules if rule.flag == "-a"]}
    for rule in rules:
        for name in _names(rule, covered[rule], pairs) if rule.name else ():
            named.setdefault(name, []).append(rule)
    for name, own in named.items():
        meant = _means(name, pairs)
        group, _, process = name.partition(":")
        for rule in rules if name else ():
            holds = meant <= covered[rule] if meant else rule.covers(group, process or group)
            if holds and rule not in own:
                own.append(rule)
    found = {name: Section(name, *_lowest(own)) for name, own in named.items()}
    for (group, process), program in pairs.items():
        wanted = _lowest(rule for rule in rules if (group, process) in covered[rule])
        got: dict[str, str] = {}
        exact = f"{group}:{process}"
        for name in ("", program, group, exact):  # the most exact one last, as config.py has it
            got.update(found[name].limits if name in found else {})
        if wanted[0] != got:
            found[exact] = Section(exact, *wanted)
    return list(found.values())


def _lowest(rules: Iterable[Rule]) -> tuple[dict[str, str], tuple[Rule, ...]]:
    lowest: dict[str, Rule] = {}
    for rule in rules:
        if rule.option not in lowest or rule.bytes < lowest[rule.option].bytes:
            lowest[rule.option] = rule
    return {option: rule.size for option, rule in lowest.items()}, tuple(lowest.values())


def _means(name: str, pairs: Pairs) -> set[tuple[str, str]]:
    """The programs that [memwatch:NAME] holds for."""
    return {
        (group, process)
        for (group, process), program in pairs.items()
        if name in (program, group, f"{group}:{process}")
    }


def _covered(rule: Rule, pairs: Pairs) -> set[tuple[str, str]]:
    """The programs that memmon compares with a rule; where there is none, those that its name
    means to us, and so meant to whoever wrote it."""
    covered = {pair for pair in pairs if rule.covers(*pair)}
    return covered or _means(rule.name, pairs)


def _names(rule: Rule, covered: set[tuple[str, str]], pairs: Pairs) -> list[str]:
    """The NAMEs that mean the programs of a rule: its own where it means the same to us."""
    if covered == _means(rule.name, pairs):
        return [rule.name]
    return [f"{group}:{process}" for group, process in sorted(covered)]


def _restarted(ini: IniFile, pairs: Pairs, named: Iterable[Section]) -> list[str]:
    """Of the programs no section of its own covers, the groups that may hold plain ones."""
    done = set().union(*(_means(section.name, pairs) for section in named if section.name), set())
    groups = []
    for (group, process), program in pairs.items():
        command = ini.sections.get(f"program:{program}", {}).get("command")
        argv = preflight.split(command.text) if command else []
        if (group, process) not in done and preflight.gunicorn_word(argv) is None:
            groups.append(group)
    return list(dict.fromkeys(groups))


# -- in words


def text(found: Sequence[Found], ini: IniFile | None = None, listen: str | None = None) -> str:
    """What is printed: a configuration, and in its comments what will be different.

    `ini`: the file the memmons stand in. `listen`: the command that starts us.
    """
    pairs: Pairs = ini.programs() if ini else {}
    rules = [rule for one in found for rule in one.memmon.rules]
    ours = sections(rules, pairs)
    blocks = [_head(found), _listener(found, ini, listen or _our_command())]
    targets = []
    for one in found:
        target = _target(one.memmon)
        if target is not None and target not in targets:
            targets.append(target)
    blocks.append(_common(ours[0], targets))
    blocks += [_own(section) for section in ours[1:]]
    if any(rule.flag == "-a" for rule in rules) and ini:
        blocks += [[f"[memwatch:{group}]", _RESTART] for group in _restarted(ini, pairs, ours)]
    remarks = [*_general(rules), *_special(found, rules, pairs, ini)]
    blocks.append(["; What will be different:", *(_wrapped(remark) for remark in remarks)])
    return "\n\n".join("\n".join(block) for block in blocks)


def _wrapped(remark: str) -> str:
    return "\n".join(
        textwrap.wrap(
            units.printable(remark, 1000),
            96,
            initial_indent="; - ",
            subsequent_indent=";   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _head(found: Sequence[Found]) -> list[str]:
    lines = []
    for one in found:
        place = f"[{one.section}] of {one.file}: " if one.section else ""
        lines.append(f"; In place of {units.printable(f'{place}{one.words}', 1000)}")
    return [*lines, "; When it is in place, `memwatch check` rehearses it."]


def _our_command() -> str:
    """`memwatch listen`, with its directory where it is one of a virtual environment."""
    if sys.prefix == sys.base_prefix:
        return "memwatch listen"
    return shlex.join([os.path.join(sys.prefix, "bin", "memwatch"), "listen"])


def _listener(found: Sequence[Found], ini: IniFile | None, listen: str) -> list[str]:
    kept: dict[str, str] = {}
    for one in found:
        for option, value in one.settings.items():
            if option not in _MEMMONS_OWN:
                kept.setdefault(option, value)
    if ini and "user" in kept:  # another user cannot see which file supervisord was started with
        listen += " " + shlex.join(["-c", ini.path])
    lines = [
        "[eventlistener:memwatch]",
        "command = " + listen.replace("%", "%%"),
        "events = TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION,SUPERVISOR_STATE_CHANGE",
        "buffer_size = 100",
        "priority = 50",
        "autorestart = true",
        "startsecs = 5",
    ]
    return [
        *lines,
        *(f"{option} = {_literal(value)}" for option, value in kept.items()),
    ]


def _literal(value: str) -> str:
    """A value as the file has it, its further lines indented."""
    return "\n    ".join(units.printable(line, 10_000) for line in value.splitlines())


def _common(section: Section, targets: Sequence[str]) -> list[str]:
    lines = [f"; {rule}" for rule in section.because]
    lines += ["[memwatch]", *(_ACTS if section.limits else ["mode = observe"])]
    lines += [f"{option} = {size}" for option, size in section.limits.items()]
    if targets:
        lines.append("notify = " + " ".join(target.replace(" ", "%20") for target in targets))
    return lines


def _own(section: Section) -> list[str]:
    lines = [f"; {rule}" for rule in section.because]
    lines += [f"[memwatch:{section.name}]", *_ACTS]
    return [*lines, *(f"{option} = {size}" for option, size in section.limits.items())]


def _target(memmon: Memmon) -> str | None:
    """Its mail address as one of our targets; None where this version sends no mail."""
    if memmon.email is None:
        return None
    target = f"mailto:{memmon.email}"
    try:
        options.parse("notify", target)
    except ValueError:
        return None
    return target


def _general(rules: Sequence[Rule]) -> Iterable[str]:
    """What is different for everybody."""
    usual = options.Options()
    yield (
        "memmon stops and starts the whole program. Of a gunicorn, memwatch recycles the worker "
        "that is over its limit, or holds most, while the others serve; it reloads, and in the end "
        "restarts, only where that proved ineffective. What is no gunicorn is restarted."
    )
    yield (
        "memwatch also acts before the limit, on a worker that leaks or stands out from its "
        "siblings: `growth = off` and `imbalance = off` leave that out. `mode = observe` only says "
        "what it would do."
    )
    if any(rule.option == "limit" for rule in rules):
        yield (
            "Without -c memmon sees the process that supervisord started and none of its children: "
            "of a gunicorn the master, whatever its workers hold. `limit` is for each worker: is "
            "the size right for one? What is no gunicorn is judged with all its processes."
        )
        yield (
            "memmon goes by RSS, memwatch by USS + swap, which is what comes back when a worker "
            "goes, and less: the same size is reached later. `measure = rss` goes by RSS."
        )
    if any(rule.option == "total_limit" for rule in rules):
        yield (
            "With -c memmon adds up the RSS of all processes of a program, and so counts what they "
            "share once for each; memwatch counts it once (PSS). The same size is reached later, "
            "with --preload much later."
        )
    budget = f"{usual.budget.count} times in {units.time(usual.budget.period)}"
    yield (
        f"memmon may restart at every tick. memwatch acts at most {budget} on a program "
        "(`budget`), then holds and says so; a fresh worker that is over its limit again waits "
        f"{units.time(usual.cooldown)} (`cooldown`)."
    )
    yield (
        "Before a worker goes, memwatch tries whether the code on the disk still boots "
        "(`preflight`). What memmon has stopped and cannot start again stays down."
    )


def _special(
    found: Sequence[Found], rules: Sequence[Rule], pairs: Pairs, ini: IniFile | None
) -> Iterable[str]:
    """What is different because of what these memmons were told."""
    for one in found:
        yield from _of_events(one)
        yield from _of_mail(one.memmon)
        if one.memmon.name is not None:
            lost = (
                " (memmon itself loses it to the -p or -g behind it)"
                if one.memmon.name_lost
                else ""
            )
            yield f"-n {one.memmon.name}{lost}: news names the host and the program instead."
        if one.memmon.unread:
            words = shlex.join(one.memmon.unread)
            yield f"{words}: memmon reads nothing from there on, and so does this."
    yield from _of_rules(rules, pairs)
    if not any(rule.flag == "-a" for rule in rules):
        yield (
            "Programs that memmon was not told of are watched, and nothing is done to them: "
            "`mode = observe`."
        )
    if any(rule.flag == "-a" for rule in rules):
        yield (
            "-a: memmon also restarts event listeners, itself too. memwatch watches none; "
            "`exclude` leaves out more."
        )
        if not ini:
            yield (
                "-a: a program that is no gunicorn is restarted only where a section of its own "
                f"names restart: [memwatch:NAME] with `{_RESTART}`. `memwatch migrate "
                "supervisord.conf` writes these."
            )
    if ini:
        yield from _of_file(found, ini)


def _of_events(one: Found) -> Iterable[str]:
    events = [event.strip() for event in one.settings.get("events", "").split(",") if event.strip()]
    ticks = [event for event in events if event.startswith("TICK")]
    if ticks and ticks != ["TICK_5"]:
        yield f"memmon looks at every {' and '.join(ticks)}, memwatch every 5 seconds."
    elif events and not ticks:
        yield f"[{one.section}] has no TICK in its events: memmon never looks."


def _of_mail(memmon: Memmon) -> Iterable[str]:
    if memmon.email is not None and _target(memmon) is None:
        yield (
            f"-m {memmon.email}: this version sends no mail. Set `notify` to a webhook (Slack, "
            "Discord, Teams, or any that takes JSON): news comes with suspicion and recovery, too."
        )
    elif memmon.email is not None:
        yield (
            f"-m {memmon.email}: memwatch also writes when it suspects, holds, fails or recovers; "
            "`notify_on = acted failed gave_up` is what memmon wrote about."
        )
    if memmon.sendmail is not None:
        yield f"-s {memmon.sendmail}: memwatch starts no mail program."
    if memmon.uptime is not None:
        yield (
            f"-u {memmon.uptime}: memwatch always tells; of a program that needs it again and "
            "again it says so (`budget`)."
        )


def _of_rules(rules: Sequence[Rule], pairs: Pairs) -> Iterable[str]:
    for rule in rules:
        if rule.flag == "-p" and ":" in rule.name:
            yield (
                f"{rule}: memmon 2.0 ends with KeyError wherever that program runs, at each tick, "
                "and restarts nothing; memwatch does what was meant."
            )
        elif rule.flag == "-p" and not pairs and re.search(r"_[0-9]+$", rule.name):
            yield (
                f"{rule}: memmon means a process; where it is one of numprocs, write "
                f"[memwatch:GROUP:{rule.name}]."
            )
        if pairs and rule.name and not any(rule.covers(*pair) for pair in pairs):
            meant = sorted(":".join(pair) for pair in _means(rule.name, pairs))
            if meant:
                yield (
                    f"{rule}: memmon finds nothing of that name, and does nothing; "
                    f"[memwatch:{rule.name}] is for {', '.join(meant)}."
                )
            else:
                yield f"{rule}: there is no such program in this file, for memmon neither."
    for name in dict.fromkeys(rule.name for rule in rules if rule.flag == "-p"):
        group, _, process = name.partition(":")
        covered = [pair for pair in pairs if Rule("-p", name, "1", "").covers(*pair)]
        some = covered if pairs else [(group, process or group)]
        several = [rule for rule in rules if any(rule.covers(*pair) for pair in some)]
        if len(several) > 1:
            yield (
                f"{', '.join(map(str, several))} all mean {name}: memmon restarts it once for each "
                "that it is over; memwatch has the lowest."
            )
    everything = [rule for rule in rules if rule.flag == "-a"]
    for rule in (rule for rule in rules if rule.flag == "-g" and everything):
        yield (
            f"{', '.join(map(str, (rule, *everything)))} all mean {rule.name}: memmon restarts its "
            "programs once for each that they are over; memwatch has the lowest."
        )


def _of_file(found: Sequence[Found], ini: IniFile) -> Iterable[str]:
    names = ", ".join(f"[{one.section}]" for one in found)
    yield f"Take {names} out, paste this in its place, and run `supervisorctl update`."
    ours = ini.our_listener()
    if ours is not None:
        yield f"[eventlistener:{ours[0]}] starts memwatch already: keep one of the two."
    for problem in ini.missing:
        yield f"Not looked into: {problem}"
