"""Executes four runs that sleep in a step, and says what ends each.

Arguments: the database, and the heartbeat interval.
"""

import sys
import threading

import durably


def say(line):
    sys.stdout.write(line + "\n")  # whole: four threads speak
    sys.stdout.flush()


@durably.job
def sleep(step):
    say(f"inside {step.attempt} {step.run_id}")
    try:
        step.sleep(1000)
    except BaseException as exc:
        say(f"{type(exc).__name__} {step.cancelled}")
        raise


app = durably.Durably(
    sys.argv[1], jobs=[sleep], heartbeat_interval=float(sys.argv[2]), stale_threshold=60
)
app.start()
for _ in range(4):
    app.jobs["sleep"].trigger()
threading.Event().wait()
