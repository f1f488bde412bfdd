"""``durably.testing.check`` finds each kind of damage, says nothing else, and changes nothing."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import apsw
import pytest
from children import execute
from damage import ENDLESS, HARMLESS, SCHEMA_DAMAGES, TOKEN, change, damage, make_sound
from databases import open_database
from hypothesis import given
from hypothesis import strategies as st

import durably
from durably.codec import UNTYPED, Codec
from durably.store import bounds
from durably.store.sqlite.sql import check as rules
from durably.store.sqlite.sql import schema
from durably.store.sqlite.sql.check import MOST_PER_RULE, RULES
from durably.testing import Finding, check


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    make_sound(path)
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage, made by nobody who has it open."""
    copy = tmp_path / "runs.db"
    shutil.copy(sound, copy)
    return copy


def test_nothing_is_wrong_with_a_sound_database(path: Path) -> None:
    """What engines write has no findings, in a file that a process died with as well."""
    assert check(path) == []
    assert check(str(path)) == []


PENDING = "(SELECT run FROM durably_runs WHERE concurrency_key = 'other')"
FIRST = "(SELECT min(run) FROM durably_runs WHERE concurrency_key = 'free')"
PLAIN = (
    "(SELECT max(run) FROM durably_runs"
    " WHERE concurrency_key IS NULL AND status = 'pending' AND kind = 'job')"
)
SESSION = "(SELECT run FROM durably_runs WHERE kind = 'session')"
DONE = "(SELECT run FROM durably_runs WHERE status = 'completed')"
FAILED = "(SELECT run FROM durably_runs WHERE status = 'failed')"
ASLEEP = "(SELECT run FROM durably_runs WHERE status = 'waiting')"

