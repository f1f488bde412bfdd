"""Make the records of a map's items for users from rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from durably._platform.clock import to_datetime
from durably._platform.safe_repr import short_repr
from durably.client.arguments import AnyRun, run_id_of
from durably.client.query import Reader
from durably.client.unreadable import UNREADABLE, raise_defect, readable
from durably.codec import Codec
from durably.errors import ValidationError
from durably.jobs.names import check_text
from durably.models.records import ItemList, ItemRecord, ItemStatus
from durably.settings import count
from durably.store import defects

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.store.item_rows import ItemOfMap


class ItemReader:
    """Read the items of maps. Usable from any thread."""

    def __init__(self, store: Store, codec: Codec, reader: Reader) -> None:
        self._store = store
        self._codec = codec
        self._reader = reader

    def items_of(
        self, run: AnyRun | str, name: str, status: str | None, limit: int | None, offset: int
    ) -> ItemList:
        """Return the records of the items of a map; those that cannot be read are left out.

        Raises:
            NotFoundError: there is no such run.
            DatabaseError: the run, or text of an item, cannot be read.
            ValidationError: an argument is not what it must be.
        """
        if status is not None and status not in get_args(ItemStatus):
            raise ValidationError(
                f"unknown status {short_repr(status)}; known are {', '.join(get_args(ItemStatus))}"
            )
        check_text(name, "name")
        limit = None if limit is None else count(limit, "limit")
        run_id = run_id_of(run)
        self._store.get_run(run_id)
        rows = self._store.items_of(run_id, name, status, limit, count(offset, "offset"))
        return ItemList(readable(lambda row: self._item_of(row, run_id, name), rows or ()))

    def _item_of(self, row: ItemOfMap, run_id: str, name: str) -> ItemRecord:
        index, key, output, error, attempts, _, started_at_us, completed_at_us, is_manual = row
        what = f"item {index} of step {name!a:.80} of run {run_id!a:.80}"
        try:
            return ItemRecord(
                key=index if key is None else key,
                index=index,
                status="failed" if output is None else "completed",
                output=None if output is None else self._reader.output_of(output, what),
                error=self._reader.error_of(error),
                attempts=attempts,
                started_at=to_datetime(started_at_us),
                completed_at=to_datetime(completed_at_us),
                is_manual=bool(is_manual),
            )
        except UNREADABLE as exc:
            values: dict[str, Any] = {"output": output, "error": error}
            values |= {"started_at_us": started_at_us, "completed_at_us": completed_at_us}
            raise_defect(exc, what, defects.of_step(values))
