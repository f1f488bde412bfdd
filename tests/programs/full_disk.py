"""Fills a disk, says what is reported to it, and goes on when there is room again.

Arguments: the database, how the disk is full (limit: of the size of files; tmpfs: by a file), and
the name of a function below.
"""

import os
import resource
import sys
import threading
from pathlib import Path

import durably

database, how, scene = sys.argv[1:]
filler = Path(database).with_name("filler")


def fill():
    if how == "limit":
        most = max(Path(database + suffix).stat().st_size for suffix in ("", "-wal"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most + 60_000, resource.RLIM_INFINITY))
        return
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - 60_000)  # room for some of it


def make_room():
    if how == "limit":
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    else:
        filler.unlink()


def say(*words):
    print(*words, flush=True)


def trigger_until_it_is_full():
    """Trigger until an error; return the engine and what was acknowledged."""

    @durably.job
    def work(step, payload: str) -> int:
        return step.run("one", len, payload)

    app = durably.Durably(database, jobs=[work])
    fill()
    acknowledged = []
    while True:
        try:
            acknowledged.append(app.jobs["work"].trigger("x" * 5000).id)
        except durably.DatabaseError as exc:
            say("error", type(exc).__name__, type(exc.__cause__).__name__, exc.is_transient, exc)
            break
    try:
        app.jobs["work"].batch_trigger(["y" * 5000] * 50)
    except durably.DatabaseError:
        say("batch refused")
    say(app.count_runs() == len(acknowledged) > 0)
    say(all(app.get_run(run_id).status == "pending" for run_id in acknowledged))
    return app, acknowledged


def trigger():
    app, acknowledged = trigger_until_it_is_full()
    make_room()
    say(app.jobs["work"].trigger("z" * 5000).status)
    say(app.run_until_idle() == len(acknowledged) + 1)
    app.close()


def trigger_and_end():
    trigger_until_it_is_full()
    os._exit(0)


def execute_steps():
    executed = []

    def once(n) -> str:
        executed.append(n)
        return "x" * 5000

    @durably.job
    def work(step) -> int:
        for n in range(30):
            step.run(f"step-{n}", once, n)
        return 30

    told = threading.Event()
    app = durably.Durably(database, jobs=[work])
    app.on("worker:error", lambda event: event.context == "storing a step" and told.set())
    app.start()
    fill()
    run = app.jobs["work"].trigger()
    say(told.wait(20))
    say(app.get_run(run.id).status)
    make_room()
    run = app.wait(run, timeout=20)
    say(run.output, run.attempt, executed == list(range(30)))
    app.close()


def open_new():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    try:
        durably.Durably(database)
    except durably.DatabaseError as exc:
        say("error", exc)
    make_room()
    durably.Durably(database).close()


globals()[scene]()
