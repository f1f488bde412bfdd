"""Values of the datetime module while a test has frozen time, as freezegun does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final

import pytest
from attrs import define
from children import execute
from freezer import FakeDate, FakeDatetime

from durably.codec import Codec
from durably.errors import SerializationError

DATE: Final = dt.date
DATETIME: Final = dt.datetime


@define
class When:
    day: DATE
    at: DATETIME | None = None


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The datetime module with classes that stand in for its own."""
    monkeypatch.setattr(dt, "date", FakeDate)
    monkeypatch.setattr(dt, "datetime", FakeDatetime)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("is_known_before", [True, False])
def test_what_is_frozen_is_stored_and_read(is_known_before: bool) -> None:
    """Under the real types and under those that stand in for them, which come back as real ones."""
    codec = Codec()
    if is_known_before:
        codec.check_type(When, "w")
    now, today = dt.datetime.now(dt.UTC), dt.date(2026, 11, 28)
    real, day = DATETIME(2026, 11, 28, 12, fold=1, tzinfo=dt.UTC), DATE(2026, 11, 28)
    for value, type_, back in (
        (now, DATETIME, real),
        (now, dt.datetime, real),
        (real, dt.datetime, real),
        (today, dt.date, day),
        (today, DATE, day),
        (now, DATE | DATETIME, real),
        ([now, None], list[dt.datetime | None], [real, None]),
        ({now: today}, dict[dt.datetime, DATE], {real: day}),
        (When(today, now), When, When(day, real)),
    ):
        text, result = codec.encode_and_decode(value, type_, what="w")
        for each in (
            result,
            codec.decode(text, type_, what="w"),
            codec.structure(value, type_, what="w"),
        ):
            assert each == back
            assert "Fake" not in repr(each)


@pytest.mark.usefixtures("frozen")
def test_a_frozen_datetime_is_no_date(codec: Codec) -> None:
    """A real datetime is none either."""
    for type_ in (DATE, dt.date):
        with pytest.raises(SerializationError):
            codec.encode(dt.datetime.now(), type_, what="w")


def test_another_subclass_is_rejected(codec: Codec) -> None:
    """It stands in for nothing, and may hold more."""

    class Stamp(DATETIME):
        pass

    with pytest.raises(SerializationError, match="expected datetime .*, found Stamp"):
        codec.encode(Stamp(2026, 1, 2), DATETIME, what="w")


def test_durably_may_be_imported_while_time_is_frozen() -> None:
    """The real classes are found all the same."""
    done = execute("imports_while_frozen")
    assert done.returncode == 0, done.stderr
