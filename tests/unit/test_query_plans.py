"""Every statement of the store prepares, and those that are executed often never scan a table."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import apsw.ext
import pytest
from storekit import fresh, insert, token_of

from durably.models import ErrorInfo
from durably.store.item_rows import MapState
from durably.store.outcome import Completed, Failed, Interrupted, Lost, Outcome, Suspended
from durably.store.rows import Begin, Beginning, Claim, NewRun, RunRow
from durably.store.sqlite import sql
from durably.store.sqlite.connection.writer import MOST_AT_ONCE
from durably.store.sqlite.sql import (
    begin,
    claims,
    enqueue,
    items,
    owners,
    queries,
    requeue,
    runs,
    settle,
    steps,
)

# How the plan of a query reads runs that are listed, but for subqueries about jobs and parents.
OF_RUNS = ("SCAN r", "SEARCH r ", "SCAN durably")
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
MANY = 20_000
# The maps of a run, by its number; their items with them.
OF_MAPS = "sqlite_autoindex_durably_maps_2"
# What a foreign key follows when a run is deleted.
OF_A_RUN = {
    OF_MAPS,
    "sqlite_autoindex_durably_steps_1",
    "durably_logs_run",
    "durably_runs_awaited",
    "durably_runs_children",
}
# Of runs without checkpoints, of those of a job's own code, and of those of any.
CLAIMABLE = {
    "durably_runs_claimable",
    "durably_runs_claimable_of_origin",
    "durably_runs_claimable_begun",
}
COUNTING = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < %d)"


@functools.cache
def statements() -> dict[str, str]:
    """The constants of the store's modules that are statements, by module and name."""
    found = {}
    for module in pkgutil.iter_modules(sql.__path__):
        names = vars(importlib.import_module(f"{sql.__name__}.{module.name}"))
        for name, value in names.items():
            if isinstance(value, str) and value.split()[:1] and value.split()[0] in VERBS:
                found[f"{module.name}.{name}"] = value
    several = range(2, MOST_AT_ONCE + 1)
    found |= {f"steps.store_several({n})": steps.store_several(n) for n in several}
    found |= {
        f"items.save_several({n}, layered={layered})": items.save_several(n, layered=layered)
        for n in items.SIZES
        for layered in (False, True)
    }
    return {name: sql for name, sql in found.items() if not re.search(r"\{\w+\}", sql)}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = fresh(tmp_path / "test.db")
    for owner in (1, 2):
        owners.register(
            connection,
            token=token_of(f"t{owner}"),
            boot_id="boot",
            pid=1,
            heartbeat_interval_us=1,
            now_us=1,
        )
    yield connection
    connection.close()


def plan(db: apsw.Connection, sql: str) -> list[str]:
    db_rows = apsw.ext.query_info(db, sql, explain_query_plan=True).query_plan
    found: list[str] = []

    def walk(node: Any) -> None:
        found.append(node.detail)
        for child in node.sub or ():
            walk(child)

    walk(db_rows)
    return found


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("claims.CLAIM", 1),  # for what it returns
        ("enqueue.ENQUEUE", 0),
        ("items.save_several(1, layered=False)", 0),
        ("logs.APPEND", 0),
        ("settle.COMPLETE", 0),
        ("settle.FAIL", 0),
        ("steps.STORE", 0),
    ],
)
def test_the_rules_of_a_row_need_no_table_in_memory(
    db: apsw.Connection, name: str, tables: int
) -> None:
    """A CHECK or an index with a list of more than two values makes one for each statement."""
    program: list[str] = []
    for each in apsw.ext.query_info(db, statements()[name], explain=True).explain or ():
        if each.addr < len(program):
            break  # the programs of triggers follow
        program.append(each.opcode)
    assert program.count("OpenEphemeral") == tables


def test_introspection_finds_the_statements() -> None:
    """The tests of this module look at the statements of all modules of the store."""
    found = statements()
    assert {"claims.CLAIM", "steps.STORE", "owners.BEAT_RUNS", "logs.APPEND"} <= set(found)
    assert len(found) >= 35


