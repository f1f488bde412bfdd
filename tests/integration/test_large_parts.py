"""Large binary parts of values are files of raw bytes, for as long as a run refers to them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage
from descriptors import descriptors

import durably
from durably import Durably, StepContext, StepRecord, job
from durably.codecs import ValueCodec
from durably.entry.read_only import open_read_only
from durably.errors import DatabaseError, RunFailedError
from durably.store.sqlite.blobs import filing
from durably.store.sqlite.blobs import folder as folder_module
from durably.store.sqlite.blobs import parts as parts_module
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.sql import blobs
from durably.testing import check

MIB = 2**20
ARRAY = np.arange(700_000, dtype="f8")
FRAME = pd.DataFrame({"a": np.random.default_rng(1).normal(size=600_000)})
BYTES = os.urandom(5 * MIB)


class Model:
    """A type of the program's own, with a large form."""

    def __init__(self, content: bytes) -> None:
        self.content = content


MODEL = ValueCodec(Model, "model", lambda model: model.content, Model)


def content_hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "test.db.blobs").glob("*"))


def everything() -> dict[str, Any]:
    return {
        "array": ARRAY,
        "frame": FRAME,
        "bytes": BYTES,
        "inside": [(bytearray(BYTES[::-1]), {"small": np.arange(3)})],
        "table": pa.table({"a": ARRAY}),
        "polars": pl.DataFrame({"a": ARRAY}),
        "model": Model(BYTES[1:]),
    }


def check_everything(value: dict[str, Any]) -> None:
    assert type(value["array"]) is np.ndarray
    assert value["array"].dtype == ARRAY.dtype
    assert (value["array"] == ARRAY).all()
    pd.testing.assert_frame_equal(value["frame"], FRAME)
    assert value["bytes"] == BYTES
    (inside,) = value["inside"]
    assert type(inside) is tuple
    assert type(inside[0]) is bytearray
    assert inside[0] == BYTES[::-1]
    assert (inside[1]["small"] == np.arange(3)).all()
    assert value["table"].equals(pa.table({"a": ARRAY}))
    assert value["polars"].equals(pl.DataFrame({"a": ARRAY}))
    assert value["model"].content == BYTES[1:]


@job(name="stores")
def stores(step: StepContext, payload: Any) -> Any:
    value = step.run("all", everything)
    check_everything(value)
    value["array"][:] = 0  # the job's own
    text = step.run("text and array", lambda: ["x" * 5 * MIB, ARRAY])
    assert (text[1] == ARRAY).all()
    if type(payload) is str:
        raise RuntimeError(payload)
    items = step.map("items", lambda n: ARRAY + n, range(2))
    assert (items[1] == ARRAY + 1).all()
    return items[0], value["frame"]


def test_parts_are_raw_files_stored_once_and_removed_with_their_run(tmp_path: Path) -> None:
    """Each large part is one file that other programs read; the database stays small."""
    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL]) as app:
        run = app.jobs["stores"].trigger_and_wait(ARRAY)
        assert (run.payload == ARRAY).all()
        assert (run.output[0] == ARRAY).all()
        pd.testing.assert_frame_equal(run.output[1], FRAME)
        names = {path.name: path.read_bytes() for path in files(tmp_path)}
        # The payload and the array are one; the text has a file of its own beside its array.
        assert len(names) == 9
        assert all(name == content_hash(names[name]) for name in names)
        assert names[content_hash(BYTES)] == BYTES
        arrays = [content for content in names.values() if content.startswith(b"\x93NUMPY")]
        assert any((np.load(io.BytesIO(each)) == ARRAY).all() for each in arrays)
        assert len(arrays) == 2
        frame = next(content for content in names.values() if content.startswith(b"PAR1"))
        assert pq.read_table(io.BytesIO(frame)).num_rows == len(FRAME)
        check_everything(app.get_steps(run.id)[0].output)
        assert (app.get_items(run.id, "items")[1].output == ARRAY + 1).all()
        again = app.jobs["stores"].trigger_and_wait(ARRAY + 1)
        assert len(files(tmp_path)) == 9
        app.delete_run(run.id)
        assert len(files(tmp_path)) == 9
        check_everything(app.get_steps(again.id)[0].output)
        with open_read_only(tmp_path / "test.db") as look:
            assert str(look.get_steps(again.id)[0].output["array"]).startswith("<numpy.ndarray, 5")
            assert look.sizes().blob_bytes == sum(path.stat().st_size for path in files(tmp_path))
        assert check(tmp_path / "test.db") == []
        assert app.purge_runs(older_than=0) == 1
        assert files(tmp_path) == []
    assert (tmp_path / "test.db").stat().st_size < 4 * MIB


