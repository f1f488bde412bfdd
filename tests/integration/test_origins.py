"""Two programs with a job of one name on one file: neither continues what the other has begun."""

from __future__ import annotations

import functools
import logging
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engines import GRACE_S, whole
from held import HeldJob

import durably
from durably.jobs.registry import origins_of
from durably.testing import check

Warned = Callable[[], list[str]]


def job_of(module: str | None, name: str = "main", **options: Any) -> durably.Job[Any, Any]:
    """A job of that module that does a step, fails at its first attempt, and says whose it is."""

    def main(step: durably.StepContext, payload: str = "") -> list[Any]:
        found = [step.run("first", lambda: module)] if payload != "no steps" else []
        if step.attempt == 1 and payload != "own":
            raise ValueError("as it was told")
        return [module, *found]

    main.__module__ = module  # type: ignore[assignment]  # None is what cloudpickle leaves
    main.__qualname__ = "main"
    return durably.Job(name, main, **options)


@contextmanager
def program(
    folder: Path, *jobs: durably.Job[Any, Any], **options: Any
) -> Iterator[durably.Durably]:
    """An engine of a program of its own, that was not started."""
    app = durably.Durably(folder / "durably.db", jobs=jobs, synchronous="normal", **options)
    try:
        yield app
    finally:
        app._shutdown.at_exit()


def given_begun(folder: Path, *modules: str | None, payload: str = "", **keys: str) -> list[str]:
    """The ids of pending runs that programs of these modules have begun."""
    begun: list[str] = []
    for module in modules:
        with program(folder, job_of(module)) as app:
            begun.append(app.trigger("main", payload, **keys).id)
            assert app.process_one()
            assert app.get_run(begun[-1]).status == "failed"
    with program(folder) as app:
        for run_id in begun:
            assert app.retry(run_id).status == "pending"
    return begun


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """What was logged as a warning."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "durably" and record.levelno == logging.WARNING
    ]


def by_process_one(app: durably.Durably) -> None:
    while app.process_one():
        pass


def by_run_until_idle(app: durably.Durably) -> None:
    app.run_until_idle()


def by_leaving_the_block(app: durably.Durably) -> None:
    with app:
        pass


def by_a_trigger(app: durably.Durably) -> None:
    app.start()
    app.trigger_and_wait("main", "own", timeout=GRACE_S)
    app.stop()


def by_the_end_of_another(app: durably.Durably) -> None:
    with HeldJob() as held:
        app.start()
        app.trigger(held.job, 1)
        held.inside()
        run = app.trigger("main", "own")
        held.let_go()
        app.wait(run, timeout=GRACE_S)
        app.run_until_idle()
        app.stop()


WAYS = {
    "process_one": by_process_one,
    "run_until_idle": by_run_until_idle,
    "the end of the block": by_leaving_the_block,
    "a trigger": by_a_trigger,
    "the end of another run": by_the_end_of_another,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_run_that_other_code_has_begun_is_left_to_it(
    tmp_path: Path, warned: Warned, way: Callable[[durably.Durably], None]
) -> None:
    """However an engine claims, it passes over the run, says so once, and executes its own."""
    begun, another = given_begun(tmp_path, "invoices", "invoices")
    with program(tmp_path, job_of("cleanup"), max_workers=1) as app:
        own = app.trigger("main", "own")
        before = whole(app.get_run(begun))
        way(app)
    with program(tmp_path) as app:
        assert app.get_run(own).output == ["cleanup", "cleanup"]
        assert whole(app.get_run(begun)) == before
        assert app.get_run(another).status == "pending"
    (text,) = warned()
    assert begun in text
    assert "invoices:main" in text
    assert "cleanup:main" in text
    for way_out in ("a name of its own", "app.adopt(", 'origin="any"'):
        assert way_out in text
    assert check(tmp_path / "durably.db") == []
    with program(tmp_path, job_of("invoices")) as app:
        assert app.run_until_idle() == 2
        assert app.get_run(begun).output == ["invoices", "invoices"]
    assert len(warned()) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("invoices", "invoices"),
        (None, "invoices"),
        ("invoices", None),
        (None, None),
    ],
    ids=["the same module", "begun in a notebook", "continued in a notebook", "both notebooks"],
)
def test_the_same_code_and_notebooks_continue(
    tmp_path: Path, warned: Warned, first: str | None, second: str | None
) -> None:
    """What has no origin, as a function of a notebook, continues anything and is continued."""
    (begun,) = given_begun(tmp_path, first)
    with program(tmp_path, job_of(second)) as app:
        assert app.run_until_idle() == 1
        assert app.get_run(begun).output == [second, first]
    assert warned() == []


def test_a_run_without_checkpoints_is_anybodys(tmp_path: Path, warned: Warned) -> None:
    """One that was only triggered, or has completed no step, is begun by any engine."""
    (begun,) = given_begun(tmp_path, "invoices", payload="no steps")
    with program(tmp_path, job_of("invoices")) as app:
        triggered = app.trigger("main", "own")
    with program(tmp_path, job_of("cleanup")) as app:
        assert app.run_until_idle() == 2
        assert app.get_run(triggered).output == ["cleanup", "cleanup"]
        assert app.get_run(begun).output == ["cleanup"]
    assert warned() == []


def test_a_job_of_any_origin_continues_all(tmp_path: Path, warned: Warned) -> None:
    """``origin="any"`` takes what whatever code has begun, those that were triggered first."""
    begun = given_begun(tmp_path, "b", "a", "c", "a")
    with program(tmp_path, job_of("cleanup", origin="any"), max_workers=1) as app:
        started: list[str] = []
        app.on("run:start", lambda event: started.append(event.run_id))
        own = app.trigger("main", "own")
        assert app.run_until_idle() == 5
        assert started == [*begun, own.id]
        assert [app.get_run(each).output[1] for each in begun] == ["b", "a", "c", "a"]
    assert warned() == []


@pytest.mark.parametrize("value", ["", "invoices", True, 5, ["any"]])
def test_there_is_no_other_origin_to_give(value: Any) -> None:
    """An origin is found, or any; a bad one raises when the job is defined."""
    with pytest.raises(durably.ValidationError, match="origin of job 'x'"):
        durably.job("x", origin=value)(lambda step: None)


# -- adopting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"])
def test_an_adopted_run_is_continued(tmp_path: Path, warned: Warned, key: str | None) -> None:
    """It is claimed like any other run, and by the code that began it no more."""
    (begun,) = given_begun(
        tmp_path, "invoices", **({} if key is None else {"concurrency_key": key})
    )
    with program(tmp_path, job_of("cleanup")) as app:
        assert not app.process_one()
        before = app.get_run(begun)
        adopted = app.adopt(before)
        assert (adopted.id, adopted.status, adopted.completed_steps) == (begun, "pending", 1)
        assert adopted == app.adopt(begun)
        with program(tmp_path, job_of("invoices")) as first:
            assert not first.process_one()
        assert app.process_one()
        assert app.get_run(begun).output == ["cleanup", "invoices"]
    assert len(warned()) == 2
    assert check(tmp_path / "durably.db") == []


def test_a_started_engine_claims_what_it_adopts(tmp_path: Path) -> None:
    """It claims it at once, without waiting for the poll."""
    (begun,) = given_begun(tmp_path, "invoices")
    with program(tmp_path, job_of("cleanup"), poll_interval=GRACE_S * 3) as app:
        app.start()
        assert app.wait(app.adopt(begun), timeout=GRACE_S).output == ["cleanup", "invoices"]


def test_what_cannot_be_adopted(tmp_path: Path) -> None:
    """Only a pending run of a job that is registered; a run without checkpoints stays anybody's."""
    (begun,) = given_begun(tmp_path, "invoices")
    with program(tmp_path) as app, pytest.raises(durably.NotFoundError, match="'main'"):
        app.adopt(begun)
    with program(tmp_path, job_of("cleanup")) as app, HeldJob() as held:
        with pytest.raises(durably.NotFoundError, match="no run"):
            app.adopt("nobody")
        fresh = app.trigger("main", "own")
        assert app.adopt(fresh) == fresh
        with program(tmp_path, job_of("invoices")) as other:
            assert other.run_until_idle() == 2
        for ended in (fresh, begun):
            with pytest.raises(durably.ConflictError, match="is completed and cannot be adopted"):
                app.adopt(ended)
        app.start()
        running = app.trigger(held.job, 1)
        held.inside()
        with pytest.raises(durably.ConflictError, match="is running and cannot be adopted"):
            app.adopt(running)


