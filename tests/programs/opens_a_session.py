"""Opens a session, uses its steps as its input says line by line, and says what it executes.

A line ``step NAME`` uses a step, ``wait NAME`` one that is inside its function until the next line,
``raise NAME`` raises that exception out of the block, ``end`` leaves it. Without ``--block`` there
is none, and ``end`` ends the program.
"""

import argparse
import builtins
import os
import signal
import sys

import durably

parser = argparse.ArgumentParser()
parser.add_argument("database")
parser.add_argument("--key")
parser.add_argument("--block", action="store_true")
parser.add_argument("--handler", action="store_true", help="exit at SIGTERM")
given = parser.parse_args()


def say(*words):
    print(*words, flush=True)
    return os.getpid()


def inside(name):
    say("inside", name)
    sys.stdin.readline()
    return os.getpid()


def follow(step):
    for line in sys.stdin:
        what, _, name = line.strip().partition(" ")
        if what == "step":
            step.run(name, say, "executes", name)
            say("stored", name)
        elif what == "wait":
            step.run(name, inside, name)
            say("stored", name)
        elif what == "raise":
            raise getattr(builtins, name)("as told")
        else:
            assert what == "end"
            return


if given.handler:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
step = durably.session("script", given.database, key=given.key)
say("open", step.get_run().completed_steps)
if given.block:
    with step:
        follow(step)
else:
    follow(step)
