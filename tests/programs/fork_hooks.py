"""Forks with participants, of which some raise or register others.

Argument: the name of a function below.
"""

import os
import signal
import sys
import threading

from durably._platform.fork_hooks import no_fork, watch_forks

seen = []


class Participant:
    def __init__(self, name):
        self.name = name

    def before_fork(self):
        seen.append("before " + self.name)

    def after_fork_in_parent(self):
        seen.append("parent " + self.name)

    def after_fork_in_child(self):
        seen.append("child " + self.name)


class Raising(Participant):
    def before_fork(self):
        raise RuntimeError

    def after_fork_in_parent(self):
        raise AssertionError

    def after_fork_in_child(self):
        super().after_fork_in_child()
        raise LookupError


class Registering(Participant):
    def before_fork(self):
        watch_forks(late)
        super().before_fork()


class Locking(Participant):
    def __init__(self, name, lock):
        super().__init__(name)
        self._lock = lock

    def before_fork(self):
        self._lock.acquire()

    def after_fork_in_parent(self):
        self._lock.release()

    def after_fork_in_child(self):
        self._lock.release()


def say(*words):
    print(*words, flush=True)


def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_order():
    """Say what the child and then what the parent has seen."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, ",".join(seen).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    say(os.read(reader, 9999).decode())
    say(",".join(seen))


class Holder:
    """A thread that lets nobody fork."""

    def __init__(self):
        self._inside, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self):
        with no_fork():
            self._inside.set()
            self._leave.wait(20)

    def start(self):
        self._thread.start()
        self._inside.wait(20)

    def end(self):
        self._leave.set()
        self._thread.join(20)


def waits():
    """Say whether a fork happens while a thread is at work, and then, and how its child ends."""
    lock, forked = threading.Lock(), threading.Event()
    locking = Locking("w", lock)
    watch_forks(locking)
    pids = []

    def fork():
        with lock:
            pass
        pid = os.fork()
        if not pid:
            with lock:
                watch_forks(Participant("new"))
            grandchild = os.fork()
            if not grandchild:
                os._exit(7)
            os._exit(status(grandchild))
        pids.append(pid)
        forked.set()

    holder, forker = Holder(), threading.Thread(target=fork)
    holder.start()
    forker.start()
    say(forked.wait(0.2))
    holder.end()
    forker.join(20)
    say(forked.is_set(), status(pids[0]))


def interrupted():
    """Say how the child of a fork ends whose wait was interrupted."""
    holder = Holder()
    holder.start()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        watch_forks(Participant("new"))
        os._exit(7)
    say(status(pid), seen)
    holder.end()
    with no_fork():
        say("open")


sys.unraisablehook = lambda hook: seen.append(type(hook.exc_value).__name__)
# They are not kept by being registered, as "forgotten" is not.
late, raising = Participant("late"), Raising("bad")
first, last = Participant("a"), Registering("b")
for participant in (first, raising, last, first):
    watch_forks(participant)
watch_forks(Participant("forgotten"))
globals()[sys.argv[1]]()
