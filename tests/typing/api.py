"""The public API as its users' type checkers see it. Read by ``mypy --strict``, never run.

Every wrong use carries a ``type: ignore`` with its code: mypy reports one that is not needed, so
what is marked wrong here must be an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type, cast

from attrs import define

import durably
from durably import (
    Durably,
    ErrorInfo,
    Event,
    Job,
    JobHandle,
    LogEntry,
    Progress,
    Retry,
    Run,
    RunStatus,
    Session,
    StepContext,
    StepRecord,
    Trigger,
)
from durably.events import RunCancelled, RunFailed
from durably.models import RunList
from durably.models.records import AttemptList, ItemList, LogList, StepList


@define
class ImportCsv:
    path: str
    batch_size: int = 100


@define
class Imported:
    rows: int


def read_rows(path: str, *, limit: int | None = None) -> list[str]:
    return [path]


def untyped(value):  # type: ignore[no-untyped-def]  # as users have them
    return value


# -- jobs ------------------------------------------------------------------------------------------


@durably.job("import-csv")
def import_csv(step: StepContext, payload: ImportCsv) -> Imported:
    rows = step.run("read", read_rows, payload.path, limit=5)
    assert_type(rows, list[str])
    assert_type(step.run("count", len, rows), int)
    assert_type(step.run("lambda", lambda: 1.5), float)
    assert_type(step.run("class", Imported, 5), Imported)
    assert_type(step.run("method", payload.path.upper), str)
    assert_type(step.run("nothing", lambda: None), None)
    step.run("nested", lambda: step.run("inner", read_rows, "x"))

    step.run("too many", str.upper, "x", "y")  # type: ignore[call-arg]
    step.run("too few", read_rows)  # type: ignore[call-arg]
    step.run("wrong type", read_rows, 5)  # type: ignore[arg-type]
    step.run("wrong keyword", read_rows, "x", limits=5)  # type: ignore[call-arg]
    step.run("wrong keyword type", read_rows, "x", limit="5")  # type: ignore[arg-type]
    step.run(5, read_rows, "x")  # type: ignore[arg-type]
    step.run("no function", 5)  # type: ignore[arg-type]
    step.run("called", read_rows("x"))  # type: ignore[arg-type]
    step.run(name="keyword", fn=read_rows)  # type: ignore[call-arg]
    wrong: str = step.run("wrong result", read_rows, "x")  # type: ignore[assignment]
    del wrong

    # Names of the function's own parameters do not collide with those of run.
    def named(name: str, fn: int, self: float) -> str:
        return name

    assert_type(step.run("collision", named, name="x", fn=5, self=1.0), str)

    # Options.
    assert_type(step.options(returns=Imported).run("typed", untyped, 5), Imported)
    assert_type(step.options(returns=Imported, retry=Retry()).run("both", untyped, 5), Imported)
    assert_type(step.options(retry=Retry(attempts=5)).run("again", read_rows, "x"), list[str])
    assert_type(step.options().run("none", read_rows, "x"), list[str])
    assert_type(step.options(returns=list[int]).run("generic", untyped, 5), list[int])
    step.options(returns=Imported).run("arguments", read_rows, 5)  # type: ignore[arg-type]
    step.options(retry=3)  # type: ignore[call-overload]
    assert_type(step.options(timeout=5).run("late", read_rows, "x"), list[str])
    assert_type(step.options(returns=Imported, timeout=5).run("late", untyped, 5), Imported)
    step.options(timeout="5 s")  # type: ignore[call-overload]
    model = durably.fingerprint_of("model.bin")
    assert_type(model, str)
    redone = step.options(on_change="redo", depends_on=[model, 0.5])
    assert_type(redone.run("redone", read_rows, "x"), list[str])
    again = step.options(returns=Imported, on_change="ignore", depends_on=None)
    assert_type(again.run("kept", untyped, 5), Imported)
    step.options(on_change="again")  # type: ignore[call-overload]
    assert_type(step.remaining, float | None)
    step.options(Imported)  # type: ignore[call-overload]
    step.options(return_type=Imported)  # type: ignore[call-overload]

    assert_type(step.options(returns=durably.NOTHING).run("gone", object), None)

    # Maps.
    lengths = step.map("lengths", len, rows, key=str, max_workers=4, per_second=5)
    assert_type(lengths, durably.MapResult[int])
    assert_type(lengths[0], int)
    assert_type(lengths.by_key, dict[str | int, int])
    assert_type(lengths.failed[0].error, durably.ErrorInfo | None)
    limit = durably.RateLimit(5, burst=2)
    typed = step.map("typed", untyped, rows, returns=Imported, per_second=limit, max_failures=0.1)
    assert_type(typed, durably.MapResult[Imported])
    assert_type(step.map("lists", untyped, rows, returns=list[int]), durably.MapResult[list[int]])
    for item in step.imap("records", len, rows, ordered=True):
        assert_type(item, durably.ItemRecord)
    assert_type(step.parallel({"a": rows.copy, "b": rows.copy}), dict[str, list[str]])
    step.map("wrong items", read_rows, [5])  # type: ignore[arg-type]
    step.map("wrong key", len, rows, key=lambda row: row.missing)  # type: ignore[attr-defined]
    step.map("wrong option", len, rows, workers=5)  # type: ignore[call-overload]
    step.map("wrong value", len, rows, on_failed="ignore")  # type: ignore[call-overload]
    step.map("redone items", len, rows, on_change="redo", depends_on={"limit": 5})
    step.imap("redone records", len, rows, on_change="warn", depends_on=model)
    step.map("wrong change", len, rows, on_change=True)  # type: ignore[call-overload]
    durably.map(len, rows, on_change="redo", depends_on=model)
    durably.session("redone", on_change="redo").close()
    durably.session("wrong", on_change="again")  # type: ignore[arg-type]
    durably.fingerprint_of(5)  # type: ignore[arg-type]

    # Everything else a step has.
    step.progress(1)
    step.progress(1.5, 3, "half")
    step.progress("1")  # type: ignore[arg-type]
    step.log.info("read", rows=5, anything=object())
    step.log.debug("x")
    step.log.warning("x")
    step.log.error("x")
    step.log.warn("x")  # noqa: G010 - deprecated, and there
    step.log.critical("x")
    step.log.exception("x %s", 1, exc_info=ValueError(), rows=2)  # noqa: LOG004 - typed
    step.log.info(5)  # type: ignore[arg-type]
    step.sleep(5)
    step.sleep(timedelta(seconds=5))
    step.sleep("5")  # type: ignore[arg-type]
    assert_type(step.run_id, str)
    assert_type(step.job_name, str)
    assert_type(step.labels, dict[str, str])
    assert_type(step.attempt, int)
    assert_type(step.cancelled, bool)
    step.run_id = "x"  # type: ignore[misc]
    return Imported(len(rows))


@durably.job
def nightly(step: StepContext) -> int:
    return 5


@durably.job()
def plain(step: StepContext, payload: dict[str, int]) -> None:
    """A job without a result."""


@durably.job("given", input=ImportCsv, output=Imported)
def given(step: StepContext, payload: ImportCsv) -> Imported:
    return Imported(1)


@durably.job("loose", on_duplicate_step="reuse", origin="any")
def loose(step: StepContext, number: int = 3) -> int:
    return number


durably.job("x", on_duplicate_step="warn")  # type: ignore[call-overload]
durably.job("x", retry=Retry(attempts=5, on=OSError), timeout=3600)
durably.job("x", retry=5)  # type: ignore[call-overload]
durably.job("x", timeout="1 h")  # type: ignore[call-overload]
durably.job("x", origin="invoices")  # type: ignore[call-overload]
durably.job("x", on_change="redo")
durably.job("x", on_change="again")  # type: ignore[call-overload]

assert_type(loose, Job[int, int])
assert_type(import_csv, Job[ImportCsv, Imported])
assert_type(nightly, Job[None, int])
assert_type(plain, Job[dict[str, int], None])
assert_type(given, Job[ImportCsv, Imported])
assert_type(import_csv.name, str)

import_csv.name = "other"  # type: ignore[misc]


@durably.job("bad")  # type: ignore[arg-type]
def takes_nothing() -> int:
    return 5


@durably.job  # type: ignore[arg-type]
def takes_three(step: StepContext, payload: int, more: int) -> int:
    return 5


@durably.job("bad")  # type: ignore[arg-type]
def takes_no_step(step: int, payload: int) -> int:
    return 5


durably.job(5)  # type: ignore[call-overload]
durably.job("x", inputs=int)  # type: ignore[call-overload]


def calls(step: StepContext) -> None:
    """A job stays callable, for tests of it alone."""
    assert_type(import_csv(step, ImportCsv("x")), Imported)
    assert_type(nightly(step), int)
    import_csv(step, 5)  # type: ignore[arg-type]
    import_csv(step)  # type: ignore[call-arg]
    nightly(step, 5)  # type: ignore[call-overload]
    import_csv(5, ImportCsv("x"))  # type: ignore[arg-type]


# -- engines ---------------------------------------------------------------------------------------


def engines(path: Path) -> None:
    Durably()
    Durably(
        path,
        jobs=[import_csv, nightly],
        max_workers=2,
        heartbeat_interval=timedelta(seconds=5),
        stale_threshold=30,
        poll_interval=0.5,
        synchronous="normal",
        preserve_steps=False,
        retain_runs="30d",
        converter=None,
        on_duplicate_step="reuse",
        persist_logs=True,
    )
    Durably(None, replace=None)
    Durably(path, replace=True, create=False)
    Durably(path, replace="yes")  # type: ignore[arg-type]
    Durably(path, create=None)  # type: ignore[arg-type]
    Durably(path, on_duplicate_step="warn")  # type: ignore[arg-type]
    Durably(5)  # type: ignore[arg-type]
    Durably(path, jobs=import_csv)  # type: ignore[arg-type]
    Durably(path, jobs=[read_rows])  # type: ignore[list-item]
    Durably(path, max_workers="2")  # type: ignore[arg-type]
    Durably(path, retain_runs=86_400)
    Durably(path, retain_runs=[30])  # type: ignore[arg-type]
    Durably(path, [import_csv])  # type: ignore[call-arg]
    Durably(path, workers=2)  # type: ignore[call-arg]

    with Durably(path) as app:
        assert_type(app, Durably)
    assert_type(Durably(path).init(), Durably)
    assert_type(app.start(), Durably)
    app.stop()
    app.stop(interrupt=True, timeout=timedelta(seconds=5))
    app.stop(True)  # type: ignore[call-arg]
    app.close()
    assert_type(app.run_until_idle(max_runs=5), int)
    assert_type(app.process_one(), bool)


# -- handles ---------------------------------------------------------------------------------------


def handles(app: Durably) -> None:
    handle = app.register(import_csv)
    assert_type(handle, JobHandle[ImportCsv, Imported])
    run = handle.trigger(ImportCsv("users.csv"))
    handle.trigger({"path": "users.csv"})  # what structures into it is accepted as well
    assert_type(run, Run[ImportCsv, Imported])
    assert_type(run.payload, ImportCsv)
    assert_type(run.output, Imported)
    assert_type(run.output.rows, int)
    assert_type(app.wait(run), Run[ImportCsv, Imported])
    assert_type(app.wait(run).output, Imported)
    assert_type(app.retry(run), Run[ImportCsv, Imported])
    assert_type(app.retrigger(run), Run[ImportCsv, Imported])
    assert_type(app.adopt(run), Run[ImportCsv, Imported])
    assert_type(app.redo(run, from_step="read"), Run[ImportCsv, Imported])
    assert_type(app.retry(run, only="RateLimited"), Run[ImportCsv, Imported])
    assert_type(run.retry(only=lambda item: item.attempts < 3), Run[ImportCsv, Imported])
    app.retry(run, only=3)  # type: ignore[arg-type]
    app.redo(run, "read")  # type: ignore[call-arg]
    assert_type(app.fork(run, from_step="read", payload=ImportCsv("x")), Run[ImportCsv, Imported])
    app.set_step(run, "read", ["a"])
    app.set_item(run, "rows", 3, {"a": 1})
    app.set_item(run, "rows", None, 1)  # type: ignore[arg-type]
    ended = handle.trigger_and_wait(
        ImportCsv("users.csv"),
        timeout=5,
        on_progress=on_progress,
        on_log=on_log,
        idempotency_key="k",
        concurrency_key="c",
        coalesce=True,
        retry_failed=True,
        labels={"a": "b"},
    )
    assert_type(ended.output, Imported)
    several = handle.batch_trigger([ImportCsv("a"), Trigger(ImportCsv("b"), idempotency_key="k")])
    assert_type(several, RunList[ImportCsv, Imported])
    found = handle.get_run(run.id)
    assert found is not None
    assert_type(found.output, Imported)
    assert_type(handle.get_runs(status="failed", limit=5), RunList[ImportCsv, Imported])
    assert_type(handle.name, str)

    handle.trigger(5)  # type: ignore[arg-type]
    handle.trigger(Imported(5))  # type: ignore[arg-type]
    handle.trigger(ImportCsv("x"), "key")  # type: ignore[call-arg]
    handle.trigger(ImportCsv("x"), idempotency_key=5)  # type: ignore[arg-type]
    handle.trigger(ImportCsv("x"), labels={"a": 5})  # type: ignore[dict-item]
    handle.trigger(ImportCsv("x"), priority=5)  # type: ignore[call-arg]
    handle.trigger(ImportCsv("x"), retry=Retry(), timeout=5)
    handle.trigger_and_wait(ImportCsv("x"), retry=Retry(), timeout=5)
    app.trigger(import_csv, ImportCsv("x"), retry=Retry(), timeout=timedelta(hours=1))
    app.run(import_csv, ImportCsv("x"), retry=Retry())
    handle.trigger(ImportCsv("x"), retry=5)  # type: ignore[arg-type]
    handle.trigger(ImportCsv("x"), timeout="1 h")  # type: ignore[arg-type]
    handle.trigger_and_wait("x")  # type: ignore[arg-type]
    handle.trigger_and_wait(ImportCsv("x"), on_progress=on_log)  # type: ignore[arg-type]
    handle.batch_trigger([5])  # type: ignore[list-item]
    text: str = run.output  # type: ignore[assignment]
    run.output.row  # type: ignore[attr-defined]  # noqa: B018 - a misspelling
    run.status = RunStatus.FAILED  # type: ignore[misc]
    del text

    # Without a payload.
    without = app.register(nightly)
    assert_type(without, JobHandle[None, int])
    assert_type(without.trigger().output, int)
    assert_type(without.trigger(labels={"a": "b"}).output, int)
    assert_type(without.trigger_and_wait().output, int)
    without.trigger(5)  # type: ignore[arg-type]
    without.trigger_and_wait(ImportCsv("x"))  # type: ignore[arg-type]

    # By name nothing is known of the types.
    assert_type(app.jobs, Mapping[str, JobHandle[Any, Any]])
    assert_type(app.get_job("x"), JobHandle[Any, Any] | None)
    app.jobs["x"].trigger({"anything": 1}).output.anything  # noqa: B018 - Any has it
    app.jobs["x"] = handle  # type: ignore[index]
    app.register(read_rows)  # type: ignore[arg-type]


def use_run(app: Durably) -> None:
    run = app.run(
        import_csv,
        ImportCsv("x"),
        key="k",
        fresh=True,
        if_running="skip",
        timeout=timedelta(seconds=5),
        on_payload_change="extend",
        concurrency_key="c",
        labels={"a": "b"},
        show=False,
    )
    assert_type(run, Run[ImportCsv, Imported])
    assert_type(app.run(import_csv, {"path": "x"}), Run[ImportCsv, Imported])
    assert_type(app.run("import-csv", ImportCsv("x")), Run[Any, Any])
    assert_type(durably.run(import_csv, ImportCsv("x"), db=Path("x.db"), max_workers=2), Imported)
    assert_type(durably.run(import_csv, ImportCsv("x"), db=None, key="k", timeout=5), Imported)

    app.run(import_csv, "x")  # type: ignore[misc]
    app.run(import_csv, ImportCsv("x"), if_running="stop")  # type: ignore[call-overload]
    app.run(import_csv, ImportCsv("x"), idempotency_key="k")  # type: ignore[call-overload]
    durably.run(import_csv, "x")  # type: ignore[misc]
    durably.run(import_csv, ImportCsv("x"), workers=2)  # type: ignore[call-arg]


def engine_calls(app: Durably) -> None:
    # Typed by the job.
    run = app.trigger(import_csv, ImportCsv("users.csv"), idempotency_key="k", labels={"a": "b"})
    assert_type(run, Run[ImportCsv, Imported])
    app.trigger(import_csv, {"path": "users.csv"})
    assert_type(app.trigger(nightly).output, int)
    ended = app.trigger_and_wait(
        import_csv, ImportCsv("x"), timeout=5, on_progress=on_progress, on_log=on_log, coalesce=True
    )
    assert_type(ended, Run[ImportCsv, Imported])
    several = app.batch_trigger(import_csv, [ImportCsv("a"), Trigger(ImportCsv("b"))])
    assert_type(several, RunList[ImportCsv, Imported])

    # By name nothing is known of the types.
    assert_type(app.trigger("x", 5), Run[Any, Any])
    assert_type(app.trigger_and_wait("x", timeout=timedelta(seconds=5)), Run[Any, Any])
    assert_type(app.batch_trigger("x", [1, "a"]), RunList[Any, Any])

    app.trigger(import_csv, 5)  # type: ignore[misc]
    app.trigger(import_csv, Imported(5))  # type: ignore[misc]
    app.trigger(nightly, 5)  # type: ignore[misc]
    app.trigger(import_csv, ImportCsv("x"), "key")  # type: ignore[call-overload]
    app.trigger(import_csv, ImportCsv("x"), priority=5)  # type: ignore[call-overload]
    app.trigger(import_csv, ImportCsv("x"), on_log=print)  # type: ignore[call-overload]
    app.trigger(read_rows)  # type: ignore[call-overload]
    app.trigger_and_wait(import_csv, ImportCsv("x"), timeout="5")  # type: ignore[call-overload]
    app.batch_trigger(import_csv, ImportCsv("x"))  # type: ignore[call-overload]


def runs(app: Durably, run: Run[ImportCsv, Imported]) -> None:
    assert_type(run.id, str)
    assert_type(run.status, RunStatus)
    assert_type(run.error, ErrorInfo | None)
    if run.error is not None:
        assert_type(run.error.notes, tuple[str, ...])
    assert_type(run.progress, Progress | None)
    assert_type(run.labels, dict[str, str])
    assert_type(run.attempt, int)
    assert_type(run.is_terminal, bool)
    assert_type(run.is_active, bool)
    assert_type(run.duration, float | None)
    assert_type(app.get_run("id"), Run[Any, Any] | None)
    assert_type(app.get_runs(status=["failed", RunStatus.PENDING], job_name="x"), RunList[Any, Any])
    assert_type(app.runs(limit=5), RunList[Any, Any])
    assert_type(app.runs()[:5], RunList[Any, Any])
    assert_type(app.runs()[0], Run[Any, Any])
    assert_type([each.key for each in run.items("map", status="failed")[::2]], list[str | int])
    assert_type(run.items("map")[1:], ItemList)
    for each in app.runs()[1:]:
        assert_type(each, Run[Any, Any])
    assert_type(app.count_runs(labels={"a": "b"}), int)
    assert_type(app.steps(run), StepList)
    assert_type(run.steps[0], StepRecord)
    assert_type(run.logs[0], LogEntry)
    assert_type(run.attempts[0], durably.Attempt)
    assert_type(app.get_attempts(run)[:1], AttemptList)
    assert_type(run.result(timeout=5), Imported)
    run.timeline().save(Path("run.svg"))
    assert_type(run.wait(timeout=timedelta(seconds=5)), Run[ImportCsv, Imported])
    assert_type(run.refresh(), Run[ImportCsv, Imported])
    assert_type(run.retry(), Run[ImportCsv, Imported])
    assert_type(run.redo(only="read"), Run[ImportCsv, Imported])
    assert_type(run.fork(key="other"), Run[ImportCsv, Imported])
    assert_type(run.forked_from, str | None)
    run.set_step("read", ["a"])
    run.set_item("rows", "key", 1)
    assert_type(run.steps[0].is_manual, bool)
    assert_type(run.items("rows")[0].is_manual, bool)
    assert_type(run.to_dict(), dict[str, Any])
    assert_type(app.runs().to_dict(), list[dict[str, Any]])
    run.cancel("now")  # type: ignore[call-arg]
    run.items()  # type: ignore[call-arg]
    run.steps()  # type: ignore[operator]
    assert_type(app.get_steps(run), StepList)
    assert_type(app.get_steps("id"), StepList)
    assert_type(app.get_logs(run), LogList)
    assert_type(app.as_completed([run, "id"], timeout=5), Iterator[Run[Any, Any]])
    assert_type(app.purge_runs(older_than=timedelta(days=1)), int)
    assert_type(app.get_attempts("run")[0], durably.Attempt)
    app.backup(Path("copy.db"), overwrite=True)
    app.backup()  # type: ignore[call-arg]
    app.backup("copy.db", True)  # type: ignore[call-arg]
    assert_type(app.vacuum(max_seconds=timedelta(seconds=1)), int)
    app.vacuum(1)  # type: ignore[call-arg]
    app.cancel(run)
    app.delete_run("id")
    app.get_run(5)  # type: ignore[arg-type]
    app.wait(5)  # type: ignore[arg-type]
    app.get_runs(state="failed")  # type: ignore[call-arg]
    app.get_runs("failed")  # type: ignore[call-arg]
    app.cancel(None)  # type: ignore[arg-type]


def sessions(path: Path) -> None:
    with durably.session("import", path, key="k", timeout=None, synchronous="normal") as step:
        assert_type(step, Session)
        assert_type(step.run("read", read_rows, "x"), list[str])
        assert_type(step.options(returns=Imported).run("read", untyped, 1), Imported)
    assert_type(step.get_run(), Run[None, None])
    context: StepContext = durably.session("import", None, fresh=True, labels={"a": "b"})
    context.close()  # type: ignore[attr-defined]
    durably.session("import", max_worker=4)  # type: ignore[call-arg]
    durably.session("import", key=5)  # type: ignore[arg-type]
    step.run(5, read_rows, "x")  # type: ignore[arg-type]


def loops_in_one_line(path: Path) -> None:
    assert_type(durably.map(str.upper, ["a"], db=path), durably.MapResult[str])
    assert_type(
        durably.map(
            loose_label,
            [ImportCsv("x")],
            db=None,
            name="labels",
            key=lambda each: each.path,
            max_workers=8,
            retry=Retry(on=OSError),
            timeout=timedelta(seconds=5),
            on_failed="return",
            fresh=True,
            labels={"a": "b"},
            synchronous="normal",
        ),
        durably.MapResult[int],
    )
    assert_type(durably.map(untyped, [5], returns=Imported), durably.MapResult[Imported])
    assert_type(durably.map(untyped, [5], returns=list[int]), durably.MapResult[list[int]])

    for item in durably.imap(len, ["a"], db=path, ordered=True, key=str, max_workers=2):
        assert_type(item, durably.ItemRecord)
    durably.imap(len, ["a"]).close()
    durably.imap(len, ["a"], workers=8)  # type: ignore[call-arg]
    durably.map(len, [5])  # type: ignore[arg-type]
    durably.map(len, ["a"], workers=8)  # type: ignore[call-overload]
    durably.map(len, ["a"], max_workers="8")  # type: ignore[call-overload]
    durably.map(len)  # type: ignore[call-overload]


def loose_label(payload: ImportCsv) -> int:
    return len(payload.path)


def events(app: Durably, run: Run[Any, Any]) -> None:
    assert_type(app.on("run:fail", print), Callable[[], None])

    @app.on("run:complete")
    def heard(event: Event) -> None:
        assert_type(event.type, str)
        assert_type(event.sequence, int)

    assert_type(app.on_error(on_error), Callable[[], None])
    with app.subscribe(run) as subscription:
        for event in subscription:
            assert_type(event, Event)
    app.on(5, print)  # type: ignore[call-overload]
    app.on("run:fail", 5)  # type: ignore[call-overload]

    # By class the listener is typed.
    assert_type(app.on(RunFailed, lambda event: print(event.failed_step)), Callable[[], None])

    @app.on(RunFailed)
    def failed(event: RunFailed) -> int:
        assert_type(event.error, ErrorInfo)
        return 5

    assert_type(failed(cast("RunFailed", event)), int)
    app.on(Event, heard)
    app.on(RunFailed, heard)
    app.on(RunFailed, cancelled)  # type: ignore[arg-type]
    app.on(RunFailed)(cancelled)  # type: ignore[arg-type]
    app.on(durably.RunCancelled, heard)  # type: ignore[type-var, arg-type]
    app.on_error(heard)  # type: ignore[arg-type]


def cancelled(event: RunCancelled) -> None:
    """Hear of a cancelled run."""


def errors(app: Durably) -> None:
    try:
        app.wait("id")
    except durably.RunFailedError as failed:
        assert_type(failed.run, Run[Any, Any])
    except durably.RunCancelledError as cancelled:
        assert_type(cancelled.run, Run[Any, Any])
    try:
        assert_type(app.run_until_idle(max_runs=2, raise_failed=True), int)
    except durably.RunsFailedError as failed_unseen:
        assert_type(failed_unseen.runs, RunList[Any, Any])


def on_progress(progress: Progress) -> None:
    assert_type(progress.message, str | None)


def on_log(entry: LogEntry) -> None:
    assert_type(entry.message, str)


def on_error(exc: BaseException, event: Event) -> None:
    """Hear of a listener's exception."""


Retry(attempts=3, wait=timedelta(seconds=1), backoff=2.0, max_wait=60, jitter=False, on=ValueError)
Retry(on=(ValueError, OSError))
Retry(attempts="3")  # type: ignore[arg-type]
Retry(on="ValueError")  # type: ignore[arg-type]
Trigger(5, "key")  # type: ignore[call-arg]
