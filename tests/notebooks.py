"""Cells in a real Jupyter kernel, in a process of its own that ends with the ``with`` block."""

from __future__ import annotations

import os
import queue
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from children import ENVIRONMENT
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

# Only guards against hanging.
DEADLINE_S: Final = 60.0
LAUNCH: Final = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class Notebook:
    """A kernel whose folder is *folder*; ``notebook.run(source)`` executes a cell in it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._manager: KernelManager
        # No file outside the folder.
        self._environment = {
            **ENVIRONMENT,
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            **environment,
        }
        self._client: BlockingKernelClient

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return int(self._manager.provisioner.pid)

    def run(
        self,
        source: str,
        *,
        cell_id: str | None = None,
        while_running: Callable[[], object] | None = None,
    ) -> str:
        """Execute a cell; return what it prints and shows, and the last line of its error.

        Args:
            cell_id: the id of the cell, as JupyterLab and VS Code send it.
            while_running: called once, when the cell has written something.
        """
        client = self._client
        message = client.session.msg(
            "execute_request",
            {
                "code": textwrap.dedent(source).strip(),
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": False,
            },
        )
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        client.shell_channel.send(message)
        answers = self._answers(message["header"]["msg_id"], while_running)
        client.get_shell_msg(timeout=DEADLINE_S)
        return "\n".join(filter(None, (answer.strip() for answer in answers)))

    def interrupt(self) -> None:
        """Press the stop button."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """Kill the kernel, as one that runs out of memory is, and start another one."""
        self._end()
        self._start()

    def _start(self) -> None:
        self._manager = KernelManager(
            kernel_name="python3", connection_file=str(self.folder / "kernel.json")
        )
        # The kernel of this interpreter, whichever one has that name here.
        self._manager.kernel_spec.argv = LAUNCH
        self._manager.start_kernel(cwd=os.fspath(self.folder), env=self._environment)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=DEADLINE_S)

    def _end(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.context.destroy()

    def _answers(self, message_id: str, while_running: Callable[[], object] | None) -> list[str]:
        """Collect what a cell shows until the kernel is idle again."""
        shown: list[str] = []
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=deadline - time.monotonic())
            except queue.Empty:
                raise TimeoutError("the cell has not ended: " + "\n".join(shown)) from None
            if message["parent_header"].get("msg_id") != message_id:
                continue
            content: dict[str, Any] = message["content"]
            match message["msg_type"]:
                case "stream":
                    shown.append(content["text"])
                case "error":
                    shown.append(f"{content['ename']}: {content['evalue']}")
                case "execute_result" | "display_data":
                    shown.append(content["data"]["text/plain"])
                case "status" if content["execution_state"] == "idle":
                    return shown
                case _:
                    continue
            if while_running is not None:
                while_running()
                while_running = None