# By rule, one or more statements that each make a database with that fault.
DAMAGES = {
    "a run contains text that is not UTF-8": [
        f"UPDATE durably_runs SET {column} = CAST(x'ff' AS TEXT) WHERE run = {DONE}"
        for column in (
            "id",
            "job_name",
            "payload",
            "output",
            "error",
            "progress",
            "labels",
            "idempotency_key",
            "concurrency_key",
            "host",
            "forked_from",
            "unused_steps",
        )
    ]
    + [
        f"UPDATE durably_runs SET {column} = CAST(x'ff' AS TEXT) WHERE run = {ASLEEP}"
        for column in ("waits_for", "wait_name")
    ]
    + [f"UPDATE durably_runs SET kind = CAST(x'ff' AS TEXT) WHERE run = {SESSION}"],
    "a step contains text that is not UTF-8": [
        f"UPDATE durably_steps SET {column} = CAST(x'80' AS TEXT) WHERE name = 'step-1'"
        for column in ("name", "output", "error")
    ],
    "a map contains text that is not UTF-8": [
        f"UPDATE durably_maps SET {column} = CAST(x'ff' AS TEXT) WHERE map = 2"
        for column in ("name", "status", "error")
    ],
    "an item contains text that is not UTF-8": [
        f"UPDATE durably_items SET {column} = CAST(x'ff' AS TEXT) WHERE key IS NOT NULL"
        for column in ("key", "output", "error")
    ],
    "an attempt contains text that is not UTF-8": [
        f"UPDATE durably_attempts SET {column} = CAST(x'ff' AS TEXT)"
        for column in ("outcome", "host", "error", "unused_steps")
    ],
    "the name of a function contains text that is not UTF-8": [
        "INSERT INTO durably_codes VALUES (1, CAST(x'ff' AS TEXT))"
    ],
    "a call of a step contains text that is not UTF-8": [
        "INSERT INTO durably_calls (run, name, fence, place, calls, notes)"
        f" VALUES ({PLAIN}, {values})"
        for values in ("'s', 1, 0, 1, CAST(x'ff' AS TEXT)", "CAST(x'ff' AS TEXT), 1, 0, 1, '[]'")
    ],
    "a wait contains text that is not UTF-8": [
        "INSERT INTO durably_waits (run, name, kind, created_at_us, asked_at_us, question)"
        f" SELECT {ASLEEP}, {name}, 'answer', 1, 1, {question}"
        for name, question in (("CAST(x'ff' AS TEXT)", "''"), ("'q'", "CAST(x'ff' AS TEXT)"))
    ],
    "a log line contains text that is not UTF-8": [
        f"UPDATE durably_logs SET {column} = CAST(x'c0af' AS TEXT)"
        for column in ("message", "data", "step_name")
    ],
    "a run contains a value that is not JSON": [
        f"UPDATE durably_runs SET payload = '[1' WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET output = '' WHERE run = {DONE}",
        f"UPDATE durably_runs SET progress = 'half' WHERE run = {DONE}",
        f"UPDATE durably_runs SET retry = 'often' WHERE run = {PLAIN}",
    ],
    "a step's result is not JSON": ["UPDATE durably_steps SET output = 'x' WHERE name = 'step-1'"],
    "an item's result is not JSON": ["UPDATE durably_items SET output = 'x' WHERE key = 'a'"],
    "an error of a map or an item does not say what it was": [
        f"UPDATE durably_{table} SET error = '{text}' WHERE error IS NOT NULL"
        for table in ("maps", "items")
        for text in ("", "[]", '{"type": "E", "message": ""}')
    ],
    "an error of a run does not say what it was": [
        f"UPDATE durably_runs SET error = '{text}' WHERE run = {FAILED}"
        for text in ("ValueError", "{}", '{"type": "E", "message": 1, "traceback": ""}')
    ],
    "an error of an attempt does not say what it was": [
        f"UPDATE durably_attempts SET error = '{text}'"
        for text in ("", "[]", '{"type": "E", "message": ""}')
    ],
    "the unused steps of a run are not a list": [
        f"UPDATE {table} SET unused_steps = '{text}'"
        for table in ("durably_runs", "durably_attempts")
        for text in ("", "{}")
    ],
    "an error of a step does not say what it was": [
        f"UPDATE durably_steps SET error = '{text}' WHERE name = 'bad'"
        for text in ("", "[]", '{"type": "E", "message": ""}')
    ],
    "the data of a log line are not a JSON object": [
        "UPDATE durably_logs SET data = '1'",
        "UPDATE durably_logs SET data = '{'",
    ],
    "the token of an owner is not valid": [
        f"UPDATE durably_owners SET token = {token}"
        for token in (
            "'/../../../victim'",
            "'0123456789abcdefghjkmnpqrs'",
            f"substr('{TOKEN}', 2)",
            f"'{TOKEN}0'",
            f"'{TOKEN}' || char(0) || '/x'",
            f"substr('{TOKEN}', 1, 20) || char(0) || '/../x'",
            "CAST(x'" + "ff" * 26 + "' AS TEXT)",
        )
    ],
    "a label contains text that is not UTF-8": [
        f"UPDATE durably_labels SET {column} = CAST(x'ff' AS TEXT)" for column in ("key", "value")
    ],
    "an owner contains text that is not UTF-8": [
        f"UPDATE durably_owners SET {column} = CAST(x'ff' AS TEXT)"
        for column in ("token", "boot_id")
    ],
    "a number of a run is not within its bounds": [
        f"UPDATE durably_runs SET {column} = {value} WHERE run = {DONE}"
        for column, bound in {**bounds.RUN, "place": bounds.NUMBER}.items()
        for value in (bound.least - 1, bound.most + 1, 2**63 - 1, -(2**63))
    ],
    "a number of a step is not within its bounds": [
        f"UPDATE durably_steps SET {column} = {value} WHERE name = 'step-1'"
        for column, bound in bounds.STEP.items()
        for value in (bound.least - 1, bound.most + 1)
    ],
    "a number of a map is not within its bounds": [
        *(
            f"UPDATE durably_maps SET {column} = {value} WHERE map = 1"
            for column, bound in bounds.MAP.items()
            for value in (bound.least - 1, bound.most + (bound.most < 2**63 - 1))
            if value != bound.most
        ),
        "UPDATE durably_maps SET reused = done + 1",
        "UPDATE durably_maps SET is_keyed = 2",
    ],
    "a number of an item is not within its bounds": [
        f"UPDATE durably_items SET {column} = {value}"
        for column, bound in bounds.ITEM.items()
        for value in (bound.least - 1, bound.most + 1)
    ],
    "a number of an attempt is not within its bounds": [
        f"UPDATE durably_attempts SET {column} = {value}"
        for column, bound in (bounds.ATTEMPT | {"fence": bounds.TRIES}).items()
        for value in (bound.least - 1, bound.most + 1)
    ],
    "a number of a log line is not within its bounds": [
        f"UPDATE durably_logs SET {column} = {value} WHERE log = 1"
        for column, bound in bounds.LOG.items()
        for value in (bound.least - 1, bound.most + 1)
    ],
    "a number of an owner is not within its bounds": [
        f"UPDATE durably_owners SET {column} = {value}"
        for column, bound in bounds.OWNER.items()
        for value in (bound.least - 1, bound.most + 1)
    ],
    "the numbers of a table are used up": [
        f"UPDATE sqlite_sequence SET seq = {seq} WHERE name = 'durably_{table}'"
        for table in ("runs", "owners", "logs")
        for seq in (2**39 - 1, 2**63 - 1, -1, "'x'", "NULL")
    ]
    + [
        f"UPDATE sqlite_sequence SET seq = {seq} WHERE name = 'durably_maps'"
        for seq in (2**33 - 1, 2**63 - 1, -1, "'x'", "NULL")
    ],
    "the id of a run is not valid": [
        f"UPDATE durably_runs SET id = {bad} WHERE run = {DONE}"
        for bad in ("''", "char(27) || '[2J'", "'a' || char(0)", "printf('%065d', 1)", "'é'")
    ],
    "a name or a key is empty": [
        *(
            f"UPDATE durably_runs SET {column} = '' WHERE run = {DONE}"
            for column in ("job_name", "idempotency_key", "concurrency_key", "origin")
        ),
        "UPDATE durably_steps SET name = '' WHERE name = 'step-1'",
        "UPDATE durably_labels SET key = ''",
        "UPDATE durably_maps SET name = '' WHERE map = 1",
        "UPDATE durably_items SET key = '' WHERE key = 'a'",
    ],
    "a run's progress does not say how far it is": [
        f"UPDATE durably_runs SET progress = '{text}' WHERE run = {DONE}"
        for text in (
            "[1,2",
            "[1]",
            '{"x":1}',
            '{"current":"a","total":null,"message":null}',
            '{"current":1,"total":2,"message":3}',
            '{"current":1,"total":2,"message":null,"more":1}',
        )
    ],
    "a label of a run is not text": [
        f"UPDATE durably_runs SET labels = '{text}' WHERE run = {DONE}"
        for text in ('{"a":1}', '{"a":null}', "{x", "[1]")
    ],
    "a log line is unlike any that durably writes": [
        "UPDATE durably_logs SET level = 'fatal'",
        "UPDATE durably_logs SET message = '{\"a\":1}'",
        "UPDATE durably_logs SET message = 'plain'",
    ],
    "a run's status is unknown": [f"UPDATE durably_runs SET status = 'odd' WHERE run = {PLAIN}"],
    "a running run has no owner": ["UPDATE durably_runs SET owner = NULL WHERE status = 'running'"],
    "a running run has no heartbeat or was never claimed": [
        "UPDATE durably_runs SET heartbeat_at_us = NULL WHERE status = 'running'",
        "UPDATE durably_runs SET attempt = 0 WHERE status = 'running'",
    ],
    "a waiting or completed run has an owner": [
        f"UPDATE durably_runs SET owner = 1 WHERE run = {DONE}",
    ],
    "an owner of runs is not registered": [
        "UPDATE durably_runs SET owner = 99 WHERE status = 'running'",
        "DELETE FROM durably_owners",
    ],
    "a run that has not ended has an end, or the other way round": [
        f"UPDATE durably_runs SET completed_at_us = 1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET completed_at_us = NULL WHERE run = {DONE}",
    ],
    "an output without completion, or the other way round": [
        f"UPDATE durably_runs SET output = '1' WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET output = NULL WHERE run = {DONE}",
    ],
    "an error without failure, or the other way round": [
        f"UPDATE durably_runs SET error = '{{}}' WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET error = NULL WHERE run = {FAILED}",
    ],
    "a start without an attempt, or the other way round": [
        f"UPDATE durably_runs SET attempt = 1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET attempt = -1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET started_at_us = 1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET heartbeat_at_us = 1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET owner = 1 WHERE run = {PLAIN}",
        (
            "UPDATE durably_runs SET attempt = 0, started_at_us = NULL, heartbeat_at_us = NULL"
            f" WHERE run = {DONE}"
        ),
    ],
    "a run with an owner has no fence": [
        "UPDATE durably_runs SET fence = 0 WHERE status = 'running'",
        "UPDATE durably_runs SET attempt = 2 WHERE status = 'running'",
    ],
    "a run waits and does not say for what, or the other way round": [
        f"UPDATE durably_runs SET {change} WHERE run = {run}"
        for run, change in (
            (PLAIN, "waits_for = 'answer', wait_name = 'a'"),
            (PLAIN, "wait_name = 'a'"),
            (PLAIN, f"waits_for_run = {PENDING}"),
            (ASLEEP, "waits_for = NULL"),
            (ASLEEP, "waits_for = 'nothing'"),
            (ASLEEP, "wait_name = NULL"),
            (ASLEEP, "run_at_us = NULL"),
            (ASLEEP, f"waits_for_run = {PENDING}"),
            (ASLEEP, "waits_for = 'run'"),
            (ASLEEP, "waits_for = 'run', waits_for_run = run"),
            (ASLEEP, f"waits_for = 'answer', waits_for_run = {PENDING}"),
        )
    ],
    "a run that is executed or has ended has a due time": [
        f"UPDATE durably_runs SET run_at_us = 9 WHERE run = {DONE}",
        "UPDATE durably_runs SET run_at_us = 9 WHERE status = 'running'",
    ],
    "a run waits for one that has ended": [
        f"UPDATE durably_runs SET waits_for = 'run', waits_for_run = {DONE} WHERE run = {ASLEEP}"
    ],
    "a run keeps an attempt that it does not have, or that has gone on": [
        f"UPDATE durably_runs SET keeps_attempt = 1 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET keeps_attempt = 1 WHERE run = {DONE}",
        f"UPDATE durably_runs SET keeps_attempt = 0 WHERE run = {ASLEEP}",
        f"UPDATE durably_runs SET keeps_attempt = 2 WHERE run = {ASLEEP}",
    ],
    "a run was triggered before its parent": [
        f"UPDATE durably_runs SET parent = run WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET parent = {PLAIN} WHERE run = {DONE}",
    ],
    "two owners share a lock": [
        (
            "INSERT INTO durably_owners (token, boot_id, pid, heartbeat_interval_us, beat_at_us,"
            f" opened_at_us) VALUES ('{TOKEN}', '', 1, 1, 1, 1)"
        )
    ],
    "two runs share an id": [
        (
            f"UPDATE durably_runs SET id = (SELECT id FROM durably_runs WHERE run = {DONE})"
            f" WHERE run = {PLAIN}"
        )
    ],
    "an idempotency key leads to more than one run": [
        "UPDATE durably_runs SET idempotency_key = '1'"
    ],
    "a concurrency key is held by more than one run": [
        "UPDATE durably_runs SET owner = 1 WHERE concurrency_key = 'held'"
    ],
    "two steps of a run share a name": ["UPDATE durably_steps SET name = 'step-0'"],
    "a map and a step of a run share a name or a place": [
        "UPDATE durably_maps SET name = 'step-1' WHERE map = 1",
        "UPDATE durably_maps SET step = run << 24 WHERE map = 1",
    ],
    "two maps of a run share a name or a place": [
        "UPDATE durably_maps SET name = 'm'",
        "UPDATE durably_maps SET step = (run << 24) + 10",
    ],
    "two items of a map share a key": ["UPDATE durably_items SET key = 'a' WHERE key = 'b'"],
    "a run without a key has a place in a queue": [
        f"UPDATE durably_runs SET queue_place = 1 WHERE run = {PLAIN}"
    ],
    "a run is of no known kind": [
        f"UPDATE durably_runs SET kind = 'mine' WHERE run = {run}" for run in (PLAIN, SESSION)
    ],
    "a session is in a line for workers, or another run is in none": [
        f"UPDATE durably_runs SET queue_place = 0 WHERE run = {SESSION}",
        f"UPDATE durably_runs SET queue_place = 3 WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET kind = 'job' WHERE run = {SESSION}",
        f"UPDATE durably_runs SET kind = 'session' WHERE run = {PLAIN}",
        f"UPDATE durably_runs SET concurrency_key = 'k' WHERE run = {SESSION}",
    ],
    "a queue has no first run, or more than one": [
        f"UPDATE durably_runs SET queue_place = 1 WHERE run = {FIRST}",
        "UPDATE durably_runs SET queue_place = 0 WHERE concurrency_key = 'free'",
    ],
    "the first run of a queue is not the one whose turn it is": [
        f"UPDATE durably_runs SET queue_place = run <> {FIRST} + 1 WHERE concurrency_key = 'free'"
    ],
    "the first run of a queue does not know whether its key is held": [
        f"UPDATE durably_runs SET queue_place = 2 WHERE run = {PENDING}",
        (
            "UPDATE durably_runs SET queue_place = 0"
            " WHERE concurrency_key = 'held' AND queue_place = 2"
        ),
    ],
    "a pending run without checkpoints belongs to some code": [
        f"UPDATE durably_runs SET origin = 'invoices:main' WHERE run = {PLAIN}"
    ],
    "a step has no run": [f"DELETE FROM durably_runs WHERE run = {DONE}"],
    "a step is at another run's place": [
        f"UPDATE durably_steps SET run = {FAILED}, name = 'x' WHERE step = {DONE} << 24"
    ],
    "a step's result, error and status do not fit": [
        "UPDATE durably_steps SET output = NULL WHERE name = 'step-0'",
        "UPDATE durably_steps SET error = '{}' WHERE name = 'step-0'",
        "UPDATE durably_steps SET status = 'odd' WHERE name = 'step-0'",
        "UPDATE durably_steps SET status = 'forgotten' WHERE name = 'step-0'",
        "UPDATE durably_steps SET is_manual = 2 WHERE name = 'step-0'",
        "UPDATE durably_steps SET is_manual = 1, status = 'cancelled', output = NULL",
    ],
    "a step was stored by an attempt that its run never had": [
        "UPDATE durably_steps SET attempt = 7",
        "UPDATE durably_steps SET attempt = 0",
    ],
    "a result is of an execution that its run never had": [
        f"UPDATE durably_steps SET layer = {layer} << 24 WHERE name = 'step-1'"
        for layer in ("99", "fence + 1", "0")
    ]
    + [
        "UPDATE durably_maps SET layer = 99 << 24",
        "UPDATE durably_maps SET layer = 0, old_layer = 1",
        "UPDATE durably_items SET layer = 1",
    ],
    "a call of a step has no run, or notes that are no array": [
        f"INSERT INTO durably_calls (run, name, fence, place, calls, notes) VALUES ({values})"
        for values in (
            "99, 's', 1, 0, 1, '[]'",
            f"{PLAIN}, 's', 1, 0, -1, '[]'",
            f"{PLAIN}, 's', 1, 0, 1, '1'",
            f"{PLAIN}, 's', 1, 0, 1, 'no JSON'",
        )
    ],
    "a wait has no run": [
        (
            "INSERT INTO durably_waits (run, name, kind, created_at_us, asked_at_us)"
            " VALUES (99999, 'q', 'time', 1, 1)"
        )
    ],
    "a run waits for an answer that it has": [
        (
            f"UPDATE durably_runs SET waits_for = 'answer', wait_name = 'q' WHERE run = {ASLEEP};"
            "INSERT INTO durably_waits (run, name, kind, created_at_us, answer, answered_at_us)"
            f" SELECT {ASLEEP}, 'q', 'answer', 1, '1', 1"
        )
    ],
    "a map has no run": [f"DELETE FROM durably_runs WHERE run = {DONE}"],
    "a map is at another run's place": [f"UPDATE durably_maps SET run = {FAILED} WHERE map = 1"],
    "a map's error, end and status do not fit": [
        f"UPDATE durably_maps SET {change}"
        for change in (
            "status = NULL",
            "completed_at_us = NULL",
            "error = NULL",
            "status = 'odd'",
            "status = 'cancelled'",
        )
    ],
    "a map was stored by an attempt that its run never had": [
        "UPDATE durably_maps SET attempt = 7"
    ],
    "the outcome of an attempt is unknown, or its error does not fit": [
        "UPDATE durably_attempts SET outcome = 'running'",
        "UPDATE durably_attempts SET outcome = 'died'",
        "UPDATE durably_attempts SET error = NULL",
    ],
    "an attempt is of no run, or its run never had it": [
        f"UPDATE durably_attempts SET {column} = 99" for column in ("run", "attempt", "fence")
    ],
    "an item has no map": ["DELETE FROM durably_maps WHERE map = 2"],
    "an item has a result and an error, or neither": [
        "UPDATE durably_items SET output = NULL WHERE key = 'a'",
        "UPDATE durably_items SET output = '1' WHERE key = 'b'",
        "UPDATE durably_items SET is_manual = 1 WHERE key = 'b'",
        "UPDATE durably_items SET is_held = 1 WHERE key = 'a'",
    ],
    "a key is not text or a number, or is missing": [
        "UPDATE durably_items SET key = 1.5 WHERE key = 'a'",
        "UPDATE durably_items SET key = 3 WHERE key IS NULL AND hash = 7",
    ],
    "labels and label rows do not agree": [
        "DELETE FROM durably_labels",
        "UPDATE durably_labels SET value = 'c'",
        f"UPDATE durably_runs SET labels = '{{}}' WHERE run = {DONE}",
        f"UPDATE durably_runs SET labels = '[\"b\"]' WHERE run = {DONE}",
        f"UPDATE durably_runs SET labels = 'a=b' WHERE run = {DONE}",
    ],
    "a label has no run": ["UPDATE durably_labels SET run = 99"],
    "a log line has no run": ["UPDATE durably_logs SET run = 99"],
}
# What is not found by a statement alone.
DAMAGES_OF_FILES = {
    "a value is in a file that no row names": [
        f"UPDATE durably_runs SET output = char(10) || '{{}}' WHERE run = {DONE}",
        f"UPDATE durably_runs SET output = char(10) || '[]' WHERE run = {DONE}",
        f"UPDATE durably_runs SET output = char(10) || '[' WHERE run = {DONE}",
        """UPDATE durably_steps
           SET output = char(9) || '{"a": [{"$": "numpy.ndarray", "file": "b", "size": 1}]}'""",
    ],
}


