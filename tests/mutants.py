"""Durably with one promise taken out of it, many times: the tests of the tests.

Each mutant must be caught. Those of the store are executed by the model of ``storemodel.py``; the
others are copies of the package with a piece of source replaced, under the tests that are named
beside them. All of them::

    python -m pytest -m mutant
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Final, NamedTuple

from durably.store.sqlite.sql import (
    attempts,
    claims,
    items,
    owners,
    requeue,
    runs,
    settle,
    steps,
    waits,
)
from durably.store.sqlite.sql import begin as beginning
from durably.store.sqlite.sql import enqueue as enqueueing


class Statement(NamedTuple):
    """A statement of the store that has lost one of its conditions."""

    module: ModuleType
    name: str
    old: str
    new: str


class Source(NamedTuple):
    """A piece of source that is replaced, once, in a copy of the package."""

    file: str
    old: str
    new: str


class Schema(NamedTuple):
    """A schema that has lost what the pattern fits.

    What an index or a trigger is says the last migration that makes it, which drops the one before.
    Each has the text of a table.
    """

    pattern: str
    new: str = ""
    is_of_table: bool = False

    def applied(self, scripts: list[str]) -> list[str]:
        """Return the migrations without it."""
        made_in = re.compile(self.pattern, re.DOTALL)
        places = [n for n, script in enumerate(scripts) if made_in.search(script)]
        changed = [*scripts]
        for place in places if self.is_of_table else places[-1:]:
            changed[place], count = made_in.subn(self.new, scripts[place])
            assert count == 1
        assert changed != scripts
        return changed


def no_trigger(name: str) -> Schema:
    return Schema(rf"CREATE TRIGGER {name}\s.*?\nEND;")


def no_index(name: str) -> Schema:
    return Schema(rf"CREATE (UNIQUE )?INDEX {name}\s.*?;")


STORE: Final[dict[str, list[Statement | Schema]]] = {
    "checkpoint of any claim": [Statement(steps, "STORE_NEW", "AND fence = ?2", "")],
    "checkpoint of a run that is not running": [
        Statement(steps, "STORE_NEW", "AND status = 'running'", "")
    ],
    "result replaced by any claim": [Statement(steps, "STORE_LAYERED", "AND fence = ?2", "")],
    "result replaced in a run that is not running": [
        Statement(steps, "STORE_LAYERED", "AND status = 'running'", ""),
        Schema(r"status = 'running'\n +AND fence = NEW\.fence AND", "fence = NEW.fence AND"),
    ],
    "result replaced by one of no later layer": [
        Schema(r"\n +OR coalesce\(NEW\.layer, 0\) <= coalesce\(OLD\.layer, OLD\.fence << 24, 0\)")
    ],
    "result of an item replaced by one of no later layer": [
        Schema(r"\n +OR coalesce\(NEW\.layer, 0\) <= coalesce\(OLD\.layer, 0\)")
    ],
    "result of an item replaced by a failure": [
        Schema(r"NEW\.output IS NULL OR OLD\.is_manual = 1", "OLD.is_manual = 1")
    ],
    "death after a result was replaced that counts with those before": [
        Statement(requeue, "CHECKPOINTS", " + (coalesce(max(layer), 0) >> 24)", "")
    ],
    "late step of any claim": [Statement(steps, "STORE_CANCELLED", "AND fence = ?2", "")],
    "late step over a result": [
        Statement(steps, "STORE_CANCELLED", "durably_steps.status <> 'completed' AND", "")
    ],
    "completion by any claim": [Statement(settle, "COMPLETE", " AND fence = :fence", "")],
    "failure by any claim": [Statement(settle, "FAIL", " AND fence = :fence", "")],
    "interrupt by any claim": [Statement(settle, "INTERRUPT", " AND fence = :fence", "")],
    "progress of any claim": [Statement(runs, "SET_PROGRESS", " AND fence = :fence", "")],
    "items of any claim": [
        Statement(items, "SAVE_COUNTS", "AND r.fence = :fence", ""),
        Statement(items, "ADD", "AND fence = :fence", ""),
    ],
    "end of a map by any claim": [
        Statement(items, "END", "AND r.fence = :fence", ""),
        Statement(items, "ADD", "AND fence = :fence", ""),
    ],
    "items of a run that is not running": [
        Statement(items, "SAVE_COUNTS", "AND r.status = 'running'", "")
    ],
    "another result for an item": [
        no_trigger("durably_completed_item_is_final"),
    ],
    "items that stay without their map": [no_trigger("durably_items_of_map")],
    "release by any claim": [Statement(settle, "RELEASE", "AND fence = :fence", "")],
    "release of a running run": [
        Statement(settle, "RELEASE", "AND status IN ('cancelled', 'failed', 'pending')", "")
    ],
    "try of any claim": [Statement(settle, "TRY_AGAIN", " AND fence = :fence", "")],
    "try that counts no failure": [
        Statement(settle, "TRY_AGAIN", "failures + :is_failure", "failures")
    ],
    "try that does not wait": [Statement(settle, "TRY_AGAIN", "= :run_at_us", "= NULL")],
    "call that was asked for and counts as an attempt": [
        Statement(settle, "TRY_AGAIN", "keeps_attempt = NOT :is_failure", "keeps_attempt = 0")
    ],
    "overdue run that gives up its key inside a step": [
        Statement(settle, "FAIL", "CASE WHEN :is_inside THEN owner END", "NULL")
    ],
    "overdue run that is tried again inside a step": [
        Statement(settle, "TRY_AGAIN", "CASE WHEN :is_inside THEN owner END", "NULL")
    ],
    "failure of a try that is forgotten": [
        Statement(attempts, "SET_END", "outcome = :outcome, error = :error", "run = run")
    ],
    "deaths that a checkpoint does not forget": [
        Statement(requeue, "RECOVER", "THEN 0 ELSE deaths END", "THEN deaths ELSE deaths END")
    ],
    "deaths of which the last alone counts": [
        Statement(requeue, "RECOVER", "THEN 0 ELSE deaths END", "THEN 0 ELSE 0 END")
    ],
    "deaths of sessions": [Statement(requeue, "RECOVER", "(:counts AND kind = 'job')", ":counts")],
    "deaths that a retry does not forget": [
        Statement(runs, "RETRY", "deaths = 0", "deaths = deaths")
    ],
    "claim without a new attempt": [
        Statement(claims, "CLAIM", "attempt = attempt + 1 -", "attempt = attempt -")
    ],
    "claim of the newest": [Statement(claims, "CLAIM", "min(coalesce", "max(coalesce")],
    "claim of owned runs": [Statement(claims, "CLAIM", "AND owner IS NULL", "")],
    "claim of a held key": [Statement(claims, "CLAIM", "AND queue_place = 0", "")],
    "executions that are forgotten": [no_trigger("durably_attempt_ends")],
    "an execution that ends at another time": [
        Schema(r"coalesce\(OLD\.completed_at_us, NEW\.updated_at_us\)", "NEW.updated_at_us")
    ],
    "an execution without its start": [Statement(claims, "CLAIM", "claimed_at_us = :now_us, ", "")],
    "a death that is taken for an interruption": [
        Statement(attempts, "SET_OUTCOME", "AND fence = ", "AND fence <> ")
    ],
    "claim that moves the start": [
        Statement(claims, "CLAIM", "coalesce(started_at_us, :now_us)", ":now_us")
    ],
    "claim of what other code has begun": [Statement(claims, "CLAIM", "AND origin IS NULL", "")],
    "claim of any origin for all": [
        Statement(claims, "CLAIM", "AND origin = origins.value", "AND origin IS NOT NULL")
    ],
    "claim that keeps the first origin": [
        Statement(claims, "CLAIM", "origin = coalesce(", "origin = coalesce(origin, ")
    ],
    "beginning of a run that a thread of this engine is inside of": [
        Statement(claims, "CLAIM_ONE", "WHERE value = :run", "WHERE 0")
    ],
    "beginning of the oldest": [Statement(beginning, "NEWEST_OF_PAYLOAD", "run DESC", "run")],
    "beginning of what has a key": [
        Statement(beginning, "NEWEST_OF_PAYLOAD", "AND idempotency_key IS NULL", "")
    ],
    "beginning of another payload": [
        Statement(beginning, "NEWEST_OF_PAYLOAD", ":payload", "payload")
    ],
    "beginning beside a run of its key": [
        Statement(beginning, "HOLDER", "AND owner IS NOT NULL", "AND 0")
    ],
    "session in line for workers": [
        Schema(r"CHECK \(\(kind = ''job''\) = \(queue_place <> 3\)\)", "CHECK (1)"),
        Statement(enqueueing, "ENQUEUE_SESSION", "'session', 3,", "'session', 0,"),
    ],
    "recovery of a session into a line": [
        Schema(r"CHECK \(\(kind = ''job''\) = \(queue_place <> 3\)\)", "CHECK (1)"),
        Statement(requeue, "RECOVER", "ELSE 3 END", "ELSE 0 END"),
    ],
    "beginning of the oldest session": [Statement(beginning, "NEWEST_SESSION", "run DESC", "run")],
    "beginning of a session that has a key": [
        Statement(beginning, "NEWEST_SESSION", "AND idempotency_key IS NULL", "")
    ],
    "interrupt that keeps an origin without checkpoints": [
        Statement(settle, "INTERRUPT", "THEN origin END", "THEN origin ELSE origin END")
    ],
    "trigger that coalesces into what other code has begun": [
        Statement(enqueueing, "PENDING_OF_KEY", "WHERE key = :job_name", "WHERE 1 OR")
    ],
    "adoption by all": [Statement(runs, "ADOPT", "THEN :origin END", "THEN NULL END")],
    "cancel that forgets the owner": [
        Statement(runs, "CANCEL", "SET status", "SET owner = NULL, status")
    ],
    "cancel of what has ended": [Statement(runs, "CANCEL", "'waiting')", "'waiting', 'failed')")],
    "retry that forgets the owner": [
        Statement(runs, "RETRY", "SET status", "SET owner = NULL, status")
    ],
    "recovery that leaves cancelled runs": [
        Statement(
            requeue,
            "RELEASE_ALL",
            "WHERE owner = :owner",
            "WHERE owner = :owner AND status = 'running'",
        )
    ],
    "purge of what has just ended": [
        Statement(runs, "OLDEST_ENDED", "< :before_us", "<= :before_us")
    ],
    "purge of the newest": [
        Statement(runs, "OLDEST_ENDED", "ORDER BY completed_at_us", "ORDER BY run DESC")
    ],
    "steps dropped with their neighbours'": [
        Statement(settle, "DELETE_STEPS", "((:run + 1) <<", "((:run + 2) <<")
    ],
    "suspension by any claim": [Statement(settle, "SUSPEND", " AND fence = :fence", "")],
    "suspension that forgets the attempt": [
        Statement(claims, "CLAIM", "attempt + 1 - keeps_attempt", "attempt + 1"),
        Schema(r" - OLD\.keeps_attempt"),
    ],
    "wake of what is not due": [Statement(requeue, "DUE", "run_at_us <= :now_us", "run_at_us > 0")],
    "wake of what is executed": [
        no_trigger("durably_claim_raises_fence"),
        Statement(requeue, "WAKE", "AND (status = 'waiting' OR", "AND (1 OR"),
    ],
    "claim of what is not due": [
        Statement(claims, "CLAIM", "AND run_at_us IS NULL", ""),
        Schema(r"OR OLD\.run_at_us IS NOT NULL OR OLD\.owner", "OR OLD.owner"),
    ],
    "cancellation that leaves what was waited for": [
        Statement(runs, "CANCEL", ", waits_for_run = NULL", "")
    ],
    "check of a poll by a lost execution": [
        Statement(waits, "NOTE_CHECK", " AND fence = :fence AND status = 'running'", "")
    ],
    "retry that keeps the failures": [Statement(runs, "RETRY", "failures = 0, ", "")],
    "heartbeat for all": [Statement(owners, "BEAT_RUNS", "owner = :owner AND", "")],
    # What the schema forbids as well, with both taken out.
    "two results for a step": [Schema(r"    UNIQUE \(run, name\),\n", is_of_table=True)],
    "another result for a step": [
        no_trigger("durably_completed_step_is_final"),
        Statement(steps, "STORE", "durably_steps.status <> 'completed' AND", ""),
    ],
    "claim of a held key that nothing forbids": [
        no_index("durably_runs_key_holder"),
        Statement(claims, "CLAIM", "AND queue_place = 0", ""),
    ],
    "claim without a new attempt that nothing forbids": [
        no_trigger("durably_claim_raises_fence"),
        Statement(claims, "CLAIM", "attempt = attempt + 1", "attempt = max(attempt, 1)"),
    ],
    "claim without a new fence that nothing forbids": [
        no_trigger("durably_claim_raises_fence"),
        Statement(claims, "CLAIM", "max(fence, attempt) + 1", "max(fence, attempt)"),
    ],
    "idempotency key that is not looked for": [
        no_index("durably_runs_idempotency"),
        Statement(enqueueing, "BY_IDEMPOTENCY_KEY", "WHERE", "WHERE 0 AND"),
    ],
    "retry of what has completed": [
        no_trigger("durably_end_is_final"),
        Statement(runs, "RETRY", "IN ('failed', 'cancelled')", "NOT IN ('pending', 'running')"),
    ],
    "deletion of what is being executed": [
        no_trigger("durably_delete_only_ended"),
        Statement(runs, "OLDEST_ENDED", "AND owner IS NULL", ""),
    ],
    "no label rows": [no_trigger("durably_labels_of_run")],
    "queue that nobody joins": [no_trigger("durably_queue_join_new")],
    "queue that nobody joins again": [no_trigger("durably_queue_rejoin")],
    "queue whose first one leaves no place": [no_trigger("durably_queue_leave")],
    "queue that does not see its key taken": [no_trigger("durably_queue_key_taken")],
    "end that wakes nobody": [no_trigger("durably_end_wakes")],
    "answer that wakes nobody": [no_trigger("durably_answer_comes")],
    "answer of no question that wakes nobody": [
        Statement(waits, "WAKE", "wait_name = :name", "wait_name <> :name")
    ],
    "wait for what has ended": [no_trigger("durably_waits_for_no_end")],
    "queue that does not see its key freed": [no_trigger("durably_queue_key_freed")],
}


class Mutant(NamedTuple):
    """A copy of the package with a fault in it, and the test that must fail for it."""

    caught_by: str
    changes: list[Source]


FENCE: Final = "FROM durably_runs WHERE run = ?1 AND fence = ?2{condition}"
UNFENCED: Final = Source("store/sqlite/sql/steps.py", FENCE, "FROM durably_runs WHERE run = ?1")

PACKAGE: Final[dict[str, Mutant]] = {
    "no fence": Mutant(
        "crash/test_fencing.py::test_write_is_rejected_that_was_about_to_be_made", [UNFENCED]
    ),
    "fence outside the transaction": Mutant(
        "crash/test_fencing.py::test_write_is_rejected_that_was_about_to_be_made",
        [
            UNFENCED,
            Source(
                "execution/step_runner.py",
                "            is_stored = recorder.save(*row)\n",
                "            is_stored = (\n"
                "                recorder._state() == ('running', run.fence)\n"
                "                and recorder.save(*row))\n",
            ),
        ],
    ),
    # Each is stored when the next one begins, the last one with the end of the run: without
    # a kill nobody can tell.
    "checkpoint after return": Mutant(
        "crash/test_restart.py::test_script_that_died_goes_on_at_once",
        [
            Source(
                "execution/step_runner.py",
                "            is_stored = recorder.save(*row)\n",
                "            is_stored = self.store_late(*row)\n",
            ),
            Source(
                "execution/step_runner.py",
                "    def _call(\n",
                "    late = None\n"
                "    def store_late(self, *late):\n"
                "        late, self.late = self.late, late\n"
                "        return late is None or self._services.checkpoints.save(*late)\n"
                "\n"
                "    def _call(\n",
            ),
            Source(
                "execution/run_execution.py",
                "            returned = let_through(job.run, context, *arguments)\n",
                "            returned = let_through(job.run, context, *arguments)\n"
                "            context._step_runner.store_late()\n",
            ),
        ],
    ),
    "loop in one line that takes any lambda for the same": Mutant(
        "integration/test_map_in_one_line.py::test_what_has_no_name_of_its_own_needs_one",
        [Source("entry/oneline.py", ' and not name.endswith("<lambda>")', "")],
    ),
    "rate limit that each worker says": Mutant(
        "integration/test_map_log.py::test_a_rate_limit_is_said_once",
        [Source("execution/loops/map_log.py", "max(1.0, wait_s / 10)", "0.0")],
    ),
    "map that executes what is stored": Mutant(
        "integration/test_maps.py::test_only_what_failed_is_executed_again[1]",
        [
            Source(
                "execution/loops/source.py",
                "if row is not None and has_result and not is_stale:",
                "if False:",
            )
        ],
    ),
    "item that is told of before it is stored": Mutant(
        "integration/test_maps.py::test_an_item_is_stored_before_its_event[4]",
        [
            Source(
                "execution/loops/committer.py",
                "            self.is_lost = not self._save(batch)\n",
                "            self._on_committed(batch)\n"
                "            self.is_lost = not self._save(batch)\n",
            ),
            Source(
                "execution/loops/committer.py",
                "self._on_committed(batch if is_stored else None)",
                "self._on_committed(None)",
            ),
        ],
    ),
    "map without a bound of what is not stored": Mutant(
        "integration/test_maps_interrupted.py"
        "::test_items_wait_for_a_database_that_cannot_be_written[1]",
        [Source("execution/loops/committer.py", "self._items < self._most and ", "")],
    ),
    "map that goes on after too many failures": Mutant(
        "integration/test_maps.py::test_too_many_failures_end_the_map[0-1-1-1]",
        [Source("execution/loops/failures.py", "return failed > most\n", "return False\n")],
    ),
    "map that stores keys twice": Mutant(
        "integration/test_maps.py::test_a_second_use_of_a_key_ends_a_lazy_map",
        [
            Source(
                "execution/loops/stored_items.py",
                "            raise same_key(self._what, key, first, position)\n",
                "            return\n",
            )
        ],
    ),
    "interrupted map that forgets what has ended": Mutant(
        "integration/test_maps_interrupted.py::test_threads_end_their_items_after_a_ctrl_c",
        [Source("execution/loops/loop.py", "record.save(left)\n", "pass\n")],
    ),
    "map whose workers wait for the disk": Mutant(
        "integration/test_maps_on_a_slow_disk.py::test_no_worker_waits_for_the_disk",
        [
            Source(
                "execution/loops/workers.py",
                "                    self._committer.add(task)\n                    if",
                "                    self._committer.add(task)\n"
                "                    self._committer.await_all()\n                    if",
            )
        ],
    ),
    "worker that ignores the death of its parent": Mutant(
        "unit/test_parent.py::test_a_worker_ends_when_it_gets_another_parent",
        [
            Source(
                "_platform/parent.py",
                "    os._exit(1)\n\n\ndef _pidfd_of",
                "    return\n\n\ndef _pidfd_of",
            )
        ],
    ),
    "dead worker whose chunk counts as done": Mutant(
        "integration/test_maps_elsewhere.py::test_the_chunk_of_a_dead_worker_is_executed_again",
        [
            Source(
                "execution/loops/processes.py",
                "            self._items_out -= doubtful\n"
                "            self._alone += entries[:doubtful]\n",
                "            self._items_out -= doubtful\n"
                "            for task, _ in entries[:doubtful]:\n"
                "                self._kit.runner.returned(task, None, 0)\n"
                "                self._kit.committer.add(task)\n",
            )
        ],
    ),
    "broken executor whose items count as failed": Mutant(
        "integration/test_maps_elsewhere.py::test_an_executor_that_breaks_ends_the_map[spawn]",
        [
            Source(
                "execution/loops/executors.py",
                "        self._requeue(self._lost)\n        self._lost = []\n        self.fail",
                "        for task, _ in self._lost:\n"
                "            self.take_failure(task, error, 0.0)\n"
                "        self._lost = []\n        self.fail",
            )
        ],
    ),
    "chunk whose items have one outcome": Mutant(
        "integration/test_maps_elsewhere.py::test_each_item_of_a_chunk_is_a_checkpoint[7]",
        [
            Source(
                "execution/loops/outside.py",
                "if self._has_ended(task, outcome):",
                "if self._has_ended(task, list(outcomes)[-1]):",
            )
        ],
    ),
    "result that leaves its worker without a proof that it can travel": Mutant(
        "unit/test_in_child.py::test_what_has_become_of_each_item_is_data",
        [
            Source(
                "execution/loops/in_child.py",
                "        return UNSENDABLE, pack_exception(exc)\n",
                "        raise\n",
            )
        ],
    ),
    "forked child of an item that passes for its worker": Mutant(
        "integration/test_maps_elsewhere.py::test_items_may_use_processes_of_their_own[process]",
        [
            Source(
                "execution/loops/in_child.py",
                "            _end_forked_child()\n",
                "            pass\n",
            )
        ],
    ),
    "result that is not known to have travelled": Mutant(
        "integration/test_maps_elsewhere.py"
        "::test_a_result_that_cannot_travel_fails_its_item_alone[process]",
        [
            Source(
                "execution/loops/outside.py",
                "                return runner.raised(task, _unsent(task, exc), began_us)\n",
                "                raise exc\n",
            )
        ],
    ),
    "run here that takes a dead process for a live one": Mutant(
        "integration/test_run_here_interrupted.py"
        "::test_a_predecessor_that_was_killed_is_continued[skip]",
        [
            Source(
                "client/run_here.py",
                "                self._worker.recover(self._is_shown_run)\n"
                "                done, current",
                "                done, current",
            )
        ],
    ),
    "run here in the context of its engine": Mutant(
        "integration/test_run_here.py::test_the_job_reads_the_context_of_the_caller",
        [
            Source(
                "worker/executor.py",
                "        call_in_copy(lambda: self._execute_here(run, lambda: None, job))",
                "        self._contexts.call(lambda: self._execute_here(run, lambda: None, job))",
            )
        ],
    ),
    "run here whose end may be lost": Mutant(
        "integration/test_run_here.py::test_an_end_that_cannot_be_stored_is_raised",
        [
            Source(
                "worker/executor.py",
                "                settled.require_stored()",
                "                pass",
            )
        ],
    ),
    "session that Ctrl-C fails": Mutant(
        "integration/test_sessions.py",
        [Source("entry/sessions.py", "isinstance(exc, Exception) and self", "self")],
    ),
    "cell whose names are used once for ever": Mutant(
        "integration/test_sessions_in_notebooks.py",
        [Source("execution/session_run.py", "and before.execution != now.execution", "and False")],
    ),
    "cell that uses a name twice": Mutant(
        "integration/test_sessions_in_notebooks.py",
        [Source("execution/session_run.py", "and before.execution != now.execution", "")],
    ),
    "frames of durably in what leaves it": Mutant(
        "integration/test_unhandled_errors.py::"
        "test_an_error_leaves_a_call_without_frames_of_durably",
        [
            Source(
                "_platform/signals.py",
                "is_from_signal(exc):\n        remove_own_frames(exc)\n",
                "is_from_signal(exc):\n        pass\n",
            )
        ],
    ),
    "frames of durably kept where it has raised on purpose": Mutant(
        "integration/test_failures_shown.py::"
        "test_a_recorded_traceback_shows_the_frames_of_the_user_alone",
        [Source("_platform/tracebacks.py", "not _is_on_purpose(linked.exc):", "True:")],
    ),
    "exceptions of runs kept by their steps": Mutant(
        "integration/test_live_failures.py::"
        "test_a_step_context_that_outlives_its_run_keeps_no_exception",
        [Source("worker/executor.py", "            run.let_go()\n", "")],
    ),
    "steps that are not replayed": Mutant(
        "integration/test_replay.py",
        [
            Source(
                "execution/step_runner.py",
                "checkpoint = self._checkpoints.take_result(name)",
                "checkpoint = None",
            ),
            Source(
                "execution/step_runner.py",
                "self._recorder.read(self._checkpoints.find, name)",
                "None, False",
            ),
        ],
    ),
    "steps after one that was executed again": Mutant(
        "integration/test_redone_changes.py::test_a_new_step_and_one_that_failed_before",
        [
            Source(
                "execution/layers.py",
                "if has_other_inputs or layer < self._chain().newest:",
                "if has_other_inputs:",
            )
        ],
    ),
    "order of results that is forgotten with the process": Mutant(
        "crash/test_killed_in_a_redo.py",
        [
            Source(
                "store/sqlite/sql/steps.py",
                "coalesce(layer, fence << 24, 0), inputs, is_manual",
                "1 << 24, inputs, is_manual",
            )
        ],
    ),
    "result that is replaced before there is another one": Mutant(
        "integration/test_redone_changes.py::test_a_step_that_fails_when_it_is_executed_again",
        [
            Source(
                "execution/step_recorder.py",
                "if self.layers is not None and self.layers.replaces(name):",
                "if False:",
            )
        ],
    ),
    "second use that a resume does not see": Mutant(
        "integration/test_steps.py::test_a_name_used_twice_raises_on_a_resume_too",
        [
            Source(
                "execution/checkpoints.py",
                "self._used[checkpoint[0]] = _REPLAYED",
                "self._used[0] = _NOT",
            )
        ],
    ),
    "claim that a stop does not end": Mutant(
        "integration/test_concurrent_stops.py::test_a_claim_that_a_stop_overtakes_takes_nothing",
        [Source("store/sqlite/sql/claims.py", " and wanted.is_wanted():", ":")],
    ),
    "claim of a run that a thread of the same engine is inside of": Mutant(
        "integration/test_recovered_runs.py::"
        "test_an_engine_does_not_claim_what_its_own_thread_is_inside_of",
        [Source("worker/claimer.py", "            inside=self._runs.keys,\n", "")],
    ),
    "stop that a job keeps to itself": Mutant(
        "integration/test_ignored_stops.py::test_a_job_that_keeps_a_stop_to_itself_has_not_ended",
        [
            Source(
                "execution/current_run.py",
                "its end.\n            self.stop_was_raised = True",
                "its end.\n            pass",
            )
        ],
    ),
    "failure that waits for no stop": Mutant(
        "integration/test_ended_tools.py::test_what_a_signal_fails_waits_for_the_stop",
        [Source("execution/current_run.py", "clock.wait(self.stopped, STOP_GRACE_S)", "pass")],
    ),
    "step of an owner that was stopped for long": Mutant(
        "integration/test_recovered_runs.py::"
        "test_an_owner_that_was_stopped_for_long_checks_before_it_executes_a_step",
        [
            Source(
                "execution/step_runner.py",
                "if started - run.current_at > services",
                "if 0 > services",
            ),
        ],
    ),
    "context that all runs share": Mutant(
        "integration/test_contexts.py::test_what_one_run_sets_is_not_seen_by_the_next",
        [Source("worker/contexts.py", "self._made_in.copy().run", "self._made_in.run")],
    ),
    "commit that failed passed for one": Mutant(
        "unit/test_writer.py::test_commit_that_fails_fails_every_operation_in_it",
        [
            Source(
                "store/sqlite/connection/batch_executor.py",
                "            request.error = error\n",
                "",
            )
        ],
    ),
    "handlers of signals called at once": Mutant(
        "integration/test_signal_handlers.py::test_engine_can_be_used_on_after_two",
        [
            Source(
                "_platform/signals.py",
                "    if _main.is_deferring:\n        now_s",
                "    if False:\n        now_s",
            )
        ],
    ),
    "interrupted commit passed for one": Mutant(
        "unit/test_writer_interrupted.py",
        [
            Source(
                "store/sqlite/connection/batch_executor.py",
                "is_committed = self._phase is _Phase.COMMITTING and not db.in_transaction",
                "is_committed = True",
            )
        ],
    ),
    "live owner taken for dead": Mutant(
        "crash/test_dead_owner.py::test_live_process_is_left_alone",
        [Source("worker/reaper.py", "state is Liveness.DEAD:", "state is not Liveness.UNKNOWN:")],
    ),
    "dead owner taken for a live one": Mutant(
        "unit/test_reaper.py::test_runs_of_a_dead_owner_are_recovered_at_once",
        [Source("worker/reaper.py", "state is Liveness.DEAD:", "state is None:")],
    ),
    "owner without a lock file taken for dead": Mutant(
        "crash/test_dead_owner.py::test_missing_lock_file_is_not_death",
        [
            Source(
                "store/sqlite/locks/owner_lock.py",
                "            return Liveness.UNKNOWN\n        try:",
                "            return Liveness.DEAD\n        try:",
            )
        ],
    ),
    "calls in quick succession that make another engine hang": Mutant(
        "unit/test_heartbeat.py::test_beats_within_an_interval_count_once",
        [
            Source(
                "worker/heartbeat.py",
                "elif beats_at - self._counted_at >= self._beat_interval_s:",
                "else:",
            )
        ],
    ),
    "clock that decides who hangs": Mutant(
        "unit/test_reaper.py::test_no_clock_makes_an_owner_hung",
        [
            Source(
                "worker/reaper.py",
                "committed = self._committed_beats()",
                "committed = int(self._clock.monotonic() / self._heartbeat_interval_s)",
            )
        ],
    ),
    "lock of an owner that any code of its process drops": Mutant(
        "unit/test_owner_lock.py::test_foreign_open_and_close_does_not_free_the_lock",
        [Source("store/sqlite/locks/owner_lock.py", "fcntl.flock(fd, (", "fcntl.lockf(fd, (")],
    ),
    "lock of an owner that its forked child keeps": Mutant(
        "unit/test_owner_lock.py::test_forked_child_does_not_keep_a_dead_owner_alive",
        [
            Source(
                "store/sqlite/locks/owner_lock.py",
                'as the child is."""\n        self.release()',
                'as the child is."""',
            )
        ],
    ),
    "no guard against a foreign close": Mutant(
        "crash/test_guard_torture.py::test_foreign_close_does_not_delete_the_log",
        [
            Source(
                "store/sqlite/locks/guard.py",
                'if sys.platform == "linux":\n        kind',
                "if False:\n        kind",
            )
        ],
    ),
    "lost file that nobody looks for": Mutant(
        "crash/test_file_lost.py::test_every_call_of_an_engine_that_was_not_started_checks",
        [
            Source(
                "store/sqlite/connection/file_checks.py",
                "if not is_there and is_gone(self._path, self.identity):",
                "if False:",
            )
        ],
    ),
    "overwritten file that nobody looks for": Mutant(
        "crash/test_file_overwritten.py::test_next_call_of_an_engine_that_was_not_started_notices",
        [
            Source(
                "store/sqlite/connection/file_checks.py",
                "is_overwritten = self._content.is_overwritten(self._path)",
                "is_overwritten = False",
            )
        ],
    ),
    "checkpoint taken for a file that was overwritten": Mutant(
        "crash/test_file_overwritten.py::test_nothing_that_sqlite_does_counts_as_overwriting",
        [
            Source(
                "store/sqlite/connection/content.py",
                "before and before == seen.checkpoints",
                "before",
            )
        ],
    ),
    "clock that is believed whatever it says": Mutant(
        "unit/test_reaper.py::test_clock_far_ahead_when_the_engine_is_opened_deletes_nothing",
        [Source("worker/retention.py", "now_us - newest_us <= TOLERANCE_US", "True")],
    ),
    "call that waits longer than its own time": Mutant(
        "unit/test_waiting_for_locks.py::test_limit_of_the_call_bounds_it",
        [
            Source(
                "_platform/lock_timeouts.py",
                "ends_s = _of_thread.ends_s",
                "ends_s = now_s + timeout_s",
            )
        ],
    ),
    "schema that nobody looks at": Mutant(
        "integration/test_changed_schema.py::test_a_planted_trigger_never_runs",
        [
            Source(
                "store/sqlite/sql/schema.py",
                "    if found:\n        named",
                "    if False:\n        named",
            )
        ],
    ),
    "files that everybody may read": Mutant(
        "integration/test_private_files.py",
        [
            Source(
                "store/sqlite/connection/files.py",
                "_PRIVATE: Final = 0o600",
                "_PRIVATE: Final = 0o644",
            )
        ],
    ),
    "errors that show what they refuse": Mutant(
        "integration/test_secrets.py",
        [
            Source(
                "_platform/safe_repr.py",
                "return full_name(cls) if is_alike else cls.__name__",
                "return short_repr(value)",
            )
        ],
    ),
    "engines that are opened at the same time": Mutant(
        "integration/test_open_engines.py::TestManyAtOnce",
        [
            Source(
                "worker/open_engines.py",
                "            self._replace(others)",
                "            pass",
            )
        ],
    ),
    "file that is made though it may not be": Mutant(
        "integration/test_engine_opening.py::TestCreate",
        [
            Source(
                "store/sqlite/connection/files.py",
                "create_private(path) if create else None",
                "create_private(path)",
            )
        ],
    ),
    "job that was defined again, by its handle": Mutant(
        "integration/test_notebooks.py::test_a_job_cell_run_again_is_what_a_handle_triggers",
        [Source("jobs/registry.py", "job = _as_defined_now(registered)", "job = registered")],
    ),
    "class that was defined again, for its base": Mutant(
        "unit/test_codec_redefined.py",
        [Source("codec/unions.py", "type_ is cls or is_redefined(cls, type_)", "type_ is cls")],
    ),
    "file that is mounted alone": Mutant(
        "unit/test_filesystem.py::test_file_that_is_mounted_alone",
        [Source("store/sqlite/connection/filesystem.py", "if path in points:", "if False:")],
    ),
    "disk that cannot be read, called damage": Mutant(
        "unit/test_disk_errors.py",
        [
            Source(
                "store/sqlite/connection/sqlite_errors.py",
                "if number and isinstance(exc, apsw.CorruptError):",
                "if False:",
            )
        ],
    ),
    "what others put beside a new database": Mutant(
        "integration/test_other_users.py::TestNotFiles",
        [
            Source(
                "store/sqlite/connection/place.py",
                "    refuse_strangers(path, reads_only=reads_only)\n",
                "",
            )
        ],
    ),
    "log of an earlier database": Mutant(
        "integration/test_other_users.py::TestOwnLeftovers",
        [
            Source(
                "store/sqlite/database.py", "if is_alone and not size_of(self.path):", "if False:"
            )
        ],
    ),
    "numbers read in the context of the thread": Mutant(
        "unit/test_codec_contexts.py",
        [
            Source(
                "codec/json_text.py",
                "Decimal(text, Context(traps=[InvalidOperation]))",
                "Decimal(text)",
            )
        ],
    ),
    "json as the program has patched it": Mutant(
        "unit/test_codec_contexts.py",
        [
            Source(
                "codec/json_text.py",
                '"".join(_chunks(data, 0))\n    except',
                "json.dumps(data)\n    except",
            )
        ],
    ),
    "zones kept as offsets": Mutant(
        "unit/test_codec_zones.py",
        [Source("codec/scalars.py", 'text += f"[{_zone_key(value)}]"', "pass")],
    ),
    "instant that a zone's new rules move": Mutant(
        "unit/test_codec_zones.py::test_texts_that_are_accepted",
        [
            Source(
                "codec/scalars.py",
                "return local if is_same else value.astimezone(zone)",
                "return local",
            )
        ],
    ),
    "payload that loses what has no form": Mutant(
        "unit/test_codec_unfaithful.py",
        [
            Source(
                "codec/plain.py",
                "        if exact or type(data.problem) is NotStorable:",
                "        if exact:",
            )
        ],
    ),
    "type that cannot be stored, said after the work": Mutant(
        "integration/test_step_types.py",
        [
            Source(
                "execution/step_runner.py",
                "                if type_ is not UNTYPED:",
                "                if False:",
            )
        ],
    ),
    "annotation that is not resolved, taken for none": Mutant(
        "integration/test_step_types.py",
        [
            Source(
                "codec/annotations.py",
                'return Unresolved(_unresolved(target, "return", annotation, error))',
                "return UNTYPED",
            )
        ],
    ),
    "data of any depth in log lines": Mutant(
        "integration/test_deep_values.py",
        [Source("_platform/nesting.py", "if len(stack) > MAX_DEPTH:", "if False:")],
    ),
    "run that kills its process, claimed first again": Mutant(
        "unit/test_store_recovery.py",
        [
            Source(
                "store/sqlite/sql/requeue.py",
                "goes_last = isinstance(reason, OwnerDead | OwnerElsewhere)",
                "goes_last = False",
            )
        ],
    ),
    "token of the file as a path": Mutant(
        "unit/test_owner_lock.py",
        [
            Source(
                "_platform/ids.py",
                "return len(text) == _LENGTH and not text.strip(_ALPHABET)",
                "return True",
            )
        ],
    ),
    "foreign key of another table": Mutant(
        "integration/test_changed_schema.py",
        [Source("store/sqlite/sql/schema.py", "found += _foreign_keys(db, name, sql)", "pass")],
    ),
    "index of somebody's on durably's tables": Mutant(
        "integration/test_changed_schema.py",
        [Source("store/sqlite/sql/schema.py", 'kind in ("trigger", "index")', 'kind == "trigger"')],
    ),
    "row that cannot be read, in the way of all claims": Mutant(
        "integration/test_poisoned_rows.py",
        [
            Source(
                "store/sqlite/sql/claims.py",
                "            unsound.fail_unclaimed(db, exc, bindings)\n            continue",
                "            raise exc",
            )
        ],
    ),
    "row that is not of durably's, in the way of a list": Mutant(
        "integration/test_poisoned_rows.py",
        [
            Source(
                "client/unreadable.py",
                "        except DatabaseError as exc:\n            if not exc.is_of_row:\n"
                "                raise\n            defects.note(str(exc))\n    defects",
                "        except DatabaseError:\n            raise\n    defects",
            )
        ],
    ),
}
