"""The options of an engine, as type checkers see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from durably.jobs import Job
from durably.settings.options import SettingOptions

if TYPE_CHECKING:
    import cattrs

    from durably.codec.own_forms import ValueCodec


class EngineOptions(SettingOptions, total=False):
    """The options of an engine but its path and ``show``, as type checkers see them."""

    jobs: Iterable[Job[Any, Any]]
    converter: cattrs.Converter | None
    codecs: Iterable[ValueCodec]
