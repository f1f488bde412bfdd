"""What every crash test ends with finds what it is to find, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import damage, make_sound
from invariants import check, check_history

DONE = "(SELECT run FROM durably_runs WHERE status = 'completed')"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound database to damage, which nobody has open."""
    sound = tmp_path / "runs.db"
    make_sound(sound)
    assert check(sound, is_sequential=True) == []
    return sound


def test_what_is_wrong_in_any_database_is_found(path: Path) -> None:
    """The findings of ``durably.testing.check`` are there as sentences, its rejections too."""
    damage(path, "UPDATE durably_runs SET owner = NULL WHERE status = 'running'")
    assert [each.partition(":")[0] for each in check(path)] == [
        "the file is damaged",
        "a running run has no owner",
        "the first run of a queue does not know whether its key is held",
    ]
    path.write_bytes(b"no database at all" * 500)
    assert check(path)[0].startswith("unreadable")
    path.unlink()
    assert check(path)[0].startswith("unreadable")
    assert not path.exists()


@pytest.mark.parametrize(
    ("finding", "sql"),
    [
        (
            "the steps of a sequential run leave a gap",
            "DELETE FROM durably_steps WHERE name = 'step-1'",
        ),
        (
            "a later step of a sequential run was stored by an earlier attempt",
            f"""UPDATE durably_runs SET attempt = 2 WHERE run = {DONE};
            UPDATE durably_steps SET attempt = 2 WHERE run = {DONE} AND name = 'step-1'""",
        ),
    ],
)
def test_steps_out_of_order_are_found(path: Path, finding: str, sql: str) -> None:
    """Where every job calls its steps in one order, a gap and an older later step are found."""
    damage(path, sql)
    assert check(path) == []
    assert any(each.startswith(finding) for each in check(path, is_sequential=True))


def test_what_must_be_tidy(path: Path) -> None:
    """Owners and lock files are found where nobody may be, and runs where none may be left."""
    (path.parent / "runs.db.owner-token").touch()
    found = check(path, is_idle=True, is_finished=True)
    assert sum(each.startswith("an owner is registered") for each in found) == 1
    assert sum(each.startswith("a run has an owner") for each in found) == 1
    assert sum(each.startswith("a lock file is left") for each in found) == 1
    assert sum(each.startswith("a run has not ended") for each in found) == 10


def test_history() -> None:
    """What was executed again after its checkpoint, or gave another result, is found."""
    good = ["effect r s 1\n", "effect r s 2\n", "returned r s 2\n", "returned r s 2\n", "eff"]
    assert check_history(good) == []
    # A killed process was writing when another one took the file on.
    half_written = [*good[:3], "effect r s2 4effect r s2 5\n", "returned r s2 5\n", "effect r"]
    assert check_history(half_written) == []
    assert check_history([*good[:3], "effect r s 3\n"]) == [
        "executed again after its checkpoint: r s 3"
    ]
    assert check_history([*good[:3], "returned r s 3\n"]) == [
        "another result: r s 3, was 2",
        "not the last execution's result: r s 3",
    ]
    assert check_history(["effect r s 1\n", "effect r s 2\n", "returned r s 1\n"]) == [
        "not the last execution's result: r s 1"
    ]
