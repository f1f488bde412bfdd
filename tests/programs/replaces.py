"""Opens a database by two names, the second time in the place of the first engine."""

import sys

import durably

first = durably.Durably(sys.argv[1])
second = durably.Durably(sys.argv[2], replace=True)
print("closed" if repr(first).endswith(" closed>") else repr(first))
second.close()
