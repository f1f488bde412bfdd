"""Rows that durably never writes, one among good ones: it is named, and all others go on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from databases import open_database

import durably
from durably.plugins import LogPersistence
from durably.store import bounds
from durably.testing import check

MOST, LEAST = 2**63 - 1, -(2**63)
BAD = "01BAD"
NOT_UTF8 = "CAST(x'22ff22' AS TEXT)"
TEXTS = {
    "not UTF-8": NOT_UTF8,
    "half a character": "CAST(x'22e282' AS TEXT)",
    "a surrogate": "CAST(x'22eda08022' AS TEXT)",
    "empty": "''",
    "not JSON": "'{nope'",
    "another JSON": "'{\"x\":1}'",
    "an array": "'[1]'",
    "deep": f"'{'[' * 100_000}{']' * 100_000}'",
    "huge": f"'{'9' * 5000}'",
    "NUL": "'a' || char(0) || 'b'",
    "escapes": "char(27) || '[2J'",
    "in an object": """'{"a":"' || CAST(x'ff' AS TEXT) || '"}'""",
}
PENDING = {"status": "'pending'"}
TRIED = {"attempt": 1, "fence": 1, "started_at_us": 2, "heartbeat_at_us": 3}
FAILED = TRIED | {
    "status": "'failed'",
    "completed_at_us": 4,
    "error": '\'{"type":"E","message":"m","traceback":""}\'',
}
COMPLETED = TRIED | {"status": "'completed'", "completed_at_us": 4, "output": "'1'"}
STATES = {"pending": PENDING, "tried": TRIED | PENDING, "failed": FAILED, "completed": COMPLETED}


def beyond(bound: bounds.Bounds) -> list[int]:
    """Return numbers that a column must not hold."""
    return sorted({bound.least - 1, bound.most + 1, MOST, LEAST})


@durably.job("work")
def work(step: durably.StepContext, payload: int) -> int:
    step.log.info("at work")
    return step.run("one", lambda: payload)


def insert(path: Path, table: str, columns: dict[str, Any], *, is_bypassing: bool) -> None:
    """Insert a row of SQL expressions, as another program would."""
    db = open_database(path)
    db.pragma("foreign_keys", False)
    db.pragma("ignore_check_constraints", is_bypassing)
    names = ", ".join(columns)
    values = ", ".join(map(str, columns.values()))
    try:
        db.execute(f"INSERT INTO {table} ({names}) VALUES ({values})")
    finally:
        db.close()


def run_with(state: str, **columns: Any) -> dict[str, Any]:
    row = {"id": f"'{BAD}'", "job_name": "'work'", "payload": "'1'"}
    return row | {"created_at_us": 1, "updated_at_us": 1} | STATES[state] | columns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a run that waits."""
    database = tmp_path / "runs.db"
    app = durably.Durably(database, jobs=[work])
    try:
        app.jobs["work"].trigger(7, idempotency_key="good")
    finally:
        app.close()
    return database


def good_ones_go_on(path: Path, others: Iterable[str] = ()) -> None:
    """All that waits is executed, and lists are lists."""
    app = durably.Durably(path, jobs=[work], heartbeat_interval=0.1, stale_threshold=0.2)
    try:
        app.use(LogPersistence())
        app.start()
        waiting = app.jobs["work"].trigger(7, idempotency_key="good")
        assert app.wait(waiting, timeout=20).output == 7
        later = app.jobs["work"].trigger(8)
        assert app.wait(later, timeout=20).output == 8
        for run_id in others:
            assert app.wait(run_id, timeout=20).output == 1
        app.run_until_idle(raise_failed=False)
        assert {waiting.id, later.id} <= {run.id for run in app.get_runs()}
        ended = {run.id for run in app.as_completed([waiting, later], timeout=20)}
        assert ended == {waiting.id, later.id}
        assert [each.name for each in app.get_steps(later)] == ["one"]
        assert len(app.get_logs(later)) == 1
        app.stop()
    finally:
        app.close()


