"""The options of ``Durably.run``, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from durably._platform.safe_repr import short_repr
from durably.client.arguments import checked_key
from durably.errors import ValidationError
from durably.settings import (
    Duration,
    IfRunning,
    OnPayloadChange,
    Show,
    check_choice,
    check_show,
    optional_timeout,
)

if TYPE_CHECKING:
    from durably.settings.retries import Retry


class RunOptions(TypedDict, total=False):
    """The options of ``Durably.run``, as type checkers see them."""

    key: str | None
    fresh: bool
    if_running: IfRunning
    timeout: Duration | None
    on_payload_change: OnPayloadChange
    concurrency_key: str | None
    retry: Retry | None
    labels: dict[str, str] | None
    show: Show


def _checked_key(key: str | None) -> str | None:
    return checked_key(key, "key")


def _is_bool(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise ValidationError(f"{attribute.name} must be True or False, not {short_repr(value)}")


def _is_choice(choices: Any) -> Callable[[Any, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_choice(value, attribute.name, choices)

    return check


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckedOptions:
    """The options of a call, which are acceptable.

    Raises:
        ValidationError: one of them is not; the message names it.
    """

    key: str | None = attrs.field(converter=_checked_key)
    fresh: bool = attrs.field(validator=_is_bool)
    if_running: IfRunning = attrs.field(validator=_is_choice(IfRunning))
    timeout_s: float | None = attrs.field(alias="timeout", converter=optional_timeout)
    on_payload_change: OnPayloadChange = attrs.field(validator=_is_choice(OnPayloadChange))
    concurrency_key: str | None
    retry: Retry | None
    labels: dict[str, str] | None
    show: Show = attrs.field(validator=lambda _, __, value: check_show(value))
