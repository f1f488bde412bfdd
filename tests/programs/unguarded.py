"""A script without ``if __name__ == "__main__":`` whose step starts processes.

Arguments: how they are started, and where the engine is opened.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import durably


def square(n: int) -> int:
    return n * n


def squares(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(square, range(4)))


@durably.job
def job(step, method: str) -> int:
    return sum(step.run("squares", squares, method))


def main():
    app = durably.Durably("a.db", jobs=[job])
    app.jobs["job"].trigger(sys.argv[1])
    app.run_until_idle()


if sys.argv[2] == "in a with block":
    with durably.Durably("a.db", jobs=[job]) as app:
        app.jobs["job"].trigger_and_wait(sys.argv[1])
elif sys.argv[2] == "in a function":
    main()
else:
    import unguarded_module  # noqa: F401 - executes the job
