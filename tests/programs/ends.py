"""Ends without ``stop()``, with engines in whatever state.

The job leaves one checkpoint and then waits at step boundaries. Arguments: the folder of the
databases, the name of a function below, and its argument, if it has one. What a function returns is
kept until the interpreter ends, as the names of a script are.
"""

import atexit
import gc
import os
import signal
import sys
import threading
from pathlib import Path

import durably

inside = threading.Event()


@durably.job("long")
def long(step, payload):
    step.run("first", int, "1")
    inside.set()
    step.sleep(100000)
    step.run("never", print, "EXECUTED TOO FAR", flush=True)


@durably.job("quick")
def quick(step):
    return step.run("only", int, "7")


def started(name="x.db", **options):
    return durably.Durably(Path(sys.argv[1]) / name, jobs=[long, quick], **options).init()


def triggered(app, count=1):
    found = [app.jobs["long"].trigger(number) for number in range(count)]
    assert inside.wait(60)
    return found


def in_a_step():
    app = started()
    triggered(app)
    return app


def end_in(how):
    """End with a started engine in one of several ways."""
    app = in_a_step()
    if how == "an exception":
        raise ValueError("ended")
    if how == "sys.exit":
        sys.exit(3)
    if how == "Ctrl-C":
        signal.raise_signal(signal.SIGINT)
    elif how == "engine dropped":
        del app
        gc.collect()
        return None
    elif how == "an exit function":
        atexit.register(print, "bye")
    elif how == "a daemon thread":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    elif how == "a stop that timed out":
        try:
            app.stop(timeout=0.01)
        except durably.WaitTimeoutError:
            print("timed out")
    else:
        assert how == "the last line"
    return app


def killed():
    in_a_step()
    os.kill(os.getpid(), signal.SIGKILL)


def several_runs():
    app = started(max_workers=2)
    triggered(app, 5)
    while app.count_runs(status="running") < 2 or any(
        not run.completed_steps for run in app.get_runs(status="running")
    ):
        pass
    return app


def step_in_progress():
    @durably.job("stepping")
    def stepping(step):
        def work():
            inside.set()
            while not step.cancelled:  # until the script has ended
                pass
            return 5

        step.run("work", work)
        step.run("never", print, "EXECUTED TOO FAR", flush=True)

    app = started()
    app.register(stepping).trigger()
    assert inside.wait(60)
    return app


def several_engines():
    apps = [started(f"{number}.db") for number in range(3)]
    for app in apps:
        inside.clear()
        triggered(app)
    return apps


def engines_that_cannot_be_closed():
    def refuse(*_, **__):
        raise durably.DatabaseError("the disk is full")

    apps = several_engines()
    for app in apps[:2]:
        app._flusher.flush_lines = refuse
    return apps


def opened_again_and_again():
    going = threading.Event()

    def work():
        kept, n = [], 0
        try:
            while True:
                n += 1
                kept.append(started(f"{n % 3}.db"))
                going.set()
        except durably.EngineClosedError as exc:
            print(exc, flush=True)

    threading.Thread(target=work).start()
    assert going.wait(60)


def never_started():
    app = durably.Durably(sys.argv[1] + "/x.db", jobs=[quick])
    print(app.jobs["quick"].trigger().id)
    return app


def triggered_right_before():
    app = started()
    for _ in range(30):
        print(app.jobs["quick"].trigger().id)
    return app


def with_block(raised):
    with started() as app:
        triggered(app)
        if raised == "ValueError":
            raise ValueError("left")
        if raised == "KeyboardInterrupt":
            raise KeyboardInterrupt
        sys.exit(3)


def interrupted_at_the_end_of_a_block():
    def interrupt():
        assert inside.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with started() as app:
        app.jobs["long"].trigger(1)


def used_by_another_thread():
    app = in_a_step()

    def use():
        try:
            while True:
                app.jobs["quick"].trigger(idempotency_key="same")
        except durably.EngineClosedError:
            print("told", flush=True)

    threading.Thread(target=use).start()
    return app


kept = globals()[sys.argv[2]](*sys.argv[3:])