def test_every_statement_prepares_against_the_schema(db: apsw.Connection) -> None:
    """Each fits the newest schema, and is a single one."""
    for name, statement in statements().items():
        info = apsw.ext.query_info(db, statement)
        assert info.query_remaining is None, name
        assert info.query == statement


@pytest.mark.parametrize(
    ("name", "indexes"),
    [
        ("claims.CLAIM", CLAIMABLE),
        ("claims.CLAIM_ONE", set()),
        ("attempts.OF_RUN", {"sqlite_autoindex_durably_runs_1", OF_MAPS}),
        ("attempts.SET_OUTCOME", set()),
        ("begin.NEWEST_OF_PAYLOAD", {"durably_runs_payload", OF_MAPS}),
        ("begin.NEWEST_SESSION", {"durably_runs_sessions", OF_MAPS}),
        ("extending.EXTEND_COMPLETED", {OF_MAPS}),
        ("begin.HAND_KEY_ON", {"durably_runs_idempotency"}),
        ("extending.EXTEND", set()),
        ("begin.HOLDER", {"durably_runs_key_holder", OF_MAPS}),
        ("begin.EXECUTOR", set()),
        ("queries.FIRST_CLAIMABLE", CLAIMABLE),
        ("queries.BEGUN_OF_MANY", {"sqlite_autoindex_durably_runs_1"}),
        ("enqueue.BY_IDEMPOTENCY_KEY", {"durably_runs_idempotency", OF_MAPS}),
        ("enqueue.PENDING_OF_KEY", {"durably_runs_queue_first", OF_MAPS}),
        ("enqueue.RUNNING_OF_KEY", {"durably_runs_key_holder", OF_MAPS}),
        ("enqueue.AWAY_OF_KEY", {"durably_runs_away", OF_MAPS}),
        ("queries.BY_ID", {"sqlite_autoindex_durably_runs_1", OF_MAPS}),
        ("queries.BRIEF", {"sqlite_autoindex_durably_runs_1"}),
        ("queries.BRIEF_OF_MANY", {"sqlite_autoindex_durably_runs_1"}),
        ("runs.CANCEL", {"sqlite_autoindex_durably_runs_1"}),
        ("runs.RETRY", {"sqlite_autoindex_durably_runs_1", OF_MAPS}),
        ("settle.COMPLETE", set()),
        ("settle.FAIL", set()),
        ("settle.INTERRUPT", {OF_MAPS}),
        ("settle.SUSPEND", {OF_MAPS}),
        ("settle.RELEASE", set()),
        ("requeue.DUE", {"durably_runs_due"}),
        ("requeue.NEXT_DUE", {"durably_runs_due"}),
        ("requeue.WAKE", set()),
        ("runs.SET_PROGRESS", set()),
        ("queries.STATE_OF", set()),
        ("runs.DELETE", OF_A_RUN),
        ("settle.DELETE_STEPS", set()),
        ("requeue.RECOVER", {OF_MAPS}),
        ("unsound.JUST_CLAIMED", {"durably_runs_owner"}),
        ("requeue.FORGET_OWNER", {"durably_runs_owner"}),
        ("requeue.RELEASE_ALL", {"durably_runs_owner"}),
        ("runs.OLDEST_ENDED", {"durably_runs_ended"}),
        ("runs.PURGE", OF_A_RUN),
        ("runs.HAS_ENDED_BEFORE", {"durably_runs_ended"}),
        ("steps.STORE_NEW", set()),
        ("steps.STORE", set()),
        ("steps.STORE_FAILED", set()),
        ("steps.STORE_CANCELLED", set()),
        ("steps.FIND", {"sqlite_autoindex_durably_steps_1"}),
        ("steps.WINDOW", set()),
        ("steps.HIGHEST", set()),
        ("steps.OF_RUN", {"sqlite_autoindex_durably_runs_1"}),
        ("items.SAVE_COUNTS", {OF_MAPS}),
        ("items.END", {OF_MAPS}),
        ("items.END_CANCELLED", {OF_MAPS}),
        ("items.ADD", set()),
        ("items.ADD_CANCELLED", set()),
        ("items.MAP", {OF_MAPS, "durably_items_of_other_code", "durably_items_held"}),
        ("items.INDEXES", {OF_MAPS}),
        ("items.COUNT", {OF_MAPS}),
        ("items.MAPS_OF_RUN", {"sqlite_autoindex_durably_runs_1", OF_MAPS}),
        ("items.WINDOW", set()),
        ("items.AT", set()),
        ("items.BY_KEY", {"durably_items_key"}),
        ("items.MAP_OF", {"sqlite_autoindex_durably_runs_1", OF_MAPS}),
        ("items.OF_MAP", set()),
        ("items.FAILED_OF_MAP", {"durably_items_failed"}),
        ("settle.DELETE_MAPS", {OF_MAPS}),
        ("owners.BEAT_OWNER", set()),
        ("owners.BEAT_RUNS", {"durably_runs_owner"}),
        ("owners.REMOVE", {"durably_runs_owner"}),
        ("logs.APPEND", {"sqlite_autoindex_durably_runs_1"}),
        ("logs.OF_RUN", {"sqlite_autoindex_durably_runs_1", "durably_logs_run"}),
        ("logs.NEWEST", set()),
        ("face_queries.EXECUTOR_OF", {"sqlite_autoindex_durably_runs_1"}),
        ("face_queries.FAILURES", {"durably_items_failed"}),
        ("waits.FIND", set()),
        ("waits.BY_TICKET", {"durably_waits_ticket"}),
        ("waits.NOTE_CHECK", set()),
        ("waits.CLOSE", set()),
        ("waits.ANSWER", set()),
        ("claims.CLAIM_CHILD", set()),
    ],
)
def test_hot_statement_searches_and_never_scans(
    db: apsw.Connection, name: str, indexes: set[str]
) -> None:
    """What is executed often finds its rows through an index or the row number alone."""
    details = plan(db, statements()[name])
    text = "\n".join(details)
    scans = [each for each in details if each.startswith("SCAN") and "json_each" not in each]
    # A subquery is what the searches have found.
    assert [each for each in scans if "VIRTUAL TABLE" not in each and "(subq" not in each] == [], (
        text
    )
    assert "TEMP B-TREE" not in text
    assert "AUTOMATIC" not in text
    used = set(re.findall(r"INDEX (\w*durably_\w+)", text))
    assert used == indexes, text


