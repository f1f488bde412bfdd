"""Executes a run of eight batches, and dies in the fourth. Argument: the database."""

import os
import sys

import durably


@durably.job("nightly-import", origin="any")
def nightly(step) -> int:
    for number in range(8):
        step.run(f"batch-{number}", os._exit if number == 3 else int, number)
    return 8


durably.Durably(sys.argv[1]).run(nightly, key="k")
