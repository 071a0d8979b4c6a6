"""Floors for parts of the day or week: five cron fields, a length, a time zone."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from longshore.api.base import seconds
from longshore.api.scaling import Schedule

_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_LONGEST = 8 * 86400.0


class ScheduleError(ValueError):
    """A schedule that cannot be read; the message says what to write instead."""


class Cron:
    """Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday).

    As in cron(8), a day matches when either day field does, if both are restricted.

    Raises:
        ScheduleError: the text is not five such fields.
    """

    def __init__(self, text: str) -> None:
        fields = text.split()
        if len(fields) != 5:
            raise ScheduleError(f"{text!r} has {len(fields)} fields: write five, such as '0 8 * * mon-fri'")
        names: tuple[dict[str, int], ...] = ({}, {}, {}, _MONTHS, _DAYS)
        sets = [_field(f, *b, n) for f, b, n in zip(fields, _BOUNDS, names, strict=True)]
        minutes, hours, self.days, self.months, weekdays = sets
        self.latest_minutes = tuple(sorted(minutes, reverse=True))
        self.latest_hours = tuple(sorted(hours, reverse=True))
        self.weekdays = frozenset(day % 7 for day in weekdays)
        self._day_given, self._weekday_given = fields[2] != "*", fields[4] != "*"

    def matches_day(self, day: datetime) -> bool:
        """Tell whether it fires on the day of `day`."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self._day_given and self._weekday_given:
            return by_day or by_weekday
        return by_day and by_weekday


def active(schedule: Schedule, now: float) -> bool:
    """Tell whether a schedule's time contains `now` (seconds since the epoch).

    Raises:
        ScheduleError: its start or time zone cannot be read.
    """
    cron, zone = _parsed(schedule.start, schedule.time_zone)
    length = min(seconds(schedule.duration), _LONGEST)
    local = datetime.fromtimestamp(now, tz=UTC).astimezone(zone)
    for back in range(int(length // 86400) + 2):
        day = local - timedelta(days=back)
        if not cron.matches_day(day):
            continue
        # Only the latest start up to now can still last: an earlier one ends earlier.
        limit = (local.hour, local.minute) if back == 0 else (23, 59)
        times = ((h, m) for h in cron.latest_hours for m in cron.latest_minutes if (h, m) <= limit)
        latest = next(times, None)
        if latest is not None:
            start = day.replace(hour=latest[0], minute=latest[1], second=0, microsecond=0, fold=0)
            return start.timestamp() <= now < start.timestamp() + length
    return False


def unreadable(schedules: Iterable[Schedule]) -> tuple[str, ...]:
    """Give what is wrong with schedules, one sentence for each that cannot be followed."""
    found = []
    for number, schedule in enumerate(schedules):
        try:
            _parsed(schedule.start, schedule.time_zone)
        except ScheduleError as error:
            found.append(f"scaling.schedules[{number}] ({error})")
    return tuple(found)


@lru_cache(maxsize=4096)
def _parsed(start: str, time_zone: str) -> tuple[Cron, ZoneInfo]:
    try:
        zone = ZoneInfo(time_zone)
    except (ValueError, OSError, KeyError) as error:
        raise ScheduleError(
            f"time zone {time_zone!r} is not known here: use an IANA name such as Europe/Berlin"
        ) from error
    return Cron(start), zone


def _field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    values: set[int] = set()
    for part in text.lower().split(","):
        spread, _, step_text = part.partition("/")
        if "/" in part and (not step_text.isascii() or not step_text.isdigit() or int(step_text) < 1):
            raise ScheduleError(f"{part!r}: a step is a number of at least 1, as in */5")
        step = int(step_text) if step_text else 1
        if spread == "*":
            first, last = low, high
        else:
            begin, dash, end = spread.partition("-")
            first = _number(begin, names, part)
            last = _number(end, names, part) if dash else (high if step_text else first)
        if not low <= first <= last <= high:
            raise ScheduleError(f"{part!r} is not within {low}-{high}")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(text: str, names: dict[str, int], part: str) -> int:
    if text in names:
        return names[text]
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise ScheduleError(f"{part!r} cannot be read: use numbers, ranges, lists, * and */n")
    return int(text)
