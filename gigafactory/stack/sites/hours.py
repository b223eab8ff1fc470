"""The 8,760 hours of a common year, counted in UTC from 1 January 00:00, and their local clocks.

Hour h runs from h to h + 1; what holds in it is said at its start. Summer time follows the rules
of 2025 in the IANA Time Zone Database.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

YEAR = 2025
"""The common year whose calendar and clock changes stand for all."""
HOURS = 8760
DAYS_OF_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
MONTH_STARTS = np.cumsum((0, *DAYS_OF_MONTHS[:-1])) * 24
"""First hour of each month, UTC."""
MONTH_OF_DAY = np.repeat(np.arange(12, dtype=np.int8), DAYS_OF_MONTHS)
START = datetime(YEAR, 1, 1, tzinfo=UTC)


@cache
def local_hours(timezone: str) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """(hour of the day 0-23, month 0-11) on the civil clock there, for each hour UTC."""
    local_s = np.arange(HOURS) * 3600 + offsets_s(timezone)
    hour = (local_s // 3600 % 24).astype(np.int8)
    # The first and last hours of the year lie in the year before or after: the calendar wraps.
    month = MONTH_OF_DAY[local_s // 86_400 % 365]
    hour.flags.writeable = month.flags.writeable = False
    return hour, month


@cache
def offsets_s(timezone: str) -> NDArray[np.int64]:
    """Seconds by which the civil clock there is ahead of UTC, in each hour."""
    zone = ZoneInfo(timezone)
    offsets = np.empty(HOURS, np.int64)
    for day in range(0, HOURS, 24):
        first, last = _offset_s(zone, day), _offset_s(zone, day + 23)
        offsets[day : day + 24] = first
        if first != last:  # Clocks change on this day: ask for each of its hours.
            offsets[day : day + 24] = [_offset_s(zone, hour) for hour in range(day, day + 24)]
    offsets.flags.writeable = False
    return offsets


def month_means(hourly: NDArray[Any]) -> NDArray[Any]:
    """Mean of each month (UTC) over the last axis of 8,760 hours."""
    sums = np.add.reduceat(hourly, MONTH_STARTS, axis=-1)
    return np.asarray(sums / (np.array(DAYS_OF_MONTHS) * 24))


def _offset_s(zone: ZoneInfo, hour: int) -> int:
    offset = (START + timedelta(hours=hour)).astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())
