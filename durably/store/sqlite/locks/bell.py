"""Calling a thread of another process that waits for its turn, so that it need not keep looking.

On Linux, by a datagram to a socket whose name the kernel makes up, in a namespace that is no
folder: nothing lies around, and nothing is left behind. It is no more than a hint. Elsewhere, and
between containers with networks of their own, nobody is called, and who waits looks by itself.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

from durably._platform.fork_hooks import ForkParticipant, no_fork, watch_forks
from durably._platform.interrupts import raise_if_signal, system_errors_suppressed

if sys.platform == "linux":
    import select

if TYPE_CHECKING:
    import socket

# A name of the kernel's making: a zero byte and five hexadecimal digits.
ADDRESS_SIZE: Final = 6


class Bell(ForkParticipant):
    """Where one thread at a time waits, to be called by other processes.

    In a forked child it is closed: a call is for the parent.

    Args:
        endpoint: a socket that never blocks.

    Attributes:
        address: what others call.
    """

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint
        self.address: Final = bytes(endpoint.getsockname())
        if sys.platform == "linux":
            self._poll = select.poll()
            self._poll.register(endpoint, select.POLLIN)
        watch_forks(self)

    def call(self, address: bytes) -> None:
        """End the present wait at the bell of that address, or else its next one; never blocks."""
        # Nobody may be there any more, or have been called often enough.
        with system_errors_suppressed():
            self._socket.sendto(b"", address)

    def wait(self, timeout_s: float) -> bool:
        """Block until somebody calls or *timeout_s* has passed, in steps of a millisecond.

        Returns:
            ``False`` if nobody can call, because the socket is gone.
        """
        if sys.platform == "linux" and self._poll.poll(max(1, math.ceil(1000 * timeout_s))):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return True
            except OSError as exc:
                raise_if_signal(exc)
                return False
        return True

    def close(self) -> None:
        """Give the socket back."""
        with no_fork(), system_errors_suppressed():
            self._socket.close()

    def after_fork_in_child(self) -> None:
        """Close the copy."""
        self.close()


def open_bell() -> Bell | None:
    """A new bell; ``None`` where there are none."""
    if sys.platform != "linux":
        return None
    import socket  # noqa: PLC0415 - where first needed

    try:
        with no_fork():
            endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                endpoint.setblocking(False)
                endpoint.bind("")
                return Bell(endpoint)
            except OSError as exc:
                raise_if_signal(exc)
                endpoint.close()
                raise
    except OSError as exc:  # no descriptors left, or a sandbox without such sockets
        raise_if_signal(exc)
        return None
