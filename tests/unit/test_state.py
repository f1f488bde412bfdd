"""The state of an engine: which changes there are, and when runs are claimed."""

from __future__ import annotations

import itertools

import pytest

from durably.worker.state import TRANSITIONS, EngineState, State

PATHS = {
    State.OPEN: [],
    State.STARTED: [State.STARTED],
    State.DRAINING: [State.STARTED, State.DRAINING],
    State.STOPPED: [State.STARTED, State.DRAINING, State.STOPPED],
    State.CLOSED: [State.CLOSED],
}


def engine_in(state: State) -> EngineState:
    engine = EngineState()
    assert all(engine.become(each) for each in PATHS[state])
    return engine


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_the_table_says_which_changes_there_are(before: State, after: State) -> None:
    """A change that is not in the table changes nothing."""
    engine = engine_in(before)
    assert engine.become(after) == (after in TRANSITIONS[before])
    assert engine.now is (after if after in TRANSITIONS[before] else before)


def test_a_closed_engine_stays_closed() -> None:
    """No change leads out of it."""
    assert TRANSITIONS[State.CLOSED] == frozenset()


@pytest.mark.parametrize("state", list(State))
def test_draining_ends_claiming(state: State) -> None:
    """It ends in every state, both for the engine itself and for a call."""
    engine = engine_in(state)
    engine.claims_for_calls = True
    assert engine.takes_runs
    engine.drain()
    engine.drain()
    assert not engine.takes_runs
    assert engine.now is (State.DRAINING if state is State.STARTED else state)