@pytest.mark.parametrize(
    ("problem", "sql"),
    [
        (problem, sql)
        for problem, statements in (DAMAGES | DAMAGES_OF_FILES).items()
        for sql in statements
    ],
)
def test_damage_of_rows_is_found(path: Path, problem: str, sql: str) -> None:
    """Rows that the schema would reject are found when they are there all the same, and the schema,
    which is as it should be, is not complained about.
    """
    damage(path, sql)
    problems = {finding.problem for finding in check(path)}
    assert problem in problems
    assert "the schema is not durably's" not in problems


def test_each_rule_has_a_damage() -> None:
    """Every rule is proven to find something."""
    assert DAMAGES.keys() == RULES.keys()


def test_a_reference_that_leads_nowhere_is_found(path: Path) -> None:
    """What SQLite's own check of foreign keys finds is reported."""
    damage(path, "UPDATE durably_logs SET run = 99 WHERE log = 1")
    assert Finding(
        "a row refers to one that is not there", "table durably_logs, row 1, to durably_runs"
    ) in check(path)


FOREIGN = "the schema is not durably's"


@pytest.mark.parametrize("where", SCHEMA_DAMAGES)
def test_a_schema_that_is_not_durablys_is_found(path: Path, where: str) -> None:
    """What is missing, was changed or was planted is named, and nothing else is said."""
    change(path, SCHEMA_DAMAGES[where])
    assert check(path) == [Finding(FOREIGN, where)]


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_users_add_is_left_alone(path: Path, sql: str) -> None:
    """Tables, indexes and views under names of their own are nobody's business, and what
    ``ANALYZE`` leaves is none either.
    """
    change(path, sql)
    assert check(path) == []


