"""Executes a run whose step runs a tool.

Arguments: the database, the tool, and what SIGTERM does.
"""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import durably

path, tool, handler = sys.argv[1:]
TOOL = (
    "import signal, time; signal.signal(2, signal.SIG_DFL); "
    "print('inside', flush=True); time.sleep(600)"
)


def say(*words):
    print(*words, flush=True)


def idle():
    say("inside")
    while True:
        time.sleep(0.05)
        # Checks for signals. In a child that another thread than the main one has forked,
        # Python 3.13 does so by itself only when a call is interrupted.
        signal.pthread_kill(threading.get_ident(), 0)


is_ready = threading.Event()


def run_tool(execution):
    if execution > 1:
        return "done"
    is_ready.wait()
    if tool == "processes":
        # One: a worker that a signal ends while it waits for work takes a lock of the pool along.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            return pool.submit(idle).result()
    # It says itself that it is there: a signal that comes while it is started may be lost.
    program = [sys.executable, "-c", TOOL]
    command = program if tool == "program" else ["sh", "-c", '"$@"; exit $?', "sh", *program]
    with subprocess.Popen(command) as process:
        status = process.wait()
    raise subprocess.CalledProcessError(status, command)


@durably.job
def convert(step):
    try:
        return step.run("tool", run_tool, step._run.fence)
    except Exception as exc:
        raise RuntimeError("could not convert") from exc


app = durably.Durably(path, jobs=[convert])


def on_signal(number, frame):
    if handler == "interrupts":
        raise KeyboardInterrupt
    if handler == "stops":
        app.stop()
    sys.exit(3)


told, done = [], []
if handler == "sets":
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
elif handler != "nothing":
    signal.signal(signal.SIGTERM, on_signal)
app.on("run:complete", lambda event: done.append(event.output))
with app:
    run = app.jobs["convert"].trigger(idempotency_key="k")
    is_ready.set()
    if handler in ("sets", "stops"):
        # What calls the engine, or sets an event, must not come in the middle of such a call.
        while not told and not done:
            time.sleep(0.02)
    else:
        app.wait(run)
say(*done)
