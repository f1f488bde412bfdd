"""Bounds: the numbers that a database file may hold, as the schema's CHECKs have them."""

from typing import Final

# The number of a step is the run's, shifted by 24 bits, and an index.
MOST_RUNS: Final = 2**39 - 1