def forge(path: Path, name: str, /, **columns: str) -> None:
    """Write into what SQLite keeps of the schema."""
    db = open_database(path)
    db.pragma("writable_schema", True)
    values = ", ".join(f"{column} = ?" for column in columns)
    db.execute(f"UPDATE sqlite_schema SET {values} WHERE name = ?", (*columns.values(), name))
    db.close()


@pytest.mark.parametrize(
    "sql",
    [
        f"CREATE INDEX mine ON durably_logs (({ENDLESS}))",
        f"CREATE INDEX mine ON durably_logs (log) WHERE {ENDLESS}",
    ],
)
def test_an_index_of_somebody_is_not_evaluated(path: Path, sql: str) -> None:
    """It is named, and the rows of its table are checked all the same."""
    damage(path, "UPDATE durably_logs SET data = '1'")
    change(path, "CREATE INDEX mine ON durably_logs (run)")
    forge(path, "mine", sql=sql)
    assert {finding.problem for finding in check(path)} == {
        FOREIGN,
        "the data of a log line are not a JSON object",
    }


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        (
            "CREATE TRIGGER odd AFTER UPDATE ON durably_runs BEGIN SELECT 1; END",
            {"tbl_name": "plain"},
        ),
        ("CREATE INDEX odd ON durably_runs (id)", {"tbl_name": "plain"}),
        (
            "CREATE TABLE odd (x REFERENCES durably_runs (run))",
            {"tbl_name": "harmless", "name": "harmless"},
        ),
    ],
)
def test_what_is_listed_under_a_wrong_name_is_found(
    path: Path, sql: str, columns: dict[str, str]
) -> None:
    """The text of the schema is what SQLite executes, whatever is said beside it."""
    change(path, f"CREATE TABLE plain (x); {sql}")
    forge(path, "odd", **columns)
    with pytest.raises((durably.SchemaError, durably.DatabaseError), match="odd|harmless"):
        durably.Durably(path)