# -- keys and waits ---------------------------------------------------------------------------


def test_waiting_for_what_other_code_has_begun_says_why_it_does_not_end(tmp_path: Path) -> None:
    """A key that leads to such a run: NoWorkerError with both names, not a wait without end."""
    (begun,) = given_begun(tmp_path, "invoices", idempotency_key="i")
    with program(tmp_path, job_of("cleanup")) as app:
        app.start()
        for wait in (
            lambda: app.trigger_and_wait("main", idempotency_key="i"),
            lambda: app.trigger_and_wait("main", idempotency_key="i", retry_failed=True),
            lambda: app.wait(begun),
            lambda: list(app.as_completed([app.trigger("main", "own"), begun])),
        ):
            with pytest.raises(durably.NoWorkerError, match=r"invoices:main.*cleanup:main") as no:
                wait()
            assert begun in str(no.value)
        with pytest.raises(durably.WaitTimeoutError):
            app.wait(begun, timeout=0)


def test_waiting_goes_on_while_a_program_lives_that_may_execute_it(tmp_path: Path) -> None:
    """Where another engine is started, the run is waited for as any run of another process."""
    (begun,) = given_begun(tmp_path, "invoices")
    with (
        program(tmp_path, job_of("cleanup")) as app,
        program(tmp_path, job_of("invoices")) as first,
    ):
        app.start()
        first.start()
        assert app.wait(begun).output == ["invoices", "invoices"]


