"""Strict hooks for lists, sets, tuples and mappings, in front of cattrs' own."""

from __future__ import annotations

import collections
import functools
import types
import typing
from collections import abc
from typing import Any, Final

from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import IterableValidationError

from durably._platform.interrupts import raise_if_signal
from durably._platform.safe_repr import type_name
from durably.codec.atoms import is_written_as_text
from durably.codec.forms import ANYTHING, Form, Forms
from durably.codec.kinds import hints_of
from durably.codec.messages import Mismatch, NoForm, Problem
from durably.codec.plain import TWICE, Misfit, plain
from durably.codec.structuring import noted
from durably.codec.text import dump, load

# Which values are of such a type, and what is made of the list of their items.
_SEQUENCES: Final[dict[Any, tuple[tuple[type, ...], Any]]] = {
    list: ((list,), list),
    abc.MutableSequence: ((list,), list),
    abc.Sequence: ((list, tuple), list),
    abc.Collection: ((list, tuple), list),
    abc.Iterable: ((list, tuple), list),
    tuple: ((tuple,), tuple),
    collections.deque: ((collections.deque,), collections.deque),
    set: ((set,), set),
    abc.MutableSet: ((set,), set),
    frozenset: ((frozenset,), frozenset),
    abc.Set: ((set, frozenset), frozenset),
}
_MAPPINGS: Final = (
    dict,
    collections.OrderedDict,
    collections.Counter,
    collections.defaultdict,
    abc.Mapping,
    abc.MutableMapping,
)
_NO: Final = "has no stored form"
OWN: Final = frozenset((*_SEQUENCES, *_MAPPINGS))
"""Python's own containers. No converter decides how they are stored."""


def container(form: Form, forms: Forms) -> None:
    """Complete the form of one of Python's containers."""
    origin = typing.get_origin(form.type) or form.type
    args = typing.get_args(form.type)
    if origin in _MAPPINGS:
        _mapping(form, forms, origin, args)
    elif origin is tuple and form.type is not tuple and args[1:] != (...,):
        _tuple_of(form, tuple, [forms.of(arg) for arg in args])
    else:
        _sequence(form, forms, *_SEQUENCES[origin], forms.of(args[0]) if args else ANYTHING)


def named_tuple(form: Form, forms: Forms) -> None:
    """Complete the form of a named tuple, which is written as a list."""
    cls = typing.get_origin(form.type) or form.type
    hints = hints_of(form.type)
    _tuple_of(form, cls, [forms.of(hints.get(name, Any)) for name in cls._fields])
    form.compares = True  # its __new__ may be the user's


def _sequence(form: Form, forms: Forms, accepts: tuple[type, ...], make: Any, item: Form) -> None:
    form.compares = item.compares
    is_set = make in (set, frozenset)
    loosely = (*accepts, list, tuple, *((set, frozenset) if is_set else ()))

    def write(value: Any) -> Any:
        is_exact = type(value) in accepts or (isinstance(value, list) and list in accepts)
        if not is_exact and not isinstance(value, loosely):
            return form.misfit(value)
        write_item = item.write
        items = [write_item(each) for each in value]
        if not is_exact:
            return form.misfit(value, items)
        if is_set:
            return _in_order(items)
        if getattr(value, "maxlen", None) is not None:
            return Misfit(items, NoForm(f"a deque with maxlen {_NO}; use a list"))
        return items

    items_of: Any = types.GenericAlias(list, (item,))
    read_items: Any = (
        list if item is ANYTHING else list_structure_factory(items_of, forms.converter)
    )

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not list:
            raise form.mismatch(data)
        items = read_items(data)
        if is_set:
            _refuse_unhashable(form, items)
        return items if make is list else make(items)

    form.write, form.read = write, read


def _in_order(items: list[Any]) -> list[Any]:
    """Sort what is written of a set: its order changes from process to process."""
    try:
        return sorted(plain(items), key=dump)
    except Problem:
        return items


def _refuse_unhashable(form: Form, items: list[Any]) -> None:
    errors = []
    for index, item in enumerate(items):
        try:
            hash(item)
        except TypeError as error:
            errors.append(noted(error, index))
    if errors:
        raise IterableValidationError(form.name, errors, set)


