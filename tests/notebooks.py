"""A real Jupyter kernel that a test drives cell by cell, as a notebook does.

Cells may be executed again, edited, out of order; a cell in progress may be interrupted, and the
kernel killed and started again. What a notebook displays is read from what the kernel sends.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any, Final, Self

from attrs import Factory, define
from children import ENVIRONMENT
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

# Only guards against hanging.
DEADLINE_S: Final = 60.0
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


@define
class Execution:
    """One execution of a cell, and what the notebook displays below it so far."""

    notebook: Notebook
    request: str
    number: int | None = None  # the number in brackets: In [number]
    stdout: str = ""
    stderr: str = ""
    result: str = ""  # the last expression, as text
    html: str = ""  # the same, as HTML
    displays: list[dict[str, Any]] = Factory(list)  # other outputs, by MIME type
    error: str = ""  # its name and message
    traceback: str = ""  # what the kernel sends to be displayed for an error, without colours
    texts: list[str] = Factory(list)  # what it writes, shows and raises, in its order
    is_idle: bool = False

    def wait_for(self, text: str) -> Self:
        """Wait until the cell has printed *text*, for example from inside a step."""
        while text not in self.stdout:
            assert not self.is_idle, f"the cell ended without printing {text!r}: {self}"
            self.notebook.read(self)
        return self

    def finish(self) -> Self:
        """Wait until the cell has ended, with an error or without."""
        while not self.is_idle:
            self.notebook.read(self)
        return self

    def answer(self, text: str) -> Self:
        """Wait until the cell asks for a line of input, as a debugger does, and enter *text*."""
        self.notebook.answer(text)
        return self

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """Add a message of the kernel to what is displayed."""
        match kind:
            case "execute_input":
                self.number = content["execution_count"]
            case "stream":
                setattr(self, content["name"], getattr(self, content["name"]) + content["text"])
                self.texts.append(content["text"])
            case "execute_result":
                self.result = content["data"]["text/plain"]
                self.html = content["data"].get("text/html", "")
                self.texts.append(self.result)
            case "display_data" | "update_display_data":
                self.displays.append(content["data"])
                self.texts.append(content["data"]["text/plain"])
            case "error":
                self.error = f"{content['ename']}: {content['evalue']}"
                self.traceback = _COLOUR.sub("", "\n".join(content["traceback"]))
                self.texts.append(self.error)
            case "status":
                self.is_idle = content["execution_state"] == "idle"


class Notebook:
    """A notebook with a kernel in a process of its own, which leaving the ``with`` block kills.

    Args:
        folder: that of the notebook.
        environment: more variables of the environment of the kernel.
    """

    pid: int  # the kernel's process

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._environment = environment

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.kill()

    def begin(self, source: str, *, cell_id: str | None = None) -> Execution:
        """Start a cell and return at once.

        Args:
            cell_id: the id of the cell, as JupyterLab and VS Code send it.
        """
        message = self._client.session.msg(
            "execute_request",
            {
                "code": textwrap.dedent(source).strip("\n"),
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": True,
                "stop_on_error": False,
            },
        )
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        self._client.shell_channel.send(message)
        return Execution(self, message["header"]["msg_id"])

    def execute(self, source: str, *, cell_id: str | None = None) -> Execution:
        """Execute a cell to its end, with an error or without."""
        return self.begin(source, cell_id=cell_id).finish()

    def ok(self, source: str, *, cell_id: str | None = None) -> Execution:
        """Execute a cell to its end, which must be without an error."""
        execution = self.execute(source, cell_id=cell_id)
        assert not execution.error, execution.traceback
        return execution

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
        execution = self.begin(source, cell_id=cell_id)
        while not execution.is_idle:
            self.read(execution)
            if while_running is not None and execution.texts:
                while_running()
                while_running = None
        return "\n".join(filter(None, (text.strip() for text in execution.texts)))

    def read(self, execution: Execution) -> None:
        """Wait for the kernel's next message, and take it if *execution* has caused it."""
        try:
            message = self._client.get_iopub_msg(timeout=DEADLINE_S)
        except Empty:
            raise AssertionError(f"the kernel says nothing: {execution}") from None
        if message["parent_header"].get("msg_id") == execution.request:
            execution.take(message["msg_type"], message["content"])

    def answer(self, text: str) -> None:
        """Wait until the kernel asks for a line of input, and enter *text*."""
        try:
            self._client.get_stdin_msg(timeout=DEADLINE_S)
        except Empty:
            raise AssertionError("the kernel asks for no input") from None
        self._client.input(text)

    def interrupt(self) -> None:
        """Press the stop button."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the kernel, as one that runs out of memory is."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self._client.stop_channels()
        self._files.cleanup()

    def restart(self) -> None:
        """Kill the kernel and start another one, in which nothing is defined."""
        self.kill()
        self._start()

    def shut_down(self) -> int:
        """End the kernel as "Shut Down Kernel" does; return its exit status."""
        self._client.shutdown()
        return self._process.wait(DEADLINE_S)

    def _start(self) -> None:
        # A folder of its own: the path of a socket must be short, and no settings of the user's
        # take part.
        self._files = tempfile.TemporaryDirectory(prefix="kernel-")
        file, _ = write_connection_file(
            os.path.join(self._files.name, "connection.json"),  # noqa: PTH118 - a text
            transport="ipc",
            ip=os.path.join(self._files.name, "socket"),  # noqa: PTH118
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", file],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what cells write goes to the client
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so the stop button reaches what a cell has started, too
            env={
                **ENVIRONMENT,
                "IPYTHONDIR": self._files.name,
                "JUPYTER_PLATFORM_DIRS": "1",
                "JPY_PARENT_PID": str(os.getpid()),  # it ends with this process
                **self._environment,
            },
        )
        self.pid = self._process.pid
        self._client = BlockingKernelClient(connection_file=file)
        self._client.load_connection_file()
        # Without the heartbeat: the client takes a kernel that is slow to answer it for a dead one.
        self._client.start_channels(hb=False)
        self._client.wait_for_ready(timeout=DEADLINE_S)
