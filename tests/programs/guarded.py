"""A script with a guard whose step starts processes, each of which has engines of its own."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

# Of each child's own, and not started: as a module with the engine of a project has it.
import guarded_settings  # noqa: F401

import durably


def square(n: int) -> int:
    return n * n


def in_the_child(n: int) -> int:
    with durably.Durably("child.db", jobs=[counted]) as app:
        return app.jobs["counted"].trigger_and_wait(n).output


@durably.job
def counted(step, n: int) -> int:
    return step.run("one", square, n)


def in_children(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(in_the_child, range(4)))


@durably.job
def nested(step, method: str) -> int:
    return sum(step.run("squares", in_children, method))


if __name__ == "__main__":
    with durably.Durably("a.db", jobs=[nested]) as app:
        print(app.jobs["nested"].trigger_and_wait(sys.argv[1]).output)