@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("queries.FIND", ["SCAN r"]),  # from the newest run on, until enough are found
        (
            "face_queries.BY_KEY",
            ["SEARCH r USING INDEX durably_runs_idempotency (job_name=? AND idempotency_key=?)"],
        ),
        (
            "face_queries.BY_END",
            [
                "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)",
                "SCAN durably_runs USING COVERING INDEX sqlite_autoindex_durably_runs_1",
            ],
        ),
        ("face_queries.RUNNING", ["SEARCH r USING INDEX durably_runs_owner (owner>?)"]),
        (
            "face_queries.OPEN_MAPS",
            ["SEARCH r USING COVERING INDEX sqlite_autoindex_durably_runs_1"],
        ),
        ("face_queries.PURGEABLE", ["SEARCH r USING INDEX durably_runs_ended (completed_at_us>?"]),
    ],
)
def test_what_a_person_asks_reads_no_more_rows_than_needed(
    db: apsw.Connection, name: str, details: list[str]
) -> None:
    """A list of the newest runs, or a run found by its key or the end of its id, is quick."""
    found = plan(db, statements()[name])
    of_runs = [each for each in found if each.startswith(OF_RUNS)]
    assert len(of_runs) == len(details)
    assert all(map(str.startswith, of_runs, details)), found
    if name == "queries.FIND":
        assert "USE TEMP B-TREE FOR ORDER BY" not in found


