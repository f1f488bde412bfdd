"""The forms of instances of a program's classes: enums, attrs, dataclasses and named tuples.

The class is stored as ``module:Qualified.Name``. On reading it is looked up among the modules that
are loaded, without importing one and without calling anything, and must be a class of that kind.
An instance is made from its fields as they were: neither ``__new__`` nor ``__init__`` nor
``__post_init__`` runs, and no converter or validator. What is called is at most the factory of the
default of a field that the class has got since.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs

from durably._platform.safe_repr import full_name
from durably.codec.forms import Form, Inside, NestedForm
from durably.codec.loaded import MISSING, loaded
from durably.codec.messages import NotStorable, Outdated, Problem, show
from durably.codec.plain import is_named_tuple

_HEAP_TYPE: Final = 1 << 9
_MISSING: Final = object()
_CACHED_HASH: Final = "_attrs_cached_hash"
# What attrs makes anew, and what typing notes of Box[int](...), an instance of Box.
_NOT_OF_THE_VALUE: Final = frozenset({_CACHED_HASH, "__orig_class__"})
_Factory = cast("Any", attrs.Factory)  # a class, typed as a function
# The default of a field: a value, or a function of the new instance; _MISSING if there is none.
_Defaults = Mapping[str, tuple[bool, Any]]


def form_of(cls: type) -> Form | NestedForm | None:
    """Return the form of the instances of exactly this class."""
    for tag, is_kind in _KINDS.items():
        if is_kind(cls):
            return _FORMS[tag]
    return None


def form_named(tag: str) -> Form | NestedForm | None:
    """Return the form of a tag."""
    return _FORMS.get(tag)


def _is_enum(cls: type) -> bool:
    return issubclass(cls, enum.Enum)


_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "enum": _is_enum,
    "attrs": attrs.has,
    "dataclass": dataclasses.is_dataclass,
    "NamedTuple": is_named_tuple,
}


def _name(cls: type) -> str:
    """Return the name under which a class is found again.

    Raises:
        Problem: it cannot be found.
    """
    module, qualname = cls.__module__, cls.__qualname__
    found = loaded(module, qualname)
    if isinstance(found, type) and full_name(found) == full_name(cls):
        return f"{module}:{qualname}"
    where = "is defined inside a function" if "<locals>" in qualname else "is not found there"
    msg = (
        f"{full_name(cls)} {where}, so that its instances could not be read again; define it at "
        f"the top of its module, or annotate the function's return type"
    )
    raise NotStorable(msg)


def _class(stored: Any, tag: str) -> Any:
    """Return the class that a stored value names.

    Raises:
        Problem: it is not loaded, or not of the kind of the tag.
    """
    name = stored.get("class") if type(stored) is dict else None
    module, _, qualname = name.partition(":") if type(name) is str else ("", "", "")
    if not qualname:
        msg = f"a value of a class ({tag}) that durably did not write so"
        raise Problem(msg)
    found = loaded(module, qualname)
    if isinstance(found, type) and _KINDS[tag](found):
        return found
    if found is not MISSING:
        msg = f"{show(name)} is not a class of the kind {tag}, as it was when the value was stored"
        raise Outdated(msg)
    of_class = f"a value of the class {qualname:.200}, whose module {module:.200}"
    if module in sys.modules:
        msg = f"{of_class} has no {show(qualname)} here; define it before the value is read"
        raise Outdated(msg)
    msg = f"{of_class} is not imported here; import it before the value is read"
    raise Problem(msg)


# --- Enums -------------------------------------------------------------------------------------


def _encode_member(value: Any) -> dict[str, Any]:
    cls = type(value)
    if value.name in cls.__members__:
        return {"class": _name(cls), "name": value.name}
    return {"class": _name(cls), "value": int(value.value)}  # flags that are set together


def _decode_member(stored: Any) -> Any:
    cls = _class(stored, "enum")
    name, value = stored.get("name"), stored.get("value")
    if type(name) is str and name in cls.__members__:
        return cls.__members__[name]
    if type(value) is int and issubclass(cls, enum.Flag):
        return cls(value)
    msg = f"{full_name(cls)} has no member {show(name)}"
    raise Outdated(msg)


# --- Classes with fields -----------------------------------------------------------------------


@functools.lru_cache(maxsize=1000)
def _defaults_of(cls: Any) -> _Defaults:
    """Return the fields of a class, and of each whether its default is to be called, and it."""
    if attrs.has(cls):
        return {field.name: _attrs_default(field.default) for field in attrs.fields(cls)}
    if is_named_tuple(cls):
        return {name: (False, cls._field_defaults.get(name, _MISSING)) for name in cls._fields}
    return {
        field.name: (False, _MISSING if field.default is dataclasses.MISSING else field.default)
        if field.default_factory is dataclasses.MISSING
        else (True, functools.partial(_call, field.default_factory))
        for field in dataclasses.fields(cls)
    }


def _attrs_default(default: Any) -> tuple[bool, Any]:
    if isinstance(default, _Factory):
        make = default.factory
        return True, make if default.takes_self else functools.partial(_call, make)
    return False, _MISSING if default is attrs.NOTHING else default


def _call(make: Callable[[], Any], _: object) -> Any:
    return make()


def _reject_what_is_lost(value: Any, names: _Defaults) -> None:
    """Check that a value has nothing beside its fields."""
    cls = type(value)
    for base in cls.__mro__[:-1]:
        if not base.__flags__ & _HEAP_TYPE and base is not tuple:
            msg = f"{full_name(cls)} derives from {base.__name__}, which would be lost"
            raise NotStorable(msg)
    more = set(getattr(value, "__dict__", ())) - names.keys() - _NOT_OF_THE_VALUE
    lost = {n for n in more if not isinstance(getattr(cls, n, None), functools.cached_property)}
    if lost:
        msg = (
            f"the attribute {min(lost, key=str)!s:.80} of {full_name(cls)} is not a field, and "
            f"would be lost; declare it as a field, or return what it is made from"
        )
        raise NotStorable(msg)


def _encode_fields(value: Any, inside: Inside) -> dict[str, Any]:
    cls: Any = type(value)
    name, names = _name(cls), _defaults_of(cls)
    _reject_what_is_lost(value, names)
    fields = {}
    for each in names:
        try:
            held = getattr(value, each)
        except AttributeError:
            msg = f"the field {each} of {full_name(cls)} is not set"
            raise NotStorable(msg) from None
        fields[each] = inside(held, each)
    return {"class": name, "fields": fields}


def _form(tag: str) -> NestedForm:
    def decode(stored: Any, inside: Inside) -> Any:
        cls = _class(stored, tag)
        fields = stored.get("fields")
        if stored.keys() != {"class", "fields"} or type(fields) is not dict:
            msg = f"a {full_name(cls)} that durably did not write so"
            raise Problem(msg)
        defaults = _defaults_of(cls)
        for name in fields:
            if name not in defaults:
                msg = f"{full_name(cls)} has no field {show(name)} any more"
                raise Outdated(msg)
        missing = [n for n, (_, default) in defaults.items() if default is _MISSING]
        if absent := [name for name in missing if name not in fields]:
            msg = f"{full_name(cls)} has a new field {absent[0]} without a default"
            raise Outdated(msg)
        return _make(cls, {name: inside(each, name) for name, each in fields.items()})

    return NestedForm(tag, _encode_fields, decode, levels=3)


@functools.lru_cache(maxsize=1000)
def _caches_hash(cls: Any) -> bool:
    cached = attrs.ClassProps.Hashability.HASHABLE_CACHED
    return attrs.has(cls) and attrs.inspect(cls).hashability is cached


def _make(cls: Any, values: dict[str, Any]) -> Any:
    """Return an instance with the fields that were stored, and with the defaults of new ones."""
    defaults = _defaults_of(cls)
    if is_named_tuple(cls):
        given = {name: default for name, (_, default) in defaults.items()} | values
        return tuple.__new__(cls, [given[name] for name in defaults])
    made = object.__new__(cls)
    if _caches_hash(cls):
        object.__setattr__(made, _CACHED_HASH, None)
    for name, (is_called, default) in defaults.items():
        if name not in values:
            values[name] = default(made) if is_called else default
        object.__setattr__(made, name, values[name])
    return made


_FORMS: Final[Mapping[str, Form | NestedForm]] = {
    "enum": Form("enum", _encode_member, _decode_member),
    "attrs": _form("attrs"),
    "dataclass": _form("dataclass"),
    "NamedTuple": _form("NamedTuple"),
}
