"""Text in the cells of a terminal: how wide it is, cut and padded to fit, and curves of one line.

A cell is what one Latin letter takes; a CJK character takes two, a combining one none. What is
not printable never gets through. Not here: what is shown, and where.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from . import units

CUT = "…"
RULE = "─"
LEVELS = "▁▂▃▄▅▆▇█"
# What stands for our own signs where the terminal has nothing but ASCII.
_ASCII = str.maketrans(CUT + RULE + LEVELS, "~-" + "_.-=+*#@")


def of(character: str) -> int:
    """The cells of one character: 0, 1 or 2."""
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def width(text: str) -> int:
    """The cells a text takes."""
    return len(text) if text.isascii() else sum(map(of, text))


def clean(text: str, ascii: bool = False) -> str:
    """Safe to write: one line, printable; where the terminal has but ASCII, `?` for the rest."""
    safe = units.printable(text, 2000)
    if not ascii or safe.isascii():
        return safe
    signs = safe.translate(_ASCII)
    return "".join(sign if sign.isascii() else "?" * of(sign) for sign in signs)


def cut(text: str, cells: int) -> str:
    """At most so many cells; what was cut off is marked."""
    if width(text) <= cells:
        return text
    kept, room = [], cells - 1
    for character in text:
        room -= of(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + CUT if cells > 0 else ""


def fit(text: str, cells: int, right: bool = False) -> str:
    """Exactly so many cells: cut, or padded (on the left where it is set flush right)."""
    kept = cut(text, cells)
    padding = " " * (cells - width(kept))
    return padding + kept if right else kept + padding


def wrap(text: str, cells: int) -> list[str]:
    """Lines of at most so many cells, broken between words; those after the first stand further
    in than it does."""
    if width(text) <= cells:
        return [text]
    words = text.split()
    margin = text[: len(text) - len(text.lstrip())]
    lines, line = [], margin + " ".join(words[:1])
    for word in words[1:]:
        if width(line) + 1 + width(word) <= cells:
            line += f" {word}"
        else:
            lines.append(line)
            line = f"{margin}  {word}"
    return [cut(each, cells) for each in (*lines, line)]


def spark(
    points: Iterable[tuple[float, float]],
    begin: float,
    end: float,
    low: float,
    high: float,
    cells: int,
) -> str:
    """A curve, one character a stretch of time: the last of its points; blank where there are none.

    The last, for a mean sinks below a scale that grows with what is newest. `low` is the bottom,
    `high` the top of the scale; the points are in order, the oldest is the leftmost.
    """
    levels = [" "] * cells
    for at, value in points:
        place = int((at - begin) / (end - begin) * cells) if end > begin else -1
        if at == end:
            place = cells - 1
        if 0 <= place < cells:
            levels[place] = _level(value, low, high)
    return "".join(levels)


def _level(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.0
    return LEVELS[max(0, min(len(LEVELS) - 1, int(share * len(LEVELS))))]


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Bottom and top for curves that are to be compared; small changes stay small."""
    if not values:
        return 0.0, 0.0
    high = max(values)
    return min(min(values), 0.75 * high), high


def short(size: float | None) -> str:
    """A size in at most five cells: 412M, 63.1M, 1.50G; `?` for what is not known."""
    if size is None:
        return "?"
    if size == 0:
        return "0"
    if size < 0:
        return "-" + short(-size)
    number, unit = size / units.KB, "K"
    for larger in "MGT":
        if number < 999.5:
            break
        number, unit = number / 1024, larger
    if unit == "K" or number >= 99.95:
        return f"{number:.0f}{unit}"
    return f"{number:.1f}{unit}" if number >= 9.995 else f"{number:.2f}{unit}"


def signed(size: float | None) -> str:
    """The same with its sign: +3.10M."""
    text = short(size)
    return text if text.startswith(("-", "?", "0")) else f"+{text}"


def brief(seconds: float | None) -> str:
    """A time in at most six cells: 2h17m, 45s, 3d4h, 250d."""
    if seconds is None:
        return "?"
    if seconds >= 1000 * units.DAY:
        return ">999d"
    if seconds >= 100 * units.DAY:
        return f"{seconds / units.DAY:.0f}d"
    return units.time(seconds).replace(" ", "")
