"""The options of an engine: defaults, what each accepts, and errors that name the option."""

from __future__ import annotations

import inspect
import math
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import cattrs
import pytest
from naming import plainly

import durably
from durably import Durably, ValidationError
from durably.settings import Settings, age, optional_timeout, seconds

NOT_SECONDS = ["1", None, True, [], math.nan, math.inf, -math.inf, 1j, b"1", 10**400]


def test_the_defaults_are_the_contracts() -> None:
    """The defaults of Durably are those of the contract, and the same as those of Settings."""
    signature = inspect.signature(Durably)
    options = {name: each.default for name, each in signature.parameters.items()}
    assert options == {
        "path": None,
        "jobs": (),
        "max_workers": 4,
        "heartbeat_interval": 5.0,
        "stale_threshold": 30.0,
        "poll_interval": 1.0,
        "synchronous": "full",
        "preserve_steps": True,
        "retain_runs": None,
        "converter": None,
        "codecs": (),
        "on_duplicate_step": "error",
        "max_deaths": 5,
        "raise_failed": True,
        "persist_logs": False,
        "replace": None,
        "create": True,
        "show": None,
        "blobs": None,
    }
    for name, default in attrs.asdict(Settings()).items():
        assert options[name] == default


def test_all_options_but_the_path_are_keywords() -> None:
    """Only path may be given by position."""
    parameters = list(inspect.signature(Durably).parameters.values())
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == ["path"]


@pytest.mark.parametrize("name", ["heartbeat_interval", "stale_threshold", "poll_interval"])
class TestIntervals:
    @pytest.mark.parametrize("value", NOT_SECONDS, ids=lambda each: repr(each)[:20])
    def test_what_is_no_duration_is_rejected(self, name: str, value: Any) -> None:
        """Durations are finite numbers of seconds or timedeltas; the message names the option."""
        with pytest.raises(ValidationError, match=rf"^{name}\b"):
            Settings(**{name: value})

    @pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, timedelta(0), timedelta(seconds=-1)])
    def test_it_must_be_greater_than_zero(self, name: str, value: Any) -> None:
        """Intervals are greater than zero."""
        with pytest.raises(ValidationError, match=rf"^{name}\b.*greater than zero"):
            Settings(**{name: value})

    def test_a_length_that_no_timer_can_wait_is_rejected_as_too_long(self, name: str) -> None:
        """A duration beyond 100 years is rejected, with a message that does not call it small."""
        for value in (1e12, timedelta.max):
            with pytest.raises(ValidationError, match=rf"^{name}\b.*100 years") as caught:
                Settings(**{"stale_threshold": 3e9, name: value})
            assert "greater than zero" not in str(caught.value) or "100 years" in str(caught.value)

    def test_numbers_and_timedeltas_are_seconds(self, name: str) -> None:
        """60, 60.0 and a minute are the same."""
        base = {"heartbeat_interval": 1.0, "stale_threshold": 120.0}
        for value in (60, 60.0, timedelta(minutes=1)):
            assert getattr(Settings(**(base | {name: value})), name) == 60.0


def test_the_threshold_is_at_least_twice_the_heartbeat() -> None:
    """A threshold below two heartbeats is rejected, naming both; exactly two are enough."""
    with pytest.raises(
        ValidationError, match=r"^stale_threshold=19\.9.*twice heartbeat_interval=10\.0"
    ):
        Settings(heartbeat_interval=10, stale_threshold=19.9)
    with pytest.raises(ValidationError, match="heartbeat_interval=20"):
        Settings(heartbeat_interval=20)
    assert Settings(heartbeat_interval=10, stale_threshold=20).stale_threshold == 20.0


@pytest.mark.parametrize("value", [0, -1, 1001, 1.0, "4", True, None])
def test_max_workers_is_an_int_from_1_to_1000(value: Any) -> None:
    """Anything else is rejected by name."""
    with pytest.raises(ValidationError, match="^max_workers"):
        Settings(max_workers=value)


@pytest.mark.parametrize("value", [1, 1000])
def test_both_bounds_of_max_workers_are_accepted(value: int) -> None:
    """1 and 1000 are in the range."""
    assert Settings(max_workers=value).max_workers == value


@pytest.mark.parametrize("value", ["FULL", "off", "extra", None, 2, True, ["full"], {}])
def test_synchronous_is_full_or_normal(value: Any) -> None:
    """No other mode of SQLite is offered."""
    with pytest.raises(ValidationError, match=r'^synchronous must be "full" or "normal"'):
        Settings(synchronous=value)


@pytest.mark.parametrize("value", ["raise", "REUSE", "", None, True, ["reuse"], {}])
def test_on_duplicate_step_is_error_or_reuse(value: Any) -> None:
    """There are two ways to treat a name that is used twice, of an engine and of a job."""
    with pytest.raises(ValidationError, match=r'^on_duplicate_step must be "error" or "reuse"'):
        Settings(on_duplicate_step=value)
    if value is not None:
        with pytest.raises(ValidationError, match=r'^on_duplicate_step must be "error" or "reuse"'):
            durably.job("x", on_duplicate_step=value)(lambda step: None)


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_preserve_steps_is_a_bool(value: Any) -> None:
    """A truthy value is not enough."""
    with pytest.raises(ValidationError, match="^preserve_steps"):
        Settings(preserve_steps=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (86_400, timedelta(days=1)),
        (0.5, timedelta(seconds=0.5)),
        ("30d", timedelta(days=30)),
        ("24h", timedelta(hours=24)),
        ("60m", timedelta(minutes=60)),
        (timedelta(seconds=5), timedelta(seconds=5)),
        (None, None),
    ],
)
def test_retain_runs_is_an_age(value: Any, expected: timedelta | None) -> None:
    """It may be seconds, a timedelta, a number of days, hours or minutes as text, or nothing."""
    assert Settings(retain_runs=value).retain_runs == expected