def vm_steps(db: apsw.Connection, action: Callable[[], object]) -> int:
    """How many instructions of SQLite's virtual machine *action* takes."""
    counted: list[int] = []

    def count(event: dict[str, Any]) -> None:
        counted.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    action_takes_place_once = db.trace_v2(apsw.SQLITE_TRACE_PROFILE, count)
    assert action_takes_place_once is None
    try:
        action()
    finally:
        db.trace_v2(0, None)
    assert counted
    return sum(counted)


ORIGINS = '{"job":"mine","job":"alias","other":"mine"}'


def finished(db: apsw.Connection) -> None:
    for status, output, error in (("completed", "1", None), ("failed", None, "{}")):
        db.execute(
            f"""{COUNTING % (MANY // 2)}
            INSERT INTO durably_runs
                (id, job_name, idempotency_key, payload, attempt, status, output, error,
                 started_at_us, heartbeat_at_us, created_at_us, updated_at_us, completed_at_us)
            SELECT ?1 || n, 'job', ?1 || n, '1', 1, ?1, ?2, ?3, 1, 1, 1, 1, 1 FROM n""",
            (status, output, error),
        )


def pending(db: apsw.Connection, job: str, key: str | None) -> None:
    db.execute(
        f"""{COUNTING % MANY}
        INSERT INTO durably_runs
            (id, job_name, payload, created_at_us, updated_at_us, concurrency_key, queue_place)
        SELECT 'p' || n, ?1, '1', 1, 1, ?2, ?2 IS NOT NULL FROM n""",
        (job, key),
    )


def behind_a_busy_key(db: apsw.Connection) -> None:
    enqueue.enqueue(db, NewRun("holder", "job", "1", concurrency_key="k"), 1)
    (holder,) = claims.claim(db, Claim(2, '["job"]', lambda: 1))
    assert holder.id == "holder"
    pending(db, "job", "k")


def behind_a_busy_key_of_two_jobs(db: apsw.Connection) -> None:
    behind_a_busy_key(db)
    for number in range(10):
        enqueue.enqueue(db, NewRun(f"o{number}", "other", "1", concurrency_key="k"), 1)


def begun_by_others(db: apsw.Connection) -> None:
    db.execute(
        f"""{COUNTING % MANY}
        INSERT INTO durably_runs
            (id, job_name, payload, attempt, started_at_us, heartbeat_at_us, created_at_us,
             updated_at_us, origin)
        SELECT 'p' || n, 'job', '1', 1, 1, 1, 1, 1, 'origin' || (n % 2) FROM n"""
    )


def waiting(db: apsw.Connection) -> None:
    """Of each kind of wait as many, and pending runs that are not due, all of one key."""
    trigger = NewRun("awaited", "unknown", "1")
    awaited = enqueue.enqueue(db, trigger, 1).row.run
    for kind, due, of_run in (("time", 99, None), ("answer", None, None), ("run", None, awaited)):
        db.execute(
            f"""{COUNTING % MANY}
            INSERT INTO durably_runs
                (id, job_name, status, payload, attempt, fence, keeps_attempt, started_at_us,
                 heartbeat_at_us, created_at_us, updated_at_us, waits_for, wait_name, run_at_us,
                 waits_for_run, concurrency_key, queue_place, parent)
            SELECT ?1 || n, 'job', 'waiting', '1', 1, 1, 1, 1, 1, 1, 1, ?1, 'w', ?2 + n, ?3, 'k', 1,
                   ?4 FROM n""",
            (kind, due, of_run, awaited),
        )
    db.execute(
        f"""{COUNTING % (2 * MANY)}
        INSERT INTO durably_runs
            (id, job_name, payload, created_at_us, updated_at_us, concurrency_key, queue_place,
             run_at_us)
        SELECT 'p' || n, 'job', '1', 1, 1, 'k', 1, 99 + n FROM n"""
    )


