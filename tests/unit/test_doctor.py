"""What is unusual about a file, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from durably.client.doctor import MOST_FAILURES, findings
from durably.store.conditions import Condition, Failures, JobState, OwnerState, Sizes

HOUR = 3_600_000_000
NOW = 100 * HOUR

HEALTHY = Condition(
    path="/srv/x.db",
    schema=6,
    sqlite="3.54.1",
    sizes=Sizes(10_000_000, 1_000_000, 1_000_000),
    file_system="ext4",
    shared_by=None,
    disk_bytes=10**10,
    wal_readers=["process 7 (python)"],
    owners=[],
    jobs=[],
    failures=[],
    newest_time_us=NOW + 1_000_000,
    file_mode=None,
    folder_mode=None,
)
ALIVE = OwnerState(
    pid=7,
    process="process 7 (python)",
    is_alive=True,
    is_stopped=False,
    is_started=True,
    beat_at_us=NOW - 5_000_000,
    heartbeat_interval_us=5_000_000,
    runs=2,
)
DEAD = ALIVE._replace(is_alive=False, process="process 7", beat_at_us=NOW - HOUR)
WAITS = JobState("old", 3, NOW - 2 * HOUR, NOW - 3 * HOUR)
FAILED = Failures("job", "ValueError", "bad\x1b[2J row", 3, NOW)


def found(**changes: Any) -> list[str]:
    """The kinds and facts of what is found in a condition that is otherwise healthy."""
    return [f"{each.kind}: {each.what}" for each in findings(HEALTHY._replace(**changes), NOW)]


@pytest.mark.parametrize(
    "healthy",
    [
        {},
        {"owners": [ALIVE]},
        {"owners": [ALIVE._replace(is_alive=None)]},
        {"owners": [DEAD._replace(runs=0)]},
        {"owners": [ALIVE._replace(heartbeat_interval_us=600_000_000, beat_at_us=NOW - HOUR)]},
        {"jobs": [WAITS._replace(oldest_claimable_us=NOW - HOUR // 2)]},
        # Its turn comes after the others.
        {"jobs": [WAITS._replace(newest_claim_us=NOW - HOUR)], "owners": [ALIVE]},
        {"newest_time_us": None},
        {"sizes": Sizes(10_000_000, 0, 9_000_000)},
    ],
)
def test_what_is_usual_is_not_found(healthy: dict[str, Any]) -> None:
    """Nor what is rather usual."""
    assert found(**healthy) == []


@pytest.mark.parametrize(
    ("unusual", "kind", "what"),
    [
        (
            {"shared_by": "network", "file_system": "nfs4"},
            "network drive",
            "a network drive (nfs4)",
        ),
        (
            {"shared_by": "host", "file_system": "9p"},
            "network drive",
            "virtual machine shares (9p)",
        ),
        ({"disk_bytes": 100_000_000}, "disk space", "only 100 MB are free"),
        (
            {"sizes": Sizes(10**7, 10**8, 0)},
            "large log",
            "has 100 MB and is read by process 7 (python)",
        ),
        ({"sizes": Sizes(10**7, 10**8, 0), "wal_readers": []}, "large log", "has 100 MB"),
        ({"sizes": Sizes(10**8, 0, 6 * 10**7)}, "free space", "60 MB of 100 MB"),
        ({"lost_files": 2, "lost_bytes": 3_000_000}, "large results", "2 files beside"),
        ({"lost_files": 1, "lost_bytes": 10}, "large results", ", is of no run"),
        ({"owners": [DEAD]}, "dead process", "process 7 has died with 2 running runs"),
        (
            {"owners": [ALIVE._replace(is_stopped=True, runs=1)]},
            "hung process",
            "process 7 (python), which has 1 running run, is stopped",
        ),
        (
            {"owners": [ALIVE._replace(beat_at_us=NOW - 2 * HOUR)]},
            "hung process",
            "no sign of life for 2 hours",
        ),
        ({"owners": [DEAD._replace(is_alive=None)]}, "lock file", "is missing"),
        ({"jobs": [WAITS]}, "nobody executes", "3 runs of job 'old': pending for 2 hours, and no "),
        (
            {"jobs": [WAITS], "owners": [ALIVE]},
            "nobody executes",
            "no process that is alive seems to know the job",
        ),
        (
            {"jobs": [WAITS._replace(newest_claim_us=NOW - HOUR)]},
            "nobody executes",
            "no process is alive",
        ),
        (
            {"failures": [FAILED]},
            "failed runs",
            r"3 runs of job 'job' failed with ValueError: bad\x1b",
        ),
        ({"newest_time_us": NOW + 50 * HOUR}, "clock", "is 2 days in the future"),
        ({"file_mode": 0o644}, "permissions", "the file (0644)"),
        ({"folder_mode": 0o777}, "permissions", "(0777)"),
    ],
)
def test_what_is_unusual(unusual: dict[str, Any], kind: str, what: str) -> None:
    """One finding each, which says what to do."""
    (finding,) = findings(HEALTHY._replace(**unusual), NOW)
    assert finding.kind == kind
    assert what in finding.what
    assert finding.advice


def test_many_kinds_of_failures_are_not_all_listed() -> None:
    """The most frequent ones are, and that there are more."""
    many = [FAILED._replace(type=f"E{n}") for n in range(MOST_FAILURES + 1)]
    assert len(found(failures=many[:-1])) == MOST_FAILURES
    assert found(failures=many)[MOST_FAILURES:] == [
        "failed runs: and there are more kinds of failures"
    ]
