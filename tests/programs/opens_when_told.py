"""Opens a database on request, and says how many runs it holds."""

import sys

import durably

print("ready", flush=True)
sys.stdin.readline()
app = durably.Durably(sys.argv[1])
print(app.count_runs(), flush=True)
app.close()
