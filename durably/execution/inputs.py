"""What a result was made of beside the code: arguments, an item, and what it depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from durably._platform.hashes import hash_of_text
from durably._platform.safe_repr import type_name
from durably.codec.json_text import dump
from durably.codec.plain import SCALARS, plain
from durably.errors import ValidationError

# Stands for an argument of which nothing is known.
_UNKNOWN: Final = "?"


def text_of(value: Any) -> str | None:
    """Return a JSON-like value as text, ``None`` for another one."""
    try:
        return dump(value if type(value) in SCALARS else _sorted(plain(value)))
    except Exception:  # noqa: BLE001 - whatever the code of a value's class raises
        return None


def _sorted(data: Any) -> Any:
    """Return plain data without the order of its keys, in which equal dicts may differ."""
    if type(data) is dict:
        return {key: _sorted(data[key]) for key in sorted(data)}
    return [_sorted(each) for each in data] if type(data) is list else data


def hash_of_inputs(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    depends_on: str | None,
    failed: Iterable[str] = (),
) -> int:
    """Return a hash of the arguments of a step, as far as they are JSON-like.

    Args:
        depends_on: what else the result depends on, as text.
        failed: what has failed before it although there is a result, which is out of date.
    """
    parts = [*sorted(failed)]
    parts += [text_of(value) or _UNKNOWN for value in args]
    parts += [f"{name}={text_of(kwargs[name]) or _UNKNOWN}" for name in sorted(kwargs)]
    return hash_of_text("\n".join((depends_on or "", *parts)))


def text_of_dependence(value: Any, what: str) -> str | None:
    """Return a value of ``depends_on`` as text, ``None`` if none was given.

    Raises:
        ValidationError: it is not JSON-like.
    """
    if value is None:
        return None
    text = text_of(value)
    if text is None:
        raise ValidationError(
            f"{what} must be JSON-like, not {type_name(value)}; pass numbers, str, lists and dicts "
            "of them, or durably.fingerprint_of(path) of a file"
        )
    return text