def test_a_resume_maps_arrays_and_names_a_part_that_is_missing_or_damaged(tmp_path: Path) -> None:
    """A replayed array is a private map of its file; an altered file is an error of the step."""
    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL], raise_failed=False) as app:
        run = app.jobs["stores"].trigger("fails")
        with pytest.raises(RunFailedError, match="RuntimeError: fails"):
            run.wait()
        app.retry(run.id)
        with pytest.raises(RunFailedError, match="RuntimeError: fails"):
            run.wait()  # what the job has changed in its arrays is in no file
        for number in (0, 1):
            path = next(path for path in files(tmp_path) if path.read_bytes() == BYTES)
            changed = path.read_bytes()
            if number:
                path.write_bytes(b"x" + changed[1:])
            else:
                path.unlink()
            app.retry(run.id)
            with pytest.raises(RunFailedError) as failed:
                run.wait()
            said = "is damaged" if number else "is missing"
            for part in (run.id, "step 'all'", str(path), said, "DatabaseError"):
                assert part in str(failed.value)
            steps = app.get_steps(run.id)
            assert [each.name for each in steps] == ["all", "text and array"]
            with pytest.raises(DatabaseError, match=f"step 'all' of run '{run.id}': .*{said}"):
                _ = steps[0].output
            (found,) = check(tmp_path / "test.db")
            assert said in str(found)
            path.write_bytes(changed)
        assert check(tmp_path / "test.db") == []


def test_without_files_parts_stay_in_the_database(tmp_path: Path) -> None:
    """``blobs=False`` keeps all of them as text, which comes back as it was."""
    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL], blobs=False) as app:
        with pytest.warns(UserWarning, match="leave out blobs=False"):
            run = app.jobs["stores"].trigger_and_wait(None)
        check_everything(app.get_steps(run.id)[0].output)
    assert files(tmp_path) == []


def test_a_backup_has_the_parts_and_a_reference_without_a_row_is_found(tmp_path: Path) -> None:
    """The copy has a folder with all of them; ``check`` reads what the stored values name."""
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL]) as app:
        run = app.jobs["stores"].trigger_and_wait(None)
        app.backup(copy)
        app.backup(copy, overwrite=True)
        assert len(list((copy.parent / "copy.db.blobs").iterdir())) == len(files(tmp_path))
    with Durably(copy, codecs=[MODEL]) as app:
        check_everything(app.get_steps(run.id)[0].output)
    assert check(copy) == []
    damage(copy, f"DELETE FROM durably_blobs WHERE hash = '{content_hash(BYTES)}'")
    assert [str(each) for each in check(copy)] == [
        "a value is in a file that no row names: run=1, place='step 0'"
    ]


def test_a_part_that_cannot_be_written_now_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not lose the work of a step, an item or a job: they wait for room."""
    written, writes, calls = os.write, [], []

    def full(fd: int, data: Any) -> int:
        if len(data) > 2 * MIB:  # the first piece of a file
            writes.append(len(data))
            if len(writes) in (1, 3, 5):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(fd, data)

    def load() -> Any:
        calls.append("load")
        return ARRAY

    @job
    def once(step: StepContext) -> Any:
        first = step.run("once", load)
        return step.map("items", lambda n: first + n, [1])[0] + 1

    with Durably(tmp_path / "test.db", jobs=[once]) as app:
        monkeypatch.setattr(os, "write", full)
        run = app.jobs["once"].trigger_and_wait()
        assert (run.output == ARRAY + 2).all()
        assert run.attempt == 1
        assert (calls, len(writes)) == (["load"], 6)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_payload_that_cannot_be_written_is_not_triggered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The caller gets the error of the system, and nothing is left."""

    def fail(_fd: int, _data: Any) -> int:
        raise OSError(number, os.strerror(number))

    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL]) as app:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            for value in (FRAME, pl.DataFrame({"a": ARRAY}), pa.table({"a": ARRAY}), BYTES):
                with pytest.raises(
                    DatabaseError, match=f"cannot be written.*{os.strerror(number)}"
                ):
                    app.jobs["stores"].trigger(value)
        assert app.get_runs() == []
    assert files(tmp_path) == []


def test_references_of_copied_and_of_replaced_rows(tmp_path: Path) -> None:
    """A copy of a run's rows refers to their files; what no row names any more is removed."""

    @job
    def copied(step: StepContext) -> str:
        step.run("a", lambda: ARRAY)
        step.run("b", lambda: ["x" * 5 * MIB, ARRAY + 1])
        return "done"

    with Durably(tmp_path / "test.db", jobs=[copied]) as app:
        run = app.jobs["copied"].trigger_and_wait()
        other = app.jobs["copied"].trigger_and_wait()
        assert len(files(tmp_path)) == 3

        def copy(db: Any) -> None:
            db.execute("DELETE FROM durably_blobs WHERE run = 2")
            db.execute("DELETE FROM durably_steps WHERE run = 2 AND name = 'a'")
            blobs.copy_references(db, 1, 2)  # type: ignore[arg-type]

        app._store.database.write(copy)
        app.delete_run(run.id)
        assert len(files(tmp_path)) == 2
        assert check(tmp_path / "test.db") == []
        assert (app.get_steps(other.id)[0].output[1] == ARRAY + 1).all()

        def forget(db: Any) -> None:
            db.execute("DELETE FROM durably_steps WHERE run = 2")
            blobs.drop_unused(db, 2)  # type: ignore[arg-type]

        app._store.database.write(forget)
        app._store.remove_dropped_files()
        assert files(tmp_path) == []


