"""The name of the machine, as people know it."""

from __future__ import annotations

import functools
import os
from typing import Final

# What the database holds of a name.
_LONGEST: Final = 60


@functools.cache
def host_name() -> str:
    """Return the name of this machine or container; "" if the system does not report one.

    It is stored for people, and decides nothing. It is read once: a machine whose name changes
    keeps its name in processes that run.
    """
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    # Python represents bytes that are not UTF-8 in a form that no database holds.
    return name.encode(errors="replace").decode()[:_LONGEST]
