"""The store does what its contract says, in any order of events, and this test would notice.

The mutants are listed in ``mutants.py``, with the command that runs all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from mutants import STORE, Statement
from storemodel import StoreMachine

from durably.errors import DurablyError
from durably.store.sqlite.database import Database
from durably.store.sqlite.sql import schema

TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# How the two may come to disagree; running out of time is not among it.
NOTICED = (AssertionError, DurablyError)


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
@pytest.mark.timeout(600)  # hundreds of histories of the store
@pytest.mark.mutant
@pytest.mark.parametrize("mutant", STORE)
def test_mutant_of_the_store_is_caught(
    mutant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The model test fails if a statement or the schema has lost what a promise hangs on."""
    scripts = schema.migrations()
    for change in STORE[mutant]:
        if isinstance(change, Statement):
            statement = getattr(change.module, change.name)
            assert change.old in statement
            mutated = statement.replace(change.old, change.new)
            monkeypatch.setattr(change.module, change.name, mutated)
        else:
            scripts = change.applied(scripts)
    made = schema.schemas(tuple(scripts))[-1]
    monkeypatch.setattr(schema, "migrations", lambda: scripts)
    monkeypatch.setattr(schema, "newest", lambda: made)
    # What is noticed is the promise that is gone, not a database that cannot be opened.
    Database(tmp_path / "mutant.db").close()
    with pytest.raises(NOTICED):
        run_machine()
