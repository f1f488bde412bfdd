"""Progress in the bars of other packages: ``show=tqdm_sink()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durably.settings import ProgressSink

__all__ = ["ProgressSink", "tqdm_sink"]


def tqdm_sink(bar: Callable[..., Any] | None = None, **options: Any) -> ProgressSink:
    """Return what displays progress in a bar of tqdm: ``app.run(job, show=tqdm_sink())``.

    The bar has the numbers of durably's own display: what came from checkpoints counts as done, and
    its rate and time left count what is new. It appears after half a second, and there is one for
    each call. It may be the ``show`` of an engine too.

    Args:
        bar: a class of tqdm's; by default ``tqdm.auto.tqdm``, which suits terminals and notebooks.
        options: for that class, such as ``unit="pages"``.

    Raises:
        ImportError: tqdm is not installed.

    .. versionadded:: 0.2.0
    """
    if bar is None:
        from tqdm.auto import tqdm  # noqa: PLC0415 - optional dependency

        bar = tqdm
    return _TqdmSink(bar, options)


class _TqdmSink:
    """A sink for bars of one class."""

    def __init__(self, bar: Callable[..., Any], options: dict[str, Any]) -> None:
        self._make = bar
        self._options = options
        self._bar: Any = None
        self._reused: float = 0

    def update(
        self, done: float, total: float | None, *, reused: float, failed: int, name: str
    ) -> None:
        """Move the bar to *done*."""
        if self._bar is None:
            self._reused = reused
            given = {"desc": name, "total": total, "initial": reused, **self._options}
            self._bar = self._make(**given)
        bar = self._bar
        if reused != self._reused:
            # More came from checkpoints meanwhile, and nothing of that counts for the rate.
            self._reused = bar.initial = reused
        bar.total = total
        if failed:
            bar.set_postfix(failed=failed, refresh=False)
        bar.n = done
        bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