@pytest.mark.parametrize(
    "value",
    [
        *["", "30", "d", "30s", "30 d", "-1d", "0d", "0m", "1.5h", "30D", "٣d", "30d\n"],
        *[
            "9" * 30 + "d",
            0,
            -1.0,
            math.nan,
            math.inf,
            1e12,
            10**400,
            True,
            timedelta(0),
            timedelta(days=-1),
            timedelta.max,
            [],
        ],
    ],
    ids=lambda each: ascii(each)[:20],
)
def test_what_is_no_age_is_rejected(value: Any) -> None:
    """The message names retain_runs and shows the accepted forms."""
    with pytest.raises(ValidationError, match='^retain_runs .*"30d", "24h" or "60m"'):
        Settings(retain_runs=value)


def test_settings_are_frozen() -> None:
    """What an engine was opened with does not change."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().max_workers = 5  # type: ignore[misc]  # what is under test


@pytest.mark.parametrize("value", NOT_SECONDS, ids=lambda each: repr(each)[:20])
def test_seconds_rejects_what_is_no_duration(value: Any) -> None:
    """The message begins with what the caller calls it."""
    with pytest.raises(ValidationError, match="^the pause must be"):
        seconds(value, "the pause")


def test_a_timeout_is_none_or_not_negative() -> None:
    """None is no limit, zero is an immediate one, less is rejected."""
    assert optional_timeout(None) is None
    assert optional_timeout(0) == 0.0
    assert optional_timeout(timedelta(milliseconds=1500)) == 1.5
    with pytest.raises(ValidationError, match="^timeout must not be negative, not -1$"):
        optional_timeout(-1)


def test_a_timeout_longer_than_any_timer_is_a_very_long_one() -> None:
    """A huge timeout can be waited for: no OverflowError out of the threading module."""
    for value in (1e300, timedelta.max, 10**15):
        timeout_s = optional_timeout(value)
        assert timeout_s is not None
        # Refuses with OverflowError what the system's timers cannot express.
        assert threading.Lock().acquire(timeout=timeout_s)


def test_an_age_shown_in_an_error_is_named() -> None:
    """age() begins its message with the name it is given."""
    with pytest.raises(ValidationError, match="^older_than"):
        age("soon", "older_than")


class TestThroughTheEngine:
    """Every option of Durably is checked before the file is made."""

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_workers", 0),
            ("heartbeat_interval", 0),
            ("stale_threshold", 1),
            ("poll_interval", -1),
            ("synchronous", "off"),
            ("preserve_steps", None),
            *[("max_deaths", value) for value in (0, -1, True, 2.0, None)],
            ("persist_logs", 1),
            ("create", None),
            ("replace", 1),
            ("retain_runs", "soon"),
            ("converter", object()),
            ("converter", cattrs.Converter),
            ("jobs", 5),
            ("jobs", None),
            ("jobs", durably.job("x")(lambda step: None)),
            ("jobs", "x"),
            ("jobs", [lambda step: None]),
        ],
        ids=plainly,
    )
    def test_a_bad_option_is_named_and_no_file_is_made(
        self, tmp_path: Path, option: str, value: Any
    ) -> None:
        """A bad option raises ValidationError naming it, and leaves nothing behind."""
        with pytest.raises(ValidationError, match=rf"\b{option}\b"):
            Durably(tmp_path / "x.db", **{option: value})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "path",
        [":memory:", "", b"x.db", 5, "nul\0.db", "x\ud800.db"],
        ids=ascii,
    )
    def test_a_path_that_names_no_file_is_rejected(
        self, path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """:memory:, empty, NUL and what is not text are rejected, naming the path option."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValidationError, match=r"\bpath\b"):
            Durably(path)
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_is_rejected(self, tmp_path: Path) -> None:
        """A directory is rejected with an error that names it."""
        with pytest.raises(ValidationError, match=rf"{re.escape(str(tmp_path))}.*directory"):
            Durably(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_the_smallest_heartbeat_works(self, tmp_path: Path) -> None:
        """Any interval greater than zero is accepted, down to the smallest timedelta and float."""
        for interval in (timedelta(microseconds=1), 1e-9):
            with Durably(tmp_path / "x.db", heartbeat_interval=interval) as app:
                assert app.count_runs() == 0

    def test_two_jobs_of_one_name_are_a_conflict_and_no_file_is_made(self, tmp_path: Path) -> None:
        """jobs= with two functions of one name raises ConflictError before the file is touched."""
        one = durably.job("x")(lambda step: 1)

        @durably.job("x")
        def other(step):
            return 2

        with pytest.raises(durably.ConflictError, match="'x'"):
            Durably(tmp_path / "x.db", jobs=[one, other])
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_option_is_a_type_error(self, tmp_path: Path) -> None:
        """Python says it, as with any function."""
        with pytest.raises(TypeError, match="max_worker"):
            Durably(tmp_path / "x.db", max_worker=2)  # type: ignore[call-arg]  # under test
        assert list(tmp_path.iterdir()) == []