def test_equal_payloads_with_parts_are_equal(tmp_path: Path) -> None:
    """A key finds the run with the same array again, and rejects another one."""

    @job
    def keyed(step: StepContext, payload: Any) -> None:
        del payload

    with Durably(tmp_path / "test.db", jobs=[keyed]) as app:
        first = app.jobs["keyed"].trigger([ARRAY], idempotency_key="a")
        again = app.jobs["keyed"].trigger([ARRAY.copy()], idempotency_key="a")
        assert (again.id, again.disposition) == (first.id, "idempotent")
        with pytest.raises(durably.PayloadChangedWarning, match=r"another payload \(\$\[0\]\)"):
            app.jobs["keyed"].trigger([ARRAY + 1], idempotency_key="a")
        first.wait()
        app.delete_run(first.id)
        app._store.filing.folder.sweep(lambda _: set(), 0.0)
    assert files(tmp_path) == []


def test_lists_read_a_part_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, steps and items of a list read no file before; then it is read once."""
    opened: list[str] = []
    real = BlobFolder.open

    def noting(folder: BlobFolder, name: str, **options: Any) -> Any:
        opened.append(name)
        return real(folder, name, **options)

    with Durably(tmp_path / "test.db", jobs=[stores], codecs=[MODEL]) as app:
        run = app.jobs["stores"].trigger_and_wait(ARRAY)
        monkeypatch.setattr(BlobFolder, "open", noting)
        (listed,) = app.get_runs()
        steps, items = app.get_steps(run.id), app.get_items(run.id, "items")
        assert (repr(listed), steps[0].name, opened) == (repr(run), "all", [])
        assert (listed.payload == ARRAY).all()
        assert (listed.output[0] == ARRAY).all()
        assert (items[1].output == ARRAY + 1).all()
        count = len(opened)
        assert listed.output is listed.output
        assert len(opened) == count == 4
        copied = pickle.loads(pickle.dumps(listed))
        assert (copied.output[0] == ARRAY).all()
        assert app.get_items(run.id, "items")[1] == items[1]
        assert app.get_items(run.id, "items")[0] != items[1]
        assert StepRecord(**attrs.asdict(steps[1], recurse=False)) == steps[1]


def test_the_folder_is_pinned_for_a_value_with_many_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each large part is a file, however many there are, and few of them are open."""
    monkeypatch.setattr(filing, "LARGE", 1000)
    monkeypatch.setattr(parts_module, "MOST_PINS", 3)
    monkeypatch.setattr(folder_module, "_TRIES_OF_REMOVERS", 0)
    parts = [bytes([number]) * 2000 for number in range(40)]
    opened, removed = [], []

    @job(name="parts")
    def parts_of(step: StepContext) -> Any:
        return step.run("parts", lambda: parts)

    with Durably(tmp_path / "test.db", jobs=[parts_of]) as app:
        folder = BlobFolder(f"{tmp_path / 'test.db'}.blobs", str(tmp_path / "test.db"))
        put = BlobFolder.put

        def watched(self: BlobFolder, *args: Any, **kwargs: Any) -> Any:
            pin = put(self, *args, **kwargs)
            removed.extend(folder.remove([pin.name], lambda _: set()))
            opened.append(descriptors(tmp_path / "test.db.blobs").total())
            return pin

        with monkeypatch.context() as patch:
            patch.setattr(BlobFolder, "put", watched)
            run = app.trigger(parts_of).wait()
        assert len(files(tmp_path)) == 41  # with the text that names them
        assert removed == []
        assert max(opened) < 10
        assert run.output == parts
        assert run.steps[0].output == parts
        app.delete_run(run.id)
        assert files(tmp_path) == []


def test_a_large_answer_is_a_file(tmp_path: Path) -> None:
    """Text and arrays that a run is given are files, until its run is deleted, or if they do not
    fit.
    """

    may_ask = threading.Event()

    @job
    def asks(step: StepContext) -> int:
        step.run("wait", lambda: may_ask.wait(30))
        text = step.ask("text", returns=str)
        return len(text) + len(step.ask("array"))

    with Durably(tmp_path / "test.db", jobs=[asks], raise_failed=False) as app:
        run = app.jobs["asks"].trigger()
        app.answer(run, "text", [ARRAY])  # before its type is known: it does not fit
        app.answer(run, "array", ARRAY + 1)
        assert len(files(tmp_path)) == 2
        may_ask.set()
        deadline = time.monotonic() + 30
        while not app.get_questions():
            assert time.monotonic() < deadline
            app.get_run(run)
        app.answer(run, "text", "x" * 5 * MIB)
        assert run.wait(timeout=30).output == 5 * MIB + len(ARRAY)
        app._store.remove_dropped_files()
        assert len(files(tmp_path)) == 2
        assert check(tmp_path / "test.db") == []
        app.delete_run(run.id)
        assert files(tmp_path) == []
    assert (tmp_path / "test.db").stat().st_size < 4 * MIB
