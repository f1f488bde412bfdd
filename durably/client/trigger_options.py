"""The options of triggers, as type checkers see them."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from durably.client.arguments import OnLog, OnProgress
from durably.settings import Coalesce, Duration, OnPayloadChange
from durably.settings.retries import Retry


class CommonOptions(TypedDict, total=False):
    """The options of a trigger that those of a wait for its run have as well."""

    idempotency_key: str | None
    concurrency_key: str | None
    coalesce: Coalesce
    retry_failed: bool
    on_payload_change: OnPayloadChange
    run_at: datetime | None
    delay: Duration | None
    retry: Retry | None
    labels: dict[str, str] | None


class TriggerOptions(CommonOptions, total=False):
    """The options of a trigger, as type checkers see them."""

    timeout: Duration | None


class WaitOptions(CommonOptions, total=False):
    """The options of a trigger and of a wait for its run, which *timeout* is of."""

    timeout: Duration | None
    on_progress: OnProgress | None
    on_log: OnLog | None