@pytest.mark.parametrize("is_whole", [True, False])
def test_text_of_another_encoding_is_not_durablys(tmp_path: Path, is_whole: bool) -> None:
    """What counts bytes, as the schema does, counts those of UTF-8."""
    path = tmp_path / "utf16.db"
    tables = "".join(schema.migrations()) if is_whole else "CREATE TABLE x (y); DROP TABLE x"
    marks = f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 2"
    change(path, f"PRAGMA encoding = 'UTF-16le'; {tables}; {marks if is_whole else ''}")
    with pytest.raises(durably.SchemaError, match="UTF-16le"):
        durably.Durably(path)


def test_a_check_has_a_limit_of_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that takes far longer than its size accounts for is not checked for ever."""
    monkeypatch.setattr(rules, "_LIMIT_S", 0.0)
    monkeypatch.setattr(rules, "_LIMIT_S_PER_MB", 0.0)
    monkeypatch.setattr(rules, "_INSTRUCTIONS", 1)
    with pytest.raises(durably.DatabaseError, match="taken more than 0 s"):
        check(path)


def test_a_ctrl_c_ends_a_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite comes back to Python now and then, where a signal's handler is run."""

    def interrupted() -> float:
        readings.append(1)
        if len(readings) == 3:
            raise KeyboardInterrupt
        return 0.0

    readings: list[int] = []
    monkeypatch.setattr(rules.time, "monotonic", interrupted)
    monkeypatch.setattr(rules, "_INSTRUCTIONS", 1)
    with pytest.raises(KeyboardInterrupt):
        check(path)
    monkeypatch.undo()
    assert check(path) == []


