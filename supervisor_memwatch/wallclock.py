"""The clock on the wall and the calendar, for those who have no clock themselves.

Times are epoch seconds; `zone` is seconds east of UTC.
"""

from __future__ import annotations


def clock(at: float, zone: int, near: float | None = None) -> str:
    """`2026-01-31 13:10`; of a time on the day of `near`, `13:10`."""
    day, minutes = divmod(int(at + zone) // 60, 1440)
    time = f"{minutes // 60:02d}:{minutes % 60:02d}"
    if near is not None and day == int(near + zone) // 86400:
        return time
    return f"{date(day)} {time}"


def date(day: int) -> str:
    """Days since 1970-01-01 as a date; without the clock's modules, for this one has no clock."""
    # Counted in eras of 400 years that begin with a March, so that a leap day comes last.
    era, of_era = divmod(day + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day_of_month = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return f"{era * 400 + year + (month <= 2):04d}-{month:02d}-{day_of_month:02d}"


def zone_words(zone: int) -> str:
    """`UTC+01:00`."""
    hours, minutes = divmod(abs(zone) // 60, 60)
    return f"UTC{'-' if zone < 0 else '+'}{hours:02d}:{minutes:02d}"
