"""Codecs for attrs classes, dataclasses and TypedDicts, which are written as objects."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NotRequired, TypedDict, cast

import attrs
from cattrs import override
from cattrs.errors import ClassValidationError
from cattrs.gen.typeddicts import make_dict_structure_fn

from durably.codec.cattrs_errors import MissingKeyError, with_note
from durably.codec.messages import (
    NotStorable,
    Problem,
    Unsupported,
    difference,
    is_alike,
    name_of,
    text_of,
)
from durably.codec.plain import Misfit
from durably.codec.redefined import is_redefined, note
from durably.codec.type_codec import Field, TypeCodec, TypeCodecLookup
from durably.codec.typing_utils import hints_of, unqualified

_Factory = cast("Any", attrs.Factory)  # a class, typed as a function


def typed_dict(codec: TypeCodec, codecs: TypeCodecLookup) -> None:
    """Complete the codec of a TypedDict."""
    cls = typing.get_origin(codec.type) or codec.type
    fields = []
    for name, hint in hints_of(codec.type).items():
        type_, is_required = unqualified(hint, is_required=name in cls.__required_keys__)
        fields.append(Field(name, name, name, _inside(cls, name, type_, codecs), is_required))
    read_keys = _key_reader(codec, fields, codecs)
    codec.compares = any(field.codec.compares for field in fields)

    def write(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return codec.misfit(value)
        data = _write_items(codec, value)
        return data if isinstance(value, dict) else codec.misfit(value, data)

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not dict:
            raise codec.mismatch(data)
        return read_keys(data)

    codec.write, codec.read = write, read


def record(codec: TypeCodec, codecs: TypeCodecLookup) -> None:
    """Complete the codec of an attrs class or a dataclass."""
    cls = typing.get_origin(codec.type) or codec.type
    fields = list(_stored_fields(codec, cls, codecs))
    read_keys = _key_reader(codec, fields, codecs)
    expected = name_of(codec.type)

    def other_class(value: Any) -> Problem:
        if isinstance(value, cls):
            name = name_of(type(value))
            if is_alike(type(value), cls):
                return Problem(
                    f"expected {expected}, found a subclass of that name "
                    f"({difference(type(value), cls)}), which would come back as {expected}"
                )
            return Problem(
                f"expected {expected}, found its subclass {name}, which would come back as "
                f"{expected}; annotate {expected} | {name}"
            )
        return codec.mismatch(value)

    def write(value: Any) -> Any:
        if type(value) is cls:
            try:
                return {f.key: f.codec.write(getattr(value, f.name)) for f in fields}
            except AttributeError:
                return {f.key: _attribute(value, f) for f in fields}
        if isinstance(value, Mapping):
            return codec.misfit(value, _write_items(codec, value))
        if is_redefined(type(value), cls):
            return note(codec, value, _write_again(cls, fields, value))
        return Misfit(value, other_class(value))

    def read(data: Any, _: Any = None) -> Any:
        if type(data) is not dict:
            raise other_class(data)
        values = read_keys(data)
        arguments = {f.argument: values[f.key] for f in fields if f.key in values}
        try:
            return cls(**arguments)
        except Exception as error:
            failed = _failing_validators(cls, arguments) if attrs.has(cls) else []
            raise ClassValidationError(expected, failed or [error], cls) from error

    codec.write, codec.read = write, read


def _write_again(cls: Any, fields: list[Field], value: Any) -> Any:
    """Write an instance of a class that was defined again; reading reports what does not fit."""
    again = type(value)
    if not attrs.has(again) and not dataclasses.is_dataclass(again):
        return Misfit(value, NotStorable(f"{name_of(again)} has no fields any more"))
    by_name = {field.name: field for field in fields}
    not_stored = {each.name for each in _declared(cls)} - by_name.keys()
    data: dict[str, Any] = {}
    for declared in _declared(again):
        field = by_name.get(declared.name)
        if field is not None:
            data[field.key] = _attribute(value, field)
        elif declared.init and declared.name not in not_stored:
            data[declared.name] = None
    return data


def _write_items(codec: TypeCodec, value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Write the items of a mapping; reading reports unknown and missing keys."""
    fields = cast("Mapping[str, Field]", codec.fields)
    return {k: fields[k].codec.write(v) if k in fields else v for k, v in value.items()}


