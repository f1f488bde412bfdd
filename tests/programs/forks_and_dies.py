"""Is killed while its run is executed, and leaves a forked child, which ends with its input."""

import os
import signal
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
app.jobs["long"].trigger()
assert inside.wait(60)
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
