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


def pack_exception(exc: BaseException) -> bytes:
    """Return an exception as bytes, which can be unpacked whatever its class is.

    What pickle does with it is tried here first: many exceptions cannot be unpickled, because their
    constructor takes other arguments than those they keep.
    """
    whole = _tried(exc, type(exc))
    parts = None if whole is not None else _parts_of(exc)
    cls = type(exc)
    names = [(each.__module__, each.__qualname__) for each in cls.__mro__]
    return pickle.dumps((whole, parts, names, _text_of(exc), format_exception(exc)), _PROTOCOL)


def _tried(value: Any, cls: type) -> bytes | None:
    """Return *value* as bytes that were loaded here as a test; ``None`` if that fails."""
    try:
        data = dumps(value)
        return data if type(loads(data)) is cls else None
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None


def _parts_of(exc: BaseException) -> tuple[bytes, bytes, dict[str, bytes]] | None:
    """Return the class of an exception, its arguments and its attributes, those that can travel."""
    try:
        cls, args = dumps(type(exc)), dumps(exc.args)
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
    whole, parts, names, text, traceback = pickle.loads(data)  # noqa: S301 - of a child
    exc = None
    if whole is not None:
        exc = _loaded(whole)
    elif parts is not None:
        exc = _rebuilt(parts, text)
    if exc is None:
        exc = _nearest(names, text)
    exc.__cause__ = RemoteTraceback(traceback)
    return exc


def _loaded(data: bytes) -> BaseException | None:
    try:
        exc = loads(data)
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    return exc if isinstance(exc, BaseException) else None


def _rebuilt(parts: tuple[bytes, bytes, dict[str, bytes]], text: str) -> BaseException | None:
    """Return an exception made without calling its constructor."""
    try:
        cls = loads(parts[0])
        args = loads(parts[1])
        exc: BaseException = cls.__new__(cls, *args)
        exc.args = args
        vars(exc).update({name: loads(value) for name, value in parts[2].items()})
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    return exc if _text_of(exc) == text else None


def _nearest(names: list[tuple[str, str]], text: str) -> BaseException:
    """Return an exception with that message, named like the first of *names*.

    Its class is derived from the nearest of them that is an exception here.
    """
    module, name = names[0]
    for base in names:
        known = _known(*base)
        if known is None:
            continue
        body = {"__module__": module, "__qualname__": name, "__str__": lambda _: text}
        exc = _made(known, name.rpartition(".")[2], body, text)
        if exc is not None:
            return exc
    return Exception(text)


def _made(
    base: type[BaseException], name: str, body: dict[str, Any], text: str
) -> BaseException | None:
    """Return an exception of a class derived from *base*, without calling its constructor."""
    try:
        cls: Any = type(name, (base,), body)
        exc: BaseException = cls.__new__(cls, text)
    except Exception:  # noqa: BLE001 - whatever the code of a user's class raises
        return None
    exc.args = (text,)
    return exc


def _known(module: str, qualname: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