@pytest.mark.parametrize("table", ["durably_runs", "durably_steps", "durably_owners"])
def test_a_view_in_the_place_of_a_table_is_not_executed(path: Path, table: str) -> None:
    """Somebody who plants a view under a table's name has it named, and not executed."""
    db = open_database(path)
    columns = [name for name, *_ in db.execute(f"SELECT * FROM {table}").get_description()]
    db.close()
    change(
        path,
        f"""PRAGMA foreign_keys = OFF;
        PRAGMA legacy_alter_table = ON;
        DROP VIEW durably_runs_readable;
        DROP VIEW durably_steps_readable;
        ALTER TABLE {table} RENAME TO elsewhere;
        CREATE VIEW {table} AS
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
        SELECT {", ".join(f"i AS {name}" for name in columns)} FROM n""",
    )
    found = {finding.where for finding in check(path) if finding.problem == FOREIGN}
    assert {f"table '{table}' is missing", f"view '{table}' is not durably's"} <= found


def test_a_trigger_that_was_planted_is_not_executed(path: Path) -> None:
    """Nothing happens to the rows of a file that is only read."""
    change(
        path,
        "CREATE TRIGGER planted AFTER UPDATE ON durably_runs BEGIN DELETE FROM durably_logs; END",
    )
    before = path.read_bytes()
    assert len(check(path)) == 1
    assert path.read_bytes() == before


