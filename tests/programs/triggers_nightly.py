"""Triggers two runs of the jobs of ``nightly.py``, under the name of that module."""

import sys

import nightly

import durably

app = durably.Durably(sys.argv[1], jobs=[nightly.nightly, nightly.greets])
app.trigger(nightly.nightly, nightly.Import("a"))
app.trigger(nightly.greets, "you")
app.close()
