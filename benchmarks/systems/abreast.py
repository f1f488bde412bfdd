"""Several processes that do the same work at the same time.

Not in ``child``, which every measured program imports, and whose memory is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.systems.child import Meter


def side_by_side(module: str, workload: str, options: list[dict[str, Any]]) -> float:
    """Have so many processes do a workload at once; the seconds until all are done.

    Each says that it is ready, waits for a line, and says that it is done.
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-m", module, workload, json.dumps(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in options
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    with Meter() as meter:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            assert child.stdout is not None
            while child.stdout.readline() != "done\n":
                pass
    for child in children:
        child.communicate()
        assert child.returncode == 0
    return meter.seconds
