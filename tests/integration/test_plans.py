"""Plans: what a run has stored, and which of it other code has made than today's."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engines import engine, execute

import durably


def fetch(page: int) -> int:
    """Return the page."""
    return page


def clean(rows: int) -> int:
    """Return other rows."""
    return rows + 1


class Tools:
    """Functions of a class."""

    @staticmethod
    def save(rows: int) -> int:
        """Return the rows."""
        return rows or 0


def crawl(step: durably.StepContext) -> None:
    step.run("fetch", fetch, 1)
    step.run("clean", functools.partial(clean, 1))
    step.run("save", Tools.save, 1)
    step.run("lambda", lambda: 1)
    step.run("builtin", int)
    step.map("pages", fetch, [1, 2])
    step.map("kept", clean, [1, 2])
    with pytest.raises(ZeroDivisionError):
        step.run("fails", lambda: 1 // 0)


def other(page: int) -> int:
    """Return something else."""
    return -page


def test_the_functions_that_have_changed_are_found_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is executed, and what is not found is not known."""
    with engine(tmp_path, durably.Job("job", crawl)) as app:
        run = execute(app)
        assert run.status == "completed"
        plan = app.plan(run)
        assert [each.code_changed for each in plan.steps] == [
            *(False, False, False, None, None),
            *(False, False),
        ]
        monkeypatch.setattr(sys.modules[__name__], "fetch", other)
        plan = run.plan()
        assert plan.steps[0].stored_at == run.steps[0].completed_at
    names = ("fetch", "clean", "save", "lambda", "builtin", "pages", "kept")
    assert [each.name for each in plan.steps] == [*names]
    changed = {each.name: each.code_changed for each in plan.steps}
    assert changed == dict.fromkeys(names, False) | {
        "fetch": True,
        "lambda": None,
        "builtin": None,
        "pages": True,
    }
    functions = {each.name: each.function for each in plan.steps}
    assert functions["save"] == f"{__name__}:Tools.save"
    assert functions["builtin"] is None
    assert (plan.run_id, plan.job_name, plan.code_changed) == (run.id, "job", False)


def test_a_job_that_has_changed_or_is_not_known(tmp_path: Path) -> None:
    """Its own function is compared with that of the newest execution."""
    with engine(tmp_path, durably.Job("job", crawl)) as app:
        run = execute(app)
    with engine(tmp_path, durably.Job("job", lambda step: step.run("x", int))) as app:
        assert app.plan(run.id).code_changed is True
        assert ", whose job has changed: " in repr(app.plan(run.id))
    with engine(tmp_path) as app:
        assert app.plan(run.id).code_changed is None
        with pytest.raises(durably.NotFoundError):
            app.plan("unknown")


def test_a_map_has_changed_if_some_of_its_items_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that were executed later are of other code than the first ones."""

    def job(count: int) -> Any:
        def mapped(step: durably.StepContext) -> None:
            step.map("pages", getattr(sys.modules[__name__], "fetch"), range(count))  # noqa: B009 - as it is now
            if count == 1:
                raise ValueError

        return durably.Job("job", mapped, origin="any")

    with engine(tmp_path, job(1)) as app:
        run = execute(app)
    other.__qualname__ = "fetch"
    monkeypatch.setattr(sys.modules[__name__], "fetch", other)
    with engine(tmp_path, job(2)) as app:
        app.retry(run)
        assert app.process_one()
        (step,) = app.plan(run).steps
    assert step.code_changed is True


def test_functions_with_the_same_code_are_not_told_apart(tmp_path: Path) -> None:
    """If one of them has changed since, it is not known which of them a result is of."""
    with engine(tmp_path, durably.Job("job", lambda step: step.run("x", fetch, 1))) as app:
        run = execute(app)
        (row,) = app._store.codes_of(run.id)
        app._store.database.write(
            lambda db: db.execute(
                "INSERT INTO durably_codes VALUES (?, ?)", (row.code, f"{__name__}:other")
            ).fetchall()
        )
        (step,) = app.plan(run).steps
    assert step.code_changed is None


def test_a_plan_shows_itself(tmp_path: Path) -> None:
    """As a line, a table, dicts and a frame; and it can be pickled and compared."""
    with engine(tmp_path, durably.Job("job", crawl)) as app:
        run = execute(app)
        plan = app.plan(run)
        assert plan == app.plan(run)
    assert repr(plan) == f"<Plan of …{run.id[-4:]} job: 7 steps: 5 unchanged, 2 unknown>"
    html = plan._repr_html_()
    assert "unchanged" in html
    assert f"{__name__}:Tools.save" in html
    assert [each["name"] for each in plan.to_dict()["steps"]][:2] == ["fetch", "clean"]
    frame = plan.to_frame()
    assert list(frame["code_changed"])[:4] == [False, False, False, None]
    assert "fetch" in plan.steps[0]._repr_html_()
    assert pickle.loads(pickle.dumps(plan)) == plan


SCRIPT = """
import durably
def fetch(n: int) -> int:
    return n
@durably.job
def crawl(step):
    return step.run("fetch", fetch, 1)
if __name__ == "__main__":
    with durably.Durably("durably.db", jobs=[crawl]) as app:
        app.run(crawl, key="k")
"""


def test_the_command_compares_with_the_code_of_a_file(tmp_path: Path) -> None:
    """Without a file it says what is stored; with one, what has changed since."""
    script = tmp_path / "crawl.py"

    def call(*args: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    script.write_text(SCRIPT)
    call("crawl.py")
    assert "unknown" in call("-m", "durably", "plan", "k")
    assert " unchanged " in call("-m", "durably", "plan", "k", "--code", "crawl.py")
    # Of another size: of two versions within a second, Python would take the one it has compiled.
    script.write_text(SCRIPT.replace("return n", "return n + 10").replace('"fetch", f', '"x", f'))
    said = call("-m", "durably", "plan", "k", "--code", "crawl.py:crawl")
    assert " changed " in said
    assert "crawl: its code has changed since its newest execution" in said
    (line,) = call("-m", "durably", "plan", "k", "--code", "crawl.py", "--json").splitlines()
    assert json.loads(line)["code_changed"] is True
    script.write_text(SCRIPT.replace("crawl(", "other("))
    said = call("-m", "durably", "plan", "k", "--code", "crawl.py", status=2)
    assert "there is no job 'crawl' in 'crawl.py'" in said
