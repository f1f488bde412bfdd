"""Resolve the annotations of callables."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
import typing
import weakref
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

from durably.codec.messages import IMPORT_IT, OR_NAME_IT, show, text_of
from durably.codec.plain import UNTYPED, Unresolved
from durably.errors import ValidationError

_return_types: Final[weakref.WeakKeyDictionary[Any, Any]] = weakref.WeakKeyDictionary()
_UNKNOWN: Final = object()
_UNTYPED: Final = frozenset({Any, object, typing.NoReturn, typing.Never, typing.Self})


def return_type_of(fn: Callable[..., Any]) -> Any:
    """Return the annotated return type of a callable.

    Returns:
        The resolved annotation (for a class: the class); :data:`UNTYPED` if there is none, or
        it is ``Any``, ``object`` or a type variable; an :class:`Unresolved` if it
        cannot be resolved. Never raises.
    """
    if type(fn) is types.FunctionType:
        # A short path for the usual cases: a resume calls this for each step.
        try:
            annotation = fn.__annotations__.get("return", object)
        except Exception:  # noqa: BLE001 - Python 3.14 evaluates all of them here
            annotation = None
        known = annotation if type(annotation) is type else _return_types.get(fn, _UNKNOWN)
        if known is not _UNKNOWN:
            return UNTYPED if known is object else known
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, type) or typing.get_origin(target) is not None:
        return _return_type(target)
    target = getattr(target, "__func__", target)
    if not inspect.isroutine(target) and not hasattr(target, "__wrapped__"):
        target = getattr(type(target).__call__, "__func__", type(target).__call__)
    annotations = _annotations_of(target)
    if not isinstance(annotations, dict) or "return" not in annotations:
        return UNTYPED
    annotation = annotations["return"]
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return _return_type(annotation)
    return _resolved_return(target, annotation)


def _resolved_return(target: Any, annotation: Any) -> Any:
    with contextlib.suppress(KeyError, TypeError):  # not hashable, or not weakly referable
        return _return_types[target]
    try:
        result = _return_type(_resolve(target, {"return": annotation})["return"])
    except Exception as error:  # noqa: BLE001 - whatever evaluating an annotation raises
        # Not remembered: what it names may be defined before the function is used again.
        return Unresolved(_unresolved(target, "return", annotation, error))
    with contextlib.suppress(TypeError):
        _return_types[target] = result
    return result


def _annotations_of(target: Any) -> Any:
    try:
        return getattr(target, "__annotations__", None)
    except Exception:
        if sys.version_info >= (3, 14):
            # Evaluated lazily, and one of them cannot be: the others can.
            import annotationlib  # noqa: PLC0415 - where first needed

            return annotationlib.get_annotations(target, format=annotationlib.Format.FORWARDREF)
        raise


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    """Return the parameters of a callable, also if their annotations cannot be resolved.

    Raises:
        TypeError, ValueError: it has none that can be read.
    """
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - where first needed

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _unresolved(fn: Any, name: str, annotation: Any, error: Exception) -> str:
    """Return what is wrong with an annotation that cannot be resolved, and what to do."""
    where = "the return value" if name == "return" else f"parameter {name!r}"
    text = getattr(annotation, "__forward_arg__", annotation)  # as Python 3.14 has it
    of = getattr(fn, "__qualname__", type(fn).__qualname__)
    return (
        f"the annotation {show(text)} of {where} of {of} cannot be resolved: "
        f"{text_of(error)}; {IMPORT_IT}, {OR_NAME_IT}"
    )


def _return_type(type_: Any) -> Any:
    try:
        is_any = type_ in _UNTYPED or isinstance(type_, typing.TypeVar)
    except TypeError:  # not hashable: the metadata of an Annotated
        return type_
    return UNTYPED if is_any else type_


def _resolve(fn: Any, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve annotations of a function, also with names that it closes over."""
    inner = inspect.unwrap(fn)
    code = getattr(inner, "__code__", None)
    names: dict[str, Any] = {}
    for name, cell in zip(
        getattr(code, "co_freevars", ()), getattr(inner, "__closure__", None) or (), strict=False
    ):
        with contextlib.suppress(ValueError):  # not bound yet
            names[name] = cell.cell_contents
    holder = types.SimpleNamespace(__annotations__=dict(annotations))
    return typing.get_type_hints(
        holder, globalns=getattr(inner, "__globals__", {}), localns=names, include_extras=True
    )


def resolve_annotations(
    fn: Callable[..., Any], names: Container[str] | None = None
) -> dict[str, Any]:
    """Return the annotations of a callable, strings resolved.

    Args:
        names: of which parameters, ``"return"`` for the result; all by default. The others
            are not resolved: the names in them may exist for type checkers only.

    Raises:
        ValidationError: one cannot be resolved; the message names it.
    """
    target: Any = fn
    if not inspect.isroutine(fn) and not hasattr(fn, "__wrapped__"):
        target = type(fn).__call__  # an object that can be called: its own are of its attributes
    annotations = _annotations_of(target) or {}
    resolved = {}
    for name, annotation in annotations.items():
        if names is not None and name not in names:
            continue
        try:
            resolved.update(_resolve(target, {name: annotation}))
        except Exception as error:  # noqa: BLE001 - an annotation is code, which may raise anything
            raise ValidationError(_unresolved(fn, name, annotation, error)) from None
    return resolved
