"""Codecs for values that are a single text, number or constant."""

from __future__ import annotations

import binascii
import contextlib
import datetime as dt
import decimal
import enum
import pathlib
import re
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from durably._platform.safe_repr import full_name, type_name
from durably.codec.json_text import dump, to_decimal
from durably.codec.messages import Mismatch, NotStorable, Problem, Unsupported, clip, show
from durably.codec.plain import SCALARS, Misfit, plain, plain_scalar
from durably.codec.redefined import is_redefined, note
from durably.codec.type_codec import TypeCodec
from durably.codec.typing_utils import DATE, DATETIME, frozen_time_base

# --- None, bool, int, float and str ----------------------------------------------------------


def builtin(codec: TypeCodec) -> None:
    """Complete the codec of None, bool, int, float or str."""
    type_ = codec.type
    codec.compares = False

    def write(value: Any) -> Any:
        if type(value) is type_:
            return value
        if type_ is float and isinstance(value, int):
            number = _as_float(value)
            return codec.misfit(value) if number is None else number
        # bool is a subclass of int, and enum members are instances of their mixed-in types.
        if not isinstance(value, type_) or isinstance(value, (bool, enum.Enum)):
            return codec.misfit(value)
        return plain_scalar(value)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is type_:
            return data
        number = _as_float(data) if type_ is float and type(data) is int else None
        if number is None:
            raise codec.mismatch(data)
        return number

    codec.write, codec.read = write, read


