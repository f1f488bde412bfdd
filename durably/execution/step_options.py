"""Steps with options: what ``step.options`` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job
from durably.errors import ValidationError
from durably.execution.step_runner import StepRunner
from durably.settings import OnChange

if TYPE_CHECKING:
    from durably.execution.pacing import RateLimit
    from durably.settings.retries import Retry

Ps = ParamSpec("Ps")
T = TypeVar("T")
U = TypeVar("U")


def check_rate_limit(rate: object) -> None:
    """Raise ``ValidationError`` for what is not a ``RateLimit``."""
    from durably.execution.pacing import RateLimit  # noqa: PLC0415 - where first needed

    if not isinstance(rate, RateLimit):
        raise ValidationError(f"rate must be a RateLimit, not {short_repr(rate)}")


class _WithOptions:
    def __init__(
        self,
        stepper: StepRunner,
        returns: Any,
        retry: Retry | None,
        rate: RateLimit | None,
        timeout_s: float | None,
        on_change: OnChange | None,
        depends_on: str | None,
    ) -> None:
        self._step_runner = stepper
        self._returns = returns
        self._options = retry, rate, timeout_s, on_change, depends_on


class PlainStep(_WithOptions):
    """A step with options, typed by its function's annotation.

    .. versionadded:: 0.1.0
    """

    @entered_in_job
    def run(self, name: str, fn: Callable[Ps, T], /, *args: Ps.args, **kwargs: Ps.kwargs) -> T:
        """Like ``StepContext.run``, with these options.

        .. versionadded:: 0.1.0
        """
        result: T = self._step_runner.take(name, fn, args, kwargs, self._returns, *self._options)
        return result


class ReturningStep(_WithOptions, Generic[U]):
    """A step with options, typed by ``returns=``.

    .. versionadded:: 0.1.0
    """

    @entered_in_job
    def run(self, name: str, fn: Callable[Ps, object], /, *args: Ps.args, **kwargs: Ps.kwargs) -> U:
        """Like ``StepContext.run``, with these options.

        .. versionadded:: 0.1.0
        """
        result: U = self._step_runner.take(name, fn, args, kwargs, self._returns, *self._options)
        return result
