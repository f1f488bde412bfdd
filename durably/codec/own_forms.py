"""Forms of a program's own types, registered by the program."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from durably._platform.safe_repr import full_name, type_name
from durably.codec.class_forms import form_named as is_of_classes
from durably.codec.forms import BINARY, Form
from durably.codec.messages import Problem, show
from durably.codec.plain import SCALARS, plain
from durably.codec.readable import PICKLED
from durably.codec.stdlib_forms import form_named as is_of_python
from durably.codec.stdlib_forms import form_of as form_of_python
from durably.errors import ValidationError

_NAME: Final = r"[A-Za-z][A-Za-z0-9_./-]{0,99}"
RESERVED: Final = frozenset({"numpy", "pandas", "polars", "pyarrow", "pydantic", "durably"})
"""The libraries whose values durably stores by itself."""
_FOR_PYTHON: Final = frozenset({*SCALARS, dict, list, object, type})


class ValueCodec(NamedTuple):
    """How values of one type are stored; what ``Durably(codecs=[...])`` takes.

    .. versionadded:: 0.2.0
    """

    type: type
    """The class whose instances, but not those of subclasses, are stored so."""
    name: str
    """What is stored with the value; the codec of that name reads it."""
    encode: Callable[[Any], Any]
    """Return JSON-like data or bytes of a value."""
    decode: Callable[[Any], Any]
    """Return the value of what ``encode`` returned."""


# By the name: a class that is defined again, as in a notebook, takes the place of the earlier one.
_registered: dict[str, ValueCodec] = {}
_lock: Final = threading.Lock()


def register(
    type: type,  # noqa: A002 - the contract's name
    name: str,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
) -> None:
    """Store values of a class, in all engines of this process, as its functions say.

    It concerns results, payloads and outputs, without an annotation or annotated with the class,
    from the next call on. A class that is registered again has its last functions. Usable from
    any thread.

    Args:
        type: the class; instances of its subclasses need a registration of their own.
        name: is stored with each value, and finds *decode* again: keep it when the class is
            renamed. Letters, digits and ``_./-``.
        encode: returns JSON-like data or bytes of a value.
        decode: returns the value of what *encode* returned. It is called with what is in the
            database, no matter who wrote it there.

    Raises:
        ValidationError: the name is taken or not valid, the class is one of Python's own that
            has a stored form, or a function is not callable.

    .. versionadded:: 0.2.0
    """
    codec = checked(ValueCodec(type, name, encode, decode))
    with _lock:
        known = _registered.get(name)
        if known is not None and full_name(known.type) != full_name(type):
            msg = f"the name {name!r} is that of {full_name(known.type)}; choose another one"
            raise ValidationError(msg)
        _registered[name] = codec


def pickled(type: type) -> ValueCodec:  # noqa: A002 - as of register
    """Return a codec that pickles the instances of one class: ``Durably(codecs=[pickled(Model)])``.

    **Reading executes what the file says.** A person who can write to the file can execute
    any code in the processes that read such a value. Use it only for files that nobody else can
    write to. The command line does not read it.

    .. versionadded:: 0.2.0
    """
    import pickle  # noqa: PLC0415 - where first needed

    def decode(stored: Any) -> Any:
        value = pickle.loads(stored)  # noqa: S301 - the program asked for it, for this class
        if not isinstance(value, type):
            msg = f"what was pickled is {type_name(value)}, and not {full_name(type)}"
            raise Problem(msg)
        return value

    return ValueCodec(type, PICKLED + full_name(type), pickle.dumps, decode)


def checked(codec: object) -> ValueCodec:
    """Return a codec if it can be used.

    Raises:
        ValidationError: it cannot.
    """
    if not isinstance(codec, ValueCodec):
        msg = f"codecs must be durably.codecs.ValueCodec, found {type_name(codec)}"
        raise ValidationError(msg)
    cls, name = codec.type, codec.name
    if not isinstance(cls, type):
        msg = f"a codec is for a class, found {type_name(cls)}"
    elif cls in _FOR_PYTHON or form_of_python(cls) is not None:
        msg = f"{cls.__name__} has a stored form of its own; register a class of yours"
    elif not isinstance(name, str) or not _is_name(name):
        msg = f"the name {show(name)} of a codec must have letters, digits and _./- only"
    elif name.partition(".")[0] in RESERVED or is_of_python(name) or is_of_classes(name):
        msg = f"the name {name!r} of a codec is durably's own; choose another one"
    elif not callable(codec.encode) or not callable(codec.decode):
        msg = f"encode and decode of the codec {name!r} must be functions"
    else:
        return codec
    raise ValidationError(msg)


def _is_name(name: str) -> bool:
    if name.startswith(PICKLED):  # the class may be of __main__, and have any letters
        return name.replace(".", "").isidentifier()
    return re.fullmatch(_NAME, name) is not None


def own_codecs(codecs: Iterable[object]) -> tuple[ValueCodec, ...]:
    """Return the codecs of an engine.

    Raises:
        ValidationError: one cannot be used, or two are for one class or of one name.
    """
    if isinstance(codecs, (str, ValueCodec)) or not isinstance(codecs, Iterable):
        msg = "codecs must be a list of codecs; write codecs=[...]"
        raise ValidationError(msg)
    found = tuple(map(checked, codecs))
    for each in ("type", "name"):
        if len({getattr(codec, each) for codec in found}) != len(found):
            msg = f"two of the codecs have the same {each}"
            raise ValidationError(msg)
    return found


def registered_for(cls: type) -> ValueCodec | None:
    """Return the codec that is registered for a class."""
    return next((codec for codec in tuple(_registered.values()) if codec.type is cls), None)


def registered_as(name: str) -> ValueCodec | None:
    """Return the codec that is registered under a name."""
    return _registered.get(name)


def form_of_codec(codec: ValueCodec) -> Form:
    """Return the form that calls the functions of a codec."""

    def encode(value: Any) -> Any:
        data = codec.encode(value)
        return data if isinstance(data, BINARY) else plain(data)

    return Form(codec.name, encode, codec.decode)
