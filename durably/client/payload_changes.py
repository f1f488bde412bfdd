"""Compare the payload of a call with the one that a run was stored with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from durably._platform.safe_repr import short_repr
from durably.codec import Codec
from durably.codec.forms import TAG
from durably.errors import SerializationError, ValidationError
from durably.jobs import Job, payload_type, takes_payload

# So many paths are named in a message.
_MOST_NAMED: Final = 5


def changed_paths(codec: Codec, job: Job[Any, Any], stored: str, given: str) -> list[str]:
    """Return where a stored payload and a given one differ; empty if they are equal.

    A field that was added to the class with a default is no difference.
    """
    return list(_differences("$", _as_today(codec, job, stored), codec.load_data(given)))


def _as_today(codec: Codec, job: Job[Any, Any], stored: str) -> Any:
    """Return the data of a stored payload, as today's class of the job would store it."""
    text = stored
    if takes_payload(job):
        type_, what = payload_type(job), "the stored payload"
        try:
            payload = codec.decode(stored, type_, what=what)
            text = codec.encode(payload, type_, what=what, has_parts=True)
        except (ValidationError, SerializationError):
            pass  # it does not fit today's class: its data is compared
    return codec.load_data(text)


def _differences(path: str, stored: Any, given: Any) -> Iterator[str]:
    if _is_object(stored) and _is_object(given):
        for key in dict.fromkeys((*stored, *given)):
            inner = f"{path}.{key}" if key.isidentifier() else f"{path}[{short_repr(key)}]"
            if key in stored and key in given:
                yield from _differences(inner, stored[key], given[key])
            else:
                yield inner
    elif isinstance(stored, list) and isinstance(given, list):
        for index, (one, other) in enumerate(zip(stored, given, strict=False)):
            yield from _differences(f"{path}[{index}]", one, other)
        if len(stored) != len(given):
            yield f"{path}[{min(len(stored), len(given))}]"
    # 1, 1.0 and True are equal and not the same; NaN is the same and not equal.
    elif type(stored) is not type(given) or (stored != given and repr(stored) != repr(given)):
        yield path


def _is_object(data: Any) -> bool:
    """Return whether data is compared by its keys; a tagged value is compared as a whole."""
    return isinstance(data, dict) and TAG not in data


def named(paths: list[str]) -> str:
    """Return the paths for a message."""
    more = len(paths) - _MOST_NAMED
    return ", ".join(paths[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
