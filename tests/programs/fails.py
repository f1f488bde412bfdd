"""Fail in the way that is named, as a script that handles nothing does."""

import logging
import sys
import threading

import durably

way, path = sys.argv[1:]
logging.disable()


def insert(rows: list[str]) -> int:
    if "bad" in rows:
        raise ValueError(f"bad row {rows!r}")
    return len(rows)


@durably.job("nightly-import")
def nightly(step: durably.StepContext, rows: list[str]) -> int:
    done = 0
    for row in rows:
        done += step.run(f"batch-{row}", insert, [row])
    return done


def trigger_and_wait(app: durably.Durably) -> None:
    app.trigger_and_wait(nightly, ["a", "b", "bad"])


def in_a_thread(app: durably.Durably) -> None:
    thread = threading.Thread(target=trigger_and_wait, args=(app,), name="mine")
    thread.start()
    thread.join()
    sys.exit(1)


def from_another_error(app: durably.Durably) -> None:
    try:
        trigger_and_wait(app)
    except durably.RunFailedError as exc:
        raise LookupError("no rows") from exc


def with_a_hook(app: durably.Durably) -> None:
    def hook(kind: object, exc: BaseException, traceback: object) -> None:
        print(type(exc).__name__, "cause:", type(exc.__cause__).__name__)
        before(kind, exc, traceback)

    before, sys.excepthook = sys.excepthook, hook  # type: ignore[assignment]
    trigger_and_wait(app)


def in_a_session(app: durably.Durably) -> None:
    with durably.session("import-users", path) as step:
        step.run("read", insert, [])
        step.run("batch-1", insert, ["bad"])


CALLS = {
    "run": lambda app: app.run(nightly, ["a", "b", "bad"], key="users-2026-11-27"),
    "one line": lambda app: durably.run(nightly, ["bad"], db=path),
    "pool": trigger_and_wait,
    "thread": in_a_thread,
    "chain": from_another_error,
    "hook": with_a_hook,
    "session": in_a_session,
    "validation": lambda app: app.run(nightly, 5),
    "not found": lambda app: app.wait("NO"),
    "wrong call": lambda app: app.run(nightly, nothing=1),
    "retry": lambda app: durably.Retry(attempts=0),
    "job": lambda app: durably.job(5),
}

with durably.Durably(path) as app:
    CALLS[way](app)
