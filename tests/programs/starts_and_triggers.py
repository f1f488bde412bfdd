"""Starts an engine and triggers a run, or prints the class and the text of the error."""

import sys

import durably

try:
    with durably.Durably(sys.argv[1], jobs=[durably.job("x")(lambda step: None)]) as app:
        app.jobs["x"].trigger()
except durably.DatabaseError as exc:
    print(type(exc).__name__, exc)
