"""Executes a job ``told`` that does, inside its step, what the lines of its input say.

Arguments: the database, how it executes (started, open, one, stopping), and what else it has
(ignorant, logs, beats).
"""

import sys
import threading

import durably
from durably.plugins import LogPersistence

path, mode, *options = sys.argv[1:]


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def obey(step, payload):
    say("inside", payload)
    while line := sys.stdin.readline():
        verb, _, rest = line.strip().partition(" ")
        if verb == "return":
            return rest
        if verb == "fail":
            raise ValueError(rest)
        if verb == "progress":
            step.progress(int(rest), 10, "there")
        elif verb == "log":
            step.log.info(rest, n=1)
        elif verb == "check":
            step.check()
        say("did", verb)
    return None


@durably.job
def told(step, payload):
    try:
        return step.run("obey", obey, step, payload)
    except BaseException as exc:
        say("stopped", type(exc).__name__)
        raise


app = durably.Durably(
    path,
    jobs=[] if "ignorant" in options else [told],
    heartbeat_interval=0.05 if "beats" in options else 5,
)
if "logs" in options:
    app.use(LogPersistence())
if mode == "started":
    app.start()
say("ready")
if mode == "one":
    sys.stdin.readline()
    app.process_one()
    say("executed")
if mode == "stopping":
    app.start()
    sys.stdin.readline()
    try:
        app.stop(timeout=0)
    except durably.WaitTimeoutError:
        say("stop timed out")
threading.Event().wait()
