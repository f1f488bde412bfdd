"""A script with a job ``main`` that is killed between its steps, if the environment says so."""

import os

import durably


@durably.job
def main(step) -> str:
    step.run("load", lambda: "invoices")
    if os.environ.get("DIE"):
        os.kill(os.getpid(), 9)
    return step.run("send", lambda: "sent")


if __name__ == "__main__":
    with durably.Durably(jobs=[main]) as app:
        print(app.trigger_and_wait(main, idempotency_key="2026-11").output)
