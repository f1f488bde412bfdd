"""Reads a database with Python's sqlite3, and does not end the query."""

import sqlite3
import sys

db = sqlite3.connect(sys.argv[1])
cursor = db.execute("SELECT * FROM durably_owners UNION ALL SELECT * FROM durably_owners")
cursor.fetchone()
print("reads", flush=True)
sys.stdin.readline()
