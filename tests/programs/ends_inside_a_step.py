"""Ends in one of several ways while its run is in the middle of a step.

Arguments: the database, and how it ends.
"""

import os
import signal
import sys
import threading

import durably

inside = threading.Event()


def second(step):
    inside.set()
    while not step.cancelled:
        threading.Event().wait(0.01)
    return "second"


@durably.job
def work(step) -> str:
    step.run("first", str, "first")
    step.run("second", second, step)
    return step.run("third", str, "by the first")


path, ending = sys.argv[1:]
app = durably.Durably(path, jobs=[work]).init()
app.jobs["work"].trigger()
inside.wait()
if ending == "sys.exit":
    sys.exit(3)
if ending == "raises":
    raise ZeroDivisionError
if ending == "os._exit":
    os._exit(3)
if ending in ("SIGTERM", "SIGINT"):
    os.kill(os.getpid(), getattr(signal, ending))
assert ending in ("returns", "SIGINT")
