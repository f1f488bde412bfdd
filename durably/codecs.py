"""Store values of types of your own: ``durably.codecs.register(Money, "money", encode, decode)``.

.. versionadded:: 0.2.0
"""

from __future__ import annotations

from durably.codec.own_forms import ValueCodec, pickled, register

__all__ = ["ValueCodec", "pickled", "register"]