def sessions(db: apsw.Connection) -> None:
    """Pending ones of the job's name, which began like runs with checkpoints and without."""
    db.execute(
        f"""{COUNTING % MANY}
        INSERT INTO durably_runs
            (id, job_name, payload, attempt, started_at_us, heartbeat_at_us, created_at_us,
             updated_at_us, origin, kind, queue_place)
        SELECT 'p' || n, 'job', '1', 1, 1, 1, 1, 1, CASE n % 2 WHEN 0 THEN 'mine' END, 'session', 3
        FROM n"""
    )


FULL = {
    "sessions": sessions,
    "100,000 runs that wait": waiting,
    "runs that others have begun": begun_by_others,
    "finished runs": finished,
    "runs behind a busy key": behind_a_busy_key,
    "runs behind a busy key, two jobs": behind_a_busy_key_of_two_jobs,
    "runs of an unknown job": lambda db: pending(db, "unknown", None),
    "runs of an unknown job behind a busy key": lambda db: pending(db, "unknown", "k"),
    "claimable runs": lambda db: pending(db, "job", None),
    "claimable runs with a key": lambda db: pending(db, "other", "q"),
}


def costs(db: apsw.Connection, name: str) -> dict[str, int]:
    """The steps that one run costs from its trigger to its deletion, verb by verb."""
    jobs = json.dumps(["job", "other"])
    new = NewRun(f"mine-{name}", "job", "1", idempotency_key=f"i{name}", concurrency_key=f"c{name}")
    taken: list[RunRow] = []
    # Those that were triggered before are claimed first.
    own = Claim(1, jobs, lambda: 2, origins=ORIGINS)

    def leave(outcome: Outcome) -> Callable[[], object]:
        row = taken[-1]
        return lambda: settle.settle_and_claim(db, row.run, row.fence, outcome, 3)

    found = {
        "enqueue": vm_steps(db, lambda: enqueue.enqueue(db, new, 1)),
        "enqueue again": vm_steps(db, lambda: enqueue.enqueue(db, new, 1)),
        "coalesce": vm_steps(
            db,
            lambda: enqueue.enqueue(
                db, NewRun("x", "job", "1", concurrency_key=f"c{name}", coalesce=True), 1
            ),
        ),
        "look": vm_steps(db, lambda: queries.has_claimable(db, jobs, "[]", ORIGINS)),
        "look for others": vm_steps(db, lambda: queries.begun(db, jobs)),
        "claim": vm_steps(db, lambda: taken.extend(claims.claim(db, own))),
    }
    run = taken[-1]
    found |= {
        "beat": vm_steps(db, lambda: owners.beat(db, 1, lambda: 5)),
        "checkpoint": vm_steps(
            db, lambda: steps.complete(db, run.run, run.fence, 0, "s", "1", 1, 2, 3, None)
        ),
        "brief": vm_steps(db, lambda: queries.brief(db, run.id)),
        "look for due ones": vm_steps(db, lambda: requeue.wake_due(db, 4)),
        "next due": vm_steps(db, lambda: requeue.next_due_us(db)),
        "suspend": vm_steps(db, leave(Suspended("time", "w", 5))),
        "wake": vm_steps(db, lambda: requeue.wake_due(db, 6)),
    }
    taken += claims.claim(db, own)
    assert (taken[-1].id, taken[-1].attempt) == (run.id, 1)
    found |= {
        "interrupt": vm_steps(db, leave(Interrupted())),
    }
    taken += claims.claim(db, own)
    assert taken[-1].id == run.id
    found["fail"] = vm_steps(db, leave(Failed(ErrorInfo("E", "", ""))))
    found["retry"] = vm_steps(db, lambda: runs.retry(db, run.id, 6))
    taken += claims.claim(db, own)
    assert taken[-1].id == run.id
    found["cancel"] = vm_steps(db, lambda: runs.cancel(db, run.id, 6))
    found["release"] = vm_steps(db, leave(Lost()))
    found["delete"] = vm_steps(db, lambda: runs.delete(db, run.id))
    found |= costs_of_a_certain_run(db, name, own)
    found["remove owner"] = vm_steps(db, lambda: owners.remove(db, 1))
    return found


