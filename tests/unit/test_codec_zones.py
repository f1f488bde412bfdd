"""Times in zones: the zone is kept beside the instant."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import define
from codeckit import PARIS, UTC, same

from durably.codec import UNTYPED, Codec
from durably.errors import SerializationError, ValidationError

HOUR = dt.timedelta(hours=1)


@define
class Plan:
    first: dt.datetime
    daily: dt.time | None = None


class Theirs(dt.tzinfo):
    """A zone as other libraries make them."""

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        return HOUR

    def dst(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta()

    def tzname(self, _: dt.datetime | None) -> str:
        return "CET"


class TheirZoneInfo(ZoneInfo):
    """A zone as pendulum makes them."""


class Nowhere(Theirs):
    def utcoffset(self, _: dt.datetime | None) -> None:  # type: ignore[override] # on purpose
        return None


def keyless() -> ZoneInfo:
    for folder in zoneinfo.TZPATH:
        path = Path(folder, "Europe/Paris")
        if path.exists():
            with path.open("rb") as file:
                return ZoneInfo.from_file(file)
    pytest.skip("this machine has no files of zones")


@pytest.mark.parametrize("key", ["Europe/Paris", "America/Port-au-Prince", "Australia/Lord_Howe"])
@pytest.mark.parametrize("fold", [0, 1])
def test_every_local_time_comes_back_as_it_was(codec: Codec, key: str, fold: int) -> None:
    """Zone, wall time, fold and offset are kept, also of times that exist twice or not at all."""
    zone = ZoneInfo(key)
    days = [dt.datetime(2026, 1, 1, tzinfo=zone) + dt.timedelta(day) for day in range(365)]
    changing = [d for d in days if d.utcoffset() != (d + dt.timedelta(days=1)).utcoffset()]
    assert len(changing) == 2
    for number in range(2 * 2 * 48):
        value = (changing[number % 2] + number // 2 * HOUR / 2).replace(fold=fold)
        decoded = codec.encode_and_decode(value, dt.datetime, what="w")[1]
        assert decoded.tzinfo is value.tzinfo
        assert decoded.replace(tzinfo=None) == value.replace(tzinfo=None)
        assert (decoded.fold, decoded.utcoffset()) == (fold, value.utcoffset())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2026, 10, 24, 3, tzinfo=PARIS), "2026-10-24T03:00:00+02:00[Europe/Paris]"),
        (
            dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=PARIS),
            "2026-10-25T02:30:00+01:00[Europe/Paris];fold=1",
        ),
        (dt.datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (dt.datetime(2026, 1, 2, tzinfo=ZoneInfo("UTC")), "2026-01-02T00:00:00+00:00[UTC]"),
        (
            dt.datetime(2026, 1, 2, tzinfo=dt.timezone(HOUR, "CET")),
            "2026-01-02T00:00:00+01:00;name=CET",
        ),
        (dt.time(3, tzinfo=PARIS), "03:00:00[Europe/Paris]"),
        (dt.time(3, tzinfo=dt.timezone(HOUR)), "03:00:00+01:00"),
    ],
)
def test_the_stored_text_can_be_read_by_people(codec: Codec, value: Any, text: str) -> None:
    """It is that of ISO 8601, with the zone in brackets as in RFC 9557."""
    assert codec.encode(value, type(value), what="w") == f'"{text}"'
    assert same(codec.structure(text, type(value), what="w"), value)


def test_a_day_later_is_the_same_wall_time_on_a_resume(codec: Codec) -> None:
    """What is computed of a time that came back is what is computed of the time that went in."""
    plan = Plan(dt.datetime(2026, 10, 24, 3, tzinfo=PARIS), dt.time(3, tzinfo=PARIS))
    _, back = codec.encode_and_decode(plan, Plan, what="w")
    payload = codec.structure(plan, Plan, what="w")

    for each in (back, payload):
        assert (each.first + dt.timedelta(days=1)).isoformat() == "2026-10-25T03:00:00+01:00"
        assert same(each.daily, plan.daily)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As version 0.1 stored it.
        ("2026-10-24T03:00:00+02:00", dt.datetime(2026, 10, 24, 3, tzinfo=dt.timezone(2 * HOUR))),
        ("2026-10-25T02:30:00;fold=1", dt.datetime(2026, 10, 25, 2, 30, fold=1)),
        # From elsewhere.
        ("2026-10-24T03:00[Europe/Paris]", dt.datetime(2026, 10, 24, 3, tzinfo=PARIS)),
        ("2026-10-24T01:00:00Z[Europe/Paris]", dt.datetime(2026, 10, 24, 3, tzinfo=PARIS)),
        (
            "2026-10-25T02:30:00+01:00[Europe/Paris]",
            dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=PARIS),
        ),
        # Stored when the zone had other rules: the instant stays.
        (
            "2026-10-24T03:00:00+07:30[Europe/Paris]",
            dt.datetime(2026, 10, 23, 21, 30, tzinfo=PARIS),
        ),
    ],
)
def test_texts_that_are_accepted(codec: Codec, text: str, value: dt.datetime) -> None:
    """What an earlier version stored, and what other programs write; an offset says the instant."""
    assert same(codec.structure(text, dt.datetime, what="w"), value)
    assert same(codec.decode(f'"{text}"', dt.datetime, what="w"), value)


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        (Theirs(), "Theirs has no stored form"),
        (TheirZoneInfo("Europe/Paris"), "TheirZoneInfo has no stored form"),
        (Nowhere(), "Nowhere has no stored form"),
        (None, "ZoneInfo without a known key has no stored form"),
    ],
    ids=["of a library", "subclass", "no offset", "no key"],
)
def test_other_zones_are_rejected(codec: Codec, zone: dt.tzinfo | None, says: str) -> None:
    """A time in a zone that has no key is an error that says what to use instead."""
    zone = zone or keyless()
    when, daily = dt.datetime(2026, 1, 2, tzinfo=zone), dt.time(3, tzinfo=zone)
    for value, type_ in (
        (when, dt.datetime),
        (when, dt.datetime | None),
        (when, dt.datetime | str),
        (daily, dt.time),
        ([when], list[dt.datetime]),
        (Plan(when), Plan),
        ({when: 1}, dict[dt.datetime, int]),
    ):
        for call, error in (
            (codec.encode, SerializationError),
            (codec.structure, ValidationError),
        ):
            with pytest.raises(error, match=says) as caught:
                call(value, type_, what="w")  # type: ignore[operator] # both take these
            assert "use zoneinfo.ZoneInfo(key) or " in str(caught.value)
            assert "datetime.timezone.utc" in str(caught.value)
    with pytest.raises(SerializationError, match=says):
        codec.encode(when, UNTYPED, what="w")


@pytest.fixture
def no_files() -> Iterator[None]:
    """A machine whose zones are somewhere else."""
    zoneinfo.reset_tzpath(to=["/nowhere"])
    yield
    zoneinfo.reset_tzpath()


@pytest.mark.usefixtures("no_files")
@pytest.mark.parametrize("type_", [dt.datetime, dt.datetime | None, dt.datetime | str])
def test_a_zone_that_this_machine_lacks_is_named(codec: Codec, type_: Any) -> None:
    """A stored time in it is an error that says what to install."""
    text = "2026-10-24T03:00:00+02:00[Here/And_There]"
    says = r"Here/And_There is not known on this machine; install the package tzdata"
    with pytest.raises(ValidationError, match=says):
        codec.decode(
            f'{{"$union":"datetime","value":"{text}"}}'
            if type_ == dt.datetime | str
            else f'"{text}"',
            type_,
            what="w",
        )


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "Europe/../Europe/Paris",
        "Europe//Paris",
        "Europe",
        "tzdata.zi",
        "leapseconds",
        "\\x00",
        "Ünï/Cöde",
        "x" * 100_000,
    ],
)
def test_no_text_leads_to_a_file_that_is_no_zone(codec: Codec, key: str) -> None:
    """The key in a stored text is no path."""
    for type_, text in ((dt.datetime, "2026-10-24T03:00:00+02:00"), (dt.time, "03:00:00")):
        with pytest.raises(ValidationError):
            codec.structure(f"{text}[{key}]", type_, what="w")


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-24T03:00:00;name=CET",
        "2026-10-24[Europe/Paris]",
        "2026-10-24T03:00:00[Europe/Paris]x",
        "2026-10-24T03:00:00[]",
        "2026-10-24T03:00:00+02:00;fold=2",
        "[Europe/Paris]",
        "2026-10-24T03:00:00" + "0" * 1_000_000,
        "[" * 1_000_000,
        "",
    ],
)
def test_other_texts_are_not_times(codec: Codec, text: str) -> None:
    """What has another form is rejected."""
    with pytest.raises(
        ValidationError, match=r"expected datetime \(ISO 8601\), found str of another form"
    ):
        codec.structure(text, dt.datetime, what="w")
