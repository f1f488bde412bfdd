"""Open and close an engine again and again, and execute a run in each; print the key of each."""

from __future__ import annotations

import sys

import durably


@durably.job
def counts(step: durably.StepContext, number: int) -> int:
    return step.run("count", lambda: number + 1)


def main(path: str, name: str, times: int) -> None:
    for number in range(times):
        app = durably.Durably(path, jobs=[counts])
        app.run(counts, number, key=f"{name}-{number}")
        print(f"{name}-{number}", flush=True)
        app.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
