"""Which failures nobody has seen, in a bounded amount of memory."""

from __future__ import annotations

import gc
import os

import pytest

from durably.execution.unseen_failures import (
    MOST_KEPT,
    UnseenFailures,
    awaiting,
    see_attempt,
    unseen_attempt,
)

MORE = 234


@pytest.fixture
def failures() -> UnseenFailures:
    return UnseenFailures(lambda _run_id: False)


def test_of_many_failures_the_newest_are_kept_and_the_others_counted(
    failures: UnseenFailures,
) -> None:
    """However many runs fail unseen, no more than a thousand ids are kept."""
    for n in range(MOST_KEPT + MORE):
        failures.note(str(n), 1)
    attempts, forgotten = failures.unseen()
    assert list(attempts) == [str(n) for n in reversed(range(MORE, MOST_KEPT + MORE))]
    assert forgotten == MORE


def test_the_count_is_forgotten_with_the_last_that_is_kept(failures: UnseenFailures) -> None:
    """Somebody who has seen all the newer ones knows."""
    for n in range(MOST_KEPT + MORE):
        failures.note(str(n), 1)
    for run_id in failures.unseen().attempts:
        assert failures.unseen().forgotten == MORE
        failures.see(run_id, 1)
    assert failures.unseen() == ({}, 0)


def test_an_attempt_is_seen_by_itself(failures: UnseenFailures) -> None:
    """An earlier attempt that was seen says nothing of a later one, which says all of it."""
    failures.note("a", 2)
    failures.see("a", 1)
    assert failures.unseen().attempts == {"a": 2}
    failures.see("a", 3)
    assert failures.unseen().attempts == {}
    failures.see("a", 3)  # nothing is unseen


def test_a_failure_is_the_newest_again_after_a_retry(failures: UnseenFailures) -> None:
    """The retried failure is not the first to be forgotten."""
    for run_id, attempt in (("a", 1), ("b", 1), ("a", 2)):
        failures.note(run_id, attempt)
    assert list(failures.unseen().attempts.items()) == [("a", 2), ("b", 1)]


def test_a_call_of_any_engine_counts(failures: UnseenFailures) -> None:
    """Calls of all engines of the process count, as long as these exist."""
    others = [UnseenFailures(lambda _run_id: False) for _ in range(3)]
    others[1].note("a", 1)
    failures.note("b", 4)
    assert (unseen_attempt("a"), unseen_attempt("b"), unseen_attempt("c")) == (1, 4, 0)
    see_attempt("a", 1)
    assert others[1].unseen().attempts == {}
    others[1].note("a", 1)
    others.clear()
    gc.collect()
    assert unseen_attempt("a") == 0
    assert failures.unseen().attempts == {"b": 4}


def test_a_failure_is_awaited_while_a_call_waits_for_it() -> None:
    """By as_completed, or by a wait that watches for its exception."""
    watched: set[str] = set()
    failures = UnseenFailures(watched.__contains__)
    failures.note("a", 1)
    assert not failures.are_awaited()
    with awaiting({"b": None}):
        assert not failures.are_awaited()
    with awaiting({"a": None}):
        assert failures.are_awaited()
    assert not failures.are_awaited()
    watched.add("a")
    assert failures.are_awaited()


def test_a_forked_child_has_none_of_the_failures_of_its_parent(failures: UnseenFailures) -> None:
    """Its calls do not wait for a lock that a thread of the parent had taken."""
    failures.note("a", 1)
    with failures._lock:
        pid = os.fork()
        if not pid:
            see_attempt("a", 1)
            os._exit(len(failures.unseen().attempts))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert failures.unseen().attempts == {"a": 1}
