"""Make text of unknown origin fit to be shown: in a line of a terminal, a table, a page.

Names, keys, messages and errors come from users and their data. They may be long, and contain
characters that a terminal or a browser acts on.
"""

from __future__ import annotations

import re
from typing import Final

# What a terminal or a browser acts on instead of printing it: control characters and ends of lines
# and paragraphs; marks and changes of direction; what is invisible (but for the joiners of emoji
# and of Persian); and lone surrogates, which cannot be written.
# The module re compiles it when it is first used, which takes a millisecond.
_ACTS: Final = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_CUT: Final = "…"


def displayable(text: str, width: int = 200) -> str:
    r"""Return *text* as one line of at most *width* characters, which is safe to show as text.

    What a terminal or a browser would act on is replaced by its escape, such as ``\x1b``. A text
    that is too long is cut in the middle. Takes no longer for 10 MB than for a few lines.

    For HTML, escape the result with ``html.escape``.
    """
    if len(text) <= width:
        shown = escaped(text)
        if len(shown) <= width:
            return shown
    # An escape is longer than its character: so many characters suffice on either side.
    head = [escaped(char) for char in text[:width]]
    tail = [escaped(char) for char in reversed(text[-width:])]
    left = width - len(_CUT)
    last = "".join(reversed(_that_fit(tail, left // 2)))
    return f"{''.join(_that_fit(head, left - len(last)))}{_CUT}{last}" if left >= 0 else ""


def escaped(text: str) -> str:
    """Return *text* with the characters replaced that are acted on instead of being printed."""
    return re.sub(_ACTS, lambda found: ascii(found[0])[1:-1], text)


def _that_fit(parts: list[str], width: int) -> list[str]:
    fitting, left = [], width
    for part in parts:
        left -= len(part)
        if left < 0:
            break
        fitting.append(part)
    return fitting
