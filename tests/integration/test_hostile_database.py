"""A database written by somebody who means harm: it is data, and nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from children import execute
from damage import change
from databases import open_database

import durably
from durably.testing import check

NAMES = [
    "os:system",
    "os.system",
    "builtins.eval",
    "__main__:payload",
    "subprocess:Popen",
    "../../etc/passwd",
    "c__builtin__\neval",
    "durably.testing:check",
    "${jndi:ldap://127.0.0.1/x}",
    "__import__('os').system('touch executed')",
]
# What serialisers of other kinds take for code, or for a class to make.
VALUES: list[Any] = [
    "touch executed",
    {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["touch executed"]]},
    {"__reduce__": ["os.system", ["touch executed"]]},
    {"__class__": "subprocess.Popen", "args": ["touch", "executed"]},
    "!!python/object/apply:os.system ['touch executed']",
    "gASVHAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAF4lIWUUpQu",
    "__import__('os').system('touch executed')",
    {"$type": "os.system", "_type": "Login", "durably": "type"},
]


def plant(path: Path, names: list[str], values: list[Any]) -> None:
    """Make a database with runs in every status, steps and logs, of jobs and values as given."""
    durably.Durably(path).close()
    for number, (name, value) in enumerate((n, v) for n in names for v in values):
        text = json.dumps(value).replace("'", "''")
        job = name.replace("'", "''")
        error = json.dumps(
            {"type": name, "message": str(value), "traceback": str(value), "failed_step": name}
        ).replace("'", "''")
        status = ("pending", "completed", "failed", "cancelled")[number % 4]
        is_done = status in ("completed", "failed")
        change(
            path,
            f"""INSERT INTO durably_runs (id, job_name, status, payload, output, error, progress,
                labels, attempt, created_at_us, started_at_us, completed_at_us, updated_at_us,
                heartbeat_at_us)
            VALUES ('01{number:024}', '{job}', '{status}', '{text}',
                {f"'{text}'" if status == "completed" else "NULL"},
                {f"'{error}'" if status == "failed" else "NULL"},
                '{{"current": 1, "total": null, "message": "{number}"}}', '{{}}', {int(is_done)},
                1, {"1" if is_done else "NULL"}, {"NULL" if status == "pending" else "1"}, 1,
                {"1" if is_done else "NULL"});
            INSERT INTO durably_logs (run, owner, level, message, data, step_name, created_at_us)
            VALUES (last_insert_rowid(), 1, 'info', '"{number}"', '{{"a": {text}}}', '{job}', 1);
            INSERT INTO durably_steps (step, run, name, status, output, attempt, started_at_us,
                completed_at_us)
            SELECT run << 24, run, 'echo', 'completed', '{text}', 1, 1, 1 FROM durably_runs
            WHERE attempt = 1 AND id = '01{number:024}';""",
        )


def test_nothing_in_a_database_is_executed(tmp_path: Path) -> None:
    """Job names that name functions, and values that other programs would make objects of: an
    engine reads, executes, retries and deletes what is its own, and starts, imports and evaluates
    nothing.
    """
    harmless, hostile = tmp_path / "harmless.db", tmp_path / "hostile.db"
    plain = [1, "text", {"user": "me"}, [1], {"a": "b"}, None]
    plant(harmless, ["known", "typed", "unknown"], plain)
    plant(hostile, ["known", "typed", *NAMES], VALUES)
    done = execute("executes_what_is_hostile", harmless, hostile, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(each.name for each in tmp_path.iterdir() if "executed" in each.name) == []


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("token", ["/../victim", "../victim", "x/../../folder/victim", "\0", ""])
def test_a_token_in_a_database_never_becomes_a_path(
    tmp_path: Path, token: str, is_running: bool
) -> None:
    """Whatever somebody has written in the place of an engine's token, past the constraints: no
    file beside or above the database is removed, and the run of that owner is executed.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "runs.db"
    victims = [tmp_path / "victim", folder / "victim", folder / "runs.db.owner-"]
    for victim in victims:
        victim.write_text("precious")

    @durably.job("known")
    def known(step: durably.StepContext) -> int:
        return step.run("one", int)

    with durably.Durably(path, jobs=[known]):
        pass
    db = open_database(path)
    db.pragma("ignore_check_constraints", True)
    db.execute(
        "INSERT INTO durably_owners (owner, token, boot_id, pid, heartbeat_interval_us, is_started,"
        " beat_at_us, opened_at_us) VALUES (77, ?, '', 1, 3153600000000000, 1, 1, 1)",
        (token,),
    )
    if is_running:
        db.execute(
            "INSERT INTO durably_runs (id, job_name, status, payload, owner, attempt, fence,"
            " created_at_us, started_at_us, updated_at_us, heartbeat_at_us) VALUES"
            " ('R', 'known', 'running', 'null', 77, 1, 1, 1, 1, 1, 1)"
        )
    db.close()
    assert "the token of an owner is not valid" in {each.problem for each in check(path)}
    with durably.Durably(path, jobs=[known]) as app:
        if is_running:
            assert app.wait("R").output == 0
        app.run_until_idle()
        app._supervisor._reaper._sweep()
    assert [victim.read_text() for victim in victims] == ["precious"] * 3
    assert check(path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_nobody_registered_stays_pending(tmp_path: Path, name: str) -> None:
    """A name in the database finds a job that is registered here, or nothing."""
    path = tmp_path / "runs.db"
    plant(path, [name], ["touch executed"])
    with durably.Durably(path) as app:
        assert app.run_until_idle() == 0
        (run,) = app.get_runs()
        assert (run.status, run.job_name, run.payload) == ("pending", name, "touch executed")
        app.cancel(run)
        with pytest.raises(durably.NotFoundError):
            app.retrigger(run)
    assert check(path) == []


def test_the_expected_schema_is_not_read_from_the_database(tmp_path: Path) -> None:
    """What a file says of itself does not decide what is expected of it."""
    path = tmp_path / "runs.db"
    plant(path, ["known"], [1])
    change(path, "CREATE TABLE durably_migrations (version, script)")
    with pytest.raises(durably.SchemaError, match="durably_migrations"):
        durably.Durably(path)
