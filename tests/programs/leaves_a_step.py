"""Is left in one of several ways while its run is inside a step that hangs.

Arguments: the database, and the way.
"""

import signal
import sys
import threading

import durably

path, way = sys.argv[1:]
inside = threading.Event()


def block():
    print("inside", flush=True)
    inside.set()
    threading.Event().wait()  # a request that hangs


@durably.job
def hang(step):
    step.run("page-3", block)


def leave(number, frame):
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, leave)

if way == "with block":
    with durably.Durably(path, jobs=[hang]) as app:
        app.jobs["hang"].trigger_and_wait()
elif way == "with block that has ended":
    with durably.Durably(path, jobs=[hang]) as app:
        app.jobs["hang"].trigger()
elif way == "stop in a finally":
    app = durably.Durably(path, jobs=[hang]).start()
    try:
        app.jobs["hang"].trigger_and_wait()
    finally:
        app.stop(interrupt=True)
elif way == "close in a finally":
    app = durably.Durably(path, jobs=[hang]).start()
    try:
        app.jobs["hang"].trigger_and_wait()
    finally:
        app.close()
elif way == "stop alone":
    app = durably.Durably(path, jobs=[hang]).start()
    app.jobs["hang"].trigger()
    inside.wait()  # what has not begun stays pending
    app.stop()
elif way == "run_until_idle":
    app = durably.Durably(path, jobs=[hang])
    app.jobs["hang"].trigger()
    app.run_until_idle()
elif way == "end of the script":
    app = durably.Durably(path, jobs=[hang]).start()
    app.jobs["hang"].trigger_and_wait()
else:
    assert way == "end of the script inside a step"
    app = durably.Durably(path, jobs=[hang]).start()
    app.jobs["hang"].trigger()
    inside.wait()