def _as_float(value: int) -> float | None:
    """Return the float that equals an int, or None."""
    if isinstance(value, (bool, enum.Enum)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if number == value else None


# --- The standard library's ------------------------------------------------------------------


class StdlibScalar(NamedTuple):
    """Convert values of one type of the standard library."""

    expected: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    written: tuple[type, ...] = (str,)


_SECONDS: Final = r"(-?)([0-9]{1,14})(?:\.([0-9]{1,100}))?"
_TEXT_OF_DECIMALS: Final = decimal.Context(capitals=1)

# ISO 8601 says neither which zone an offset is of, as RFC 9557 does with the key in brackets, nor
# which one of two equal wall-clock times is meant, nor how a fixed offset is called:
# 2026-10-25T02:30:00+01:00[Europe/Paris];fold=1
_FOLD: Final = ";fold=1"
_NAME: Final = ";name="
# No dots: with some a key would be a path out of the folder of zones.
_SMALL_OFFSET: Final = r"([+-])00:00:00\.([0-9]{6})$"
_Instant = TypeVar("_Instant", dt.datetime, dt.time)
_KEY: Final = r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*"
_INSTANT: Final = rf"(?s)([^\[;]{{0,64}})(?:\[({_KEY})\])?({_FOLD})?(?:{_NAME}(.*))?"


def _write_instant(value: dt.datetime | dt.time) -> str:
    zone = value.tzinfo
    text, name = value.isoformat(), ""
    if type(zone) is dt.timezone:
        said = zone.tzname(None)
        if said != dt.timezone(zone.utcoffset(None)).tzname(None):
            name = _NAME + said
    elif zone is not None:
        text += f"[{_zone_key(value)}]"
    return text + _FOLD * value.fold + name


def _zone_key(value: dt.datetime | dt.time) -> str:
    """Return the key of the zone of a time.

    Raises:
        NoForm: the key does not lead to a zone with the same offset, or there is none.
    """
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - where first needed; a ZoneInfo imported it

    zone = value.tzinfo
    if type(zone) is ZoneInfo and zone.key is not None and re.fullmatch(_KEY, zone.key):
        with contextlib.suppress(LookupError, ValueError, OSError):  # no such zone on this machine
            if value.replace(tzinfo=ZoneInfo(zone.key)).utcoffset() == value.utcoffset():
                return zone.key
    zone_name = "ZoneInfo without a known key" if type(zone) is ZoneInfo else full_name(type(zone))
    utc = "astimezone(datetime.timezone.utc)"
    msg = (
        f"a {type_name(value)} with a {zone_name} has no stored form; "
        f"use zoneinfo.ZoneInfo(key) or {utc if isinstance(value, dt.datetime) else utc[11:-1]}"
    )
    raise NotStorable(msg)


def _zone(key: str) -> dt.tzinfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - where first needed

    try:
        return ZoneInfo(key)
    except (LookupError, ValueError, OSError) as error:
        msg = f"the time zone {key} is not known on this machine; install the package tzdata"
        raise Problem(msg) from error


def _split(text: str) -> tuple[str, str | None, int, str | None]:
    """Return the parts of a stored time: ISO 8601, the zone's key, fold, the offset's name."""
    match = re.fullmatch(_INSTANT, text)
    if match is None:
        msg = "too long, or followed by something else"
        raise ValueError(msg)
    iso, key, fold, name = match.groups()
    return iso, key, int(fold is not None), name


def _with_name(offset: dt.timedelta | None, name: str) -> dt.timezone:
    if offset is None:
        msg = "the name of an offset, without an offset"
        raise ValueError(msg)
    return dt.timezone(offset, name)


def _read_datetime(text: str) -> dt.datetime:
    iso, key, fold, name = _split(text)
    if len(iso) <= len("2026-01-01"):
        msg = "a date without a time"
        raise ValueError(msg)
    value = _with_small_offset(DATETIME.fromisoformat(iso).replace(fold=fold), iso)
    if name is not None:
        return value.replace(tzinfo=_with_name(value.utcoffset(), name))
    if key is None:
        return value
    zone = _zone(key)
    local = value.replace(tzinfo=zone)
    # The zone's rules may have changed since: then it is the instant that stays.
    is_same = value.tzinfo is None or local.utcoffset() == value.utcoffset()
    return local if is_same else value.astimezone(zone)


def _read_time(text: str) -> dt.time:
    iso, key, fold, name = _split(text)
    value = _with_small_offset(dt.time.fromisoformat(iso).replace(fold=fold), iso)
    if name is not None:
        return value.replace(tzinfo=_with_name(value.utcoffset(), name))
    return value if key is None else value.replace(tzinfo=_zone(key))


def _with_small_offset(value: _Instant, iso: str) -> _Instant:
    """Return a time with its offset, which Python reads as that of UTC if it is below a second."""
    found = re.search(_SMALL_OFFSET, iso) if value.tzinfo is dt.UTC else None
    if found is None or not int(found[2]):
        return value
    offset = dt.timedelta(microseconds=int(found[1] + found[2]))
    return value.replace(tzinfo=dt.timezone(offset))


def _write_timedelta(value: dt.timedelta) -> int | str:
    """Write whole seconds as a number, and others as text: floats are too coarse."""
    micros = value // dt.timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 1_000_000)
    if not rest:
        return micros // 1_000_000
    return f"{'-' * (micros < 0)}{seconds}.{rest:06}"


def _read_timedelta(seconds: float | str) -> dt.timedelta:
    if not isinstance(seconds, str):
        return dt.timedelta(seconds=seconds)
    match = re.fullmatch(_SECONDS, seconds)
    if match is None:
        msg = "not a number of seconds"
        raise ValueError(msg)
    sign, whole, fraction = match.groups(default="")
    micros = int(whole) * 1_000_000 + int(f"{fraction:0<6}"[:6])
    return dt.timedelta(microseconds=-micros if sign else micros)


def _write_decimal(value: decimal.Decimal) -> str:
    # str() uses the thread's context to decide whether to write E or e.
    return _TEXT_OF_DECIMALS.to_sci_string(value)


def _write_bytes(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _read_bytes(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)


STDLIB: Final[Mapping[type, StdlibScalar]] = {
    DATETIME: StdlibScalar("datetime (ISO 8601)", _write_instant, _read_datetime),
    DATE: StdlibScalar("date (ISO 8601)", DATE.isoformat, DATE.fromisoformat),
    dt.time: StdlibScalar("time (ISO 8601)", _write_instant, _read_time),
    dt.timedelta: StdlibScalar(
        "timedelta (seconds)", _write_timedelta, _read_timedelta, (int, float, str)
    ),
    uuid.UUID: StdlibScalar("UUID", str, uuid.UUID),
    decimal.Decimal: StdlibScalar("Decimal (as text)", _write_decimal, to_decimal),
    bytes: StdlibScalar("bytes (base64)", _write_bytes, _read_bytes),
    bytearray: StdlibScalar(
        "bytearray (base64)", _write_bytes, lambda t: bytearray(_read_bytes(t))
    ),
}

"""The types of single values that are not JSON's own, and how they are converted."""

OWN: Final = (*SCALARS, *STDLIB, pathlib.PurePath, pathlib.Path)
"""Python's own types of a single value. No converter decides how they are stored."""


def stdlib_scalar(codec: TypeCodec) -> bool:
    """Complete the codec of a class of single values; return whether it can be stored."""
    type_ = codec.type
    how = STDLIB.get(type_)
    base = next((base for base in type_.__mro__ if base in SCALARS), None)
    if base is not None:  # a user's subclass of int, float or str
        how = StdlibScalar(codec.name, plain_scalar, type_, (base,))
    elif issubclass(type_, pathlib.PurePath):
        try:
            type_ = type(type_())  # Path() makes an instance of the class for this system
        except NotImplementedError:
            return False
        how = StdlibScalar(codec.name, str, type_)
    if how is None:
        return False
    codec.name = how.expected
    codec.compares = base is not None

    def write(value: Any) -> Any:
        if type(value) is not type_ and frozen_time_base(type(value)) is not type_:
            if type_ not in STDLIB and is_redefined(type(value), type_):
                return note(codec, value, _write_again(how, base or pathlib.PurePath, value))
            return codec.misfit(value)
        try:
            return how.write(value)
        except NotStorable as problem:
            return Misfit(value, problem)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) not in how.written:
            raise codec.mismatch(data)
        try:
            return how.read(data)
        except (ValueError, ArithmeticError):
            found = f"{type_name(data)} of another form"
            raise Mismatch(f"expected {codec.name}, found {found}") from None

    codec.write, codec.read = write, read
    return True


def _write_again(how: StdlibScalar, base: type, value: Any) -> Any:
    """Write a value of a user's class that was defined again."""
    if isinstance(value, base):
        return how.write(value)
    return Misfit(value, NotStorable(f"{type_name(value)} has another base class"))


def is_written_as_text(codec: TypeCodec) -> bool:
    """Return whether every value of the codec's type is written as a str, and no other type's."""
    type_ = codec.type
    if typing.get_origin(type_) is typing.Literal:
        return all(type(value) is str for value in typing.get_args(type_))
    if not isinstance(type_, type):
        return False
    if issubclass(type_, enum.Enum):
        return all(isinstance(member.value, str) for member in type_)
    if type_ is dt.timedelta:
        return False
    return type_ in STDLIB or issubclass(type_, (str, pathlib.PurePath))


# --- Enums and literals ----------------------------------------------------------------------


def enumeration(codec: TypeCodec) -> None:
    """Complete the codec of an enum, which is written by value."""
    members = list(codec.type)
    _constants(codec, [(member, member.value) for member in members])
    options = ", ".join(show(member.value) for member in members)
    codec.name = clip(f"{codec.name} ({options})")


def literal(codec: TypeCodec) -> None:
    """Complete the codec of a Literal."""
    values = typing.get_args(codec.type)
    _constants(codec, [(v, v.value if isinstance(v, enum.Enum) else v) for v in values])
    codec.name = f"one of {codec.name}"


def _constants(codec: TypeCodec, pairs: list[tuple[Any, Any]]) -> None:
    """Complete the codec of a type with a fixed set of values, given the data of each."""
    codec.compares = False
    by_text: dict[str, Any] = {}
    written: dict[Any, tuple[str, Any]] = {}
    for value, data in pairs:
        try:
            text = dump(plain(data))
        except Problem as problem:
            msg = f"the values of {codec.name} are not JSON-like: {problem.text}"
            raise Unsupported(msg) from None
        by_text.setdefault(text, value)
        written[_identity(value)] = text, data
    type_ = codec.type
    is_flag = isinstance(type_, type) and issubclass(type_, enum.Flag)
    classes = {type(value) for value, _ in pairs}

    def write(value: Any) -> Any:
        try:
            text, data = written[_identity(value)]
        except (KeyError, TypeError):  # TypeError: not hashable
            if is_flag and type(value) is type_:
                return value.value
            if _is_member_again(value, classes):
                return note(codec, value, value.value)
            return codec.misfit(value)
        first = by_text[text]
        if _identity(first) != _identity(value):
            return Misfit(value, NotStorable(f"{show(value)} is stored like {show(first)}"))
        return data

    def read(data: Any, _: Any = None) -> Any:
        try:
            text = dump(data)
            if text in by_text:
                return by_text[text]
            if is_flag and type(data) is int:
                return type_(data)
        except (TypeError, ValueError):  # no JSON, or no combination of flags
            pass
        raise codec.mismatch(data)

    codec.write, codec.read = write, read


def _is_member_again(value: Any, classes: Iterable[type]) -> bool:
    """Return whether *value* is of an enum that is one of *classes*, defined again."""
    return isinstance(value, enum.Enum) and any(is_redefined(type(value), c) for c in classes)


def _identity(value: Any) -> tuple[type, Any]:
    """Return a key that differs for equal values of different types, such as True and 1."""
    return type(value), value.name if isinstance(value, enum.Enum) else value
