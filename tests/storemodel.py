"""The store beside a plain model: random sequences of verbs, and both must agree after each.

The model knows the contract and none of the store's helpers: a run is claimable if it is pending,
due, nobody's, of a known job and no session, and no run of its concurrency key has an owner; those
triggered first come first, but a run whose owner died comes after those that were not tried since.
A run with
checkpoints is claimable for the code that made them, and for code that takes any. A run may wait
for a time, an answer or the end of another run. Several owners work on the file; they leave, die,
hang, vanish without a lock file, are taken for dead wrongly, come back and write what they still
had in hand; and the wall clock jumps either way at any time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durably.errors import ConflictError, DatabaseError, NotFoundError
from durably.models import ErrorInfo
from durably.store.bounds import FENCE_BITS
from durably.store.item_rows import MapState
from durably.store.outcome import (
    Completed,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    OwnerDead,
    OwnerElsewhere,
    OwnerHung,
    OwnerIdle,
    Suspended,
    TriedAgain,
)
from durably.store.read_rows import Filters
from durably.store.rows import Begin, Claim, LogLine, NewRun, NewWait
from durably.store.sqlite.database import Database
from durably.store.sqlite.locks.owner_lock import current_boot_id
from durably.store.sqlite.sql import (
    attempts,
    claims,
    items,
    logs,
    owners,
    queries,
    redo,
    requeue,
    runs,
    settle,
    steps,
    waits,
)
from durably.store.sqlite.sql import begin as beginning
from durably.store.sqlite.sql import enqueue as enqueueing
from durably.testing import check

JOBS = ("a", "b")
STEPS = ("s", "t", "u")
MAPS = ("m", "n")
LABELS = ("{}", '{"x": "1"}', '{"x": "2", "y": "1"}')
WHAT_OWNERS_DO = (
    "register",
    "leave",
    "beat",
    "die",
    "hang",
    "vanish",
    "put back",
    "start",
    "jump",
    "reopen",
)
LOOKS = (("a",), ("b",), JOBS)
RUNS = """
    SELECT run, id, job_name, status, owner, attempt, output, error, progress,
           concurrency_key, idempotency_key, created_at_us, started_at_us,
           completed_at_us, heartbeat_at_us, queue_place, coalesce(place, run), origin,
           fence, keeps_attempt, failures, run_at_us, waits_for, wait_name, waits_for_run, payload,
           kind, deaths, parent
    FROM durably_runs ORDER BY run"""
STEPS_OF_RUNS = """
    SELECT run, name, step & 0xFFFFFF, status, output, error, attempt
    FROM durably_steps ORDER BY run, name"""
MAPS_OF_RUNS = """
    SELECT run, name, step & 0xFFFFFF, status, error, attempt, done, failed, reused
    FROM durably_maps ORDER BY run, name"""
ITEMS_OF_MAPS = """
    SELECT run, name, item & 0x3FFFFFFF, key, output, i.error, i.attempts
    FROM durably_maps m JOIN durably_items i ON item >> 30 = map ORDER BY run, name, item"""
WAITS_OF_RUNS = """
    SELECT run, name, until_us, asked_at_us, answer, answer_id, closed_at_us, tries, next_us
    FROM durably_waits ORDER BY run, name"""
OWNERS = "SELECT owner, beat, is_started FROM durably_owners ORDER BY owner"
LINES = "SELECT run, owner, message FROM durably_logs ORDER BY log"
TERMINAL = ("completed", "failed", "cancelled")

# What the code of an owner is, first, and what else it takes; ANY for whatever there is.
ANY = "any"
CODES = (("x",), ("y", "x"), ("z", ANY), (ANY,))

PLAIN = {
    "code": CODES[0],
    "job": "a",
    "key": None,
    "idem": None,
    "coalesce": False,
    "joins_active": False,
    "retry_failed": False,
    "change": "warn",
    "delay": None,
    "labels": "{}",
    "payload": "1",
    "kind": "job",
}


def possible(given: dict[str, Any]) -> dict[str, Any]:
    """The same trigger, but a session has no payload, no key of others, and coalesces with none."""
    if given["kind"] == "session":
        given |= {"payload": "null", "key": None, "coalesce": False, "delay": None}
    return given


jobs_known = st.sampled_from([("a",), ("b",), ("a", "b"), ()])
codes = st.sampled_from(CODES)
triggers = st.fixed_dictionaries(
    {
        "code": codes,
        "job": st.sampled_from(JOBS),
        "key": st.sampled_from([None, "k", "k", "l"]),
        "idem": st.sampled_from([None, None, "i", "j"]),
        "coalesce": st.booleans(),
        "joins_active": st.booleans(),
        "retry_failed": st.booleans(),
        "change": st.sampled_from(["warn", "warn", "refuse", "extend"]),
        "delay": st.sampled_from([None, None, None, 1, 50]),
        "labels": st.sampled_from(LABELS),
        "payload": st.sampled_from(["1", "1", "2"]),
        "kind": st.sampled_from(["job", "job", "job", "session"]),
    }
).map(possible)
numbers = st.integers(0, 1000)


def origins_of(jobs: tuple[str, ...], code: tuple[str, ...]) -> str:
    """The same as a claim of these jobs asks for it."""
    members = [f'"{job}":{json.dumps(each == ANY or each)}' for job in jobs for each in code]
    return "{" + ",".join(members) + "}"


class Run:
    """A run as the model knows it."""

    def __init__(self, order: int, run_id: str, given: dict[str, Any], now: int) -> None:
        self.order = order
        self.turn = order
        self.id = run_id
        self.job = given["job"]
        self.key = given["key"]
        self.idem = given["idem"]
        self.labels = given["labels"]
        self.payload = given["payload"]
        self.kind = given["kind"]
        # The number of the run that has triggered it.
        self.parent: int | None = None
        self.status = "pending"
        self.owner: int | None = None
        self.origin: str | None = None
        self.attempt = self.fence = self.failures = 0
        # How often its process has died since its last new checkpoint, and how many it had then.
        self.deaths = self.died_after = 0
        # Whether its next claim leaves the attempt as it is.
        self.keeps_attempt = False
        # When it goes on, and for what it waits: kind, step, and run.
        delay = given["delay"]
        self.due: int | None = None if delay is None else now + delay
        self.waits: tuple[str | None, str | None, int | None] = (None, None, None)
        self.output: str | None = None
        self.error: str | None = None
        self.progress: str | None = None
        self.created, self.started, self.completed = now, None, None
        self.beat: int | None = None
        self.steps: dict[str, tuple[int, str, str | None, str | None, int]] = {}
        self.maps: dict[str, Map] = {}
        # Of the steps with a result: its layer, and whether that is stored beside the fence.
        self.layers: dict[str, tuple[int, bool]] = {}
        # Its one question: until when, since when, the answer and its id, when it was closed, and
        # as a poll, how often it has checked, and when it does again.
        self.question: list[Any] | None = None
        # Its executions: the attempt, how it has ended, from when to when, and the error.
        self.tries: list[tuple[int, str, int, int | None, str | None]] = []

    def leave(self, outcome: str, now: int, error: str | None = None) -> None:
        """End the execution in progress, if there is one."""
        if self.tries and self.tries[-1][1] == "running":
            attempt, _, begun, *_ = self.tries[-1]
            self.tries[-1] = (attempt, outcome, begun, now, error)

    def go_back(self, outcome: str | None = None, now: int = 0) -> None:
        """Make the run pending: after an execution, or after a retry, which is no outcome."""
        if outcome is not None:
            self.leave(outcome, now)
        self.wake()
        self.keeps_attempt = outcome in ("interrupted", "suspended")
        if not self.has_checkpoints():
            self.origin = None

    def has_checkpoints(self) -> bool:
        is_completed = [status == "completed" for _, status, *_ in self.steps.values()]
        return any(is_completed) or bool(self.maps)

    def die(self, now: int, most: int | None) -> None:
        """Go back after a death, which counts if that many fail it; one that fails it ends it."""
        self.go_back("died", now)
        checkpoints = sum(status == "completed" for _, status, *_ in self.steps.values())
        for each in self.maps.values():
            checkpoints += sum(item[1] is not None for item in each.items.values())
        # What was replaced is no more than before, and of a later execution.
        layers = [layer for layer, is_stored in self.layers.values() if is_stored]
        checkpoints += max(layers, default=0) >> FENCE_BITS
        checkpoints += max((each.layer for each in self.maps.values()), default=0) >> FENCE_BITS
        if checkpoints > self.died_after:
            self.deaths = 0
        self.died_after = checkpoints
        self.deaths += most is not None and self.kind == "job"

    def wake(self) -> None:
        self.status, self.due, self.waits = "pending", None, (None, None, None)

    def is_in_line(self) -> bool:
        return self.status == "pending" and self.due is None

    def fits(self, code: tuple[str, ...]) -> bool:
        return self.origin is None or ANY in code or self.origin in code


class Map:
    """A map as the model knows it: its record, and its items by index."""

    def __init__(self, state: MapState, attempt: int) -> None:
        self.record = (state.step_index, state.status, state.error, attempt)
        self.counts = (state.done, state.failed, state.reused)
        self.items: dict[int, tuple[Any, ...]] = {}
        # Of it, and of its items, where they have one.
        self.layer = 0
        self.layers: dict[int, int] = {}


class Execution:
    """What somebody learned when they claimed a run; it may be stale by now."""

    def __init__(self, run: Run) -> None:
        assert run.owner is not None
        self.id, self.key, self.attempt, self.owner = run.id, run.order, run.attempt, run.owner
        self.fence = run.fence


class StoreMachine(RuleBasedStateMachine):
    """The SQLite store against the model: what it forgets or invents is a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="durably-model-")
        self.store = self._open()
        self.now = 100
        self.times = {self.now}
        self.made = 0
        self.order = 0
        self.ids: list[str] = []
        self.runs: dict[str, Run] = {}
        self.owners: dict[int, int] = {}  # and their beats
        self.started: set[int] = set()
        self.lines: list[tuple[int, int, str]] = []
        self.all_owners: list[int] = []
        self.executions: list[Execution] = []
        self.claimed: set[tuple[str, int]] = set()
        self.results: dict[tuple[str, str], str] = {}

    def _open(self) -> Database:
        return Database(Path(self.folder) / "model.db", synchronous="normal")

    def teardown(self) -> None:
        self.store.close()
        found = check(Path(self.folder) / "model.db")
        shutil.rmtree(self.folder)
        assert found == []

    def set_clock(self, now: int) -> None:
        """Set the wall clock to about *now*; no instant comes twice, as that would tell apart what
        happened in it.
        """
        while now in self.times:
            now += 1
        self.times.add(now)
        self.now = now

    # -- the model's own reading of the contract ---------------------------------------------

    def held(self, key: str | None) -> bool:
        return key is not None and any(
            run.key == key and run.owner is not None for run in self.runs.values()
        )

    def claimable(self, jobs: tuple[str, ...], code: tuple[str, ...]) -> list[Run]:
        return [
            run
            for run in sorted(self.runs.values(), key=lambda run: run.turn)
            if run.is_in_line()
            and run.kind == "job"
            and run.owner is None
            and run.job in jobs
            and run.fits(code)
            and not self.held(run.key)
        ]

    def expect_claim(self, owner: int, jobs: tuple[str, ...], code: tuple[str, ...]) -> Run | None:
        run = next(iter(self.claimable(jobs, code)), None)
        if run is not None:
            self.claim_in_model(run, owner, code)
        return run

    def claim_in_model(self, run: Run, owner: int, code: tuple[str, ...]) -> None:
        if code[0] != ANY:
            run.origin = code[0]
        run.status, run.owner, run.fence = "running", owner, run.fence + 1
        run.attempt += not run.keeps_attempt
        run.keeps_attempt = False
        run.started = run.started or self.now
        run.beat = self.now
        run.tries.append((run.attempt, "running", self.now, None, None))

    def took(self, run: Run, row: queries.RunRow) -> None:
        assert (row.run, row.id, row.attempt, row.fence, row.owner) == (
            run.order,
            run.id,
            run.attempt,
            run.fence,
            run.owner,
        )
        assert (row.id, row.fence) not in self.claimed
        self.claimed.add((row.id, row.fence))
        self.executions.append(Execution(run))

    def current(self, execution: Execution) -> Run | None:
        """The run, if that execution still is the running one."""
        run = self.runs.get(execution.id)
        fits = run is not None and (run.status, run.fence) == ("running", execution.fence)
        return run if fits else None

    def end(self, run: Run, status: str, error: str | None = None) -> None:
        run.wake()
        run.keeps_attempt = False
        run.status, run.completed = status, self.now
        run.leave(status, self.now, error)
        for other in self.runs.values():
            if other.waits[2] == run.order:
                other.wake()

    def retry_in_model(self, run: Run) -> None:
        """The run and what has failed below it."""
        for each in (run, *self.descendants(run, ("failed", "cancelled"))):
            self.retry_one_in_model(each)

    def retry_one_in_model(self, run: Run) -> None:
        run.output, run.error, run.completed, run.failures = None, None, None, 0
        run.deaths = 0
        if run.question is not None and run.question[4] is not None:
            run.question = None
        run.go_back()

    # -- triggering --------------------------------------------------------------------------

    def expect_enqueue(self, given: dict[str, Any], run_id: str) -> tuple[str, str]:
        if given["idem"] is not None:
            for run in self.runs.values():
                if (run.job, run.idem) == (given["job"], given["idem"]):
                    if self.is_changed(run, given):
                        run.payload, run.output = given["payload"], None
                        has_ended = run.status in TERMINAL
                        if has_ended:
                            self.retry_in_model(run)
                        return run.id, "retried" if has_ended else "idempotent"
                    if given["retry_failed"] and run.status in ("failed", "cancelled"):
                        self.retry_in_model(run)
                        return run.id, "retried"
                    return run.id, "idempotent"
        if given["coalesce"] and given["key"] is not None:
            for run in sorted(self.runs.values(), key=lambda run: run.turn):
                if (run.job, run.key, run.is_in_line()) == (
                    given["job"],
                    given["key"],
                    True,
                ) and run.fits(given["code"]):
                    return run.id, "coalesced"
            joined = self.joined_active(given)
            if joined is not None:
                return joined.id, "coalesced"
        self.order += 1
        self.ids.append(run_id)
        self.runs[run_id] = Run(self.order, run_id, given, self.now)
        return run_id, "created"

    def is_changed(self, run: Run, given: dict[str, Any]) -> bool:
        """Whether a trigger is to do something about the payload of the run with its key."""
        return (
            given["change"] != "warn"
            and run.kind == given["kind"]
            and run.payload != given["payload"]
        )

    def is_refused(self, given: dict[str, Any]) -> bool:
        """Whether a trigger changes nothing because the run with its key has another payload."""
        for run in self.runs.values():
            same = (run.job, run.idem) == (given["job"], given["idem"]) and run.idem is not None
            if same and self.is_changed(run, given):
                is_executed = run.status == "running" or run.owner is not None
                return given["change"] == "refuse" or is_executed
        return False

    def joined_active(self, given: dict[str, Any]) -> Run | None:
        """The run of a job and key that is joined if none is in line: running, or away."""
        of_key = [
            run
            for run in self.runs.values()
            if (run.job, run.key) == (given["job"], given["key"]) and run.kind == "job"
        ]
        joins_active = given["joins_active"]
        running = [run for run in of_key if run.status == "running" and joins_active]
        away = [
            run
            for run in sorted(of_key, key=lambda run: run.order)
            if (run.status == "waiting" and joins_active)
            or (run.status == "pending" and run.due is not None)
            if run.fits(given["code"])
        ]
        return next(iter(running + away), None)

    def new(self, given: dict[str, Any], number: int) -> NewRun:
        self.made += 1
        return NewRun(
            f"run-{self.made}-{number}",
            given["job"],
            given["payload"],
            given["labels"],
            idempotency_key=given["idem"],
            concurrency_key=given["key"],
            coalesce=given["coalesce"] and given["key"] is not None,
            joins_active=given["joins_active"],
            run_at_us=None if given["delay"] is None else self.now + given["delay"],
            on_payload_change=given["change"],
            retry_failed=given["retry_failed"],
            origins=origins_of((given["job"],), given["code"]),
            kind=given["kind"],
        )

    @initialize(count=st.integers(1, 3), items=st.lists(triggers, min_size=2, max_size=5))
    def begin(self, count: int, items: list[dict[str, Any]]) -> None:
        for _ in range(count):
            self.register()
        self.batch(items, is_bad=False)
        self.claim(0, JOBS, 3, CODES[0])

    @rule(given=triggers, plain=st.booleans())
    def enqueue(self, given: dict[str, Any], plain: bool) -> None:
        if plain and (
            given["idem"],
            given["coalesce"],
            given["kind"],
            given["delay"],
        ) == (None, False, "job", None):
            self.enqueue_plain(given)
            return
        new = self.new(given, 0)
        if self.is_refused(given):
            with pytest.raises(ConflictError, match="payload"):
                self.store.write(enqueueing.enqueue, new, self.now)
            return
        expected = self.expect_enqueue(given, new.id)
        done = self.store.write(enqueueing.enqueue, new, self.now)
        assert (done.row.id, done.disposition) == expected
        assert (done.row.run, done.row.status) == (
            self.runs[expected[0]].order,
            self.runs[expected[0]].status,
        )

    def enqueue_plain(self, given: dict[str, Any]) -> None:
        new = self.new(given, 0)
        expected = self.expect_enqueue(given, new.id)
        assert self.store.write(enqueueing.enqueue_plain, new, self.now).row.id == expected[0]

    @precondition(lambda self: self.executions)
    @rule(number=numbers, given=triggers, name=st.sampled_from(STEPS))
    def spawn(self, number: int, given: dict[str, Any], name: str) -> None:
        """An execution triggers a child, once, if it still is the current one."""
        execution = self.an_execution(number)
        if given["kind"] != "job" or self.is_refused(given):
            return
        new = self.new(given, 0)._replace(id=f"{execution.key}-{name}", parent=execution.key)
        if new.id in self.ids and new.id not in self.runs:
            return  # it was deleted
        done = self.store.write(enqueueing.spawn, execution.fence, new, self.now)
        if self.current(execution) is None:
            assert done is None
            return
        assert done is not None
        if new.id in self.runs:
            assert (done.row.id, done.disposition) == (new.id, "idempotent")
            return
        expected = self.expect_enqueue(given, new.id)
        assert (done.row.id, done.disposition) == expected
        if expected[1] == "created":
            self.runs[new.id].parent = execution.key

    @precondition(lambda self: self.ids)
    @rule(number=numbers, owner=numbers)
    def begin_child(self, number: int, owner: int) -> None:
        """A parent that waits in its thread claims a child, in its turn among those of its key."""
        which = self.all_owners[owner % len(self.all_owners)]
        run = self.runs.get(self.ids[number % len(self.ids)])
        if run is None or which not in self.owners:
            return
        is_claimable = run.kind == "job" and run in self.claimable(JOBS, (ANY,))
        wanted = Claim(which, json.dumps(list(JOBS)), lambda: self.now)
        found = self.store.write(claims.claim_child, wanted, run.order)
        if found:
            assert is_claimable
            self.claim_in_model(run, which, (ANY,))
            self.took(run, found[0])
        else:
            assert not is_claimable or run.key is not None

    @rule(items=st.lists(triggers, min_size=1, max_size=4), is_bad=st.booleans())
    def batch(self, items: list[dict[str, Any]], is_bad: bool) -> None:
        # Another payload that is rejected would reject the batch as the bad item does.
        items = [given | {"change": "warn"} for given in items]
        if is_bad:
            self.refused_batch(items)
            return
        new = [self.new(given, number) for number, given in enumerate(items)]
        expected = [
            self.expect_enqueue(given, each.id) for given, each in zip(items, new, strict=True)
        ]
        done = self.store.write(enqueueing.enqueue_many, new, self.now)
        assert [(each.row.id, each.disposition) for each in done] == expected

    def refused_batch(self, items: list[dict[str, Any]]) -> None:
        """One item that the database rejects takes the others with it."""
        new = [self.new(given, number) for number, given in enumerate(items)]
        bad = NewRun("bad", "", "1")
        try:
            self.store.write(enqueueing.enqueue_many, [*new, bad], self.now)
        except DatabaseError:
            return
        raise AssertionError("a run without a job name was stored")

    # -- owners ------------------------------------------------------------------------------

    @rule(number=numbers, what=st.sampled_from(WHAT_OWNERS_DO))
    def owner(self, number: int, what: str) -> None:
        if what == "register" and len(self.owners) < 4:
            self.register()
        elif what == "leave":
            self.leave(number)
        elif what == "beat":
            self.beat(number)
        elif what == "die":
            self.recover_dead(number)
        elif what == "hang":
            self.recover_hung(number, number % 2)
        elif what == "vanish":
            self.recover_vanished(number, number % 2)
        elif what == "put back":
            self.put_back(number)
        elif what == "start":
            self.set_started(number, bool(number % 2))
        elif what == "jump":  # the wall clock, that is
            self.set_clock(1 + number**4)
        elif what == "reopen":
            self.store.close()
            self.store = self._open()

    def register(self) -> None:
        owner = self.store.write(
            owners.register,
            token=f"{len(self.all_owners):026}",
            boot_id=current_boot_id(),
            pid=1,
            heartbeat_interval_us=1,
            now_us=self.now,
        )
        assert owner not in self.all_owners
        self.all_owners.append(owner)
        self.owners[owner] = 0

    def owned(self, owner: int, *statuses: str) -> list[Run]:
        return [
            run
            for run in self.runs.values()
            if run.owner == owner and (not statuses or run.status in statuses)
        ]

    def beat(self, number: int) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        found = self.store.beat(owners.beat, owner, lambda: self.now)
        running = self.owned(owner, "running")
        assert found.is_registered == (owner in self.owners)
        assert found.running == {(run.order, run.fence) for run in running}
        for run in running:
            run.beat = self.now
        if owner in self.owners:
            self.owners[owner] += 1

    def expect_death(
        self, owner: int, most: int | None = None, *, how: str = "died"
    ) -> dict[str, str]:
        expected = sorted(self.owned(owner, "running"), key=lambda run: run.turn)
        for run in self.owned(owner):
            run.owner = None
        for run in expected:
            # Behind all that were triggered, or put back after a death, until now.
            self.order += 1
            run.turn = self.order
            if how == "died":
                run.die(self.now, most)
            else:
                run.go_back(how, self.now)
            if most is not None and run.deaths >= most:
                run.error = ANY
                self.end(run, "failed")
        self.owners.pop(owner, None)
        self.started.discard(owner)
        return {run.id: run.status for run in expected}

    def recover_dead(self, number: int) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        is_copied = number % 5 == 0  # as the copy of a file is made ready
        most = None if is_copied else (None, 1, 2, 2)[number % 4]
        expected = self.expect_death(owner, most, how="interrupted" if is_copied else "died")
        dead = OwnerDead(owner, max_deaths=most)
        reason = OwnerElsewhere(owner) if is_copied else dead
        found = self.store.write(requeue.requeue, reason, self.now)
        assert {row.id: row.status for row in found} == expected
        for row in found:
            if row.status == "failed":
                run = self.runs[row.id]
                times = "once" if run.deaths == 1 else f"{run.deaths} times"
                assert f"died {times} without" in str(row.error)
                run.error = row.error

    def recover_vanished(self, number: int, late_by: int) -> None:
        """One whose lock file is gone is forgotten, unless it has beaten meanwhile."""
        owner = self.all_owners[number % len(self.all_owners)]
        beat = self.owners.get(owner, 0) - late_by
        is_still = owner in self.owners and late_by == 0
        expected = self.expect_death(owner) if is_still else {}
        found = self.store.write(requeue.requeue, OwnerDead(owner, beat), self.now)
        assert {row.id: row.status for row in found} == expected

    def put_back(self, number: int) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        expected = self.owned(owner, "running")
        assert self.store.read(queries.has_running, owner) == bool(expected)
        for run in expected:
            run.owner = None
            run.go_back("interrupted", self.now)
        found = self.store.write(requeue.requeue, OwnerIdle(owner), self.now)
        assert {row.id for row in found} == {run.id for run in expected}

    def set_started(self, number: int, is_started: bool) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        self.store.write(owners.set_started, owner, is_started=is_started)
        if owner in self.owners:
            (self.started.add if is_started else self.started.discard)(owner)

    def recover_hung(self, number: int, late_by: int) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        beat = self.owners.get(owner, 0) - late_by
        is_hung = owner in self.owners and late_by == 0
        expected = self.owned(owner, "running") if is_hung else []
        for run in expected:
            run.owner = None
            run.go_back("hung", self.now)
        found = self.store.write(requeue.requeue, OwnerHung(owner, beat), self.now)
        assert {row.id for row in found} == {run.id for run in expected}

    def leave(self, number: int) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        may = owner in self.owners and not self.owned(owner)
        assert self.store.write(owners.remove, owner) is may
        if may:
            del self.owners[owner]
            self.started.discard(owner)

    # -- executing ---------------------------------------------------------------------------

    @rule(number=numbers, jobs=jobs_known, limit=st.integers(1, 3), code=codes)
    def claim(self, number: int, jobs: tuple[str, ...], limit: int, code: tuple[str, ...]) -> None:
        owner = self.all_owners[number % len(self.all_owners)]
        wanted = Claim(
            owner, json.dumps(jobs), lambda: self.now, limit, origins=origins_of(jobs, code)
        )
        if owner not in self.owners:
            try:
                assert self.store.write(claims.claim, wanted) == []
            except DatabaseError:
                assert self.claimable(jobs, code)
            return
        rows = self.store.write(claims.claim, wanted)
        expected = []
        while len(expected) < limit and (run := self.expect_claim(owner, jobs, code)) is not None:
            expected.append(run)
        assert [row.id for row in rows] == [run.id for run in expected]
        for run, row in zip(expected, rows, strict=True):
            self.took(run, row)

    @rule(
        number=numbers,
        given=triggers,
        how=st.sampled_from(["warn", "warn", "fresh", "refuse", "extend"]),
        is_known=st.booleans(),
    )
    def begin_here(self, number: int, given: dict[str, Any], how: str, is_known: bool) -> None:
        """A certain run is created or continued, whatever is before it in line."""
        if not self.owners:
            self.register()
        owner = sorted(self.owners)[number % len(self.owners)]
        if is_known and self.runs:
            some = [*self.runs.values()][-1 - number % len(self.runs)]
            given |= {"job": some.job, "idem": some.idem}
            if number % 3:
                given |= {"payload": some.payload, "kind": some.kind}
        given = possible(given | {"delay": None})  # it is to begin now
        # A run that this owner's threads are still inside of.
        inside = [run.order for run in self.runs.values() if run.order % 7 == number % 7]
        new = self.new(given, 0)
        claim = Claim(
            owner, "[]", lambda: self.now, inside=lambda: str(inside), origins=new.origins
        )
        change = how if how != "fresh" else "warn"
        wanted = Begin(new, claim, is_fresh=how == "fresh", on_payload_change=change)
        if any(
            (run.job, run.idem) == (given["job"], given["idem"] or "") and run.kind != given["kind"]
            for run in self.runs.values()
        ):
            with pytest.raises(ConflictError, match="the key"):
                self.store.write(beginning.begin, wanted)
            return
        expected, run = self.expect_beginning(wanted, given, inside)
        done = self.store.write(beginning.begin, wanted)
        assert (done.how, done.row.id, done.row.status) == (expected, run.id, run.status)
        assert (done.before is None) == (run.id == new.id)
        if expected in ("created", "continued"):
            self.took(run, done.row)
        if expected == "queued":
            assert done.holder is not None
            assert done.holder.owner == self.runs[done.holder.id].owner is not None
            assert done.holder.concurrency_key == run.key
        executing = done.holder.owner if done.holder else owner if run.owner is None else run.owner
        assert (done.executor is not None) == (expected in ("elsewhere", "queued"))
        assert done.executor is None or done.executor.owner == executing

    def expect_beginning(
        self, wanted: Begin, given: dict[str, Any], inside: list[int]
    ) -> tuple[str, Run]:
        fitting = [
            run
            for run in self.runs.values()
            if (run.job, run.idem, run.kind) == (given["job"], given["idem"], given["kind"])
            and (run.idem is not None or run.payload == given["payload"])
        ]
        run = max(fitting, key=lambda run: run.order, default=None)
        is_over = run is not None and run.status == "completed" and run.idem is None
        if run is None or wanted.is_fresh or is_over:
            if run is not None:
                run.idem = None
            self.order += 1
            self.ids.append(wanted.new.id)
            created = self.runs[wanted.new.id] = Run(self.order, wanted.new.id, given, self.now)
            return self.expect_claim_of("created", created, wanted, given, inside)
        is_changed = run.payload != given["payload"]
        if is_changed and wanted.on_payload_change == "refuse":
            return "changed", run
        is_extended = is_changed and wanted.on_payload_change == "extend"
        is_session = run.kind == "session"
        if run.status == "completed" and not is_extended and not is_session:
            return "completed", run
        if run.status == "running" or ((is_extended or is_session) and run.owner is not None):
            return "elsewhere", run
        if is_extended:
            run.payload, run.output = given["payload"], None
        if run.status in TERMINAL:
            self.retry_in_model(run)
        else:
            run.wake()
        return self.expect_claim_of("continued", run, wanted, given, inside)

    def expect_claim_of(
        self, how: str, run: Run, wanted: Begin, given: dict[str, Any], inside: list[int]
    ) -> tuple[str, Run]:
        if run.owner is not None or (run.order in inside and not self.held(run.key)):
            return "elsewhere", run
        if self.held(run.key):
            return "queued", run
        self.claim_in_model(run, wanted.claim.owner, given["code"])
        return how, run

    @precondition(lambda self: self.executions)
    @rule(number=numbers, is_dead=st.booleans())
    def take_over(self, number: int, is_dead: bool) -> None:
        """An owner is taken for dead or hung, and another one goes on with its runs."""
        running = [run for run in self.runs.values() if run.status == "running"]
        if running:
            # A session, which is rare, rather than others.
            sessions = [run for run in running if run.kind == "session"]
            running = sessions or running
            owner = running[number % len(running)].owner
            assert owner is not None
            which = self.all_owners.index(owner)
            if is_dead:
                self.recover_dead(which)
            else:
                self.recover_hung(which, 0)
        if not self.owners:
            self.register()
        alive = sorted(self.owners)
        which = self.all_owners.index(alive[number % len(alive)])
        self.claim(which, JOBS, 2, CODES[number % len(CODES)])

    @rule(number=numbers, names=st.lists(st.sampled_from(STEPS), max_size=2), redoes=st.booleans())
    def die_again(self, number: int, names: list[str], redoes: bool) -> None:
        """Processes claim a run, one after the other, and die.

        The last one dies after some steps, or each after it has replaced their results.
        """
        for left in range(1 + number % 3, 0, -1):
            self.register()
            which, before = len(self.all_owners) - 1, len(self.executions)
            self.claim(which, JOBS, 1, (ANY,))
            for execution in self.executions[before:]:
                for nth, name in enumerate(names):
                    if redoes:
                        self.step_again(execution, name, nth)
                    elif left == 1:
                        self.step_of(execution, name, "ok")
            self.recover_dead(which)

    def an_execution(self, number: int) -> Execution:
        # Those that matter more often: stale ones of a run that is executed, and the latest.
        stale = [
            execution
            for execution in self.executions
            if (run := self.runs.get(execution.id)) is not None
            and run.fence > execution.fence
            and run.status == "running"
        ]
        if stale and number % 3 == 0:
            return stale[-1 - number // 3 % len(stale)]
        count = min(len(self.executions), 4 if number % 2 else len(self.executions))
        return self.executions[-1 - number // 2 % count]

    def a_progress(self) -> str:
        return json.dumps({"current": self.now, "total": None, "message": None})

    def an_error(self) -> str:
        return json.dumps({"type": "E", "message": str(self.now), "traceback": ""})

    @precondition(lambda self: self.executions)
    @rule(
        number=numbers,
        name=st.sampled_from(STEPS),
        how=st.sampled_from(["ok", "ok", "fail", "late", "again", "again"]),
    )
    def step(self, number: int, name: str, how: str) -> None:
        execution = self.an_execution(number)
        if how == "again":
            self.step_again(execution, name, number % 3)
        else:
            self.step_of(execution, name, how)

    def step_again(self, execution: Execution, name: str, nth: int) -> None:
        """A result of a higher layer replaces one, of the current execution alone."""
        index = STEPS.index(name) + len(STEPS) * (execution.fence % 2)
        output, layer = f'"again at {self.now}"', (execution.fence << FENCE_BITS) + nth
        row = (execution.key, execution.fence, index, name, output, self.now, self.now, None, None)
        run = self.current(execution)
        before = None if run is None else run.steps.get(name)
        is_lower = before is not None and before[1] == "completed" and run.layers[name][0] >= layer
        try:
            done = self.store.write(steps.complete_layered, *row, layer, 7, 1, "[]")
        except DatabaseError:
            assert is_lower
            return
        assert done is (run is not None)
        assert not is_lower
        if run is None:
            return
        kept_index = index if before is None else before[0]
        run.steps[name] = (kept_index, "completed", output, None, execution.attempt)
        run.layers[name] = layer, True
        self.results[run.id, name] = output

    def step_of(self, execution: Execution, name: str, how: str) -> None:
        index = STEPS.index(name) + len(STEPS) * (execution.fence % 2)
        output, error = (f'"{self.now}"', None) if how == "ok" else (None, None)
        where = (execution.key, execution.fence, index, name)
        if how == "ok":
            status = "completed"
            done = self.store.write(
                steps.complete, *where, output, self.now, self.now, self.now, None
            )
        elif how == "fail":
            status, error = "failed", self.an_error()
            done = self.store.write(steps.fail, *where, error, self.now, self.now)
        else:
            status = "cancelled"
            done = self.store.write(steps.cancel, *where, self.now, self.now)
        run = self.current(execution)
        if how == "late":
            run = self.runs.get(execution.id)
            run = run if run is not None and run.fence == execution.fence else None
        before = None if run is None else run.steps.get(name)
        if run is None or (before is not None and before[1] == "completed"):
            assert done is False
            return
        assert done is True
        kept_index = index if before is None else before[0]
        run.steps[name] = (kept_index, status, output, error, execution.attempt)
        if output is not None:
            assert (run.id, name) not in self.results
            self.results[run.id, name] = output
            run.layers[name] = execution.fence << FENCE_BITS, False

    @precondition(lambda self: self.executions)
    @rule(
        number=numbers,
        name=st.sampled_from(MAPS),
        new=st.dictionaries(st.integers(0, 3), st.booleans(), max_size=3),
        status=st.sampled_from([None, None, "completed", "failed", "cancelled"]),
        nth=st.sampled_from([None, None, None, 0, 1, 2]),
    )
    def items_of_map(
        self, number: int, name: str, new: dict[int, bool], status: str | None, nth: int | None
    ) -> None:
        execution = self.an_execution(number)
        run = self.current(execution)
        if status == "cancelled":
            run = self.runs.get(execution.id)
            run = run if run is not None and run.fence == execution.fence else None
        known = None if run is None else run.maps.get(name)
        state = MapState(
            step_index=10 + MAPS.index(name),
            name=name,
            is_keyed=True,
            done=sum(new.values()),
            failed=len(new) - sum(new.values()),
            reused=0,
            total=None,
            started_at_us=self.now,
            status=status,
            error=self.an_error() if status == "failed" else None,
            completed_at_us=None if status is None else self.now,
            layer=None if nth is None else (execution.fence << FENCE_BITS) + nth,
        )
        rows: list[Any] = [
            (
                index,
                f"k{index}",
                f'"{self.now}"' if is_done else None,
                None if is_done else self.an_error(),
                1 + number,
                None,
                self.now,
                self.now,
                self.now if is_done else None,
                *(() if nth is None else (state.layer, 7)),
            )
            for index, is_done in new.items()
        ]
        kept = {} if known is None else known.items
        is_refused = run is not None and any(
            kept.get(index, (None,) * 2)[1] is not None
            and (
                not is_done or run.status != "running" or (state.layer or 0) <= known.layers[index]
            )
            for index, is_done in new.items()
        )
        try:
            done = self.store.write(items.save, execution.key, execution.fence, state, rows)
        except DatabaseError:
            # A completed item is final, but for a result of a higher layer, and nothing of the
            # batch is stored.
            assert is_refused
            return
        assert done is (run is not None)
        assert not is_refused
        if run is None:
            return
        if known is None:
            known = run.maps[name] = Map(state, execution.attempt)
            run.steps.pop(name, None)  # as which it was forgotten
        known.counts = (state.done, state.failed, state.reused)
        known.layer = max(known.layer, state.layer or 0)
        if status is not None:
            known.record = (state.step_index, status, state.error, execution.attempt)
        for index, key, output, error, tried, *_ in rows:
            known.items[index] = (key, output, error, tried)
            known.layers[index] = state.layer or 0

    @rule(
        number=numbers,
        names=st.lists(st.sampled_from(STEPS), min_size=1, max_size=2, unique=True),
        jobs=st.sampled_from(LOOKS),
        how=st.sampled_from(["complete", "fail", "wait"]),
        keep=st.booleans(),
    )
    def live(
        self, number: int, names: list[str], jobs: tuple[str, ...], how: str, keep: bool
    ) -> None:
        """A run as most are: claimed, executed step by step, ended."""
        if not self.owners:
            self.register()
        alive = sorted(self.owners)
        known = len(self.executions)
        which = self.all_owners.index(alive[number % len(alive)])
        self.claim(which, jobs, 1, CODES[number % len(CODES)])
        if len(self.executions) > known:
            for name in names:
                self.step_of(self.executions[-1], name, "ok")
            self.set_clock(self.now + 1)
            self.finish_of(self.executions[-1], how, keep, None)

    @precondition(lambda self: self.executions)
    @rule(number=numbers)
    def progress(self, number: int) -> None:
        execution = self.an_execution(number)
        update = (execution.key, execution.fence, self.a_progress())
        self.store.write(runs.set_progress, [update], self.now)
        if (run := self.current(execution)) is not None:
            run.progress = self.a_progress()

    @precondition(lambda self: self.executions)
    @rule(
        number=numbers,
        how=st.sampled_from(
            ["complete", "complete", "fail", "interrupt", "wait", "again", "later", "overdue"]
        ),
        keep=st.booleans(),
        jobs_next=st.sampled_from([None, ("a",), ("a", "b")]),
    )
    def finish(self, number: int, how: str, keep: bool, jobs_next: tuple[str, ...] | None) -> None:
        self.finish_of(self.an_execution(number), how, keep, jobs_next)

    def finish_of(
        self, execution: Execution, how: str, keep: bool, jobs_next: tuple[str, ...] | None
    ) -> None:
        outcome = self.outcome_of(execution, how)
        progress = self.a_progress() if keep else None
        leaving = execution.key, execution.fence, outcome, self.now, progress, keep
        wanted, code = None, CODES[0]
        if jobs_next is not None and execution.owner in self.owners:
            code = CODES[len(self.times) % len(CODES)]
            origins = origins_of(jobs_next, code)
            names = json.dumps(jobs_next)
            wanted = Claim(execution.owner, names, lambda: self.now, origins=origins)
        ended = self.store.write(settle.settle_and_claim, *leaving, wanted)
        run = self.current(execution)
        assert ended.is_effective == (run is not None)
        if run is not None:
            is_inside = isinstance(outcome, Failed | TriedAgain) and outcome.is_inside
            run.owner = run.owner if is_inside else None
            run.progress = progress or run.progress
            self.expect_outcome(run, outcome)
            if how == "complete" and not keep:
                run.steps.clear()
                run.maps.clear()
        following = None
        if wanted is not None and jobs_next is not None:
            following = self.expect_claim(execution.owner, jobs_next, code)
        assert (ended.claimed is None) == (following is None)
        if following is not None and ended.claimed is not None:
            self.took(following, ended.claimed)

    def outcome_of(self, execution: Execution, how: str) -> Outcome:
        if how == "complete":
            return Completed('"done"')
        if how == "fail":
            return Failed(ErrorInfo("E", str(self.now), ""), "s")
        if how == "interrupt":
            return Interrupted()
        error = ErrorInfo("E", str(self.now), "")
        if how == "overdue" and self.now % 2:
            return Failed(error, "s", is_inside=True)
        if how in ("again", "later", "overdue"):
            wait = (0, 3, 60)[self.now % 3]
            due_us = self.now + wait if wait else None
            return TriedAgain(error, "s", wait, due_us, how != "later", is_inside=how == "overdue")
        due = self.now + 7
        how = ("sleep", "ask", "call")[self.now % 3]
        if how == "ask":
            return Suspended("answer", "q", due if self.now % 2 else None)
        gone = sorted({*range(1, self.order + 1)} - {run.order for run in self.runs.values()})
        if how == "call" and gone and self.now % 5 == 0:
            return Suspended("run", None if self.now % 2 else "c", due, gone[self.now % len(gone)])
        if how == "call" and (others := [run for run in self.runs if run != execution.id]):
            awaited = self.runs[others[self.now % len(others)]]
            return Suspended("run", None if self.now % 2 else "c", None, awaited.order)
        return Suspended("time", "t", due)

    def expect_outcome(self, run: Run, outcome: Outcome) -> None:
        if isinstance(outcome, Completed):
            self.end(run, "completed")
            run.output = outcome.output
        elif isinstance(outcome, Failed):
            text = {"type": "E", "message": outcome.error.message, "traceback": ""}
            run.error = json.dumps(text | {"failed_step": "s"}, separators=(",", ":"))
            self.end(run, "failed", run.error)
            run.failures += 1
        elif isinstance(outcome, TriedAgain):
            run.leave("suspended", self.now)
            if outcome.is_failure:
                text = {"type": "E", "message": outcome.error.message, "traceback": ""}
                error = json.dumps(text | {"failed_step": "s"}, separators=(",", ":"))
                attempt, _, begun, ended, _ = run.tries[-1]
                run.tries[-1] = (attempt, "failed", begun, ended, error)
                run.failures += 1
            run.go_back(now=self.now)
            run.due = outcome.run_at_us
            run.keeps_attempt = not outcome.is_failure
        else:
            orders = [None, *(each.order for each in self.runs.values())]
            # What was deleted is not waited for.
            is_away = isinstance(outcome, Suspended) and outcome.run_pk in orders
            run.go_back("suspended" if is_away else "interrupted", self.now)
            if not is_away:
                return
        if isinstance(outcome, Suspended):
            ended = [each.order for each in self.runs.values() if each.status in TERMINAL]
            is_answered = (
                outcome.waits_for == "answer"
                and run.question is not None
                and run.question[2] is not None
            )
            if outcome.run_pk not in ended and not is_answered:
                run.status, run.due = "waiting", outcome.until_us
                run.waits = (outcome.waits_for, outcome.name, outcome.run_pk)

    @rule(number=numbers, what=st.sampled_from(["due", "answer", "postpone", "cancel"]))
    def wait(self, number: int, what: str) -> None:
        if what == "due":
            self.wake_due(number % 10)
        elif what == "answer":
            self.answer(number)
        elif what == "postpone":
            self.postpone(number)
        elif waiting := [run for run in self.runs.values() if run.status == "waiting"]:
            run = waiting[number % len(waiting)]
            self.cancel_it(run.id, run)

    def wake_due(self, later: int) -> None:
        """What is due goes on, and nothing else."""
        self.set_clock(self.now + later)
        due = [run for run in self.runs.values() if run.due is not None and run.due <= self.now]
        assert self.store.write(requeue.wake_due, self.now) is bool(due)
        for run in due:
            run.wake()

    def answer(self, number: int) -> None:
        """One that waits goes on before its time; a second time changes nothing."""
        waiting = [run for run in self.runs.values() if run.status == "waiting"]
        if waiting:
            run = waiting[number % len(waiting)]
            assert self.store.write(requeue.wake, run.order, self.now) is True
            run.wake()
            assert self.store.write(requeue.wake, run.order, self.now) is False

    @precondition(lambda self: self.executions)
    @rule(number=numbers, late_by=st.sampled_from([None, 3, 20]))
    def ask(self, number: int, late_by: int | None) -> None:
        """The first question counts, with its deadline; only the running execution may ask."""
        execution = self.an_execution(number)
        run = self.current(execution)
        until = None if late_by is None else self.now + late_by
        new = NewWait("q", "answer", until, question="?")
        found = self.store.write(waits.open_wait, execution.key, execution.fence, new, self.now)
        if run is None:
            assert found is None
            return
        if run.question is None:
            run.question = [until, self.now, None, None, None, 0, None]
        elif run.question[1] is None:
            run.question[:2] = [until, self.now]
        assert found is not None
        assert found.until_us == run.question[0]
        assert (found.answer, found.closed_at_us) == (run.question[2], run.question[4])
        assert (found.tries, found.next_us) == tuple(run.question[5:])

    @precondition(lambda self: self.executions)
    @rule(number=numbers, how=st.sampled_from(["close", "close", "discard", "check"]))
    def end_question(self, number: int, how: str) -> None:
        """No answer counts after the end, no end after the answer, no check of a lost execution."""
        execution = self.an_execution(number)
        run = self.current(execution)
        where = execution.key, execution.fence, "q"
        question = None if run is None else run.question
        if how == "discard":
            is_asked = question is not None and question[1] is not None
            assert self.store.write(waits.discard_answer, *where) is is_asked
            if question is not None and is_asked:
                question[2:4] = [None, None]
            return
        if how == "check":
            checks = [number % 5 + 1, self.now + number % 7]
            is_noted = self.store.write(waits.note_check, *where, *checks)
            assert is_noted is (question is not None)
            if question is not None:
                question[5:] = checks
            return
        found = self.store.write(waits.close_wait, *where, self.now)
        assert (found is None) == (question is None)
        if question is not None and question[2] is None and question[4] is None:
            question[4] = self.now

    @precondition(lambda self: self.ids)
    @rule(number=numbers, answer_id=st.sampled_from([None, "x", "y"]))
    def reply(self, number: int, answer_id: str | None) -> None:
        """The first answer counts, until the deadline, and wakes the run that waits for it."""
        asking = [run.id for run in self.runs.values() if run.question or run.waits[1] == "q"]
        run_id = asking[number // 2 % len(asking)] if asking and number % 2 else None
        run_id, run = (run_id, self.runs[run_id]) if run_id else self.a_run(number)
        outcome = self.call(waits.answer, run_id, "q", str(self.now), answer_id, self.now)
        if run is None:
            assert outcome == "not found"
            return
        question = run.question
        if question is not None and question[2] is not None:
            is_same = answer_id is not None and question[3] == answer_id
            assert outcome == ("done" if is_same else "conflict")
            return
        is_late = question is not None and (
            question[4] is not None or (question[0] is not None and question[0] <= self.now)
        )
        if run.status in TERMINAL or is_late:
            assert outcome == "conflict"
            return
        assert outcome == "done"
        if question is None:
            run.question = [None, None, str(self.now), answer_id, None, 0, None]
        else:
            question[2:4] = [str(self.now), answer_id]
        if run.waits[:2] == ("answer", "q"):
            run.wake()

    def postpone(self, number: int) -> None:
        """A pending run that is not due is in no line, and gets its place back."""
        pending = [run for run in self.runs.values() if run.is_in_line()]
        if pending:
            run = pending[number % len(pending)]
            run.due = self.now + 1 + number % 20
            postpone = "UPDATE durably_runs SET run_at_us = ? WHERE run = ?"
            self.store.write(lambda db: db.execute(postpone, (run.due, run.order)) and None)

    @precondition(lambda self: self.executions)
    @rule(number=numbers)
    def release(self, number: int) -> None:
        execution = self.an_execution(number)
        run = self.runs.get(execution.id)
        may = (
            run is not None
            and run.owner == execution.owner
            and run.fence == execution.fence
            and run.status in ("cancelled", "failed", "pending")
        )
        done = self.store.write(settle.settle, execution.key, execution.fence, Lost(), self.now)
        assert done is may
        if run is not None and may:
            run.owner = None

    # -- what callers do -----------------------------------------------------------------------

    @precondition(lambda self: self.ids)
    @rule(
        number=numbers,
        verb=st.sampled_from(["cancel", "retry", "again", "delete", "log"]),
    )
    def manage(self, number: int, verb: str) -> None:
        if verb == "log":
            self.log(number)
        if verb in ("cancel", "again"):
            self.cancel(number)
        if verb in ("retry", "again"):
            self.retry(number)
        if verb == "delete":
            self.delete(number)

    def a_run(self, number: int) -> tuple[str, Run | None]:
        # Those that were executed more often.
        executed = [run.id for run in self.runs.values() if run.attempt]
        ids = executed if executed and number % 4 else self.ids
        run_id = ids[-1 - number // 4 % len(ids)]
        return run_id, self.runs.get(run_id)

    def call(self, verb: Any, *args: Any) -> str:
        try:
            self.store.write(verb, *args)
        except ConflictError:
            return "conflict"
        except NotFoundError:
            return "not found"
        return "done"

    def cancel(self, number: int) -> None:
        self.cancel_it(*self.a_run(number))

    def cancel_it(self, run_id: str, run: Run | None) -> None:
        outcome = self.call(runs.cancel_all, run_id, self.now)
        if run is None:
            assert outcome == "not found"
        elif run.status in TERMINAL:
            assert outcome == "conflict"
        else:
            assert outcome == "done"
            for each in (run, *self.descendants(run)):
                if each.status not in TERMINAL:
                    self.end(each, "cancelled")

    def descendants(self, run: Run, among: tuple[str, ...] = ()) -> list[Run]:
        """Its children and theirs; with *among*, only by way of those with such a status."""
        found = [
            each
            for each in self.runs.values()
            if each.parent == run.order and (not among or each.status in among)
        ]
        return found + [other for each in found for other in self.descendants(each, among)]

    def retry(self, number: int) -> None:
        run_id, run = self.a_run(number)
        outcome = self.call(runs.retry_all, run_id, self.now)
        if run is None:
            assert outcome == "not found"
        elif run.status not in ("failed", "cancelled"):
            assert outcome == "conflict"
        else:
            assert outcome == "done"
            self.retry_in_model(run)

    @precondition(lambda self: self.ids)
    @rule(
        number=numbers,
        from_step=st.sampled_from([None, None, *STEPS, *MAPS, "q"]),
        only=st.sampled_from([None, None, None, *STEPS, *MAPS, "q", "m[k1]", "n[k2]"]),
    )
    def redo(self, number: int, from_step: str | None, only: str | None) -> None:
        """Results are forgotten of a run that nothing executes, and it goes back."""
        from_step = None if only is not None else from_step
        run_id, run = self.a_run(number)
        outcome = self.call(redo.redo, run_id, from_step, only, self.now)
        if run is None:
            assert outcome == "not found"
            return
        if run.status == "running" or run.owner is not None:
            assert outcome == "conflict"
            return
        name = from_step or only
        place = -1 if name is None else self.place_of_step(run, name)
        if place is None:
            assert outcome == "not found"
            return
        assert outcome == "done"
        if only is not None and "[" in only:
            self.forget_item(run, only)
        elif only is not None:
            self.forget_step(run, only)
        else:
            after = [*run.steps, *run.maps, "q"]
            for each in after:
                at = self.place_of_step(run, each)
                if at is not None and at >= place:
                    self.forget_step(run, each)
            self.release_children(run)
        due = run.due if run.attempt == 0 else None
        run.progress, run.died_after = None, 0
        self.retry_one_in_model(run)
        run.due = due

    def release_children(self, run: Run) -> None:
        """Children of steps that are forgotten are cancelled; one with a key is found again."""
        for child in self.runs.values():
            if child.parent == run.order and child.idem is None:
                is_active = child.status not in TERMINAL
                for each in (child, *self.descendants(child)):
                    if is_active and each.status not in TERMINAL:
                        self.end(each, "cancelled")
                child.parent = None

    def place_of_step(self, run: Run, name: str) -> int | None:
        """The index by which a step, a map, a question or an item is known to a person."""
        if name in run.steps:
            return run.steps[name][0]
        if name in run.maps:
            return run.maps[name].record[0]
        if name == "q":
            return 1000 if run.question is not None and run.question[1] is not None else None
        of_map = run.maps.get(name[0])
        keys = () if of_map is None else [each[0] for each in of_map.items.values()]
        return 0 if name[2:-1] in keys else None

    def forget_step(self, run: Run, name: str) -> None:
        if name == "q":
            run.question = None
            return
        if name in run.maps:
            index, *_, attempt = run.maps.pop(name).record
        else:
            index, *_, attempt = run.steps[name]
        run.steps[name] = (index, "forgotten", None, None, attempt)
        run.layers.pop(name, None)
        self.results.pop((run.id, name), None)

    def forget_item(self, run: Run, name: str) -> None:
        of_map = run.maps[name[0]]
        index, output = next(
            (index, each[1]) for index, each in of_map.items.items() if each[0] == name[2:-1]
        )
        del of_map.items[index], of_map.layers[index]
        step_index, _, _, attempt = of_map.record
        of_map.record = (step_index, None, None, attempt)
        done, failed, reused = of_map.counts
        done, failed = max(0, done - (output is not None)), max(0, failed - (output is None))
        of_map.counts = (done, failed, min(reused, done))

    @precondition(lambda self: self.ids)
    @rule(number=numbers, origin=st.sampled_from(["x", "y", None]))
    def adopt(self, number: int, origin: str | None) -> None:
        is_adoptable = {"pending", "waiting"}.__contains__
        begun = [run.id for run in self.runs.values() if is_adoptable(run.status) and run.origin]
        run_id, run = self.a_run(number)
        if begun:
            run_id = begun[number % len(begun)]
            run = self.runs[run_id]
        outcome = self.call(runs.adopt, run_id, origin, self.now)
        if run is None:
            assert outcome == "not found"
        elif not is_adoptable(run.status):
            assert outcome == "conflict"
        else:
            assert outcome == "done"
            run.origin = origin if run.origin is not None else None

    def delete(self, number: int) -> None:
        run_id, run = self.a_run(number)
        outcome = self.call(runs.delete, run_id)
        if run is None:
            assert outcome == "not found"
        elif run.status not in TERMINAL or run.owner is not None:
            assert outcome == "conflict"
        else:
            assert outcome == "done"
            self.forget(run_id)

    def forget(self, run_id: str) -> None:
        order = self.runs.pop(run_id).order
        for each in self.runs.values():
            if each.parent == order:
                each.parent = None
        self.lines = [line for line in self.lines if line[0] != order]

    @rule(number=numbers, late_by=st.sampled_from([0, 0, 1]), limit=st.sampled_from([1, 1, 2, 500]))
    def purge(self, number: int, late_by: int, limit: int) -> None:
        # There must be some to choose from.
        while sum(run.completed is not None for run in self.runs.values()) < 3:
            self.enqueue_plain(PLAIN)
            self.live(number, ["s"], JOBS, "complete", keep=True)
        self.set_clock(self.now + 1)
        ends = sorted(run.completed for run in self.runs.values() if run.completed is not None)
        before = ends[-1 - number % min(len(ends), 3)] + late_by
        old = [
            run
            for run in self.runs.values()
            if run.completed is not None
            and run.completed < before
            and run.owner is None
            and not self.is_needed(run, before)
        ]
        old.sort(key=lambda run: run.completed or 0)
        rows = self.store.write(runs.purge, before, limit)
        assert {row.id for row in rows} == {run.id for run in old[:limit]}
        for row in rows:
            self.forget(row.id)

    def is_needed(self, run: Run, before: int) -> bool:
        """Whether its parent may still ask for its output."""
        return any(
            each.order == run.parent and (each.completed is None or each.completed >= before)
            for each in self.runs.values()
        )

    # -- log lines and lists -------------------------------------------------------------------

    def log(self, number: int) -> None:
        """An owner that executes or has executed a run may log; lines of deleted runs are gone."""
        lines = []
        for each in (number, number // 2, number // 4):
            run_id, run = self.a_run(each)
            owner, message = each % 5 + 1, f'"{each}"'
            lines.append(LogLine(run_id, owner, "info", message, "{}", None, self.now))
            if run is not None:
                self.lines.append((run.order, owner, message))
        self.store.write(logs.append, lines)
        run_id, run = self.a_run(number)
        order = None if run is None else run.order
        found = self.store.read(logs.of_run, run_id, except_owners=[1])
        assert [row.message for row in found] == [
            message for at, owner, message in self.lines if at == order and owner != 1
        ]

    def lists_are_those_of_the_model(self) -> None:
        """One list, another one each time."""
        choice = Random(len(self.times))
        statuses = choice.choice([None, [], ["failed"], ["pending", "running"], list(TERMINAL)])
        jobs = choice.choice([None, (), ("a",), JOBS])
        labels = choice.choice([None, *LABELS])
        limit, offset = choice.choice([None, 0, 2]), choice.randrange(3)
        wanted = json.loads(labels or "{}").items()
        fitting = [
            run.id
            for run in sorted(self.runs.values(), key=lambda run: -run.order)
            if (statuses is None or run.status in statuses)
            and (jobs is None or run.job in jobs)
            and wanted <= json.loads(run.labels).items()
        ]
        filters = Filters(
            None if statuses is None else json.dumps(statuses),
            None if jobs is None else json.dumps(jobs),
            labels,
        )
        rows = self.store.read(queries.find_many, filters, limit, offset)
        assert [row.id for row in rows] == fitting[offset:][:limit]
        assert self.store.read(queries.count, filters) == len(fitting)
        for row in rows:
            run = self.runs[row.id]
            ends = [step[1] for step in run.steps.values()]
            ends += [each.record[1] for each in run.maps.values()]
            done = ends.count("completed")
            assert (row.completed_steps, row.labels) == (done, self.runs[row.id].labels)

    # -- after each rule -----------------------------------------------------------------------

    @invariant()
    def store_and_model_agree(self) -> None:
        self.set_clock(self.now + 1)
        found_maps, found_items = self.store.read(
            lambda db: (db.execute(MAPS_OF_RUNS).fetchall(), db.execute(ITEMS_OF_MAPS).fetchall())
        )
        self.maps_are_those_of_the_model(found_maps, found_items)
        asked = self.store.read(lambda db: db.execute(WAITS_OF_RUNS).fetchall())
        assert asked == [
            (run.order, "q", *run.question)
            for run in sorted(self.runs.values(), key=lambda run: run.order)
            if run.question is not None
        ]
        found_runs, tries, found_steps, found_owners, found_lines, next_due, looked = (
            self.store.read(
                lambda db: (
                    db.execute(RUNS).fetchall(),
                    {run_id: attempts.of_run(db, run_id) for run_id in self.runs},
                    db.execute(STEPS_OF_RUNS).fetchall(),
                    db.execute(OWNERS).fetchall(),
                    db.execute(LINES).fetchall(),
                    requeue.next_due_us(db),
                    [
                        queries.has_claimable(db, json.dumps(jobs), "[]", origins_of(jobs, code))
                        for jobs in LOOKS
                        for code in CODES
                    ],
                )
            )
        )
        self.runs_are_those_of_the_model(found_runs)
        assert {
            run_id: [(each.attempt, each.outcome, *each[4:7]) for each in rows]
            for run_id, rows in tries.items()
        } == {run.id: run.tries for run in self.runs.values()}
        self.lists_are_those_of_the_model()
        self.steps_are_those_of_the_model(found_steps)
        assert found_owners == [
            (owner, beat, int(owner in self.started)) for owner, beat in sorted(self.owners.items())
        ]
        assert found_lines == self.lines
        due = [run.due for run in self.runs.values() if run.due is not None]
        assert next_due == min(due, default=None)
        # A look tells whether a claim would find something.
        assert looked == [bool(self.claimable(jobs, code)) for jobs in LOOKS for code in CODES]
        # At most one run of a key is inside a job.
        keys = [run.key for run in self.runs.values() if run.owner is not None and run.key]
        assert len(keys) == len(set(keys))

    def place_of(self, run: Run) -> int:
        if run.kind == "session":
            return 3
        if run.key is None:
            return 0
        queue = [
            other.turn
            for other in self.runs.values()
            if (other.key, other.job, other.is_in_line()) == (run.key, run.job, True)
            and other.origin == run.origin
        ]
        if not run.is_in_line() or run.turn != min(queue):
            return 1
        return 2 if self.held(run.key) else 0

    def runs_are_those_of_the_model(self, found: list[Any]) -> None:
        assert found == [
            (
                run.order,
                run.id,
                run.job,
                run.status,
                run.owner,
                run.attempt,
                run.output,
                run.error,
                run.progress,
                run.key,
                run.idem,
                run.created,
                run.started,
                run.completed,
                run.beat,
                self.place_of(run),
                run.turn,
                run.origin,
                run.fence,
                run.keeps_attempt,
                run.failures,
                run.due,
                *run.waits,
                run.payload,
                run.kind,
                run.deaths,
                run.parent,
            )
            for run in sorted(self.runs.values(), key=lambda run: run.order)
        ]

    def maps_are_those_of_the_model(self, maps: list[Any], found: list[Any]) -> None:
        expected = [
            (run.order, name, run.maps[name])
            for run in sorted(self.runs.values(), key=lambda run: run.order)
            for name in sorted(run.maps)
        ]
        assert maps == [(order, name, *each.record, *each.counts) for order, name, each in expected]
        assert found == [
            (order, name, index, *each.items[index])
            for order, name, each in expected
            for index in sorted(each.items)
        ]

    def steps_are_those_of_the_model(self, found: list[Any]) -> None:
        assert found == [
            (run.order, name, *run.steps[name])
            for run in sorted(self.runs.values(), key=lambda run: run.order)
            for name in sorted(run.steps)
        ]
        by_order = {run.order: run.id for run in self.runs.values()}
        for order, name, _, status, output, _, _ in found:
            if status == "completed":
                assert self.results[by_order[order], name] == output
