"""Build and keep the codec of each type, on one strict cattrs converter."""

from __future__ import annotations

import enum
import functools
import threading
import typing
from collections.abc import Callable
from typing import Any, cast

import cattrs

from durably.codec import containers, scalars
from durably.codec.form_types import library_type
from durably.codec.messages import Problem, Unsupported, name_of, text_of
from durably.codec.plain import SCALARS, Misfit, is_named_tuple
from durably.codec.records import record, typed_dict
from durably.codec.redefined import is_redefined, note
from durably.codec.type_codec import ANYTHING, TypeCodec
from durably.codec.typing_utils import is_any, is_record, is_typed_dict, is_union, unwrapped
from durably.codec.unions import union
from durably.codec.user_converter import UserHooks


class TypeCodecs:
    """Build the codec of a type at its first use. Usable from any thread.

    The converter is a strict copy of the user's: it knows the user's types, and has a codec's
    hooks for every other type. So a user's hook that requests the hooks of inner types from it
    gets strict ones.
    """

    def __init__(
        self, converter: cattrs.Converter | None, has_form: Callable[[type], bool]
    ) -> None:
        self.has_form = has_form
        self._users = None if converter is None else UserHooks(converter)
        self.converter = (converter or cattrs.Converter()).copy(
            unstruct_strat=cattrs.UnstructureStrategy.AS_DICT,
            omit_if_default=False,
            forbid_extra_keys=True,
            prefer_attrib_converters=False,
            detailed_validation=True,
        )
        self._make_strict()
        # The lock guards all four. A codec is put into _known when all codecs inside it are
        # complete; _known is read without the lock.
        self._lock = threading.RLock()
        self._known: dict[Any, tuple[Any, TypeCodec]] = {}
        self._complete: dict[tuple[Any, str], TypeCodec] = {}
        self._building: dict[tuple[Any, str], TypeCodec] = {}
        self._nesting = 0

    def of(self, type_: Any) -> TypeCodec:
        """Return the codec of a type.

        Raises:
            Unsupported: its values cannot be stored.
        """
        try:
            known = self._known.get(type_)
        except TypeError:  # the metadata of an Annotated need not be hashable
            if typing.get_origin(type_) is typing.Annotated:
                return self.of(type_.__origin__)
            raise _unsupported(type_) from None
        if known is not None and known[0] is type_:
            return known[1]
        if is_any(type_):
            return ANYTHING
        with self._lock:
            # A | B equals B | A, but is not tried in the same order.
            key = (type_, repr(type_))
            codec = self._complete.get(key) or self._building.get(key)
            if codec is None:
                codec = self._build(type_, key)
            if not self._nesting:
                self._known.setdefault(type_, (type_, codec))
            return codec

    def _make_strict(self) -> None:
        converter, users = self.converter, self._users
        for type_ in scalars.OWN:  # a hook for a class precedes all factories
            converter.register_structure_hook(type_, lambda data, t: self.of(t).read(data, t))
            converter.register_unstructure_hook(
                type_, functools.partial(self._write, cast("Any", type_))
            )
        converter.register_structure_hook_factory(
            lambda t: isinstance(t, TypeCodec) or users is None or users.reads(t) is None,
            lambda t: t.read if isinstance(t, TypeCodec) else self.of(t).read,
        )
        converter.register_unstructure_hook_factory(
            lambda t: users is None or users.writes(t) is None, lambda t: self.of(t).write
        )

    def _write(self, type_: type, value: Any) -> Any:
        # cattrs calls this for a StrEnum too, since it is a str.
        return self.of(type(value) if isinstance(value, type_) else type_).write(value)

    def _build(self, type_: Any, key: tuple[Any, str]) -> TypeCodec:
        self._nesting += 1
        try:
            codec = self._building[key] = TypeCodec(type_, name_of(type_))
            self._fill(codec)
        except RecursionError as error:
            msg = f"{name_of(type_)} is nested too deeply"
            raise Unsupported(msg) from error
        finally:
            self._nesting -= 1
            if not self._nesting:
                done, self._building = self._building, {}
        if not self._nesting:
            self._complete.update(done)
        return codec

    def _fill(self, codec: TypeCodec) -> None:
        reads = writes = None
        if self._users is not None:
            reads, writes = self._users.reads(codec.type), self._users.writes(codec.type)
        if reads is None or writes is None:
            try:
                if not library_type(codec):
                    self._fill_own(codec)
            except Unsupported as error:
                if reads is writes:
                    raise
                missing = "structure" if reads is None else "unstructure"
                msg = f"{codec.name}: the converter has no {missing} hook for it"
                raise Unsupported(msg) from error
        if reads is not None or writes is not None:
            codec.compares = codec.is_users = codec.is_open = True
        if reads is not None:
            # From the strict copy, so that the hooks inside are strict; it forgot the unions.
            codec.read = (
                reads if is_union(codec.type) else self.converter.get_structure_hook(codec.type)
            )
        if writes is not None:
            codec.write = _with_path(codec, self.converter.get_unstructure_hook(codec.type))

    def _fill_own(self, codec: TypeCodec) -> None:
        type_ = codec.type
        inner = unwrapped(type_)
        cls = typing.get_origin(type_) or type_
        if inner is not type_:
            codec.become(self.of(inner))
        elif isinstance(type_, type) and type_ not in scalars.OWN and self.has_form(type_):
            _formed(codec)
        elif cls is typing.Literal and type_ is not cls:
            scalars.literal(codec)
        elif is_union(type_):
            union(codec, self)
        elif cls in containers.OWN:
            containers.container(codec, self)
        elif isinstance(type_, type) and issubclass(type_, enum.Enum):
            scalars.enumeration(codec)
        elif is_typed_dict(cls):
            typed_dict(codec, self)
        elif is_record(cls):
            record(codec, self)
        elif is_named_tuple(cls):
            containers.named_tuple(codec, self)
        elif cls in SCALARS:
            scalars.builtin(codec)
        elif not isinstance(type_, type) or not scalars.stdlib_scalar(codec):
            raise _unsupported(type_)


def _formed(codec: TypeCodec) -> None:
    """Complete the codec of a class whose values have a form, which writes and reads them."""
    type_ = codec.type
    codec.compares, codec.has_form = False, True

    def write(value: Any) -> Any:
        return value if isinstance(value, type_) else codec.misfit(value)

    def read(data: Any, _: Any = None) -> Any:
        if not isinstance(data, type_):
            raise codec.mismatch(data)
        return data

    codec.write, codec.read = write, read


def _with_path(codec: TypeCodec, write: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook that returns a misfit where *write* raises, so that the message has a path."""

    def write_or_misfit(value: Any) -> Any:
        is_its = not isinstance(codec.type, type) or isinstance(value, codec.type)
        is_again = not is_its and is_redefined(type(value), codec.type)
        if not is_its and not is_again:
            return codec.misfit(value)
        try:
            data = write(value)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - hooks raise anything
            said = f"the unstructure hook for {codec.name} failed: {text_of(error)}"
            data = Misfit(value, Problem(said))
        return note(codec, value, data) if is_again else data

    return write_or_misfit


def _unsupported(type_: Any) -> Unsupported:
    return Unsupported(
        f"{name_of(type_)} is not a type that can be stored; use JSON-like data, attrs classes, "
        f"or give the engine a converter= with hooks for it"
    )
