"""What a zip file executes: makes, migrates and checks a database, and says where durably is."""

import sys

import durably
from durably.testing import check


def numbers(n: int) -> list[int]:
    return list(range(n))


@durably.job
def work(step, n: int) -> list[int]:
    return step.run("all", numbers, n)


with durably.Durably(sys.argv[1], jobs=[work]) as app:
    print(app.jobs["work"].trigger_and_wait(3).output, list(check(sys.argv[1])))
print(durably.__file__)
