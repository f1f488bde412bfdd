"""What the annotations of a callable say."""

from __future__ import annotations

import functools
import gc
import typing
import weakref
from typing import Annotated, Any

import pytest
from attrs import define
from codeckit import Row, T

from durably.codec import UNTYPED, resolve_annotations, return_type_of
from durably.errors import ValidationError


def returns_row() -> Row: ...  # type: ignore[empty-body] # never called


def returns_list() -> list[Row]: ...  # type: ignore[empty-body] # never called


def returns_none() -> None: ...


def returns_any() -> Any: ...


def returns_object() -> object: ...


def returns_variable(value: T) -> T:
    return value


def returns_missing() -> Missing: ...  # type: ignore[name-defined] # noqa: F821


def returns_nothing(): ...  # type: ignore[no-untyped-def]


def returns_annotated() -> Annotated[int, ["x"]]: ...  # type: ignore[empty-body] # never called


@functools.wraps(returns_list)
def wrapped(*args: Any) -> Any: ...


@functools.cache
def cached() -> list[Row]: ...  # type: ignore[empty-body] # never called


class Worker:
    def method(self) -> list[int]: ...  # type: ignore[empty-body] # never called

    @staticmethod
    def static() -> set[int]: ...  # type: ignore[empty-body] # never called

    @classmethod
    def of_class(cls) -> dict[str, int]: ...  # type: ignore[empty-body] # never called

    def itself(self) -> typing.Self: ...

    def __call__(self) -> tuple[int, ...]: ...  # type: ignore[empty-body] # never called


class Slotted:
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment] # on purpose

    def __call__(self) -> tuple[int, ...]: ...  # type: ignore[empty-body] # never called


@pytest.mark.parametrize(
    ("fn", "type_"),
    [
        (returns_row, Row),
        (returns_list, list[Row]),
        (returns_none, type(None)),
        (returns_any, UNTYPED),
        (returns_object, UNTYPED),
        (returns_variable, UNTYPED),
        (returns_nothing, UNTYPED),
        (returns_annotated, Annotated[int, ["x"]]),
        (lambda: 3, UNTYPED),
        (wrapped, list[Row]),
        (cached, list[Row]),
        (functools.partial(functools.partial(returns_variable, 1)), UNTYPED),
        (functools.partial(returns_row), Row),
        (Worker().method, list[int]),
        (Worker.static, set[int]),
        (Worker.of_class, dict[str, int]),
        (Worker().itself, UNTYPED),
        (Worker(), tuple[int, ...]),
        (Slotted(), tuple[int, ...]),
        (Worker, Worker),
        (Row, Row),
        (int, int),
        (object, UNTYPED),
        (list[int], list[int]),
        (len, UNTYPED),
        ([].append, UNTYPED),
        (print, UNTYPED),
    ],
)
def test_the_return_type_of_callables(fn: Any, type_: Any) -> None:
    """The annotation, resolved; or UNTYPED where there is none that says something."""
    assert return_type_of(fn) == type_
    assert return_type_of(fn) == type_


def test_classes_of_the_enclosing_function_are_found() -> None:
    """A string annotation may name what the function closes over."""

    @define
    class Local:
        x: int

    def make() -> list[Local]:
        return [Local(unbound)]

    assert return_type_of(make) == list[Local]
    assert resolve_annotations(make) == {"return": list[Local]}
    unbound = 3
    assert make() == [Local(unbound)]


def test_functions_are_not_kept_alive() -> None:
    """The cache of return types holds functions weakly."""

    def make() -> list[int]: ...  # type: ignore[empty-body] # never called

    return_type_of(make)
    ref = weakref.ref(make)
    del make
    gc.collect()
    assert ref() is None


def test_resolved_annotations() -> None:
    """All annotations of a function are returned, with strings resolved and extras kept."""

    def fn(step: int, payload: Annotated[Row, "x"]) -> None: ...

    assert resolve_annotations(fn) == {
        "step": int,
        "payload": Annotated[Row, "x"],
        "return": type(None),
    }
    assert resolve_annotations(len) == {}


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    """The error says which parameter, of which function, and what is missing."""

    def fn(payload: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(ValidationError, match=r"'Missing' of parameter 'payload' of .*fn cannot"):
        resolve_annotations(fn)
    with pytest.raises(ValidationError, match="of the return value of returns_missing"):
        resolve_annotations(returns_missing)


def test_the_sentinel_has_a_name() -> None:
    """UNTYPED shows itself in reprs."""
    assert repr(UNTYPED) == "UNTYPED"
