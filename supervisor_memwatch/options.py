"""Every option once: its name, default, how its text is read, what it means.

The fields of `Options` are the table; the configuration reader and the error texts use
it, conf/memwatch.conf and the README's table are printed from it (`sample`, `table`).
Finding and reading files is config.py's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import units

NEWS = ("suspected", "acted", "recovered", "failed", "gave_up", "held")
RUNGS = ("recycle", "reload", "restart")

_URL = re.compile(r"(slack\+)?https?://[^/?#]", re.IGNORECASE)
_METRICS = re.compile(r"file:/.*[^/]|http://[^/?#]+:[0-9]{1,5}/?")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A limit in bytes, or as a share of what is available to the program."""

    bytes: int | None = None
    share: float | None = None

    def of(self, available: int | None) -> int | None:
        """The limit in bytes; None where it is a share of something unknown."""
        if self.share is None:
            return self.bytes
        return None if available is None else int(self.share * available)


@dataclass(frozen=True, slots=True)
class Budget:
    """So many actions per period (seconds)."""

    count: int
    period: float

    def words(self, used: int) -> str:
        """8 actions in the last 1h; the budget is 6."""
        actions = f"{used} action{'s' * (used != 1)}"
        return f"{actions} in the last {units.time(self.period)}; the budget is {self.count}"


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day, in minutes since local midnight; may span midnight."""

    start: int
    end: int

    def __str__(self) -> str:
        ends = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.end))
        return "-".join(ends)

    def holds(self, minute: int) -> bool:
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def words(text: str) -> list[str]:
    """What is separated by white space or commas."""
    return text.replace(",", " ").split()


def _ceiling(text: str) -> Ceiling | None:
    if text.lower() == "none":
        return None
    if text.endswith("%"):
        share = float(text[:-1])
        if not 0 < share <= 100:
            raise ValueError
        return Ceiling(share=share / 100)
    size = units.parse_size(text)
    if size <= 0:
        raise ValueError
    return Ceiling(bytes=size)


def _growth(text: str) -> str | float:
    if text in ("auto", "off"):
        return text
    rate = units.parse_rate(text)
    if rate <= 0:
        raise ValueError
    return rate


def _imbalance(text: str) -> float | None:
    if text == "off":
        return None
    ratio = float(text)
    if not 1 < ratio < 1000:
        raise ValueError
    return ratio


def _actions(text: str) -> tuple[str, ...]:
    rungs = tuple(words(text))
    if not rungs or list(rungs) != [rung for rung in RUNGS if rung in rungs]:
        raise ValueError
    return rungs


def _preflight(text: str) -> str | tuple[str, ...]:
    if text in ("auto", "off"):
        return text
    import shlex  # only where somebody configured a command of their own

    argv = tuple(shlex.split(text))
    if not argv:
        raise ValueError
    return argv


def _grace(text: str) -> float | None:
    return None if text == "auto" else units.parse_time(text)


def _budget(text: str) -> Budget:
    count, slash, period = text.partition("/")
    if not slash:
        raise ValueError
    budget = Budget(_whole(count.strip()), units.parse_time(period))
    if budget.period <= 0:
        raise ValueError
    return budget


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise ValueError
    return int(text)


def _window(text: str) -> Window | None:
    if text == "always":
        return None
    minutes = []
    for part in text.split("-"):
        hour, minute = part.strip().split(":")
        if not (hour.isdigit() and minute.isdigit() and len(minute) == 2):
            raise ValueError
        if not (0 <= int(hour) <= 23 and 0 <= int(minute) <= 59):
            raise ValueError
        minutes.append(int(hour) * 60 + int(minute))
    start, end = minutes
    if start == end:
        raise ValueError
    return Window(start, end)


def _urls(text: str) -> tuple[str, ...]:
    urls = tuple(text.split())
    if not all(_URL.match(url) for url in urls):
        raise ValueError
    return urls


def _news(text: str) -> frozenset[str]:
    names = frozenset(words(text))
    if not names <= frozenset(NEWS):
        raise ValueError
    return names


def _metrics(text: str) -> tuple[str, ...]:
    targets = tuple(text.split())
    if not all(_METRICS.fullmatch(target) for target in targets):
        raise ValueError
    return targets


def _duration(text: str) -> float:
    return units.parse_time(text)


def _positive(text: str) -> float:
    seconds = units.parse_time(text)
    if seconds <= 0:
        raise ValueError
    return seconds


def _choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return parse


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


def _text(text: str) -> str:
    return text


def _option(
    default: str, parse: Callable[[str], Any], valid: str, help: str, everywhere: bool = True
) -> Any:
    """A field that knows its spelling; `everywhere=False`: allowed in [memwatch] only."""
    return dataclasses.field(
        default=parse(default),
        metadata={
            "default": default,
            "parse": parse,
            "valid": valid,
            "help": help,
            "everywhere": everywhere,
        },
    )


_CEILING = "a size above 0 such as 400MB or 2GB, a share up to 100% such as 80%, or none"
_TIME = "a time such as 30s, 10m, 2h or 7d"
_SOME_TIME = "a time above 0 such as 30s, 10m, 2h or 7d"
_COUNT = "a whole number from 1 to 100000"


@dataclass(frozen=True, slots=True)
class Options:
    """What one program is watched with."""

    programs: str = _option(
        "*",
        _text,
        "globs on namespecs, separated by white space or commas",
        "which programs to watch",
        everywhere=False,
    )
    exclude: str = _option(
        "",
        _text,
        "globs on namespecs, separated by white space or commas",
        "which programs to leave alone",
        everywhere=False,
    )
    mode: str = _option(
        "observe",
        _choice("observe", "act"),
        "observe or act",
        "observe decides everything and touches nothing",
    )
    measure: str = _option(
        "auto",
        _choice("auto", "uss", "pss", "rss"),
        "auto, uss, pss or rss",
        "how big a worker is; auto: USS + swap where readable, else RSS. "
        "Growth is always judged on anonymous memory",
    )
    limit: Ceiling | None = _option("none", _ceiling, _CEILING, "ceiling for one worker")
    total_limit: Ceiling | None = _option(
        "90%", _ceiling, _CEILING, "ceiling for the whole program, shared pages counted once"
    )
    growth: str | float = _option(
        "auto",
        _growth,
        "auto, off or a rate above 0 such as 1MB/h",
        "leak detector: auto, off, or the slowest growth that matters",
    )
    imbalance: float | None = _option(
        "1.6",
        _imbalance,
        "a ratio above 1 and below 1000 such as 1.6, or off",
        "how many times its siblings' median a worker may hold, age and work accounted for",
    )
    warmup: float = _option("2m", _duration, _TIME, "a younger worker gets no verdict but limit")
    confirm: float = _option(
        "30s",
        _positive,
        _SOME_TIME,
        "how long a verdict must hold without a break before it counts; "
        "also the finest step of the leak detector, whose first window is 10 steps",
    )
    actions: tuple[str, ...] = _option(
        "recycle",
        _actions,
        "one or more of recycle, reload, restart, each once, in this order",
        "the ladder, gentlest first; the next rung only after the one before proved "
        "ineffective. A plain program knows restart alone, where its own section names it",
    )
    surge: str = _option(
        "auto",
        _choice("auto", "on", "off"),
        "auto, on or off",
        "whether one more worker is started (SIGTTIN) before one leaves; auto: where the worker is "
        "the oldest (SIGTTOU then takes exactly it) or half of the workers or fewer would serve "
        "meanwhile, and there is room for one more; on: wherever there is room; of another worker "
        "than the oldest it takes the oldest as well",
    )
    preflight: str | tuple[str, ...] = _option(
        "auto",
        _preflight,
        "auto, off or a command, its quotes closed",
        "proof that a new worker can boot, before any worker is asked to leave; auto: gunicorn's "
        "own --check-config, which imports the application, run aside whenever its code has "
        "changed, where the command is gunicorn itself; elsewhere a worker that has booted since. "
        "Or a command of your own, whose exit status 0 is the proof",
    )
    grace: float | None = _option(
        "auto",
        _grace,
        "auto or " + _TIME,
        "how long a worker may finish its requests; auto: --graceful-timeout of the program's "
        "command line + 5 s. Where it is not there (gunicorn.conf.py is not read) 35 s are "
        "assumed, and SIGKILL is not sent",
    )
    kill: bool = _option(
        "off",
        _switch,
        "on or off",
        "on: SIGKILL after the grace, if that is set or --graceful-timeout is on the command "
        "line; off: hold and tell",
    )
    cooldown: float = _option(
        "5m",
        _duration,
        _TIME,
        "pause per program after an action ended (for limit: per worker)",
    )
    budget: Budget = _option(
        "6/1h",
        _budget,
        "a count from 1 to 100000 and a time above 0, such as 6/1h",
        "actions per period and program; the actions of others count too",
    )
    max_unavailable: int = _option(
        "1",
        _whole,
        _COUNT,
        "workers of a program that may be away at once by our recycling",
    )
    max_programs_at_once: int = _option(
        "1",
        _whole,
        _COUNT,
        "programs in action at once on this host; most urgent first",
        everywhere=False,
    )
    window: Window | None = _option(
        "always",
        _window,
        "always, or from and to such as 22:00-06:00: two different times, 00:00 to 23:59",
        "hours in which actions that are not urgent may run; limit and total_limit are urgent",
    )
    notify: tuple[str, ...] = _option(
        "",
        _urls,
        "http:// or https:// URLs with their host, separated by white space "
        "(slack+https:// where another server takes Slack's format)",
        "where news goes",
    )
    notify_on: frozenset[str] = _option(
        " ".join(NEWS), _news, "any of " + ", ".join(NEWS), "which news"
    )
    journal: str = _option(
        "",
        _text,
        "the path of a file or of a directory",
        "the history, an SQLite file; default: below /var/lib/memwatch for root, "
        "else below .local/state/memwatch in the home of the listener's user",
        everywhere=False,
    )
    keep: float = _option(
        "30d", _positive, _SOME_TIME, "how long history is kept", everywhere=False
    )
    metrics: tuple[str, ...] = _option(
        "",
        _metrics,
        "file:/path/x.prom and/or http://127.0.0.1:PORT",
        "where Prometheus finds the figures",
        everywhere=False,
    )


FIELDS = {field.name: field for field in dataclasses.fields(Options)}

# Options that are read and checked, but do nothing yet.
NOT_YET = {
    "metrics": "no metrics are written in this version",
}


def parse(name: str, text: str) -> Any:
    """The value of option `name` spelled `text`.

    Raises ValueError whose text says what would be valid, KeyError for an unknown name.
    """
    field = FIELDS[name]
    try:
        return field.metadata["parse"](text.strip())
    except ValueError:
        raise ValueError(f"valid: {field.metadata['valid']}") from None


_SAMPLE_HEAD = """\
; Every option of memwatch with its default. Put the ones you change into supervisord.conf
; or any file it includes; supervisord itself ignores these sections.
;
; [memwatch] holds for every program. A section [memwatch:NAME] sets the same options for
; one program: NAME is a program such as web:web_00, else a group, else the name of a
; [program:x] section; the most exact one wins, option by option.
;
; Sizes are KB, MB, GB (1 MB = 1024 * 1024 bytes), times s, m, h, d. %(here)s,
; %(host_node_name)s and %(ENV_X)s are replaced; any other % stands for itself.

