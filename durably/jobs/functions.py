"""Which functions can be a job's, and where they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from durably._platform.safe_repr import short_repr
from durably.codec import signature_of
from durably.errors import ValidationError

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def innermost(function: Callable[..., Any]) -> Any:
    """Return the function inside partials, or the class of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function)


def place_of(function: Callable[..., Any]) -> str | None:
    """Return the place in the source of the function, or of the class of a callable object.

    Return ``None`` for a ``functools.partial``: two of them may have nothing in common.
    """
    if isinstance(function, functools.partial):
        return None
    named = innermost(function)
    return f"{named.__module__}.{named.__qualname__}"


def name_of(function: object) -> str:
    """Return the name of a function to show in a line of code, or an example name.

    The name of a lambda, for one, cannot be written.
    """
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else "import_csv"


def _refuse_method(function: object, parameters: list[inspect.Parameter], name: str) -> None:
    """Raise ``ValidationError`` for a function of a class that has to be called with an object."""
    if inspect.ismethod(function):
        return
    scope = getattr(function, "__qualname__", "").rpartition(".")[0].rpartition(".")[2]
    is_in_class = bool(scope) and scope != "<locals>"
    takes_object = parameters[0].name in ("self", "cls") or any(
        parameter.name == "step" for parameter in parameters[1:2]
    )
    if is_in_class and takes_object:
        method = f"{scope}().{name_of(function)}"
        raise ValidationError(
            f"job {name!r} is a method of {scope}, and a run has no object to call it with; make "
            f"a job of the method of an object, Job({name!r}, {method}), or decorate a function"
        )


def positional_parameters(function: object, name: str) -> list[inspect.Parameter]:
    """Return the parameters of a job's function that are passed by position.

    Raises:
        ValidationError: it cannot be a job's function.
    """
    if isinstance(function, type):
        raise ValidationError(
            f"job {name!r} needs a function, and {function.__name__} is a class: decorate a "
            "function that takes (step) or (step, payload)"
        )
    if not callable(function):
        raise ValidationError(f"job {name!r} needs a function, not {short_repr(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValidationError(
            f"job {name!r} is an async function; write def, and use asyncio.run() inside of it"
        )
    if inspect.isgeneratorfunction(function):
        raise ValidationError(
            f"job {name!r} is a generator; return the result, and store parts with step.run()"
        )
    try:
        signature = signature_of(function)
    except (TypeError, ValueError) as exc:
        raise ValidationError(f"the parameters of job {name!r} cannot be read: {exc}") from None
    parameters = list(signature.parameters.values())
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    if not positional and any(each.kind is each.VAR_POSITIONAL for each in parameters):
        raise ValidationError(
            f"the parameters of job {name!r}, {signature}, do not say whether it takes a payload; "
            "if it wraps another function, put functools.wraps(...) on the wrapper"
        )
    if not positional:
        raise ValidationError(f"job {name!r} must take (step) or (step, payload), not {signature}")
    _refuse_method(function, positional, name)
    for extra in [*positional[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]:
        if extra.default is extra.empty:
            raise ValidationError(
                f"job {name!r} must take (step) or (step, payload); "
                f"parameter {extra.name!r} of {signature} has no default"
            )
    return positional
