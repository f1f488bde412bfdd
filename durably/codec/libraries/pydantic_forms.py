"""The form of pydantic's models: their JSON, with the name of the class.

The class is looked up among the modules that are loaded, and never imported.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

import pydantic

from durably._platform.safe_repr import full_name
from durably.codec.forms import Form
from durably.codec.libraries.refusals import unlike
from durably.codec.loaded import loaded
from durably.codec.messages import NotStorable, Outdated, Problem, text_of

_TAG: Final = "pydantic.BaseModel"
_ADVICE: Final = (
    "; return value.model_dump(), or give the class a form with durably.codecs.register(...)"
)


def form_of(cls: type) -> Form | None:
    """Return the form of the values of exactly this class."""
    return _MODEL if issubclass(cls, pydantic.BaseModel) else None


def form_named(tag: str) -> Form | None:
    """Return the form of a tag."""
    return _MODEL if tag == _TAG else None


def _encode(value: Any) -> list[Any]:
    cls = type(value)
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _loaded(name) is not cls:
        msg = f"{full_name(cls)} is not found by its name, as a class at the top of a module is; "
        raise NotStorable(msg + "define it there, or annotate the function with it")
    return [name, data_of(value)]


def _decode(stored: Any) -> Any:
    if type(stored) is not list or len(stored) != 2 or type(stored[0]) is not str:
        raise unlike(_TAG)
    name, data = stored
    cls = _loaded(name)
    if cls is None:
        module, _, qualname = name.partition(":")
        msg = (
            f"{module}.{qualname}, a pydantic model, is not loaded here; import or define it first"
        )
        raise Outdated(msg) if module in sys.modules else Problem(msg)
    try:
        return from_data(cls, data)
    except Problem as problem:
        raise Outdated(problem.text, problem.path) from None


def _loaded(name: str) -> type[Any] | None:
    """Return the model of a name, among the loaded modules, without calling anything of them."""
    module, _, qualname = name.partition(":")
    found: Any = loaded(module, qualname)
    is_model = isinstance(found, type) and issubclass(found, pydantic.BaseModel)
    return found if is_model else None


def data_of(value: Any) -> Any:
    """Return the JSON-like data of a model.

    Raises:
        NotStorable: it would not come back the same.
    """
    name = full_name(type(value))
    try:
        data = json.loads(value.model_dump_json(round_trip=True, by_alias=True))
        back = from_data(type(value), data)
        is_same = _is_same(back, value)
    except Problem as problem:
        msg = f"model_validate() rejects what model_dump_json() of {name} returns: {problem.text}"
        raise NotStorable(msg + _ADVICE, problem.path) from None
    except (ValueError, TypeError, AttributeError) as error:  # pydantic's own are of these
        msg = f"model_dump_json() of {name} has failed with {text_of(error)}"
        raise NotStorable(msg + _ADVICE) from None
    if not is_same:
        msg = f"{name} would come back as another from its model_dump_json()"
        raise NotStorable(msg + _ADVICE)
    return data


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two models are equal, where a NaN equals a NaN."""
    if one == other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, pydantic.BaseModel):
        held = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
        return all(_is_same(getattr(one, name), getattr(other, name)) for name in held)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, float) and math.isnan(one) and math.isnan(other)


def from_data(cls: Any, data: Any) -> Any:
    """Return a model validated from JSON-like data.

    Raises:
        Problem: the data does not fit.
    """
    try:
        return cls.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{at}]" if type(at) is int else f".{at}" for at in first["loc"])
        raise Problem(str(first["msg"]), path) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Problem(text_of(error)) from None


_MODEL: Final = Form(_TAG, _encode, _decode, structure=(data_of, from_data))