def _attribute(value: Any, field: Field) -> Any:
    try:
        return field.codec.write(getattr(value, field.name))
    except AttributeError as error:
        return Misfit(None, NotStorable(text_of(error)))


class _Given(dict[str, Any]):
    """The data of a class; raises ``MissingKeyError`` instead of ``KeyError``."""

    def __missing__(self, key: str) -> Any:
        raise MissingKeyError(key)


def _key_reader(
    codec: TypeCodec, fields: list[Field], codecs: TypeCodecLookup
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function, generated by cattrs, that structures the keys of an object."""
    codec.fields = {field.key: field for field in fields}
    keys: dict[str, Any] = {}
    for field in fields:
        # Any: the hook alone decides. As an argument it might be taken for one of cattrs' own.
        hint = Annotated[Any, override(struct_hook=field.codec.read)]
        keys[field.key] = hint if field.is_required else NotRequired[hint]
    shape = cast("Any", TypedDict)("Fields", keys)
    read = make_dict_structure_fn(
        shape,
        codecs.converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        _cattrs_use_linecache=False,
    )
    return lambda data: read(_Given(data), shape)


def _inside(cls: type, name: str, type_: Any, codecs: TypeCodecLookup) -> TypeCodec:
    try:
        return codecs.of(type_)
    except Unsupported as error:
        msg = f"field {name} of {name_of(cls)}: {error}"
        raise Unsupported(msg) from error


def _stored_fields(codec: TypeCodec, cls: Any, codecs: TypeCodecLookup) -> Iterator[Field]:
    """Yield the fields that ``__init__`` takes."""
    hints = hints_of(codec.type)
    for declared in _declared(cls):
        hint = hints.get(declared.name, Any if declared.type is None else declared.type)
        has_default = declared.default is not attrs.NOTHING
        if hint is typing.Final and has_default and not isinstance(declared.default, _Factory):
            hint = type(declared.default)
        custom = _override_in(hint)
        if not declared.init or custom.omit:
            continue
        argument = declared.alias or declared.name
        key = custom.rename or (argument if codecs.converter.use_alias else declared.name)
        inner = _inside(cls, declared.name, hint, codecs)
        yield Field(declared.name, key, argument, inner, is_required=not has_default)


def _declared(cls: Any) -> Any:
    """Return the attributes of an attrs class, or their equivalents of a dataclass."""
    if attrs.has(cls):
        return attrs.fields(cls)
    missing = dataclasses.MISSING
    return [
        types.SimpleNamespace(
            name=f.name,
            alias=f.name,
            type=f.type,
            init=f.init,
            default=f.default
            if f.default is not missing
            else attrs.NOTHING
            if f.default_factory is missing
            else attrs.Factory(f.default_factory),
        )
        for f in dataclasses.fields(cls)
    ]


def _override_in(hint: Any) -> Any:
    """Return the cattrs override in the metadata of an annotation."""
    metadata = getattr(hint, "__metadata__", ())
    nothing = override()
    return next((each for each in metadata if isinstance(each, type(nothing))), nothing)


def _failing_validators(cls: Any, arguments: dict[str, Any]) -> list[Exception]:
    """Run the validators of an attrs class one by one, and return what they raise.

    ``__init__`` stops at the first one, and does not report its field.
    """
    # An instance as it is when validators run: with all fields set.
    instance = cls.__new__(cls)
    try:
        for attribute in attrs.fields(cls):
            value = arguments.get(attribute.alias or attribute.name, attribute.default)
            object.__setattr__(instance, attribute.name, _set_by_init(attribute, value, instance))
    except Exception:  # noqa: BLE001 - a converter or a default failed, and no validator
        return []
    failed = []
    for attribute in attrs.fields(cls):
        if attribute.validator is not None:
            try:
                attribute.validator(instance, attribute, getattr(instance, attribute.name))
            except Exception as error:  # noqa: BLE001 - validators raise anything
                failed.append(with_note(error, attribute.name))
    return failed


def _set_by_init(attribute: Any, value: Any, instance: Any) -> Any:
    """Return the value to which ``__init__`` sets an attribute."""
    if isinstance(value, _Factory):
        value = value.factory(instance) if value.takes_self else value.factory()
    convert: Any = attribute.converter
    if isinstance(convert, attrs.Converter):
        return cast("Any", convert)(value, instance, attribute)
    return value if convert is None else convert(value)
