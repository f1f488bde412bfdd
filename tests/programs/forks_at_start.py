"""Forks while a thread imports a module that executes a run, and executes a run in the child.

Arguments: the database, that of the child, and the module.
"""

import os
import signal
import sys
import threading

import durably

HANG_S = 60
importing, forked = threading.Event(), threading.Event()


class Finder:
    """Keeps the import of the module from ending before the fork, if that can be."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == sys.argv[3]:
            importing.set()
            forked.wait(0.2)


sys.meta_path.insert(0, Finder)


@durably.job
def job(step):
    output = step.options(retry=durably.Retry()).run("only", lambda: "done")
    step.sleep_until("soon", 0)
    return output


app = durably.Durably(sys.argv[1], jobs=[job])
run = app.trigger(job)
app.start()
assert importing.wait(HANG_S)
child = os.fork()
if child == 0:
    signal.alarm(HANG_S)
    with durably.Durably(sys.argv[2], jobs=[job]) as own:
        print(own.jobs["job"].trigger_and_wait().output, flush=True)
    os._exit(0)
forked.set()
_, status = os.waitpid(child, 0)
assert status == 0, status
print(app.wait(run, timeout=HANG_S).output)
