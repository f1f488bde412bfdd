"""The arguments of ``get_runs`` and ``count_runs`` that say which runs are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from durably._platform.safe_repr import short_repr, type_name
from durably._platform.signals import let_through
from durably.codec.json_text import dump
from durably.errors import ValidationError
from durably.models import RunStatus
from durably.store.rows import Filters

StatusFilter = RunStatus | str | Iterable[RunStatus | str] | None
NameFilter = str | Iterable[str] | None


def filters_of(
    status: StatusFilter, job_name: NameFilter, labels: dict[str, str] | None
) -> Filters:
    """Check the arguments of ``get_runs``, and return them as filters."""
    statuses = None
    if status is not None:
        wanted = [status] if isinstance(status, str) else several(status, "status")
        statuses = dump([_status(each) for each in wanted])
    jobs = None
    if job_name is not None:
        names = [job_name] if isinstance(job_name, str) else several(job_name, "job_name")
        jobs = dump([_text(name, "job_name") for name in names])
    wanted_labels = None
    if labels is not None:
        if not isinstance(labels, dict):
            raise ValidationError(f"labels must be a dict of str to str, not {type_name(labels)}")
        wanted_labels = dump(
            {_text(key, "labels"): _text(value, "labels") for key, value in labels.items()}
        )
    return Filters(statuses, jobs, wanted_labels)


def several(items: Any, what: str) -> list[Any]:
    """Return *items* as a list.

    Raises:
        ValidationError: it is text, a mapping or not iterable; the message begins with *what*.
    """
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise ValidationError(
            f"{what} must be an iterable, such as a list, not {type_name(items)}; write [...] "
            "around a single one"
        )
    return let_through(list, items)


def _status(value: object) -> str:
    # Anything but text is rejected first, because the enum's message would show it.
    with suppress(ValueError):
        if isinstance(value, str):
            return RunStatus(value).value
    raise ValidationError(f"unknown status {short_repr(value)}; known are {', '.join(RunStatus)}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"{what} must hold str, not {type_name(value)}")
    return value
