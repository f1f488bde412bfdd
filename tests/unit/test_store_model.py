"""The store does what its contract says, in any order of events, and this test would notice."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from storemodel import StoreMachine

from durably.errors import DurablyError
from durably.store import owners, runs, schema, steps

TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# How the two may come to disagree; running out of time is not among it.
NOTICED = (AssertionError, DurablyError)
FENCE = " AND attempt = :attempt"
STATEMENTS = {
    "checkpoint of any attempt": (steps, "STORE", "AND attempt = ?2", ""),
    "checkpoint of a run that is not running": (steps, "STORE", "AND status = 'running'", ""),
    "late step of any attempt": (steps, "STORE_CANCELLED", "AND attempt = ?2", ""),
    "late step over a result": (
        steps,
        "STORE_CANCELLED",
        "durably_steps.status <> 'completed' AND",
        "",
    ),
    "completion by any attempt": (runs, "COMPLETE", FENCE, ""),
    "failure by any attempt": (runs, "FAIL", FENCE, ""),
    "interrupt by any attempt": (runs, "INTERRUPT", FENCE, ""),
    "progress of any attempt": (runs, "SET_PROGRESS", FENCE, ""),
    "release by any owner": (runs, "RELEASE", "owner = :owner AND", ""),
    "release of a running run": (runs, "RELEASE", "AND status IN ('cancelled', 'pending')", ""),
    "claim without a new attempt": (runs, "CLAIM", "attempt = attempt + 1", "attempt = attempt"),
    "claim of the newest": (runs, "CLAIM", "min(first)", "max(first)"),
    "claim of owned runs": (runs, "CLAIM", "AND owner IS NULL", ""),
    "claim of a held key": (runs, "CLAIM", "AND queue_place = 0", ""),
    "claim that moves the start": (runs, "CLAIM", "coalesce(started_at_us, :now_us)", ":now_us"),
    "cancel that forgets the owner": (runs, "CANCEL", "SET status", "SET owner = NULL, status"),
    "cancel of what has ended": (runs, "CANCEL", "'running')", "'running', 'failed')"),
    "retry that forgets the owner": (runs, "RETRY", "SET status", "SET owner = NULL, status"),
    "recovery that leaves cancelled runs": (
        runs,
        "RELEASE_ALL",
        "WHERE owner = :owner",
        "WHERE owner = :owner AND status = 'running'",
    ),
    "purge of what has just ended": (runs, "PURGE", "< :before_us", "<= :before_us"),
    "purge of the newest": (runs, "PURGE", "ORDER BY completed_at_us", "ORDER BY run DESC"),
    "steps dropped with their neighbours'": (
        runs,
        "DELETE_STEPS",
        "((:run + 1) <<",
        "((:run + 2) <<",
    ),
    "heartbeat for all": (owners, "BEAT_RUNS", "owner = :owner AND", ""),
}
SCRIPT = {
    f"no trigger {name}": rf"CREATE TRIGGER {name} .*?\nEND;"
    for name in (
        "durably_queue_join_new",
        "durably_queue_rejoin",
        "durably_queue_leave",
        "durably_queue_key_taken",
        "durably_queue_key_freed",
    )
}


def run_machine() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=600,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mutant", STATEMENTS)
def test_store_with_a_wrong_statement_is_caught(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model test fails if a statement loses one of its conditions."""
    module, name, old, new = STATEMENTS[mutant]
    statement = getattr(module, name)
    assert old in statement
    monkeypatch.setattr(module, name, statement.replace(old, new))
    with pytest.raises(NOTICED):
        run_machine()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", SCRIPT)
def test_store_without_a_trigger_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model test fails if queues are not kept up."""
    script, count = re.subn(SCRIPT[mutant], "", schema.migrations()[0], flags=re.DOTALL)
    assert count == 1
    monkeypatch.setattr(schema, "migrations", lambda: [script])
    with pytest.raises(NOTICED):
        run_machine()
