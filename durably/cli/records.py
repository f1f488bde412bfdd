"""Records as JSON-like data, under the names of their attributes in Python."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from durably._platform.safe_repr import safe_repr
from durably.models import Run


def as_json(value: Any) -> Any:
    """Return a record with its public attributes, or data with records in it, as JSON-like data.

    Times are ISO texts in UTC. A run has ``key``, a short name of ``idempotency_key``, and
    ``duration``.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
        found = {name: as_json(getattr(value, name)) for name in names if not name.startswith("_")}
        if isinstance(value, Run):
            found |= {"key": value.idempotency_key, "duration": value.duration}
            del found["disposition"]  # of a trigger
        return found
    if isinstance(value, dict):
        return {
            name if isinstance(name, str) else safe_repr(name): as_json(each)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return safe_repr(value)
