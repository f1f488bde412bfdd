"""A run with values of NumPy, pandas and other libraries is resumed by another process."""

from __future__ import annotations

from pathlib import Path

from children import execute


def test_another_process_reads_what_was_stored(tmp_path: Path) -> None:
    """Nothing is executed again, and each value is what it was."""
    first = execute("uses_values_of_libraries", "stop", folder=tmp_path)
    again = execute("uses_values_of_libraries", folder=tmp_path)

    assert first.stdout.strip() == "load others typed", first.stderr
    assert (again.stdout.strip(), again.returncode) == ("", 0), again.stderr
    assert any((tmp_path / "values.db.blobs").iterdir())