def costs_of_a_certain_run(db: apsw.Connection, name: str, claim: Claim) -> dict[str, int]:
    """The same of a run that is begun, and continued, by its payload or its key."""
    found = {}
    for what, key in (("its payload", None), ("its key", f"certain-{name}")):
        new = NewRun(f"{what}-{name}", "job", f'{{"of": "{name}"}}', idempotency_key=key)
        began: list[Beginning] = []

        def one(new: NewRun = new, began: list[Beginning] = began) -> None:
            began.append(begin.begin(db, Begin(new, claim)))

        found[f"begin by {what}"] = vm_steps(db, one)
        settle.settle(db, began[-1].row.run, began[-1].row.fence, Interrupted(), 3)
        found[f"continue by {what}"] = vm_steps(db, one)
        assert [each.how for each in began] == ["created", "continued"]
        settle.settle(db, began[-1].row.run, began[-1].row.fence, Completed("1"), 4)
    return found


@pytest.mark.parametrize("content", FULL)
def test_verbs_cost_the_same_whatever_else_is_in_the_file(
    db: apsw.Connection, content: str
) -> None:
    """20,000 runs of whatever kind do not make triggering, claiming, or ending a run dearer."""
    empty = costs(db, "empty")
    owners.register(
        db, token=token_of("t3"), boot_id="boot", pid=1, heartbeat_interval_us=1, now_us=1
    )
    db.execute("UPDATE durably_owners SET owner = 1 WHERE token = ?", (token_of("t3"),))
    with db:
        FULL[content](db)
    full = costs(db, "full")
    # Depth of trees does not count in these steps; a walk over 20,000 rows would.
    assert {verb: count for verb, count in full.items() if count > 2 * empty[verb] + 200} == {}


def test_a_job_of_any_origin_claims_among_20000_without_a_walk(db: apsw.Connection) -> None:
    """Whatever number of origins they have, the first of them is found at once."""
    wanted = Claim(1, '["job"]', lambda: 2, origins='{"job":"mine","job":true}')
    begun_by_others(db)
    taken: list[RunRow] = []
    assert vm_steps(db, lambda: taken.extend(claims.claim(db, wanted))) < 1000
    assert [row.id for row in taken] == ["p1"]


def test_claiming_from_a_queue_of_20000_costs_the_same_for_each(db: apsw.Connection) -> None:
    """Run after run of one concurrency key, the next one is found without a walk."""
    with db:
        pending(db, "job", "k")
    spent = []
    for _ in range(3):
        taken: list[RunRow] = []

        def one(taken: list[RunRow] = taken) -> None:
            taken.extend(claims.claim(db, Claim(1, '["job"]', lambda: 2)))
            settle.settle_and_claim(db, taken[0].run, 1, Completed("1"), 3)

        spent.append(vm_steps(db, one))
        assert taken
    assert max(spent) < 2 * min(spent)
    assert max(spent) < 2000


def test_claiming_past_runs_that_are_not_to_be_claimed_costs_by_those_alone(
    db: apsw.Connection,
) -> None:
    """A run that is excluded costs a claim one row, whatever waits behind it."""
    with db:
        pending(db, "job", None)
    order = [run for (run,) in db.execute("SELECT run FROM durably_runs ORDER BY run LIMIT 9")]

    def claim(excluded: int) -> int:
        inside = json.dumps(order[:excluded])
        taken: list[RunRow] = []
        wanted = Claim(1, '["job"]', lambda: 2, inside=lambda: inside)
        spent = vm_steps(db, lambda: taken.extend(claims.claim(db, wanted)))
        assert [row.run for row in taken] == [order[excluded]]
        return spent

    assert claim(8) < claim(0) + 1500


def test_purge_costs_by_what_it_deletes(db: apsw.Connection) -> None:
    """A purge that finds nothing old enough reads none of the 20,000 finished runs."""
    with db:
        finished(db)
    assert vm_steps(db, lambda: runs.purge(db, 1, 500)) < 200
    one = vm_steps(db, lambda: runs.purge(db, 2, 1))
    assert len(runs.purge(db, 2, 7)) == 7
    assert one < 2000


