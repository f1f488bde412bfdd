"""Label numbers in a map, and press Ctrl-C inside the items that are executed.

``interrupts_a_map.py WORKERS``
"""

import logging
import os
import signal
import sys
import threading

import durably

workers = int(sys.argv[1])
inside = threading.Barrier(workers + 1)
is_stopping = threading.Event()
ended = threading.Event()


class Say(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        if "Stopping" in record.getMessage():
            is_stopping.set()


def label(number):
    if number < 3:
        return number
    if workers == 1:
        signal.raise_signal(signal.SIGINT)
    inside.wait()
    ended.wait()
    return number


def interrupt():
    inside.wait()
    os.kill(os.getpid(), signal.SIGINT)
    is_stopping.wait()
    ended.set()


logging.getLogger("durably").addHandler(Say())
if workers > 1:
    threading.Thread(target=interrupt, daemon=True).start()
durably.map(label, range(50), db="labels.db", max_workers=workers)