def the_bad_one_is_named(app: durably.Durably, run_id: str) -> None:
    """Reading it raises an error that says what is wrong with it, and it can be deleted."""
    listed = run_id in {each.id for each in app.get_runs()}
    if listed:
        assert app.get_run(run_id) is not None
    else:
        # One of an origin that nobody can have waits for ever.
        is_over = not app.count_runs(status=["pending", "running"])
        for read in (app.get_run, app.wait) if is_over else (app.get_run,):
            with pytest.raises(durably.DatabaseError, match=run_id) as caught:
                read(run_id)
            assert str(caught.value).isascii()
        if is_over:
            assert list(app.as_completed([run_id], timeout=20)) == []
    if app.count_runs(status=["pending", "running"]):
        with suppress(durably.ConflictError):  # another one may be pending: a due one has ended
            app.cancel(run_id)
    app.delete_run(run_id)
    assert app.get_run(run_id) is None


def all_are_named(path: Path, ids: list[str]) -> None:
    """Each of them, after which nothing is wrong with the file."""
    app = durably.Durably(path, jobs=[work])
    try:
        for run_id in ids:
            the_bad_one_is_named(app, run_id)
    finally:
        app.close()
    assert check(path) == []


def is_stored(path: Path, table: str, columns: dict[str, Any]) -> bool:
    """Insert the row, past the constraints if they reject it; whether it is there then."""
    for is_bypassing in (False, True):
        with suppress(apsw.ConstraintError, apsw.SQLError):
            insert(path, table, columns, is_bypassing=is_bypassing)
            return True
    return False


@pytest.mark.parametrize(
    ("state", "column"),
    [
        *(
            ("pending", column)
            for column in (
                "payload",
                "progress",
                "labels",
                "idempotency_key",
                "concurrency_key",
                "origin",
            )
        ),
        ("tried", "payload"),
        ("tried", "progress"),
        ("completed", "output"),
        ("completed", "progress"),
        ("failed", "error"),
    ],
)
def test_runs_with_texts_that_durably_never_writes(path: Path, state: str, column: str) -> None:
    """They are failed if they wait, and the others are executed."""
    ids = []
    for number, text in enumerate(TEXTS.values()):
        row = run_with(state, id=f"'{BAD}{number}'", **{column: text})
        if column == "concurrency_key":
            row["queue_place"] = 1
        if is_stored(path, "durably_runs", row):
            ids.append(f"{BAD}{number}")
    assert ids
    good_ones_go_on(path)
    all_are_named(path, ids)


@pytest.mark.parametrize("column", ["id", "job_name", "status"])
def test_runs_whose_name_or_status_durably_never_writes(path: Path, column: str) -> None:
    """They are nobody's, or failed; they keep nothing else from going on, and are found."""
    for number, text in enumerate(TEXTS.values()):
        row = run_with("pending", id=f"'{BAD}{number}'") | {column: text}
        assert is_stored(path, "durably_runs", row)
    assert check(path) != []
    good_ones_go_on(path)


@pytest.mark.parametrize("state", ["pending", "tried", "completed"])
@pytest.mark.parametrize("column", [*bounds.RUN, "place"])
def test_runs_with_numbers_beyond_their_bounds(path: Path, state: str, column: str) -> None:
    """They are failed, or cancelled where they cannot even fail, and the others are executed."""
    ids = []
    for number, value in enumerate(beyond(bounds.RUN.get(column, bounds.NUMBER))):
        # The numbers of the runs to come would be behind it: see below.
        if column != "run" or value <= 0:
            row = run_with(state, id=f"'{BAD}{number}'") | {column: value}
            assert is_stored(path, "durably_runs", row)
            ids.append(f"{BAD}{number}")
    assert check(path) != []
    good_ones_go_on(path)
    all_are_named(path, ids)


