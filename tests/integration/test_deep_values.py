"""A run that logs, raises or returns what is nested too deeply, under a raised recursion limit."""

from __future__ import annotations

from typing import Final

from children import Child

MESSAGES: Final = "data|argument <list, nested m|<list, nested more deepl|chained|extra"
DATA: Final = str(
    {
        "rows": "<list, nested more deeply than 200 levels>",
        "more": "<dict, nested more deeply than 200 levels>",
        "few": [1],
    }
)


def test_no_depth_ends_the_process(tmp_path):
    """Log lines and errors are recorded in a short form; results and options are typed errors."""
    with Child("deep_values", tmp_path / "durably.db") as child:
        assert child.rest() == [
            *("log; completed; ", MESSAGES, DATA),
            *("log in a step; completed; ", MESSAGES, DATA),
            "raise; failed; ValueError",
            "raise in a step; failed; ValueError",
            "raise own; failed; OwnError",
            "raise chained; failed; ValueError",
            "raise a group; failed; ExceptionGroup",
            "raise groups; failed; ExceptionGroup",
            "raise a chain; failed; KeyError",
            "exit; failed; SystemExit",
            "return; failed; SerializationError",
            "return of a step; failed; SerializationError",
            "progress; failed; ValidationError",
            "name; failed; ValidationError",
            "function; failed; ValidationError",
            "retry; failed; ValidationError",
            "type; failed; ValidationError",
        ]
