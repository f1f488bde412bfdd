"""Opens and closes a database, and says whether ``multiprocessing`` was imported for it."""

import sys

import durably

durably.Durably(sys.argv[1]).close()
print("multiprocessing" in sys.modules)
