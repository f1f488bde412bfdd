"""Codecs for lists, sets, tuples and mappings, which precede cattrs' own hooks."""

from __future__ import annotations

import collections
import functools
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any, Final

from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import IterableValidationError

from durably._platform.safe_repr import type_name
from durably.codec.cattrs_errors import with_note
from durably.codec.json_text import dump, load
from durably.codec.messages import Mismatch, NotStorable, Problem, name_of
from durably.codec.plain import TWICE, Misfit, NotPlainError, is_named_tuple, json_copy, kept, plain
from durably.codec.redefined import is_redefined, note
from durably.codec.scalars import is_written_as_text
from durably.codec.type_codec import ANYTHING, TypeCodec, TypeCodecLookup
from durably.codec.typing_utils import hints_of

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


def container(codec: TypeCodec, codecs: TypeCodecLookup) -> None:
    """Complete the codec of one of Python's containers."""
    origin = typing.get_origin(codec.type) or codec.type
    args = typing.get_args(codec.type)
    if origin in _MAPPINGS:
        _mapping(codec, codecs, origin, args)
    elif origin is tuple and codec.type is not tuple and args[1:] != (...,):
        _tuple_of(codec, tuple, [codecs.of(arg) for arg in args])
    else:
        _sequence(codec, codecs, *_SEQUENCES[origin], codecs.of(args[0]) if args else ANYTHING)


def named_tuple(codec: TypeCodec, codecs: TypeCodecLookup) -> None:
    """Complete the codec of a named tuple, which is written as a list."""
    cls = typing.get_origin(codec.type) or codec.type
    hints = hints_of(codec.type)
    _tuple_of(codec, cls, [codecs.of(hints.get(name, Any)) for name in cls._fields])
    codec.compares = True  # its __new__ may be the user's


def _sequence(
    codec: TypeCodec, codecs: TypeCodecLookup, accepts: tuple[type, ...], make: Any, item: TypeCodec
) -> None:
    codec.compares = item.compares
    is_set = make in (set, frozenset)
    loosely = (*accepts, list, tuple, *((set, frozenset) if is_set else ()))

    def write(value: Any) -> Any:
        is_exact = type(value) in accepts or (isinstance(value, list) and list in accepts)
        if not is_exact and not isinstance(value, loosely):
            return codec.misfit(value)
        write_item = item.write
        items = [write_item(each) for each in value]
        if not is_exact:
            return codec.misfit(value, items)
        if is_set:
            return _in_order(items)
        if getattr(value, "maxlen", None) is not None:
            return Misfit(items, NotStorable(f"a deque with maxlen {_NO}; use a list"))
        return items

    items_of: Any = types.GenericAlias(list, (item,))
    read_items: Any = (
        list if item is ANYTHING else list_structure_factory(items_of, codecs.converter)
    )

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not list:
            raise codec.mismatch(data)
        items = read_items(data)
        if is_set:
            _reject_unhashable(codec, items)
        return items if make is list else make(items)

    codec.write, codec.read = write, read


def _in_order(items: list[Any]) -> list[Any]:
    """Sort the data of a set: its order changes from process to process."""
    try:
        return sorted(items, key=lambda item: dump(plain(item)))
    except Problem:
        return items


def _reject_unhashable(codec: TypeCodec, items: list[Any]) -> None:
    errors = []
    for index, item in enumerate(items):
        try:
            hash(item)
        except TypeError as error:
            errors.append(with_note(error, index))
    if errors:
        raise IterableValidationError(codec.name, errors, set)


def _tuple_of(codec: TypeCodec, cls: Any, items: list[TypeCodec]) -> None:
    """Complete the codec of a tuple of so many items, each of its own type."""
    codec.compares = any(item.compares for item in items)

    def wrong_length(value: Any) -> Mismatch:
        return Mismatch(f"expected {codec.name} ({len(items)} items), found {len(value)} items")

    def write(value: Any) -> Any:
        if type(value) not in (cls, list, tuple):
            if is_redefined(type(value), cls):
                return note(codec, value, _write_again(cls, items, value))
            return codec.misfit(value)
        if len(value) != len(items):
            return Misfit(list(value), wrong_length(value))
        data = [item.write(each) for item, each in zip(items, value, strict=True)]
        return data if type(value) is cls else codec.misfit(value, data)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not list:
            raise codec.mismatch(data)
        if len(data) != len(items):
            raise wrong_length(data)
        values, errors = [], []
        for index, (item, each) in enumerate(zip(items, data, strict=True)):
            try:
                values.append(item.read(each, item))
            except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
                errors.append(with_note(error, index))
        if errors:
            raise IterableValidationError(codec.name, errors, tuple)
        return tuple(values) if cls is tuple else cls(*values)

    codec.write, codec.read = write, read


