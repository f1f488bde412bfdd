"""Which types can be stored at all."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Literal

import pytest
from attrs import define
from codeckit import ROUND_TRIPS, Money

from durably.codec import Codec
from durably.errors import SerializationError, ValidationError


@define
class Unsupported:
    good: int
    bad: list[Money]


@define
class Unresolvable:
    x: Missing  # noqa: F821


class Objects(enum.Enum):
    A = object()


@dataclasses.dataclass
class Sized:
    size: int


class Sizes(Sized, enum.Enum):
    SMALL = 1


@pytest.mark.parametrize(
    "type_",
    [
        print,
        Money,
        Unsupported,
        Unresolvable,
        Objects,
        Sizes,
        Callable[[], int],
        type[int],
        list[Money],
        int | Money,
        dict[str, Money],
        Literal[b"x"],
        Literal,
        [int],
        "int",
        complex,
        pathlib.WindowsPath if sys.platform != "win32" else pathlib.PosixPath,
    ],
)
def test_types_without_a_form_are_rejected_by_name(codec: Codec, type_: Any) -> None:
    """check_type rejects at definition what nothing could be structured into."""
    with pytest.raises(ValidationError, match=r"^input of job 'a': "):
        codec.check_type(type_, "input of job 'a'")
    with pytest.raises(ValidationError, match="^payload: "):
        codec.structure(3, type_, what="payload")
    with pytest.raises(SerializationError, match="^step: "):
        codec.encode(object(), type_, what="step")


def test_the_unsupported_field_is_named(codec: Codec) -> None:
    """The error about a class says which field it is."""
    with pytest.raises(ValidationError, match="field bad of Unsupported: Money is not a type"):
        codec.check_type(Unsupported, "input of job 'a'")


@pytest.mark.parametrize("type_", [type_ for type_, _ in ROUND_TRIPS], ids=repr)
def test_supported_types_pass_the_check(codec: Codec, type_: Any) -> None:
    """check_type is silent about what can be stored."""
    codec.check_type(type_, "input")
