"""Executes a job that ignores whatever stops it.

Arguments: the database, and how the script ends.
"""

import sys
import threading

import durably

path, ending = sys.argv[1:]


def item(number):
    if number == 1 and ending != "again":
        print("inside", flush=True)
        inside.set()
        may_go_on.wait()
    return number


inside, may_go_on = threading.Event(), threading.Event()


@durably.job
def collect(step):
    bad = []
    for number in range(4):
        try:
            step.run(f"item-{number}", item, number)
        except:  # noqa: E722 - what is tested
            bad.append(number)
    return bad


def release():
    inside.wait()
    (active,) = app._supervisor.current_runs()
    active.stopped.wait()
    may_go_on.set()


threading.Thread(target=release, daemon=True).start()
app = durably.Durably(path, jobs=[collect])
if ending == "end of the script":
    app.start()
    app.jobs["collect"].trigger(idempotency_key="k")
    inside.wait()
    sys.exit()
with app:
    run = app.jobs["collect"].trigger_and_wait(idempotency_key="k")
    print(run.output, run.attempt, flush=True)