[memwatch]
"""


def sample() -> str:
    """conf/memwatch.conf: every option commented out, with its default and what it means."""
    import textwrap  # only here: for people who write the documentation

    lines = [_SAMPLE_HEAD]
    for name, field in FIELDS.items():
        for text in (_meaning(name), f"valid: {field.metadata['valid']}"):
            lines.extend(textwrap.wrap(text, 90, initial_indent="; ", subsequent_indent="; "))
        lines.append(f";{name} = {field.metadata['default']}".rstrip() + "\n")
    return "\n".join(lines).rstrip() + "\n"


def table() -> str:
    """The README's table of options, in Markdown."""
    rows = ["| option | default | meaning | valid |", "|---|---|---|---|"]
    for name, field in FIELDS.items():
        default = field.metadata["default"]
        shown = f"`{default}`" if default else "none"
        rows.append(f"| `{name}` | {shown} | {_meaning(name)} | {field.metadata['valid']} |")
    return "\n".join(rows) + "\n"


def _meaning(name: str) -> str:
    field = FIELDS[name]
    text: str = field.metadata["help"]
    if not field.metadata["everywhere"]:
        text += " (in [memwatch] only)"
    if name in NOT_YET:
        text += f". Without effect yet: {NOT_YET[name]}"
    return text
