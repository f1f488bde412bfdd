"""Starts an engine and triggers one run, whose second step says that it is executed and waits.

What it waits for is a line, unless ``--held`` says otherwise. With ``--then`` it waits outside of a
step, so that what it does next is the first that it writes.
"""

import argparse
import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import durably

parser = argparse.ArgumentParser()
parser.add_argument("database")
parser.add_argument("heartbeat_interval", type=float)
parser.add_argument("stale_threshold", type=float)
parser.add_argument("--key", help="the concurrency key of the run")
parser.add_argument("--held", default="line")
parser.add_argument("--then", help="what a job does that waits outside of a step")
parser.add_argument("--late", action="store_true", help="wait again before writing the step `new`")
parser.add_argument("--boot-id", help="what a container shows in the place of the kernel's own")
parser.add_argument("--idle", action="store_true", help="trigger no run")
given = parser.parse_args()


def say(*words):
    print(*words, flush=True)


def rest():
    say(os.getpid())
    signal.pause()


def fork():
    if not os.fork():
        rest()


def fork_by_multiprocessing():
    multiprocessing.get_context("fork").Process(target=rest, daemon=True).start()


def execute_another():
    program = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    subprocess.Popen([sys.executable, "-c", program], close_fds=False)


def read_in_c():
    """Read a byte inside of C code that does not release the GIL: no other thread runs."""
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)


def wait(step):
    say("inside", step.attempt, step.run_id)
    if given.held == "line":
        sys.stdin.readline()
    elif given.held == "gil":
        read_in_c()
    else:
        make_child = {
            "os.fork": fork,
            "multiprocessing": fork_by_multiprocessing,
            "subprocess": execute_another,
        }[given.held]
        make_child()
        signal.pause()
    return "from the first"


def fail():
    raise ZeroDivisionError


def write(step):
    """Do the first that an owner writes after its run was taken over."""
    if given.then == "failure":
        raise ValueError
    if given.then == "checkpoint":
        step.run("new", str, "by the first")
    elif given.then == "failed step":
        step.run("new", fail)
    elif given.then == "failed step that is handled":
        with contextlib.suppress(Exception):
            step.run("new", fail)
    elif given.then == "progress":
        step.progress(99, 100, "by the first")
    else:
        assert given.then == "completion"


@durably.job
def hold(step):
    if given.then:
        try:
            step.run("before", int)
            wait(step)
            write(step)
            return "by the first"
        finally:
            say("ended")
    try:
        step.run("before", int)
        step.run("held", wait, step)
        step.run("after", say, "after")
        return "by the first"
    except BaseException as exc:
        say("stopped", type(exc).__name__)
        raise


if given.late:
    from durably.store.sqlite.database import Database

    write_at_once = Database.write

    def write_late(self, operation, *args, **kwargs):
        """Wait for a line between having a result and storing it: nothing read before holds."""
        if "new" in args:
            say("writing", operation.__name__)
            sys.stdin.readline()
        return write_at_once(self, operation, *args, **kwargs)

    Database.write = write_late
if given.boot_id:
    from durably.store.sqlite.locks import owner_lock

    owner_lock.current_boot_id = lambda: given.boot_id

app = durably.Durably(
    given.database,
    jobs=[hold],
    max_workers=1,
    heartbeat_interval=given.heartbeat_interval,
    stale_threshold=given.stale_threshold,
)
app.on("worker:error", lambda event: print(event, file=sys.stderr, flush=True))
app.start()
if not given.idle:
    app.jobs["hold"].trigger(concurrency_key=given.key)
threading.Event().wait()
