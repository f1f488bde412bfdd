"""Imports durably while the datetime module has other classes; the real ones are found."""

import datetime as dt

from freezer import DATE, DATETIME, FakeDate, FakeDatetime

dt.date, dt.datetime = FakeDate, FakeDatetime
from durably.codec import Codec  # noqa: E402 - what is tested

codec = Codec()
dt.date, dt.datetime = DATE, DATETIME
for type_, value in ((DATETIME, DATETIME(2026, 1, 2, 3)), (DATE, DATE(2026, 1, 2))):
    assert codec.encode_and_decode(value, type_, what="w")[1] == value
    assert type(codec.structure(value.isoformat(), type_, what="w")) is type_