def _write_again(cls: Any, items: list[TypeCodec], value: Any) -> Any:
    """Write a named tuple whose class was defined again, by the names of its items."""
    again = type(value)
    if not is_named_tuple(again) or not set(again._fields) <= set(cls._fields):
        return Misfit(value, NotStorable(f"{name_of(again)} has other items"))
    given = {**cls._field_defaults, **value._asdict()}
    # A list that is too short, if some have no default, is reported by reading.
    pairs = zip(items, cls._fields, strict=True)
    return [item.write(given[name]) for item, name in pairs if name in given]


def _mapping(codec: TypeCodec, codecs: TypeCodecLookup, origin: Any, args: tuple[Any, ...]) -> None:
    key = codecs.of(args[0]) if args else ANYTHING
    key = key if key is ANYTHING else _key_codec(key, codecs.has_form)
    item = codecs.of(int if origin is collections.Counter else args[1]) if args else ANYTHING
    codec.compares = key.compares or item.compares
    make = origin
    factory = None
    if origin is collections.defaultdict:
        factory = (typing.get_origin(args[1]) or args[1]) if args else None
        make = functools.partial(origin, factory)
    elif origin in (abc.Mapping, abc.MutableMapping):
        make = dict

    factory_name = getattr(factory, "__qualname__", "None")
    not_storable = NotStorable(
        f"a defaultdict whose default_factory is not {factory_name} {_NO}; use a dict"
    )

    def is_exact(value: Any) -> bool:
        if make is dict:
            return isinstance(value, dict)
        return type(value) is origin and getattr(value, "default_factory", None) is factory

    def write(value: Any) -> Any:
        if not isinstance(value, abc.Mapping):
            return codec.misfit(value)
        write_key, write_item = key.write, item.write
        data = {write_key(k): write_item(each) for k, each in value.items()}
        if len(data) != len(value):
            return Misfit(dict(value), Problem(TWICE))
        if is_exact(value):
            return data
        # The class is right, so the default_factory is another one.
        return Misfit(data, not_storable) if type(value) is origin else codec.misfit(value, data)

    pairs: Any = types.GenericAlias(dict, (key, item))
    read_pairs: Any = (
        dict
        if (key is ANYTHING or key.type is str) and item is ANYTHING
        else mapping_structure_factory(pairs, codecs.converter)
    )

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not dict:
            raise codec.mismatch(data)
        made = read_pairs(data)
        if len(made) != len(data):
            msg = "two keys are the same"
            raise Problem(msg)
        return made if make is dict else make(made)

    codec.write, codec.read = write, read


def _key_codec(of_type: TypeCodec, has_form: Callable[[type], bool]) -> TypeCodec:
    """Return the codec of a type for a key of an object, which must be a string.

    A type that is always written as a string keeps its codec; of others the key is the JSON text.
    """
    codec = TypeCodec(of_type.type, of_type.name)
    codec.compares = of_type.compares
    is_text = is_written_as_text(of_type)
    not_storable = NotStorable(
        f"a key of the type {codec.name} with a value in it that JSON does not know {_NO}; "
        "annotate the types of all its parts, or the dict without the types of its keys"
    )

    def write(value: Any) -> Any:
        data = of_type.write(value)
        if type(data) is Misfit:
            return data
        try:
            return dump(json_copy(kept(data, has_form)))
        except NotPlainError:
            return Misfit(value, not_storable)
        except Problem as problem:
            return Misfit(value, problem)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not str:
            msg = f"expected a key that is {codec.name}, found {type_name(data)}"
            raise Problem(msg)
        made = of_type.read(data, _) if is_text else read_text(data)
        hash(made)
        return made

    def read_text(text: str) -> Any:
        try:
            return of_type.read(load(text), None)
        except (ValueError, Problem):
            # {"1": ...} for keys that are int | str, from outside: durably does not write it so.
            return of_type.read(text, None)

    codec.write, codec.read = of_type.write if is_text else write, read
    return codec