def test_a_trigger_does_not_coalesce_into_what_other_code_has_begun(tmp_path: Path) -> None:
    """Nothing would come of it; into a run that it would execute itself it does."""
    (begun,) = given_begun(tmp_path, "invoices", concurrency_key="k")
    options: dict[str, Any] = {"concurrency_key": "k", "coalesce": True}
    with program(tmp_path, job_of("cleanup")) as app:
        created = app.trigger("main", "own", **options)
        assert created.disposition == "created"
        again = app.trigger("main", "own", **options)
        assert (again, again.disposition) == (created, "coalesced")
    for job in (job_of("invoices"), job_of("cleanup", origin="any"), job_of(None)):
        with program(tmp_path, job) as app:
            found = app.trigger("main", "own", **options)
            assert (found.id, found.disposition) == (begun, "coalesced")


def test_a_key_is_not_held_up_by_what_other_code_has_begun(tmp_path: Path) -> None:
    """Runs of one key and job name wait in a queue for each origin, and exclude each other."""
    begun = given_begun(tmp_path, "invoices", "invoices", concurrency_key="k")
    with program(tmp_path, job_of("cleanup")) as app:
        own = [app.trigger("main", "own", concurrency_key="k") for _ in range(2)]
        assert app.run_until_idle() == 2
        assert [app.get_run(each).status for each in own] == ["completed"] * 2
        with program(tmp_path, job_of("invoices")) as first:
            waiting = [first.trigger("main", "own", concurrency_key="k") for _ in range(2)]
            assert check(tmp_path / "durably.db") == []
            assert first.run_until_idle() == 4
            assert [first.get_run(each).status for each in waiting] == ["completed"] * 2
        assert [app.get_run(each).status for each in begun] == ["completed"] * 2
    assert check(tmp_path / "durably.db") == []


# -- what an origin is ------------------------------------------------------------------------


def placed(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> durably.Job[Any, Any]:
    """A job of a module with these attributes."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return job_of(name)


SPEC = types.SimpleNamespace(name="billing.invoices")


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("billing.invoices", {}, ["billing.invoices:main"]),
        (
            "billing.invoices",
            {"__file__": "/old/billing/invoices.py"},
            ["billing.invoices:main", "invoices.py:main"],
        ),
        ("billing", {"__file__": "/old/billing/__init__.py"}, ["billing:main"]),
        ("__main__", {}, []),
        (
            "__main__",
            {"__file__": "/old/invoices.py", "__spec__": None},
            ["invoices.py:main", "invoices:main"],
        ),
        (
            "__mp_main__",
            {"__file__": "/old/invoices.py", "__spec__": None},
            ["invoices.py:main", "invoices:main"],
        ),
        (
            "__main__",
            {"__file__": "/old/billing/invoices.py", "__spec__": SPEC},
            ["invoices.py:main", "billing.invoices:main"],
        ),
        ("__main__", {"__file__": "app.pyz/__main__.py", "__spec__": None}, ["app.pyz:main"]),
        (
            "__main__",
            {"__file__": "/x/\udcff\0.py", "__spec__": None},
            ["\\udcff\\0.py:main", "\\udcff\\0:main"],
        ),
    ],
)
def test_an_origin_is_the_module_and_the_qualified_name(
    monkeypatch: pytest.MonkeyPatch, name: str, attributes: dict[str, Any], expected: list[str]
) -> None:
    """Of a script its base name, wherever it lies; also what the same file is called otherwise."""
    found = list(origins_of(placed(monkeypatch, name, **attributes)))
    assert found[: len(expected)] == expected
    assert len(found) == len(set(found)) <= 2
    assert bool(found) == bool(expected)


def test_of_an_object_its_class_and_of_a_partial_its_function_counts() -> None:
    """What has no place of its own in the source is where it comes from."""

    class Caller:
        def __call__(self, step: durably.StepContext) -> None:
            """Do nothing."""

    place = f"{__name__}:test_of_an_object_its_class_and_of_a_partial_its_function_counts.<locals>"
    assert origins_of(durably.Job("x", Caller()))[0] == f"{place}.Caller"
    partial = functools.partial(functools.partial(job_of("invoices").run), payload="x")
    assert origins_of(durably.Job("x", partial)) == ("invoices:main",)
    assert origins_of(durably.Job("x", Caller().__call__))[0] == f"{place}.Caller.__call__"


def test_a_module_that_moved_to_another_folder_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """Its name counts, and a script that is imported later is the same code."""
    script = {"__file__": "/old/invoices.py", "__spec__": None}
    with program(tmp_path, placed(monkeypatch, "__main__", **script)) as app:
        run = app.trigger("main")
        assert app.process_one()
        app.retry(run)
    for name, file in (("__main__", "/new/invoices.py"), ("invoices", "/new/invoices.py")):
        with program(tmp_path, placed(monkeypatch, name, __file__=file, __spec__=None)) as app:
            assert app.process_one()
            app.retrigger(run)
            run = app.get_runs(limit=1)[0]
            assert app.process_one()
            app.retry(run)
    assert warned() == []
