"""Triggers a run and ends as a killed process does: its last commit is only in the WAL."""

import os
import sys

import durably

app = durably.Durably(sys.argv[1], jobs=[durably.Job("j", lambda step: 1)])
app.trigger("j", idempotency_key="two")
os._exit(0)
