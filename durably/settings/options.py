"""The options of an engine that are settings, as type checkers see them."""

from __future__ import annotations

import os
from typing import Literal, TypedDict

from durably.settings import Duration, OnDuplicateStep, Synchronous


class SettingOptions(TypedDict, total=False):
    """The options of an engine that are settings, as type checkers see them."""

    max_workers: int
    heartbeat_interval: Duration
    stale_threshold: Duration
    poll_interval: Duration
    synchronous: Synchronous
    preserve_steps: bool
    retain_runs: Duration | str | None
    on_duplicate_step: OnDuplicateStep
    max_deaths: int
    persist_logs: bool
    raise_failed: bool
    replace: bool | None
    create: bool
    blobs: str | os.PathLike[str] | Literal[False] | None
