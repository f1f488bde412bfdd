"""What travels between processes: pickled by reference where that works, else by cloudpickle.

Both sides import this module, which needs nothing of the engine.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any, Final

from durably._platform.tracebacks import RemoteTraceback, format_exception

_PROTOCOL: Final = pickle.HIGHEST_PROTOCOL
_MAIN: Final = b"__main__"


def dumps(value: Any) -> bytes:
    """Return *value* as bytes.

    What is defined in ``__main__`` travels as a copy if cloudpickle is there, as do lambdas and
    closures: the ``__main__`` of another process may be another program.

    Raises:
        Exception: it cannot travel.
    """
    try:
        data = pickle.dumps(value, _PROTOCOL)
    except Exception:
        cloudpickle = _cloudpickle()
        if cloudpickle is None:
            raise
        data = cloudpickle.dumps(value, _PROTOCOL)
    else:
        if _MAIN in data and (cloudpickle := _cloudpickle()) is not None:
            data = cloudpickle.dumps(value, _PROTOCOL)
    return bytes(data)


loads: Final = pickle.loads


def _cloudpickle() -> Any:
    try:
        return importlib.import_module("cloudpickle")
    except ImportError:
        return None


def has_cloudpickle() -> bool:
    """Return whether lambdas and closures can travel."""
    return _cloudpickle() is not None


# -- exceptions --------------------------------------------------------------------------------


# The message of a group, and its members, packed.
_Group = tuple[str, list[bytes]]
# The class of an exception, its arguments and its attributes, each pickled.
_Parts = tuple[bytes, bytes, dict[str, bytes]]


def pack_exception(exc: BaseException) -> bytes:
    """Return an exception as bytes, which can be unpacked whatever its class is.

    What pickle does with it is tried here first: many exceptions cannot be unpickled, because their
    constructor takes other arguments than those they keep. The members of a group that has such a
    one are packed each by itself.
    """
    whole = _tried(exc, type(exc))
    parts = group = None
    if whole is None:
        group = _group_of(exc)
        parts = _parts_of(exc, () if group else exc.args)
    cls = type(exc)
    names = [(each.__module__, each.__qualname__) for each in cls.__mro__]
    packed = whole, parts, group, names, _text_of(exc), format_exception(exc)
    return pickle.dumps(packed, _PROTOCOL)


def _tried(value: Any, cls: type) -> bytes | None:
    """Return *value* as bytes that were loaded here as a test; ``None`` if that fails."""
    try:
        data = dumps(value)
        return data if type(loads(data)) is cls else None
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None


def _group_of(exc: BaseException) -> _Group | None:
    if not isinstance(exc, BaseExceptionGroup):
        return None
    return exc.message, [pack_exception(member) for member in exc.exceptions]


def _parts_of(exc: BaseException, arguments: tuple[Any, ...]) -> _Parts | None:
    """Return the parts of an exception, of its attributes those that can travel."""
    try:
        cls, args = dumps(type(exc)), dumps(arguments)
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    state = {
        name: data
        for name, value in vars(exc).items()
        if (data := _tried(value, type(value))) is not None
    }
    return cls, args, state


def _text_of(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<unprintable {type(exc).__qualname__}>"


def unpack_exception(data: bytes) -> BaseException:
    """Return the exception that was packed, or one of the nearest class that is known here.

    Its cause has the traceback of the other process as text.
    """
    whole, parts, group, names, text, traceback = pickle.loads(data)  # noqa: S301 - of a child
    members = None if group is None else (group[0], [unpack_exception(each) for each in group[1]])
    exc = None
    if whole is not None:
        exc = _loaded(whole)
    elif parts is not None:
        exc = _rebuilt(parts, members, text)
    if exc is None:
        exc = _nearest(names, members, text)
    exc.__cause__ = RemoteTraceback(traceback)
    return exc


def _loaded(data: bytes) -> BaseException | None:
    try:
        exc = loads(data)
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    return exc if isinstance(exc, BaseException) else None


def _rebuilt(parts: _Parts, members: tuple[Any, ...] | None, text: str) -> BaseException | None:
    """Return an exception made without calling its constructor."""
    try:
        cls = loads(parts[0])
        exc = _new(cls, loads(parts[1]), members)
        vars(exc).update({name: loads(value) for name, value in parts[2].items()})
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    return exc if _text_of(exc) == text else None


def _new(cls: Any, args: tuple[Any, ...], members: tuple[Any, ...] | None) -> BaseException:
    if members is None:
        made: BaseException = cls.__new__(cls, *args)
        made.args = args
    else:  # that of the user's may take other arguments
        made = BaseExceptionGroup.__new__(cls, *members)
    return made


def _nearest(
    names: list[tuple[str, str]], members: tuple[Any, ...] | None, text: str
) -> BaseException:
    """Return an exception with that message, named like the first of *names*.

    Its class is derived from the nearest of them that is an exception here.
    """
    module, name = names[0]
    for base in names:
        known = _known(*base)
        if known is None:
            continue
        body = {"__module__": module, "__qualname__": name, "__str__": lambda _: text}
        is_group = issubclass(known, BaseExceptionGroup)
        try:
            cls = type(name.rpartition(".")[2], (known,), body)
            return _new(cls, (text,), members if is_group else None)
        except Exception:  # noqa: BLE001, S112 - whatever the code of a user's class raises
            continue
    return Exception(text)


def _known(module: str, qualname: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def stored_exception(full_name: str, message: str) -> Exception:
    """Return an exception of the class that is stored, or one that is named like it."""
    module, _, name = full_name.rpartition(".")
    names = [(module or "builtins", name), ("builtins", "Exception")]
    exc = _nearest(names, None, message)
    # One that ends a program does not end it once more.
    return exc if isinstance(exc, Exception) else Exception(f"{full_name}: {message}")
