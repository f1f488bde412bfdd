"""What a store says about its own condition: sizes, owners, runs, and what it is on."""

from __future__ import annotations

from typing import Literal, NamedTuple


class JobUsage(NamedTuple):
    """What the runs of one job, or the sessions of one name, take; the bytes are those of text.

    ``oldest_us`` is when the oldest of the runs was triggered.
    """

    job_name: str
    runs: int
    failed: int
    steps: int
    items: int
    run_bytes: int
    step_bytes: int
    item_bytes: int
    log_bytes: int
    oldest_us: int

    @property
    def text_bytes(self) -> int:
        """Return the bytes of all of it."""
        return self.run_bytes + self.step_bytes + self.item_bytes + self.log_bytes


class Sizes(NamedTuple):
    """The bytes of the file, of its log, of its pages that are free, and of its large results."""

    file_bytes: int
    wal_bytes: int
    free_bytes: int
    blob_bytes: int = 0


class OwnerState(NamedTuple):
    """An engine that has executed runs, and has not left in order.

    Args:
        process: how its process is named for people.
        is_alive: what its lock says; ``None`` if it says nothing.
        is_stopped: whether the system has stopped its process.
    """

    pid: int
    process: str
    is_alive: bool | None
    is_stopped: bool
    is_started: bool
    beat_at_us: int
    heartbeat_interval_us: int
    runs: int


class JobState(NamedTuple):
    """The runs of one job that any process could claim, and the newest claim of one."""

    job_name: str
    claimable: int
    oldest_claimable_us: int | None
    newest_claim_us: int | None


class Failures(NamedTuple):
    """The failed runs of a job with one type of error, and the message of the newest one."""

    job_name: str
    type: str
    message: str
    runs: int
    newest_us: int


class Condition(NamedTuple):
    """What can be unusual about a database and those that use it.

    Args:
        schema: the version of its schema.
        sqlite: the version of SQLite.
        file_system: its type, if the system reports it.
        shared_by: what makes its file system one of several machines, if it is one.
        disk_bytes: how much is free on its disk.
        wal_readers: the processes that read a state of the file now, as people name them.
        newest_time_us: the newest time at which anything happened to a run.
        file_mode: the permissions of the file, if other users may read or write it.
        folder_mode: the permissions of the folder, if other users may replace files in it.
        lost_files: how many files of large results no run refers to, for over an hour.
        lost_bytes: their bytes.
    """

    path: str
    schema: int
    sqlite: str
    sizes: Sizes
    file_system: str | None
    shared_by: Literal["network", "host"] | None
    disk_bytes: int
    wal_readers: list[str]
    owners: list[OwnerState]
    jobs: list[JobState]
    failures: list[Failures]
    newest_time_us: int | None
    file_mode: int | None
    folder_mode: int | None
    lost_files: int = 0
    lost_bytes: int = 0
