"""Another script with a job ``main``, on the same default file as ``invoices.py``."""

import durably


@durably.job
def main(step) -> str:
    return step.run("remove", lambda: "removed")


if __name__ == "__main__":
    with durably.Durably(jobs=[main]) as app:
        print(app.trigger_and_wait(main).output)