def test_of_one_kind_a_hundred_are_reported(path: Path) -> None:
    """A file with a million wrong rows does not become a list of a million findings."""
    damage(
        path,
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1300)"
        " INSERT INTO durably_logs (run, owner, level, message, data, created_at_us)"
        " SELECT i, 1, 'info', '', '{}', 1 FROM n",
    )
    found = [each for each in check(path) if each.problem == "a log line has no run"]
    assert len(found) == MOST_PER_RULE + 1
    assert found[-1].where == "and more"


def test_a_finding_is_a_sentence_and_shows_hostile_names_harmlessly(path: Path) -> None:
    """``str`` of a finding is one line, whatever the file holds, and of bounded length."""
    name = "\x1b[2J\n\u202e" + "x" * 1000
    damage(path, "UPDATE durably_steps SET output = NULL, name = 'NAME'".replace("NAME", name))
    found = check(path)
    assert found
    for finding in found:
        text = str(finding)
        assert text == f"{finding.problem}: {finding.where}"
        assert text.isprintable()
        assert text.isascii()
        assert len(text) < 500


def test_damaged_bytes_are_found(path: Path) -> None:
    """Pages that somebody has overwritten are found, wherever they are, but for free ones."""
    change(path, "VACUUM")
    content = path.read_bytes()
    size = 4096
    for page in range(1, len(content) // size):
        path.write_bytes(content[: page * size] + bytes(size) + content[(page + 1) * size :])
        assert check(path) != [], page
    path.write_bytes(content[: 3 * size])
    assert check(path)[0].problem == "the file is damaged"


def test_an_index_that_lost_a_row_is_found(path: Path) -> None:
    """SQLite's own check is part of it: no rule would see this."""
    damage(path, f"DELETE FROM durably_runs WHERE run = {PLAIN}", reindex=False)
    assert {finding.problem for finding in check(path)} == {"the file is damaged"}


@pytest.mark.parametrize("content", [b"", None], ids=["no bytes", "no tables"])
def test_an_empty_database_is_said_to_be_empty(tmp_path: Path, content: bytes | None) -> None:
    """A file that was emptied is not passed for one that is in order."""
    path = tmp_path / "runs.db"
    if content is None:
        change(path, "CREATE TABLE x (y); DROP TABLE x")
    else:
        path.write_bytes(content)
    assert [finding.problem for finding in check(path)] == ["the database is empty"]


def test_what_is_no_durably_database_is_rejected(path: Path, tmp_path: Path) -> None:
    """Another program's file, one that is no database, and one of a newer or older version."""
    other = tmp_path / "other.db"
    change(other, "CREATE TABLE x (y)")
    with pytest.raises(durably.SchemaError, match="another program"):
        check(other)
    other.write_bytes(b"no database at all" * 500)
    with pytest.raises(durably.SchemaError, match="not an SQLite database"):
        check(other)
    for version, age in ((99, "newer"), (0, "older")):
        change(path, f"PRAGMA user_version = {version}")
        with pytest.raises(durably.SchemaError, match=age):
            check(path)


def test_what_is_not_there_is_rejected_and_not_made(tmp_path: Path) -> None:
    """A missing file or folder is a DatabaseError, a path that can be no file a ValidationError."""
    for missing in (tmp_path / "no.db", tmp_path / "no" / "no.db"):
        with pytest.raises(durably.DatabaseError, match="no"):
            check(missing)
    for never in (tmp_path, ":memory:", "", "a\0b", 7):
        with pytest.raises(durably.ValidationError):
            check(never)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_the_file_and_its_log_stay_as_they_are(path: Path) -> None:
    """What a killed process has left in the log is read, and neither copied nor removed; a
    file that was closed in good order has nothing beside it afterwards that was not there.
    """
    files = beside(path)
    before = path.read_bytes()
    assert check(path) == []
    assert (path.read_bytes(), beside(path)) == (before, files)

    done = execute("dies_after_a_run", path)
    assert done.returncode == -signal.SIGKILL
    wal = path.with_name("runs.db-wal")
    assert wal.stat().st_size > 0
    left = (path.read_bytes(), wal.read_bytes())
    assert check(path) == []
    assert (path.read_bytes(), wal.read_bytes()) == left
    # It was looked at: a result that is not JSON, written to the log alone, is found.
    db = open_database(path)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute(
        "UPDATE durably_runs SET payload = 'x' WHERE run = (SELECT max(run) FROM durably_runs)"
    )
    db.close()
    left = (path.read_bytes(), wal.read_bytes())
    assert [each.problem for each in check(path)] == ["a run contains a value that is not JSON"]
    assert (path.read_bytes(), wal.read_bytes()) == left


def test_a_rollback_journal_is_not_applied(path: Path) -> None:
    """A journal that somebody put beside the file would change it; it is rejected instead."""
    execute("leaves_a_journal", path)
    journal = path.with_name("runs.db-journal")
    assert journal.stat().st_size > 0
    left = (path.read_bytes(), journal.read_bytes())
    with pytest.raises(durably.DatabaseError):
        check(path)
    assert (path.read_bytes(), journal.read_bytes()) == left


def test_a_database_in_use_is_checked_without_disturbing_it(tmp_path: Path) -> None:
    """Engines of this process go on, before and after, and lose no lock and no commit by it."""

    @durably.job
    def work(step: durably.StepContext, n: int) -> int:
        step.run("one", int)
        step.run("two", int)
        return n

    path = tmp_path / "runs.db"
    with durably.Durably(path, jobs=[work]) as app:
        runs = []
        for n in range(40):
            runs.append(app.jobs["work"].trigger(n))
            assert check(path) == []
        assert sorted(run.output for run in app.as_completed(runs)) == list(range(40))
        assert check(path) == []
        assert app._store.database._guard.is_effective is (sys.platform == "linux")
    assert check(path) == []
    assert beside(path) == ["runs.db", "runs.db.writer"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_whatever_the_codec_stores_is_json_to_the_check(value: object) -> None:
    """NaN, infinities, lone surrogates, NUL characters and integers of any size are no findings."""
    text = Codec().encode(value, UNTYPED, what="a value")
    db = apsw.Connection(":memory:")
    assert db.execute("SELECT json_valid(?, 2)", (text,)).get == 1
    db.close()
