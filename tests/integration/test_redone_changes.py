"""``on_change="redo"``: which results are used, and which steps are executed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from attrs import define, field
from invariants import check

import durably
from durably.errors import ValidationError

pytestmark = [
    pytest.mark.filterwarnings("error::durably.CodeChangedWarning"),
    pytest.mark.filterwarnings("error::durably.ItemsChangedWarning"),
]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


@define
class Book:
    """A script that is started again and again, each time with other code."""

    path: Path
    on_change: Any = "redo"
    executed: list[str] = field(factory=list)
    result: Any = None

    def note(self, name: str) -> None:
        self.executed.append(name)

    def start(self, code: Callable[..., Any], **options: Any) -> str:
        """Execute *code* in a session; return what was executed, in order."""
        self.executed.clear()
        options = {"on_change": self.on_change} | options
        with durably.session("book", self.path, key="book", **options) as step:
            self.result = code(step)
        return " ".join(self.executed)

    def rows(self, query: str) -> list[Any]:
        db = apsw.Connection(str(self.path))
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def fn(self, name: str, add: int = 0) -> Callable[..., Any]:
        """A function that notes its calls; another *add* is other code."""
        scope: dict[str, Any] = {"note": self.note, "name": name}
        source = f"def {name}(*args, **kwargs):\n    note(name)\n    return [*args, {add}]"
        exec(source, scope)
        return scope[name]  # type: ignore[no-any-return]


@pytest.fixture
def book(path: Path) -> Book:
    return Book(path)


def chain(book: Book, **versions: int) -> Callable[..., Any]:
    """Three steps, each with the result of the one before."""

    def code(step: durably.StepContext) -> Any:
        found = 0
        for name in "abc":
            found = step.run(name, book.fn(name, versions.get(name, 0)), found)
        return found

    return code


@pytest.mark.parametrize(
    ("changed", "again"), [({}, ""), ({"a": 1}, "a b c"), ({"b": 1}, "b c"), ({"c": 1}, "c")]
)
def test_the_step_whose_code_has_changed_and_all_after_it(
    book: Book, changed: dict[str, int], again: str
) -> None:
    """As with the layers of an image; the run then has used no result of other code."""
    assert book.start(chain(book)) == "a b c"
    before = book.rows("SELECT step, name, completed_at_us FROM durably_steps ORDER BY step")
    assert book.start(chain(book, **changed)) == again
    assert book.result == [[[0, changed.get("a", 0)], changed.get("b", 0)], changed.get("c", 0)]
    after = book.rows("SELECT step, name, completed_at_us FROM durably_steps ORDER BY step")
    assert [row[:2] for row in after] == [row[:2] for row in before]
    replaced = " ".join(new[1] for old, new in zip(before, after, strict=True) if new != old)
    assert replaced == again
    assert book.start(chain(book, **changed)) == ""
    assert book.rows("SELECT code_changed FROM durably_runs") == [(0,)]


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        (((1,), {}), ((1,), {}), False),
        (((1,), {}), ((2,), {}), True),
        (((1,), {}), ((1.0,), {}), True),
        (((1,), {}), ((1, 1), {}), True),
        (((1,), {}), ((), {"x": 1}), True),
        (((), {"x": 1, "y": 2}), ((), {"y": 2, "x": 1}), False),
        ((({"x": 1, "y": [2]},), {}), (({"y": [2], "x": 1},), {}), False),
        ((({"x": 1, "y": [2]},), {}), (({"x": 1, "y": [3]},), {}), True),
        (((["\ud83d", "é"],), {}), ((["\ud83d", "e"],), {}), True),
        (((object(),), {}), ((object(),), {}), False),
        (((object(), 1), {}), ((object(), 2), {}), True),
        (((object(),), {}), ((1,), {}), True),
    ],
)
def test_another_argument_as_far_as_it_is_json_like(
    book: Book, before: Any, after: Any, again: bool
) -> None:
    """Of others nothing is known, and the order of names and keys means nothing."""
    step_of = book.fn("a")

    def code(given: Any) -> Any:
        def one(*args: Any, **kwargs: Any) -> int:
            step_of()
            return 1

        return lambda step: step.run("a", one, *given[0], **given[1])

    book.start(code(before))
    assert book.start(code(after)) == ("a" if again else "")


def test_arguments_are_compared_as_they_were_before_the_call(book: Book) -> None:
    """A function may change what it is given."""

    def pop(items: list[int]) -> int:
        book.note("pop")
        return items.pop()

    for again in ("pop", ""):
        assert book.start(lambda step: step.run("pop", pop, [1, 2])) == again


def test_what_a_result_depends_on(book: Book, tmp_path: Path) -> None:
    """A threshold or a file; a step with it is executed again in a session that only warns."""
    data = tmp_path / "data.bin"
    data.write_bytes(b"1")

    def code(step: Any, depends_on: Any) -> Any:
        step.run("a", book.fn("a"))
        step.options(depends_on=depends_on).run("b", book.fn("b"))
        step.options(on_change="redo").run("c", book.fn("c"))

    def start(depends_on: Any) -> str:
        return book.start(lambda step: code(step, depends_on), on_change="warn")

    assert start(0.5) == "a b c"
    assert start(0.5) == ""
    assert start(0.6) == "b c"
    assert start(durably.fingerprint_of(data)) == "b c"
    data.touch()
    assert start(durably.fingerprint_of(data)) == ""
    data.write_bytes(b"2")
    assert start(durably.fingerprint_of(data)) == "b c"
    assert start({"x": [1, None]}) == "b c"
    assert start({"x": [1, None]}) == ""


def test_a_new_step_and_one_that_failed_before(book: Book) -> None:
    """Each is the first one that is executed: those after it are executed again."""

    def code(step: Any, *, is_new: bool, fails: bool = False) -> None:
        def b() -> int:
            book.note("b")
            if fails:
                raise ValueError
            return 1

        step.run("a", book.fn("a"))
        if is_new:
            step.run("new", book.fn("new"))
        try:
            step.run("b", b)
        except ValueError:
            book.note("failed")
        step.run("c", book.fn("c"))

    assert book.start(lambda step: code(step, is_new=False, fails=True)) == "a b failed c"
    assert book.start(lambda step: code(step, is_new=False)) == "b c"
    assert book.start(lambda step: code(step, is_new=False)) == ""
    assert book.start(lambda step: code(step, is_new=True)) == "new b c"
    assert book.start(lambda step: code(step, is_new=True)) == ""


def test_a_step_that_fails_when_it_is_executed_again(book: Book) -> None:
    """Its result stays until there is another one, and is used by the code that has made it."""

    def b(*args: Any) -> int:
        book.note("b")
        raise ValueError

    def failing(step: Any) -> Any:
        step.run("a", book.fn("a"))
        step.run("b", b)

    def working(version: int) -> Any:
        def code(step: Any) -> Any:
            step.run("a", book.fn("a"))
            return step.run("b", book.fn("b", version))

        return code

    book.start(working(1))
    before = book.rows("SELECT * FROM durably_steps")
    for _ in range(2):
        with pytest.raises(ValueError):
            book.start(failing)
        assert book.executed == ["b"]
        assert book.rows("SELECT * FROM durably_steps") == before
    with durably.Durably(book.path, raise_failed=False) as app:
        (run,) = app.runs()
        assert run.status == "failed"
        assert [(each.status, each.attempts) for each in run.steps] == [
            ("completed", 1),
            ("completed", 3),
        ]
    assert book.start(working(1)) == ""
    assert book.start(working(2)) == "b"
    assert book.result == [2]


class TestWhereItIsSaid:
    """The nearest one wins; by default a result of other code is used with a warning."""

    @pytest.mark.parametrize("kind", ["step", "map"])
    @pytest.mark.parametrize(
        ("outer", "inner", "happens"),
        [
            (None, None, "warn"),
            (None, "redo", "redo"),
            (None, "ignore", "ignore"),
            ("redo", None, "redo"),
            ("redo", "warn", "warn"),
            ("ignore", None, "ignore"),
            ("ignore", "redo", "redo"),
        ],
    )
    def test_in_a_job(self, book: Book, outer: Any, inner: Any, happens: str, kind: str) -> None:
        """For the job, and for a step or a map of it."""
        version = 0

        def code(step: Any) -> None:
            if kind == "map":
                step.map("a", book.fn("a", version), [1], on_change=inner)
            else:
                step.options(on_change=inner).run("a", book.fn("a", version))
            if not version:
                raise ValueError

        job = durably.Job("job", code, on_change=outer)
        with durably.Durably(book.path, raise_failed=False) as app:
            with pytest.raises(durably.RunFailedError):
                app.run(job, key="key")
            version = 1
            if happens == "warn":
                with pytest.warns(durably.CodeChangedWarning):
                    run = app.run(job, key="key")
            else:
                run = app.run(job, key="key")
            assert book.executed == ["a"] * (2 if happens == "redo" else 1)
            assert run.code_changed is (happens != "redo")

    def test_in_a_session_and_in_one_line(self, path: Path) -> None:
        """``durably.session`` and ``durably.map``."""
        book = Book(path)
        for version, options, again in [
            (0, {}, "a"),
            (1, {"on_change": "ignore"}, ""),
            (1, {"on_change": "redo"}, "a"),
            (1, {"depends_on": 1}, "a"),
            (1, {"depends_on": 2}, "a"),
            (1, {"depends_on": 2}, ""),
        ]:
            book.executed.clear()
            durably.map(book.fn("a", version), [1], db=path, **options)
            assert " ".join(book.executed) == again
        assert book.start(chain(book), on_change=None) == "a b c"
        with pytest.warns(durably.CodeChangedWarning):
            assert book.start(chain(book, b=1), on_change=None) == ""
        assert book.start(chain(book, b=1), on_change="ignore") == ""
        assert book.start(chain(book, b=1), on_change="redo") == "b c"


def test_a_warning_costs_nothing(book: Book) -> None:
    """Nothing more is stored of a step where its result is used in any case."""
    query = "SELECT layer, inputs FROM durably_steps"
    book.start(chain(book), on_change=None)
    assert book.rows(query) == [(None, None)] * 3
    assert book.start(chain(book, b=1)) == "b c"
    first, *others = book.rows(query)
    assert first == (None, None)
    assert None not in {value for row in others for value in row}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_change": "again"}, 'on_change must be "warn", "redo" or "ignore", not \'again\''),
        ({"on_change": True}, 'on_change must be "warn", "redo" or "ignore", not True'),
        ({"depends_on": {1}}, "depends_on must be JSON-like, not set; pass numbers, str, lists"),
        ({"depends_on": object()}, "depends_on must be JSON-like, not object"),
        (
            {"depends_on": 1, "on_change": "warn"},
            'depends_on has no effect with on_change="warn"; leave one of them out',
        ),
        (
            {"depends_on": 1, "on_change": "ignore"},
            'depends_on has no effect with on_change="ignore"; leave one of them out',
        ),
    ],
)
def test_what_is_no_option(book: Book, options: Any, said: str) -> None:
    """A ValidationError before anything is executed, which names the call."""

    def code(step: Any) -> None:
        for call in (
            lambda: step.options(**options).run("a", book.fn("a")),
            lambda: step.map("a", book.fn("a"), [1], **options),
            lambda: list(step.imap("a", book.fn("a"), [1], **options)),
            lambda: durably.map(book.fn("a"), [1], db=book.path.parent / "no.db", **options),
        ):
            with pytest.raises(ValidationError) as failed:
                call()
            assert said in str(failed.value)

    assert book.start(code) == ""
    assert not (book.path.parent / "no.db").exists()
    if "on_change" in options and "depends_on" not in options:
        for call in (
            lambda: durably.session("no", book.path.parent / "no.db", **options),
            lambda: durably.job("no", **options)(lambda step: None),
        ):
            with pytest.raises(ValidationError, match="must be"):
                call()
        assert not (book.path.parent / "no.db").exists()


def test_fingerprints_of_files(tmp_path: Path) -> None:
    """The content alone counts; what cannot be read raises what open() does, with its name."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * 3_000_000)
    two.write_bytes(b"x" * 3_000_000)
    assert durably.fingerprint_of(one) == durably.fingerprint_of(str(two))
    two.write_bytes(b"x" * 2_999_999 + b"y")
    assert durably.fingerprint_of(one) != durably.fingerprint_of(two)
    with pytest.raises(FileNotFoundError, match="missing"):
        durably.fingerprint_of(tmp_path / "missing")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        durably.fingerprint_of(tmp_path)
