"""What is unusual about a database and those that use it, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import attrs

from durably._platform.clock import Clock
from durably._platform.commands import command
from durably._platform.displayable import displayable
from durably._platform.values import Value
from durably.store.conditions import Condition, JobState, OwnerState

if TYPE_CHECKING:
    from durably.store.api import Store

# So many kinds of failed runs are named.
MOST_FAILURES: Final = 10
# Less room than this is little.
_LITTLE_ROOM: Final = 256 * 1024 * 1024
# The WAL is cut back to 16 MiB whenever it restarts.
_LARGE_WAL: Final = 64 * 1024 * 1024
# So much is worth a vacuum, if it is more than half of the file.
_MUCH_FREE: Final = 16 * 1024 * 1024
# Whose last sign of life is older than this, and than so many of its heartbeats, is hung.
_HUNG_S: Final = 60.0
_HUNG_BEATS: Final = 6
# A run that could be claimed for longer has probably nobody who knows its job.
_LONG_PENDING_S: Final = 3600.0
# Clocks of one machine differ by less.
_SKEW_S: Final = 60.0

Kind = Literal[
    "network drive",
    "disk space",
    "large log",
    "free space",
    "large results",
    "dead process",
    "hung process",
    "lock file",
    "nobody executes",
    "failed runs",
    "clock",
    "permissions",
]


@attrs.frozen(eq=False, repr=False)
class Finding(Value):
    """One thing that is unusual: a sentence of fact, and one of advice."""

    kind: Kind
    what: str
    advice: str


def examine(store: Store, clock: Clock) -> tuple[Condition, list[Finding]]:
    """Return the condition of the file of a store, and what is unusual about it."""
    condition = store.condition(most_failures=MOST_FAILURES + 1)
    return condition, list(findings(condition, clock.now_us()))


def findings(condition: Condition, now_us: int) -> Iterator[Finding]:
    """Yield what is unusual, the most serious things first."""
    yield from _place(condition)
    yield from _sizes(condition)
    for owner in condition.owners:
        yield from _owner(owner, now_us)
    is_executed = any(owner.is_alive is not False for owner in condition.owners)
    for job in condition.jobs:
        yield from _pending(job, now_us, condition.path, is_executed=is_executed)
    yield from _failures(condition)
    newest_us = condition.newest_time_us
    if newest_us is not None and (newest_us - now_us) / 1e6 > _SKEW_S:
        yield Finding(
            "clock",
            f"the newest time in the file is {_lasted((newest_us - now_us) / 1e6)} in the future: "
            "the clock of this machine was set back, or was wrong",
            "nothing decides by clocks, but ages and --since are wrong until then; check the date",
        )
    yield from _permissions(condition)


def _place(condition: Condition) -> Iterator[Finding]:
    if condition.shared_by is not None:
        is_network = condition.shared_by == "network"
        what = "a network drive" if is_network else "a folder that a virtual machine shares"
        yield Finding(
            "network drive",
            f"the file is on {what} ({condition.file_system}), whose locks do not work between "
            "machines",
            "move it to a local disk, or what was committed can be lost",
        )


def _sizes(condition: Condition) -> Iterator[Finding]:
    sizes, shown = condition.sizes, partial(command, path=condition.path)
    if condition.disk_bytes < _LITTLE_ROOM:
        yield Finding(
            "disk space",
            f"only {_megabytes(condition.disk_bytes)} are free on the disk of the file",
            f"make room; {shown('purge')} deletes old runs, and {shown('du')} says what takes the "
            "space",
        )
    if sizes.wal_bytes > _LARGE_WAL:
        readers = condition.wal_readers
        by = f" and is read by {', '.join(readers)}" if readers else ""
        yield Finding(
            "large log",
            f"the write-ahead log has {_megabytes(sizes.wal_bytes)}{by}",
            "end what reads the file for long (a tool with an open query); it shrinks after that"
            if readers
            else "it shrinks when an engine writes the next time, or has been closed",
        )
    if sizes.free_bytes > max(_MUCH_FREE, sizes.file_bytes // 2):
        yield Finding(
            "free space",
            f"{_megabytes(sizes.free_bytes)} of {_megabytes(sizes.file_bytes)} of the file are "
            "free: runs were deleted",
            f"{shown('vacuum')} returns it to the system; otherwise later runs use it",
        )
    if condition.lost_files:
        is_one = condition.lost_files == 1
        yield Finding(
            "large results",
            f"{condition.lost_files:,} {'file' if is_one else 'files'} beside the database, with "
            f"{_megabytes(condition.lost_bytes)}, {'is' if is_one else 'are'} of no run: a "
            "process has died before it stored what refers to them",
            "the next engine that executes runs removes them within minutes",
        )


def _owner(owner: OwnerState, now_us: int) -> Iterator[Finding]:
    runs = f"{owner.runs:,} running {'run' if owner.runs == 1 else 'runs'}"
    if owner.is_alive is False:
        if owner.runs:
            yield Finding(
                "dead process",
                f"{owner.process} has died with {runs}",
                "start its program again, which continues them at once; durably work FILE does so "
                "for runs of jobs",
            )
        return
    silent_s = (now_us - owner.beat_at_us) / 1e6
    is_silent = silent_s > max(_HUNG_S, _HUNG_BEATS * owner.heartbeat_interval_us / 1e6)
    if owner.is_alive is None:
        if is_silent:
            yield Finding(
                "lock file",
                f"the lock file of {owner.process} is missing, which has {runs} and gives no sign "
                f"of life for {_lasted(silent_s)}",
                "the next engine that is started recovers them after its stale_threshold; let no "
                "program delete the files that lie beside a database",
            )
    elif owner.is_stopped:
        yield Finding(
            "hung process",
            f"{owner.process}, which has {runs}, is stopped (Ctrl-Z, SIGSTOP or a debugger)",
            f"let it continue (kill -CONT {owner.pid}), or end it",
        )
    elif is_silent:
        yield Finding(
            "hung process",
            f"{owner.process}, which has {runs}, gives no sign of life for {_lasted(silent_s)}",
            "its step may be inside code that keeps Python's lock; other engines take its runs "
            "over, or end it",
        )


def _pending(job: JobState, now_us: int, path: str, *, is_executed: bool) -> Iterator[Finding]:
    oldest_us = job.oldest_claimable_us
    if oldest_us is None or (now_us - oldest_us) / 1e6 < _LONG_PENDING_S:
        return
    if job.newest_claim_us is not None and job.newest_claim_us > oldest_us and is_executed:
        return  # it is behind others, which are executed
    name = displayable(job.job_name, 60)
    work = command(f"work module:{name}", path)
    count = f"{job.claimable:,} {'run' if job.claimable == 1 else 'runs'} of job '{name}'"
    since = f"pending for {_lasted((now_us - oldest_us) / 1e6)}"
    if is_executed:
        yield Finding(
            "nobody executes",
            f"{count}: {since}, and none has begun since; no process that is alive seems to know "
            "the job",
            f"start the program that has it, or {work}; durably cancel or rm if it is not wanted "
            "any more",
        )
    else:
        yield Finding(
            "nobody executes",
            f"{count}: {since}, and no process is alive that executes runs of this file",
            f"start the program that has the job, or {work}",
        )


def _failures(condition: Condition) -> Iterator[Finding]:
    shown = partial(command, path=condition.path)
    for each in condition.failures[:MOST_FAILURES]:
        count = f"{each.runs:,} {'run' if each.runs == 1 else 'runs'}"
        yield Finding(
            "failed runs",
            f"{count} of job '{displayable(each.job_name, 60)}' failed with "
            f"{displayable(f'{each.type}: {each.message}', 200)}",
            f"{shown('ls --status failed')} names them, {shown('show RUN')} says where; fix the "
            f"cause, then {shown('retry RUN')}",
        )
    if len(condition.failures) > MOST_FAILURES:
        yield Finding(
            "failed runs",
            "and there are more kinds of failures",
            f"{shown('ls --status failed --limit 0')} names all failed runs",
        )


def _permissions(condition: Condition) -> Iterator[Finding]:
    if condition.file_mode is not None:
        yield Finding(
            "permissions",
            f"other users may use the file ({condition.file_mode:04o}), which has payloads and "
            "results in it",
            f"chmod 600 {condition.path}, unless that is what you want",
        )
    if condition.folder_mode is not None:
        yield Finding(
            "permissions",
            f"other users may replace files in the folder of the database "
            f"({condition.folder_mode:04o})",
            "chmod go-w the folder, or move the database to one of your own",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _lasted(seconds: float) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count:,} {name}{'' if count == 1 else 's'}"
    return f"{seconds:.0f} seconds"
