"""Classify types, and resolve their annotations."""

from __future__ import annotations

import dataclasses
import datetime as dt
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs

from durably.codec.messages import IMPORT_IT, Unsupported, name_of, text_of
from durably.codec.plain import UNTYPED

T = TypeVar("T")


def _real(cls: type[T]) -> type[T]:
    """Return the class of the datetime module itself."""
    return next(base for base in cls.__mro__ if base.__module__ == "datetime")


# A test may have frozen time: freezegun replaces the classes in the datetime module.
DATETIME: Final = _real(dt.datetime)
DATE: Final = _real(dt.date)


def frozen_time_base(cls: Any) -> type | None:
    """Return the class of the datetime module that *cls* replaces, or None."""
    if cls is DATETIME or cls is DATE or cls not in (dt.datetime, dt.date):
        return None
    return _real(cls)


def is_any(type_: Any) -> bool:
    """Return whether any JSON-like data is of *type_*."""
    if type_ is UNTYPED or type_ is Any or type_ is object or type_ is typing.Final:
        return True
    return isinstance(type_, typing.TypeVar)


def is_union(type_: Any) -> bool:
    """Return whether *type_* is a union, in either spelling."""
    return typing.get_origin(type_) in (typing.Union, types.UnionType)


def is_record(type_: Any) -> bool:
    """Return whether *type_* is an attrs class or a dataclass."""
    return isinstance(type_, type) and (attrs.has(type_) or dataclasses.is_dataclass(type_))


def is_typed_dict(type_: Any) -> bool:
    """Return whether *type_* is a TypedDict, of ``typing`` or of ``typing_extensions``."""
    return isinstance(type_, type) and issubclass(type_, dict) and hasattr(type_, "__total__")


def unwrapped(type_: Any) -> Any:
    """Return the type behind an ``Annotated``, ``Final``, ``NewType`` or alias; else *type_*."""
    origin = typing.get_origin(type_)
    if origin is typing.Annotated:
        return type_.__origin__
    if origin is typing.Final:
        return typing.get_args(type_)[0]
    if isinstance(type_, typing.NewType):
        return type_.__supertype__
    # What a ``type`` statement makes: a class of its own, in ``typing_extensions`` too.
    if hasattr(type_, "__value__") and not isinstance(type_, type):
        if origin is None:
            return type_.__value__
        values = zip(origin.__type_params__, typing.get_args(type_), strict=False)
        return substitute(origin.__value__, dict(values))
    return types.NoneType if type_ is None else frozen_time_base(type_) or type_


def substitute(type_: Any, variables: Mapping[Any, Any]) -> Any:
    """Replace type variables by types."""
    if isinstance(type_, typing.TypeVar):
        return variables.get(type_, type_)
    parameters = getattr(type_, "__parameters__", ())
    if not variables or not parameters or isinstance(type_, type):
        return type_
    return type_[tuple(variables.get(parameter, parameter) for parameter in parameters)]


def hints_of(type_: Any) -> dict[str, Any]:
    """Return the resolved annotations of a class, with its type variables replaced."""
    cls: Any = typing.get_origin(type_) or type_
    try:
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:
            # A class that was defined in a function may name itself.
            hints = typing.get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    except Exception as error:
        msg = f"an annotation of {name_of(cls)} cannot be resolved ({text_of(error)}); {IMPORT_IT}"
        raise Unsupported(msg) from error
    variables = _variables_of(type_)
    return {name: substitute(hint, variables) for name, hint in hints.items()}


def _variables_of(type_: Any) -> dict[Any, Any]:
    """Return the types of the type variables of a generic class and of its bases."""
    origin = typing.get_origin(type_) or type_
    variables: dict[Any, Any] = dict(
        zip(getattr(origin, "__parameters__", ()), typing.get_args(type_), strict=False)
    )
    for base in getattr(origin, "__orig_bases__", ()):
        if typing.get_origin(base) not in (None, typing.Generic, typing.Protocol):
            variables = {**_variables_of(substitute(base, variables)), **variables}
    return variables


_QUALIFIERS: Final = {"Required": True, "NotRequired": False, "ReadOnly": None}


def unqualified(hint: Any, *, is_required: bool) -> tuple[Any, bool]:
    """Return the hint of a key of a TypedDict without its qualifiers, and whether it is required.

    ``__required_keys__`` ignores ``NotRequired`` within string annotations.
    """
    while (origin := typing.get_origin(hint)) is not None:
        name = str(origin).rpartition(".")[2]  # typing has no ReadOnly before Python 3.13
        if name not in _QUALIFIERS:
            break
        said = _QUALIFIERS[name]
        is_required = is_required if said is None else said
        hint = typing.get_args(hint)[0]
    return hint, is_required
