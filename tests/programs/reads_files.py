"""Prints the names and the bytes of the files of a folder.

A process that has a database open would drop SQLite's locks by it.
"""

import sys
from pathlib import Path

for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, path.read_bytes().hex())
