"""Find the results of a run that are out of date, under ``on_change="redo"``.

Results are like the layers of an image: one is used only if nothing has changed that it was made
of, and nothing that comes before it was executed after it was stored. So all that follow the first
one that is executed are executed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from durably._platform.fingerprints import is_other
from durably.execution.inputs import hash_of_inputs
from durably.store.bounds import FENCE_BITS

if TYPE_CHECKING:
    from durably._platform.interactive import Cell
    from durably.store.rows import LayeredCheckpoint


class Chain:
    """Steps that follow one another: the highest layer of those that have ended.

    The steps inside of a step are a chain of their own, and so is each branch of ``parallel`` and
    each item of a map: what is executed beside a step is not before it.
    """

    __slots__ = ("base", "execution", "newest", "of")

    def __init__(self, of: Layers, base: int) -> None:
        self.of = of
        self.base = self.newest = base
        # Of the cell whose steps these are.
        self.execution: str | None = None


_current: ContextVar[Chain | None] = ContextVar("durably_chain", default=None)


class Layers:
    """The layers of the results of one run. Usable from any thread.

    Args:
        fence: of the execution, all of whose results are newer than those of others.
        newest: the highest layer of what was used until now.
        cell: returns the cell of a notebook that is executed, where its steps may be used again.
    """

    def __init__(
        self,
        fence: int,
        newest: int,
        cell: Callable[[], Cell | None],
    ) -> None:
        self._lock = threading.Lock()  # guards all below, and all chains
        self._layer = fence << FENCE_BITS
        self._root = Chain(self, newest)
        self._cell = cell
        self._last_cell: Cell | None = None
        # Of the cells, in the order in which each was executed first.
        self._cells: dict[str, Chain] = {}
        # Of the steps in progress: what each is made of, and whether it has an older result.
        self._entered: dict[str, tuple[int | None, bool]] = {}
        # Those that have failed and keep an older result.
        self._failed: frozenset[str] = frozenset()

    @property
    def layer(self) -> int:
        """Return the layer of what is executed now."""
        self._chain()
        return self._layer

    def _chain(self) -> Chain:
        """Return the chain that the calling thread is in."""
        chain = _current.get()
        if chain is not None and chain.of is self:
            return chain
        cell = self._cell()
        if cell is None:
            return self._root
        with self._lock:
            return self._of_cell(cell)

    def _of_cell(self, cell: Cell) -> Chain:
        """Return the chain of a cell, which begins anew with each execution of it."""
        if self._last_cell != cell:
            if self._last_cell is not None:
                self._layer += 1
            self._last_cell = cell
        chain = self._cells.get(cell.cell)
        if chain is not None and chain.execution == cell.execution:
            return chain
        base = self._root.newest
        for key, before in self._cells.items():
            if key == cell.cell:
                break
            base = max(base, before.newest)
        self._cells[cell.cell] = chain = Chain(self, base)
        chain.execution = cell.execution
        return chain

    def hash_of(self, args: tuple[Any, ...], kwargs: dict[str, Any], depends_on: str | None) -> int:
        """Return a hash of what a result would be made of now, beside the code.

        What was executed after a failure knows nothing of the result that is kept, and that other
        code may use again.
        """
        return hash_of_inputs(args, kwargs, depends_on, self._failed)

    def fail(self, name: str) -> None:
        """Note that a step has failed, or an item of it, whose result is out of date and kept."""
        with self._lock:
            self._failed = self._failed | {name}

    def is_out_of_date(
        self, code: int | None, checkpoint: LayeredCheckpoint, inputs: int | None
    ) -> bool:
        """Return whether a stored result must not be used.

        Args:
            code: the fingerprint of the function.
            inputs: a hash of what the result would be made of now, beside the code.
        """
        _, _, _, old_code, layer, stored, is_manual = checkpoint
        if is_manual:
            return False
        has_other_inputs = stored is not None and stored != inputs
        if has_other_inputs or layer < self._chain().newest:
            return True
        return is_other(old_code, code)

    def newest(self) -> int:
        """Return the highest layer of what comes before the next step of the calling thread."""
        return self._chain().newest

    def use(self, layer: int) -> None:
        """Note that the calling thread uses a result of that layer.

        None is newer than what is executed now, whatever another program has stored.
        """
        chain = self._chain()
        with self._lock:
            chain.newest = max(chain.newest, min(layer, self._layer))

    def begin_again(self) -> None:
        """Note that the function of the step that the thread is in is called again from its top."""
        chain = _current.get()
        if chain is not None and chain.of is self:
            chain.newest = chain.base

    def enter(
        self, name: str, inputs: int | None, replaced: LayeredCheckpoint | None
    ) -> Token[Chain | None]:
        """Note that the calling thread is inside of a step that is executed.

        Args:
            replaced: its result that is out of date, whose place the new one takes.
        """
        base = self._chain().newest
        with self._lock:
            if replaced is not None and replaced[4] == self._layer:
                self._layer += 1
            self._entered[name] = inputs, replaced is not None
        # Of a step that is executed because its result is out of date, all inside is, too.
        return _current.set(Chain(self, base if replaced is None else self._layer))

    def leave(self, name: str, token: Token[Chain | None] | None = None) -> None:
        """Note that a step has ended, or failed: what follows is executed again."""
        if token is not None:
            _current.reset(token)
        self._entered.pop(name, None)
        self.use(self.layer)

    def of(self, name: str) -> tuple[int, int | None]:
        """Return the layer of a step that has a result now, and the hash of what it is made of."""
        if name in self._failed:
            with self._lock:
                self._failed = self._failed - {name}
        return self._layer, self._entered.get(name, (None, False))[0]

    def replaces(self, name: str) -> bool:
        """Return whether a step in progress has a result that is out of date."""
        return self._entered.get(name, (None, False))[1]

    @contextmanager
    def branch(self, base: int) -> Iterator[None]:
        """Make what is executed inside come after what has that layer, and nothing beside it."""
        token = _current.set(Chain(self, base))
        try:
            yield
        finally:
            _current.reset(token)
