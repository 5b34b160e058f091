"""Units at the edge: bytes and seconds inside, `200MB` and `10m` outside.

Sizes are spelled Supervisor's way: KB, MB, GB (and TB) are powers of 1024, a bare
number is bytes. Times are s, m, h, d; a bare number is seconds. Also here: the one
function through which foreign text (process names, command lines, HTTP answers) passes
before it reaches a log or a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

KB, MB, GB, TB = 1024, 1024**2, 1024**3, 1024**4
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

_SIZES = {"": 1, "b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": TB}
_TIMES = {"": 1.0, "s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY}
_NUMBER = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)\s*", re.ASCII | re.IGNORECASE)


def _parse(text: str, suffixes: dict[str, int] | dict[str, float], what: str) -> float:
    match = _NUMBER.fullmatch(text)
    factor = suffixes.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"not a {what}")
    return float(match[1]) * factor


def parse_size(text: str) -> int:
    """`200MB` -> 209715200. Raises ValueError."""
    return int(_parse(text, _SIZES, "size"))


def parse_time(text: str) -> float:
    """`10m` -> 600.0; several parts (`1h 30m`) add up. Raises ValueError."""
    parts = text.split()
    if not parts:
        raise ValueError("not a time")
    return sum(_parse(part, _TIMES, "time") for part in parts)


def parse_rate(text: str) -> float:
    """`1MB/h` -> bytes per second. Raises ValueError."""
    size, slash, per = text.partition("/")
    seconds = {**_TIMES, "min": MINUTE}.get(per.strip().lower())
    if not slash or not per.strip() or seconds is None:
        raise ValueError("not a rate")
    return parse_size(size) / seconds


def _finite(value: float) -> bool:
    return abs(value) != float("inf") and value == value


def size(value: float | None) -> str:
    """412.0MB, 1.50GB, 12KB; `?` for what is not known or not finite."""
    if value is None or not _finite(value):
        return "?"
    magnitude = abs(value)
    if magnitude >= 10 * GB:
        return f"{value / GB:.1f}GB"
    if magnitude >= GB:
        return f"{value / GB:.2f}GB"
    if magnitude >= MB:
        return f"{value / MB:.1f}MB"
    if magnitude >= KB:
        return f"{value / KB:.0f}KB"
    return f"{value:.0f}B"


def signed_size(value: float | None) -> str:
    """+3.1MB, -20KB; `?` as in size()."""
    text = size(value)
    return text if text.startswith(("-", "?")) else "+" + text


def time(seconds: float | None) -> str:
    """12m, 1h 1m, 3d 4h; the two largest parts; `?` for what is not known or not finite."""
    if seconds is None or not _finite(seconds):
        return "?"
    left = round(seconds)
    sign, left = ("-", -left) if left < 0 else ("", left)
    parts = []
    for name, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length}{name}")
            left %= length
        elif parts:
            break
        if len(parts) == 2:
            break
    return sign + (" ".join(parts) or "0s")


def rate(bytes_per_second: float | None) -> str:
    """+3.1MB/min, or per hour where a minute holds less than 100 KB."""
    if bytes_per_second is None or not _finite(bytes_per_second):
        return "?"
    if abs(bytes_per_second) * MINUTE >= 100 * KB:
        return f"{signed_size(bytes_per_second * MINUTE)}/min"
    return f"{signed_size(bytes_per_second * HOUR)}/h"


def printable(text: object, limit: int = 300) -> str:
    """Foreign text made safe for a log or a terminal: one line, nothing but printable characters.

    Control characters, line separators, bidirectional overrides and lone surrogates become
    escapes; longer than `limit` characters is cut.
    """
    raw = str(text)
    cut = raw[:limit]
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut
    )
    return safe + ("..." if len(raw) > limit else "")


def without_numbers(text: str) -> str:
    """What stays the same of a sentence whose numbers and addresses do not."""
    import re  # few need it

    return re.sub(r"0x[0-9a-fA-F]+|[0-9]+", "#", text)


def median(values: Iterable[float]) -> float:
    """The middle one, or the mean of the two in the middle.

    Not `statistics`, which brings decimal, fractions and random into the listener's memory.
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def lower_median(values: Iterable[float]) -> float:
    """The middle one, or the lower of the two in the middle: one that was really seen."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