def test_runs_in_no_possible_state(path: Path) -> None:
    """What contradicts itself keeps nothing else from going on."""
    impossible = [
        {"output": "'1'"},
        {"error": "'{}'"},
        {"completed_at_us": 1},
        {"started_at_us": 1},
        {"attempt": 1},
        {"attempt": -1},
        {"status": "'running'", "owner": 1},
        {"status": "'running'", "owner": 1, "output": "'1'"},
        {"status": "'running'", "owner": 1, "concurrency_key": "'k'", "queue_place": 1},
        {"status": "'running'", "owner": 99},
        {"status": "'running'"},
    ]
    for number, columns in enumerate(impossible):
        row = run_with("pending", id=f"'{BAD}{number}'") | columns
        assert is_stored(path, "durably_runs", row)
    assert check(path) != []
    good_ones_go_on(path)


STEP = {
    "step": "(SELECT max(run) << 24 FROM durably_runs)",
    "run": "(SELECT max(run) FROM durably_runs)",
    "name": "'one'",
    "status": "'completed'",
    "output": "'1'",
    "attempt": 1,
    "started_at_us": 1,
    "completed_at_us": 1,
}
FAILED_STEP = STEP | {"status": "'failed'", "output": "NULL"}
STEPS: dict[str, list[dict[str, Any]]] = {
    **{
        column: [STEP | {column: text} for text in TEXTS.values()]
        for column in ("name", "output", "status")
    },
    "error": [FAILED_STEP | {"error": text} for text in TEXTS.values()],
    **{
        column: [STEP | {column: value} for value in beyond(bound)]
        for column, bound in bounds.STEP.items()
    },
}


@pytest.mark.parametrize("state", ["tried", "completed"])
@pytest.mark.parametrize("column", STEPS)
def test_steps_that_durably_never_writes(path: Path, state: str, column: str) -> None:
    """They are left out of the list of steps; a run that cannot resume from them fails."""
    ids = []
    for number, row in enumerate(STEPS[column]):
        ids.append(f"{BAD}{number}")
        insert(path, "durably_runs", run_with(state, id=f"'{ids[-1]}'"), is_bypassing=False)
        assert is_stored(path, "durably_steps", row)
    good_ones_go_on(path)
    app = durably.Durably(path, jobs=[work])
    try:
        for run_id in ids:
            run = app.get_run(run_id)
            assert run is not None
            assert run.is_terminal
            assert len(app.get_steps(run_id)) <= 2
    finally:
        app.close()
    all_are_named(path, ids)


LINE = {
    "run": "(SELECT run FROM durably_runs WHERE id = '01BAD')",
    "owner": 1,
    "level": "'info'",
    "message": "'\"m\"'",
    "data": "'{}'",
    "step_name": "'one'",
    "created_at_us": 1,
}


@pytest.mark.parametrize("column", ["level", "message", "data", "step_name", *bounds.LOG])
def test_log_lines_that_durably_never_writes(path: Path, column: str) -> None:
    """They are left out of the list of log lines, and keep no other from being there."""
    insert(path, "durably_runs", run_with("completed"), is_bypassing=False)
    insert(path, "durably_logs", LINE, is_bypassing=False)
    bound = bounds.LOG.get(column)
    for value in TEXTS.values() if bound is None else beyond(bound):
        if column != "log" or int(value) <= 0:
            assert is_stored(path, "durably_logs", LINE | {column: value})
    good_ones_go_on(path)
    app = durably.Durably(path, jobs=[work])
    try:
        assert app.get_logs(BAD)
    finally:
        app.close()
    all_are_named(path, [BAD])


OWNER = {
    "token": "'0123456789ABCDEFGHJKMNPQRS'",
    "boot_id": "''",
    "pid": 1,
    "heartbeat_interval_us": 1000,
    "is_started": 1,
    "beat_at_us": 1,
    "opened_at_us": 1,
}