def _tuple_of(form: Form, cls: Any, items: list[Form]) -> None:
    """Complete the form of a tuple of so many items, each of its own type."""
    form.compares = any(item.compares for item in items)

    def wrong_length(value: Any) -> Mismatch:
        return Mismatch(f"expected {form.name} ({len(items)} items), found {len(value)} items")

    def write(value: Any) -> Any:
        if type(value) not in (cls, list, tuple):
            return form.misfit(value)
        if len(value) != len(items):
            return Misfit(list(value), wrong_length(value))
        data = [item.write(each) for item, each in zip(items, value, strict=True)]
        return data if type(value) is cls else form.misfit(value, data)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not list:
            raise form.mismatch(data)
        if len(data) != len(items):
            raise wrong_length(data)
        values, errors = [], []
        for index, (item, each) in enumerate(zip(items, data, strict=True)):
            try:
                values.append(item.read(each, item))
            except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
                raise_if_signal(error)
                errors.append(noted(error, index))
        if errors:
            raise IterableValidationError(form.name, errors, tuple)
        return tuple(values) if cls is tuple else cls(*values)

    form.write, form.read = write, read


def _mapping(form: Form, forms: Forms, origin: Any, args: tuple[Any, ...]) -> None:
    key = forms.of(args[0]) if args else ANYTHING
    key = _key_form(forms.of(str) if key is ANYTHING else key)
    item = forms.of(int if origin is collections.Counter else args[1]) if args else ANYTHING
    form.compares = key.compares or item.compares
    make = origin
    factory = None
    if origin is collections.defaultdict:
        factory = (typing.get_origin(args[1]) or args[1]) if args else None
        make = functools.partial(origin, factory)
    elif origin in (abc.Mapping, abc.MutableMapping):
        make = dict

    factory_name = getattr(factory, "__qualname__", "None")
    no_form = NoForm(f"a defaultdict whose default_factory is not {factory_name} {_NO}; use a dict")

    def is_exact(value: Any) -> bool:
        if make is dict:
            return isinstance(value, dict)
        return type(value) is origin and getattr(value, "default_factory", None) is factory

    def write(value: Any) -> Any:
        if not isinstance(value, abc.Mapping):
            return form.misfit(value)
        write_key, write_item = key.write, item.write
        data = {write_key(k): write_item(each) for k, each in value.items()}
        if len(data) != len(value):
            return Misfit(dict(value), Problem(TWICE))
        if is_exact(value):
            return data
        # Of that class it is another default_factory that is wrong.
        return Misfit(data, no_form) if type(value) is origin else form.misfit(value, data)

    pairs: Any = types.GenericAlias(dict, (key, item))
    read_pairs: Any = (
        dict
        if key.type is str and item is ANYTHING
        else mapping_structure_factory(pairs, forms.converter)
    )

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not dict:
            raise form.mismatch(data)
        made = read_pairs(data)
        if len(made) != len(data):
            msg = "two keys are the same"
            raise Problem(msg)
        return made if make is dict else make(made)

    form.write, form.read = write, read


def _key_form(of_type: Form) -> Form:
    """Give the form of a type for a key of an object, which has to be a string.

    What is always written as a string stays what it is; of others the key is the JSON text.
    """
    form = Form(of_type.type, of_type.name)
    form.compares = of_type.compares
    is_text = is_written_as_text(of_type)

    def write(value: Any) -> Any:
        data = of_type.write(value)
        if type(data) is Misfit:
            return data
        try:
            return dump(plain(data))
        except Problem as problem:
            return Misfit(value, problem)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not str:
            msg = f"expected a key that is {form.name}, found {type_name(data)}"
            raise Problem(msg)
        made = of_type.read(data, _) if is_text else read_text(data)
        hash(made)
        return made

    def read_text(text: str) -> Any:
        try:
            return of_type.read(load(text), None)
        except (ValueError, Problem):
            # {"1": ...} for keys that are int | str, from outside: not our way to write it.
            return of_type.read(text, None)

    form.write, form.read = of_type.write if is_text else write, read
    return form
