"""Prints the name, the type and the value of each result of the one run of a database."""

import sys

import durably

app = durably.Durably(sys.argv[1])
(run,) = app.get_runs()
for record in app.get_steps(run):
    print(record.name, type(record.output).__name__, repr(record.output))