def test_newest_times_are_found_beside_20000_runs(db: apsw.Connection) -> None:
    """What retention asks at each check walks over no runs."""
    with db:
        finished(db)
        pending(db, "job", None)
    assert vm_steps(db, lambda: runs.newest_time(db)) < 200
    assert vm_steps(db, lambda: runs.newest_trigger(db)) < 50
    assert vm_steps(db, lambda: runs.has_ended_before(db, 1)) < 50


def test_reading_a_window_costs_by_its_length(db: apsw.Connection) -> None:
    """The checkpoints of a run are found beside 20,000 of other runs, without a walk."""
    for number in (1, 2, 3):
        insert(
            db,
            "durably_runs",
            id=f"r{number}",
            job_name="job",
            payload="1",
            created_at_us=1,
            updated_at_us=1,
        )
        count = 3 if number == 2 else MANY // 2
        db.execute(
            f"""{COUNTING % count}
            INSERT INTO durably_steps SELECT ({number} << 24) | n - 1, {number}, 's' || n,
                'completed', '1', NULL, 1, 1, 1, 0, 1, 1, 1, NULL, NULL, NULL FROM n"""
        )
    assert steps.highest_index(db, 2) == 2
    assert len(steps.window(db, 2, 0).checkpoints) == 3
    assert vm_steps(db, lambda: steps.window(db, 2, 0)) < 200
    assert vm_steps(db, lambda: steps.highest_index(db, 2)) < 50
    assert vm_steps(db, lambda: steps.find(db, 2, "s3")) < 50
    assert vm_steps(db, lambda: steps.window_layered(db, 2, 0)) < 200
    assert vm_steps(db, lambda: steps.find_layered(db, 2, "s3")) < 50
    assert vm_steps(db, lambda: steps.of_run(db, "r2")) < 300


def test_items_cost_by_what_is_asked_for(db: apsw.Connection) -> None:
    """Saving, finding or listing one of 20,000 items, or the few failed ones, walks over none."""
    for number in (1, 2):
        enqueue.enqueue(db, NewRun(f"r{number}", "job", "1"), 1)
    runs_of_it = claims.claim(db, Claim(1, '["job"]', lambda: 2, 2))
    for run in runs_of_it:
        state = MapState(run.run, f"m{run.run}", True, 0, 0, 0, None, 1)
        assert items.save(db, run.run, run.fence, state, [])
    db.execute(
        f"""{COUNTING % MANY}
        INSERT INTO durably_items SELECT (1 << 30) | n - 1, 'k' || n, iif(n % 9999, '1', NULL),
            iif(n % 9999, NULL, '{{}}'), 1, NULL, 1, 1, 0, 0, NULL, NULL, NULL FROM n"""
    )
    run = runs_of_it[0]
    state = MapState(run.run, f"m{run.run}", True, 1, 0, 0, None, 1)
    new = (MANY, "new", "1", None, 1, None, 1, 2, 3)
    assert vm_steps(db, lambda: items.save(db, run.run, run.fence, state, [new])) < 300
    assert vm_steps(db, lambda: items.find_map(db, run.run, f"m{run.run}")) < 100
    assert vm_steps(db, lambda: items.find(db, 1, "k17")) < 100
    assert vm_steps(db, lambda: items.at(db, 1, 17)) < 100
    assert vm_steps(db, lambda: items.window(db, 2, 0)) < 100
    assert vm_steps(db, lambda: items.window_layered(db, 2, 0)) < 100
    assert vm_steps(db, lambda: items.find_layered(db, 1, "k17")) < 100
    found: list[Any] = []
    assert vm_steps(db, lambda: found.append(items.of_map(db, "r1", "m1", "failed", 9, 0))) < 300
    assert [row[0] for row in found[0]] == [9998, 19997]
    assert vm_steps(db, lambda: items.of_map(db, "r1", "m1", None, 9, 0)) < 500
    assert vm_steps(db, lambda: steps.of_run(db, "r1")) < 300
