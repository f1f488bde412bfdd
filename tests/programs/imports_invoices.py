"""Executes the job of ``invoices.py``, which it imports."""

import invoices

import durably

with durably.Durably(jobs=[invoices.main]) as app:
    print(app.trigger_and_wait("main", idempotency_key="2026-11").output)
