"""Labels numbers, some of which fail, in the way that its argument names."""

import signal
import sys

import durably


class BadRequestError(Exception):
    pass


def label(number):
    if number % 4 == 3:
        raise BadRequestError(f"400 cannot parse {number}")
    if number == 8:
        raise TimeoutError
    return number


how = sys.argv[1]
if how == "map":
    durably.map(label, range(20), db="a.db", key=str)
elif how == "session":
    try:
        with durably.session("mine", "a.db") as step:
            step.map("label", label, range(4))
    except durably.ItemsFailedError as exc:
        exc.add_note("ask Ada")
        raise
else:
    with durably.session("mine", "a.db") as step:
        step.run("stop", signal.raise_signal, signal.SIGINT)
