"""The arguments of ``get_runs`` and ``count_runs`` that say which runs are meant."""

from __future__ import annotations

from contextlib import suppress

from durably._platform.safe_repr import short_repr, type_name
from durably.client.arguments import NameFilter, StatusFilter, several
from durably.codec.json_text import dump
from durably.errors import ValidationError
from durably.models import RunStatus
from durably.store.read_rows import Filters


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