@pytest.mark.parametrize("column", ["token", "boot_id", *bounds.OWNER])
def test_owners_that_durably_never_writes(path: Path, column: str) -> None:
    """Their running runs are recovered and executed, and nobody waits for them."""
    ids = []
    bound = bounds.OWNER.get(column)
    for number, value in enumerate(TEXTS.values() if bound is None else beyond(bound)):
        # The numbers of the owners to come would be behind it.
        if column == "owner" and int(value) > 0:
            continue
        token = f"'{number:02}' || substr({OWNER['token']}, 3)"
        row = {"owner": 70 + number} | OWNER | {"token": token} | {column: value}
        assert is_stored(path, "durably_owners", row)
        ids.append(f"{BAD}{number}")
        run = run_with("tried", id=f"'{ids[-1]}'", status="'running'", owner=row["owner"])
        insert(path, "durably_runs", run, is_bypassing=False)
    assert check(path) != []
    good_ones_go_on(path, ids)
    all_are_named(path, ids)


@pytest.mark.parametrize("column", ["key", "value"])
def test_labels_that_durably_never_writes(path: Path, column: str) -> None:
    """Runs are found by their own labels all the same."""
    insert(path, "durably_runs", run_with("completed"), is_bypassing=False)
    for number, text in enumerate(TEXTS.values()):
        row = {"run": LINE["run"], "key": f"'k{number}'", "value": "'v'"} | {column: text}
        assert is_stored(path, "durably_labels", row)
    good_ones_go_on(path)
    app = durably.Durably(path, jobs=[work])
    try:
        run = app.jobs["work"].trigger(1, labels={"k": "v"})
        assert [each.id for each in app.get_runs(labels={"k": "v"})] == [run.id]
    finally:
        app.close()


@pytest.mark.parametrize("seq", [2**39 - 1, MOST, -1, "'x'", "NULL"])
def test_numbers_that_are_used_up(path: Path, seq: Any) -> None:
    """The next opening of the file repairs them."""
    good_ones_go_on(path)
    db = open_database(path)
    db.execute(f"UPDATE sqlite_sequence SET seq = {seq}")
    db.close()
    assert {each.problem for each in check(path)} == {"the numbers of a table are used up"}
    good_ones_go_on(path)
    assert check(path) == []


@pytest.mark.parametrize("table", ["durably_runs", "durably_owners", "durably_logs"])
def test_numbers_that_are_used_up_meanwhile(path: Path, table: str) -> None:
    """What cannot be stored says why; it is not that the disk is full."""
    good_ones_go_on(path)
    app = durably.Durably(path, jobs=[work])
    errors: list[str] = []
    try:
        db = open_database(path)
        db.execute(f"UPDATE sqlite_sequence SET seq = {MOST} WHERE name = '{table}'")
        db.close()
        if table == "durably_logs":
            app.use(LogPersistence())
            app.on("worker:error", lambda event: errors.append(str(event.error)))
            app.start()
            assert app.jobs["work"].trigger_and_wait(1, timeout=20).output == 1
            app.stop()
        else:
            with pytest.raises(durably.DatabaseError, match="no number left") as caught:
                app.jobs["work"].trigger(1)
                app.start()
            errors.append(str(caught.value))
    finally:
        try:
            app.close()
        except durably.DatabaseError as exc:
            errors.append(str(exc))  # of the lines that cannot be stored
    assert any(f"no number left for another row of {table}" in text for text in errors)


def test_a_warning_names_what_is_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each run, on the logger."""
    for number in range(3):
        row = run_with("completed", id=f"'01LEFT{number}'", output=NOT_UTF8)
        insert(path, "durably_runs", row, is_bypassing=False)
    app = durably.Durably(path)
    try:
        for _ in range(3):
            assert len(app.get_runs()) == 1
    finally:
        app.close()
    warned = [each.getMessage() for each in caplog.records if "cannot be read" in each.getMessage()]
    assert len(warned) == 3
    assert all("its output contains bytes that are not valid UTF-8" in text for text in warned)
