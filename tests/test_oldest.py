"""What `.ci/run` tests as the oldest versions are the lower bounds that setup.cfg promises."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_are_those_of_the_extras() -> None:
    """The versions that CI tests are the lower bounds of setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    bounds = dict(re.findall(r"^(\w+) >=([\d.]+)$", extras["test"], re.MULTILINE))
    oldest = dict(
        re.findall(r"^(\w+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.MULTILINE)
    )

    assert len(oldest) == 5
    for name, version in oldest.items():
        assert f"{version}.".startswith(f"{bounds[name]}."), name
    for name, bound in re.findall(r"^(\w+) >=([\d.]+)$", extras["pandas"], re.MULTILINE):
        assert bounds[name] == bound
