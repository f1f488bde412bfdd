"""``step.map`` on a cluster of Dask: two worker processes on this machine."""

from __future__ import annotations

import functools
import os
import sys

import pooled
import pytest
from engines import engine, execute

import durably
from durably import ValidationError

distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")

pytestmark = [
    pytest.mark.slow,  # a second to import, one to start
    pytest.mark.skipif(sys.platform != "linux", reason="tested on Linux"),
    # What its own threads and event loops warn of.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def started(client, no_child_process_is_left):
    """The cluster is there before a test's processes are counted."""


def mapped(folder, fn, items, **options):
    """Execute a map; what it has returned or raised."""
    ended = []

    def job(step):
        try:
            ended.append(step.map("m", fn, items, **options))
        except Exception as exc:
            ended.append(exc)
            raise

    with engine(folder, job) as app:
        run = execute(app)
        counts = app.get_steps(run)[0].items if app.get_steps(run) else None
    return ended[0], counts


def test_equal_items_are_each_executed(tmp_path, client):
    """In the workers; results are checkpoints in order."""
    (tmp_path / "met").mkdir()
    meets = functools.partial(pooled.meets, str(tmp_path / "met"))
    result, counts = mapped(tmp_path, meets, [1] * 30, executor=client.get_executor(pure=False))
    assert len(result) == 30
    assert len(set(result)) == 2
    assert os.getpid() not in set(result)
    assert counts == durably.ItemCounts(30, 0, 0, 30)


def test_a_pure_executor_is_rejected(tmp_path, client):
    """Dask's default, which executes equal items once; the error says what to write."""
    result, _ = mapped(tmp_path, pooled.double, [1, 1], executor=client.get_executor())
    assert isinstance(result, ValidationError)
    assert "pure=False" in str(result)


def test_exceptions_of_any_class_come_back(tmp_path, client):
    """Only the items that raise have failed."""
    result, counts = mapped(
        tmp_path,
        pooled.fails,
        range(20),
        executor=lambda: client.get_executor(pure=False),
        on_failed="return",
    )
    assert [(each.key, each.error.message) for each in result.failed] == [
        (3, "400: bad"),
        (5, "locked 5"),
    ]
    assert counts == durably.ItemCounts(18, 2, 0, 20)


def test_small_items_travel_together(tmp_path, client):
    """Thousands of them take no longer than a few seconds."""
    result, counts = mapped(
        tmp_path, lambda n: n + 1, range(3000), executor=client.get_executor(pure=False)
    )
    assert result == list(range(1, 3001))
    assert counts.done == 3000
