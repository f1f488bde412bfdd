"""Bars in SVG, readable on light and on dark ground."""

from __future__ import annotations

import math
from html import escape

WIDTH = 760
LABELS = 210
VALUES = 110
BAR = 18
GAP = 8
TOP = 44

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .own { fill: #2f6fdf } .floor { fill: #8b949e } .peer { fill: #d9822b }
.unit { fill: #6e7781 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .unit { fill: #9198a1 } }"""


def bars(title: str, unit: str, rows: list[tuple[str, float]]) -> str:
    """A bar a row, on a logarithmic scale where the rows differ by more than thirty times."""
    values = [value for _, value in rows if value > 0]
    is_logarithmic = max(values) > 30 * min(values)
    height = TOP + len(rows) * (BAR + GAP) + GAP
    scale = ", logarithmic" if is_logarithmic else ""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{escape(title)}">'
        ),
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="18">{escape(title)}</text>',
        f'<text class="unit" x="8" y="35">{escape(unit)}{scale}</text>',
    ]
    for place, (row, value) in enumerate(rows):
        y = TOP + place * (BAR + GAP)
        length = _share(value, values, is_logarithmic=is_logarithmic) * (WIDTH - LABELS - VALUES)
        parts += [
            f'<text x="{LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(row)}</text>',
            (
                f'<rect class="{_kind(row)}" x="{LABELS}" y="{y}" width="{length:.1f}" '
                f'height="{BAR}" rx="2"/>'
            ),
            f'<text x="{LABELS + length + 6:.1f}" y="{y + 13}">{_shown(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _share(value: float, values: list[float], *, is_logarithmic: bool) -> float:
    if value <= 0:
        return 0
    if not is_logarithmic:
        return value / max(values)
    # The smallest still shows a bar.
    least = math.log10(min(values)) - 0.3
    return (math.log10(value) - least) / (math.log10(max(values)) - least)


def _kind(row: str) -> str:
    if row.startswith("durably"):
        return "own"
    return "floor" if row.startswith(("floor", "bare")) else "peer"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
