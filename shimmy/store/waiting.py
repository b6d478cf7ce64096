"""How long a host that has too much to do wants us to stay away: RFC 9110's Retry-After, or what the hub says of its
limits."""

import re
import time
from collections.abc import Callable

# Who wants us to wait for longer is not waited for: the pull ends and says so.
MAX_SECONDS = 300.0
# `"api";r=0;t=55`: nothing is left of this kind of request for 55 seconds.
_LIMIT = re.compile(r'"[a-z-]{1,40}"\s*;\s*r=0\s*;\s*t=([0-9]{1,9})(?:$|[\s;,])')


def seconds_to_wait(header: Callable[[str], str]) -> float | None:
    """None where the headers, each by its name or "", do not say."""
    said = header("retry-after").strip()
    if said.isdecimal():
        return float(said[:9])
    if said and (seconds := _until(said, header("date"))) is not None:
        return seconds
    limit = _LIMIT.search(header("ratelimit")[:1000])
    return float(limit[1]) if limit else None


def _until(date: str, now: str) -> float | None:
    """By the clock of who says it, which may not be ours."""
    at = _unix(date)
    if at is None:
        return None
    began = _unix(now)
    return max(0.0, at - (time.time() if began is None else began))


def _unix(date: str) -> float | None:
    from email.utils import mktime_tz, parsedate_tz

    try:
        parsed = parsedate_tz(date[:100])
        return float(mktime_tz(parsed)) if parsed else None
    except (ValueError, OverflowError, TypeError):
        return None
