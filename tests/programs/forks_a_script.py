"""Forks a child that ends as a script does, while a run is executed here.

Arguments: the database, and how the child ends.
"""

import os
import sys
import threading

import durably

inside = threading.Event()


@durably.job("long")
def long(step):
    step.run("first", int, "1")
    inside.set()
    step.sleep(100000)


app = durably.Durably(sys.argv[1], jobs=[long]).init()
run = app.jobs["long"].trigger()
assert inside.wait(60)
child = os.fork()
if child == 0:
    if sys.argv[2] == "sys.exit":
        sys.exit(4)
    raise SystemExit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
assert app.get_run(run).status == "running"
other = durably.Durably(sys.argv[1])
other.run_until_idle()
assert app.get_run(run).status == "running"
app.stop(interrupt=True)
print("well", flush=True)
