"""Opens and checks a database, and prints the errors."""

import sys

import durably
import durably.testing

for use in (durably.Durably, durably.testing.check):
    try:
        use(sys.argv[1])
    except durably.DatabaseError as exc:
        print(exc)
