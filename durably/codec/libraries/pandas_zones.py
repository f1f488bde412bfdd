"""Write time zones of pandas as text, and read them."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Any

import pandas as pd

from durably.codec.messages import NotStorable


def tz_text(zone: Any) -> str:
    """Return the text of a time zone.

    Raises:
        NotStorable: it has none from which it would come back.
    """
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return f"zone:{zone.key}"
    if type(zone) is dt.timezone:
        return f"offset:{zone.utcoffset(None).total_seconds()}"
    if type(zone).__module__.partition(".")[0] == "pytz":
        return f"pandas:{zone}"
    msg = f"the time zone {zone!r:.80} has no stored form; use a zoneinfo.ZoneInfo"
    raise NotStorable(msg)


def tz_from(text: str) -> Any:
    """Return the time zone of its text."""
    kind, _, name = text.partition(":")
    if kind == "zone":
        return zoneinfo.ZoneInfo(name)
    if kind == "offset":
        return dt.timezone(dt.timedelta(seconds=float(name)))
    return pd.DatetimeTZDtype("ns", name).tz
