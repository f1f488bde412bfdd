"""``on_change="redo"``: which results are used, and which steps are executed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from attrs import define, field
from invariants import check

import durably
from durably._platform import fingerprints
from durably._platform.interactive import Cell
from durably.entry import sessions
from durably.errors import ValidationError
from durably.execution import session_run

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


def other(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, as other code."""
    return lambda *args: [fn(*args)][0]


def ended(app: durably.Durably, run: Any) -> durably.Run[Any, Any]:
    """The run when it has completed or failed."""
    try:
        return app.wait(run)
    except durably.RunFailedError as exc:
        return exc.run


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
        *(
            pair
            for one, two in [
                (date(2026, 1, 1), date(2026, 1, 2)),
                (Path("a"), Path("b")),
                (Decimal(1), Decimal(2)),
                (durably.RunStatus.FAILED, durably.RunStatus.COMPLETED),
                (durably.Retry(2), durably.Retry(3)),
                ({1}, {2}),
                (np.int64(1), np.int64(2)),
            ]
            for pair in [
                (((one,), {}), ((two,), {}), False),
                ((([1, one],), {}), (([2, one],), {}), False),  # by argument, not by part
                (((str(one),), {}), ((str(two),), {}), True),
            ]
        ),
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


@pytest.mark.parametrize("kind", ["step", "map"])
def test_what_was_executed_after_a_failure_is_not_used_after_a_result(
    book: Book, kind: str
) -> None:
    """The job has handled the failure; then the code is as before, and its result is used."""

    def code(step: Any, *, fails: bool) -> Any:
        found: Any = None

        def b(n: int) -> int:
            book.note("b")
            if fails:
                raise ValueError(n)
            return n

        changed = other(b) if fails else b
        if kind == "map":
            found = list(step.map("b", changed, [1], on_failed="return"))
        else:
            try:
                found = step.run("b", changed, 1)
            except ValueError:
                book.note("handled")
        return step.run("c", lambda: book.note("c") or found)

    first = [1] if kind == "map" else 1
    assert book.start(lambda step: code(step, fails=False)) == "b c"
    again = "b c" if kind == "map" else "b handled c"
    for _ in range(2):
        assert book.start(lambda step: code(step, fails=True)) == again
        assert book.result != first
    assert book.start(lambda step: code(step, fails=False)) == "c"
    assert book.result == first
    assert book.start(lambda step: code(step, fails=False)) == ""


def test_how_often_and_what_was_executed_is_counted(book: Book) -> None:
    """A result that was replaced was executed, not reused; its step was called once more."""
    book.start(chain(book))
    book.start(chain(book, b=1))
    with durably.Durably(book.path) as app:
        (run,) = app.runs()
        assert [(each.steps_completed, each.steps_reused) for each in run.attempts] == [
            (3, 0),
            (2, 1),
        ]
        assert [step.attempts for step in run.steps] == [1, 2, 2]


@pytest.mark.filterwarnings("ignore::durably.CodeChangedWarning")
def test_one_step_is_executed_again_alone_where_the_others_warn(book: Book) -> None:
    """What comes after it keeps its result, unless it has "redo" too."""

    def code(step: Any, version: int = 0) -> None:
        step.options(on_change="redo").run("a", book.fn("a", version))
        step.run("b", book.fn("b"))
        step.options(on_change="redo").run("c", book.fn("c"))

    book.on_change = "warn"
    assert book.start(code) == "a b c"
    assert book.start(lambda step: code(step, 1)) == "a c"


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


def test_what_the_warning_of_a_session_advises_does_what_it_says(path: Path) -> None:
    """For a step of a session, and for a call of ``durably.map``."""
    book = Book(path, on_change=None)

    def said(call: Callable[[], Any]) -> str:
        with pytest.warns(durably.CodeChangedWarning) as warned:
            call()
        return str(warned[0].message).partition("To execute it again: ")[2]

    book.start(chain(book))
    assert said(lambda: book.start(chain(book, b=1))) == (
        'open the session with on_change="redo", or give the step another name'
    )
    assert book.start(chain(book, b=1), on_change="redo") == "b c"
    durably.map(book.fn("f"), [1], db=path)
    assert said(lambda: durably.map(book.fn("f", 1), [1], db=path)) == 'pass on_change="redo"'
    assert durably.map(book.fn("f", 1), [1], db=path, on_change="redo") == [[1, 1]]


def test_another_python_changes_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fingerprints cannot be compared with those that are stored."""
    book.start(chain(book))
    monkeypatch.setattr(fingerprints, "_COMPILER", fingerprints._COMPILER ^ 1)
    assert book.start(chain(book, b=1)) == ""
    assert book.start(chain(book, b=1), on_change="warn") == ""
    assert book.rows("SELECT code_changed FROM durably_runs") == [(0,)]


def test_a_warning_costs_nothing(book: Book) -> None:
    """Nothing more is stored of a step where its result is used in any case.

    Under "redo" a result that is used keeps its layer.
    """
    query = "SELECT layer, inputs FROM durably_steps"
    book.start(chain(book), on_change=None)
    assert book.rows(query) == [(None, None)] * 3
    assert book.start(chain(book, b=1)) == "b c"
    first, *others = book.rows(query)
    assert first[0] is None
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


# -- what comes before what --------------------------------------------------------------------


def test_steps_beside_one_another(book: Book) -> None:
    """Of ``parallel`` none is before another, and all are before what follows."""

    def code(step: Any, *, fails: bool, **versions: int) -> Any:
        def b() -> int:
            book.note("b")
            if fails:
                raise ValueError
            return 1

        steps = {name: book.fn(name, versions.get(name, 0)) for name in "acd"} | {"b": b}
        step.parallel({name: steps[name] for name in "abc"}, max_workers=1)
        step.run("d", steps["d"])

    with pytest.raises(ValueError):
        book.start(lambda step: code(step, fails=True))
    assert book.executed == ["a", "b", "c"]
    assert book.start(lambda step: code(step, fails=False)) == "b d"
    assert book.start(lambda step: code(step, fails=False)) == ""
    assert book.start(lambda step: code(step, fails=False, a=1)) == "a d"
    assert book.start(lambda step: code(step, fails=False, a=1)) == ""


def test_steps_in_threads_of_the_job(book: Book) -> None:
    """What has ended before a step begins is before it, in whatever thread."""

    def code(step: Any, a: int) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(step.run, "a", book.fn("a", a)).result()
            step.run("b", book.fn("b"))

    assert book.start(lambda step: code(step, 0)) == "a b"
    assert book.start(lambda step: code(step, 0)) == ""
    assert book.start(lambda step: code(step, 1)) == "a b"


def test_steps_inside_of_steps(book: Book) -> None:
    """They are checked if the one around them is executed, and all executed if it has changed."""

    def code(step: Any, *, outer: int = 0, inner: int = 0) -> None:
        def around() -> Any:
            book.note("a")
            return [step.run(name, book.fn(name, inner)) for name in ("x", "y")]

        def changed() -> Any:
            return [around(), outer]

        step.run("a", around if not outer else changed)
        step.run("b", book.fn("b"))

    assert book.start(code) == "a x y b"
    assert book.start(code) == ""
    assert book.start(lambda step: code(step, inner=1)) == ""  # nobody asks for it
    assert book.start(lambda step: code(step, outer=1)) == "a x y b"
    assert book.start(lambda step: code(step, outer=1)) == ""


def test_a_step_that_failed_goes_on_with_the_steps_inside(book: Book) -> None:
    """A step that is called again in the same execution does so as well."""

    def code(step: Any, failures: list[int]) -> None:
        def around() -> Any:
            book.note("a")
            step.run("x", book.fn("x"))
            if failures:
                raise ValueError(failures.pop())
            step.run("y", book.fn("y"))

        step.options(retry=durably.Retry(attempts=2, wait=0)).run("a", around)

    with pytest.raises(ValueError):
        book.start(lambda step: code(step, [1, 2]))
    assert book.executed == ["a", "x", "a"]
    assert book.start(lambda step: code(step, [])) == "a y"
    assert book.start(lambda step: code(step, [])) == ""


def test_a_changed_step_is_called_again_with_what_is_inside(book: Book) -> None:
    """A retry of a step that is out of date keeps what the call before has executed."""

    def code(step: Any, version: int) -> None:
        failures = [1]

        def around(*_: int) -> Any:
            book.note("a")
            step.run("x", book.fn("x"))
            step.run("y", book.fn("y"))
            if failures:
                raise ValueError(failures.pop())

        step.options(retry=durably.Retry(attempts=2, wait=0)).run("a", around, version)

    assert book.start(lambda step: code(step, 0)) == "a x y a"
    assert book.start(lambda step: code(step, 1)) == "a x y a"
    assert book.start(lambda step: code(step, 1)) == ""


def test_waits_questions_and_children_keep_their_results(path: Path) -> None:
    """Nothing is waited for, asked or triggered twice; what follows them is executed again."""
    book = Book(path)

    def child(step: Any) -> int:
        book.note("child")
        return 1

    def parent(version: int) -> Any:
        def job(step: Any) -> int:
            step.run("a", book.fn("a", version))
            step.sleep_until("sleep", 0.001)
            step.poll("poll", lambda: book.note("poll") or 1, every=1)
            answer = step.ask("ask", returns=int)
            ticket = step.prepare("ticket", returns=int)
            if not version:
                app.signal(ticket.id, 3, answer_id="1")
            total = answer + step.wait_for(ticket) + step.call("call", "child")
            step.run("b", book.fn("b"))
            if not version:
                raise ValueError
            return total

        return durably.Job("parent", job, on_change="redo", origin="any")

    with durably.Durably(path, jobs=[durably.Job("child", child)], raise_failed=False) as app:
        app.register(parent(0))
        run = app.trigger("parent")
        app.answer(run, "ask", 2)
        assert ended(app, run).status == "failed"
        assert book.executed == ["a", "poll", "child", "b"]
    book.executed.clear()
    jobs = [durably.Job("child", child), parent(1)]
    with durably.Durably(path, jobs=jobs, raise_failed=False) as app:
        app.retry(run)
        assert app.wait(run).output == 6
        assert book.executed == ["a", "b"]
        assert len(app.get_runs(parent=run)) == 1


# -- by hand -----------------------------------------------------------------------------------


def test_results_that_are_changed_by_hand(book: Book) -> None:
    """One that is set is kept, and what follows is executed again, as after ``redo``."""
    book.start(chain(book))
    with durably.Durably(book.path) as app:
        (run,) = app.runs()
        app.set_step(run, "b", [7])
    assert book.start(chain(book)) == "c"
    assert book.result == [[7], 0]
    assert book.start(chain(book, a=1, b=1)) == "a c"
    assert book.start(chain(book, a=1, b=1)) == ""
    with durably.Durably(book.path) as app:
        app.redo(run, only="b")
    assert book.start(chain(book, a=1, b=1)) == "b c"
    with durably.Durably(book.path) as app:
        app.redo(run, from_step="b")
    assert book.start(chain(book, a=1, b=1)) == "b c"
    assert book.start(chain(book, a=1, b=1)) == ""


def test_a_fork_knows_what_is_out_of_date(book: Book) -> None:
    """The copies keep their order, however often the first run was executed."""
    jobs: list[Any] = []

    def job(step: Any) -> Any:
        return jobs[-1](step)

    made = durably.Job("job", job, on_change="redo")
    with durably.Durably(book.path, jobs=[made], raise_failed=False) as app:

        def start(code: Any, begin: Callable[[], Any]) -> str:
            book.executed.clear()
            jobs.append(code)  # before the run is pending: the engine executes it at once
            ended(app, begin())
            return " ".join(book.executed)

        def stops_after_a(step: Any) -> None:
            step.run("a", book.fn("a", 1), 0)
            raise ValueError

        def redo_c() -> Any:
            return app.redo(run, only="c")

        assert start(chain(book), lambda: app.trigger("job")) == "a b c"
        (run,) = app.get_runs()
        for _ in range(2):
            assert start(chain(book), redo_c) == "c"
        assert start(stops_after_a, redo_c) == "a"
        assert start(chain(book, a=1), lambda: app.fork(run)) == "b c"
        first = app.get_runs()[0]
        assert start(chain(book, a=1), lambda: app.fork(first)) == ""
        second = app.get_runs()[0]
        assert start(chain(book, a=1, c=1), lambda: app.fork(second)) == "c"
        third = app.get_runs()[0]
        app.set_step(third, "a", 1)
        assert start(chain(book, a=1, c=1), lambda: app.fork(third)) == "b c"


# -- maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, str])
@pytest.mark.parametrize("call", ["map", "imap"])
def test_items_of_a_map(book: Book, key: Any, call: str) -> None:
    """A changed item alone is executed; with other code, dependence or a step before, all are."""

    def code(
        items: Any, version: int = 0, a: int = 0, depends_on: Any = None, **options: Any
    ) -> Any:
        def item(n: Any) -> Any:
            book.note(str(n))
            return [n, version]

        shifted = item if not version else other(item)

        def job(step: Any) -> Any:
            step.run("a", book.fn("a", a))
            given = {"key": key and (lambda n: str(n)[-1]), "depends_on": depends_on} | options
            found = getattr(step, call)("map", shifted, items, **given)
            found = [each.output for each in found] if call == "imap" else list(found)
            step.run("b", book.fn("b"))
            return sorted(found)

        return job

    assert book.start(code([10, 11])) == "a 10 11 b"
    assert book.start(code([10, 11])) == ""
    assert book.start(code([10, 21])) == "21 b"
    assert book.start(code([10, 21, 12])) == "12 b"
    assert book.start(code([10, 21, 12], depends_on=1)) == "10 21 12 b"
    assert book.start(code([10, 21, 12], depends_on=1, max_workers=2)) == ""
    assert book.start(code([10, 21, 12], depends_on=1, a=1)) == "a 10 21 12 b"
    assert book.start(code([10, 21, 12], 1, depends_on=1, a=1)) == "10 21 12 b"
    assert book.result == [[10, 1], [12, 1], [21, 1]]
    assert book.start(code([10, 21, 12], 1, depends_on=1, a=1)) == ""
    assert book.rows("SELECT count(*) FROM durably_items") == [(3,)]


def test_items_that_were_stored_before_anybody_asked(book: Book) -> None:
    """A map whose results were used in any case until now: nothing is known of the items."""

    def code(step: Any, version: int = 0, a: int = 0, items: Any = (1, 2)) -> None:
        def item(n: int) -> int:
            book.note(str(n))
            return n

        step.run("a", book.fn("a", a))
        step.map("map", item if not version else other(item), items, key=str)

    book.start(code, on_change=None)
    assert book.start(code) == ""
    assert book.start(lambda step: code(step, a=1)) == "a 1 2"
    assert book.start(lambda step: code(step, a=1)) == ""
    assert book.start(lambda step: code(step, a=1, items=(1, 2, 3)), on_change=None) == "3"
    assert book.start(lambda step: code(step, 1, 1, (1, 2, 3))) == "1 2 3"


@pytest.mark.parametrize("before", ["warn", "ignore"])
@pytest.mark.parametrize("key", [None, str])
def test_what_results_stand_for_is_known_from_their_first_use_on(
    book: Book, before: str, key: Any
) -> None:
    """Of those that were stored before anybody asked. What was asked for then is taken for it."""

    def code(n: int, depends_on: int, items: Any = (1, 2)) -> Callable[[Any], None]:
        def item(name: str) -> str:
            book.note(name)
            return name

        def job(step: Any) -> None:
            step.run("a", book.fn("a"), n)
            step.options(**given).run("b", book.fn("b"))
            step.map("map", item, [f"{each}" for each in items], key=key and (lambda _: next(keys)))
            book.note("end")

        keys = iter(range(100))
        given = {"depends_on": depends_on} if depends_on else {}
        return job

    assert book.start(code(1, 0), on_change=before) == "a b 1 2 end"
    assert book.start(code(2, 3)) == "end"
    assert book.start(code(2, 3)) == "end"
    assert book.start(code(2, 3, (1, 5))) == "5 end"
    assert book.start(code(2, 4, (1, 5))) == "b 1 5 end"
    assert book.start(code(6, 4, (1, 5))) == "a b 1 5 end"
    assert book.start(code(6, 4, (1, 5))) == "end"


@pytest.mark.parametrize("key", [None, str])
def test_what_comes_after_a_map_with_other_items_than_before(book: Book, key: Any) -> None:
    """Also with fewer, none of which is executed: what follows was made of all of them."""

    def code(items: Any, *, fails: bool = False) -> Callable[[Any], None]:
        def item(n: int) -> int:
            book.note(str(n))
            return n

        def total() -> int:
            book.note("total")
            if fails:
                raise ValueError
            return sum(found)

        found: list[int] = []

        def job(step: Any) -> None:
            found.extend(step.map("map", item, items, key=key))
            book.result = step.run("total", total)

        return lambda step: job(step) or book.result

    assert book.start(code([1, 2, 3]), on_change="warn") == "1 2 3 total"
    assert book.start(code([1, 2, 3])) == ""
    with pytest.raises(ValueError):
        book.start(code([1, 2], fails=True))
    assert book.executed == ["total"]
    assert (book.start(code([1, 2])), book.result) == ("total", 3)
    assert (book.start(code([1, 2])), book.result) == ("", 3)
    assert (book.start(code([1, 2, 3])), book.result) == ("total", 6)
    if key is not None:
        assert (book.start(code([3, 1])), book.result) == ("total", 4)
        assert (book.start(code([1, 3])), book.result) == ("", 4)
        assert (book.start(code([2, 3])), book.result) == ("total", 5)


def test_items_are_noted_once(book: Book) -> None:
    """Also those that are not JSON-like, of which nothing more is known then."""

    def keyed(_: Any) -> str:
        return str(next(keys))

    def job(depends_on: Any) -> Callable[[Any], None]:
        def item(value: Any) -> int:
            book.note("item")
            return 1

        options = {} if depends_on is None else {"depends_on": depends_on}
        return lambda step: step.map("map", item, [object(), 2], key=keyed, **options)

    keys = iter(range(2))
    book.start(job(None), on_change="ignore")
    query = "SELECT hash IS NULL, inputs IS NULL FROM durably_items"
    assert book.rows(query) == [(1, 1), (1, 1)]
    for _ in range(2):
        keys = iter(range(2))
        assert book.start(job(1)) == ""
        assert book.rows(query) == [(1, 0), (0, 0)]
    keys = iter(range(2))
    assert book.start(job(2)) == "item item"


def test_an_item_that_fails_when_it_is_executed_again(book: Book) -> None:
    """Its result is kept, and it is tried again at the next start."""

    def code(step: Any, *, fails: bool, version: int = 1) -> Any:
        def item(n: int) -> int:
            book.note(str(n))
            if fails and n == 2:
                raise ValueError(n)
            return n * 10 + version

        return step.map("map", item, [1, 2, 3], depends_on=version)

    book.start(lambda step: code(step, fails=False, version=0))
    for again in (["1", "2", "3"], ["2"]):
        with pytest.raises(durably.ItemsFailedError):
            book.start(lambda step: code(step, fails=True))
        assert book.executed == again
        items = book.rows("SELECT output FROM durably_items ORDER BY item")
        assert items == [("11",), ("20",), ("31",)]
    assert book.start(lambda step: code(step, fails=False)) == "2"
    assert book.result == [11, 21, 31]


def test_items_that_are_set_by_hand(book: Book) -> None:
    """They are kept, also with other code; what follows the map is executed again."""

    def code(step: Any, version: int = 0) -> Any:
        def item(n: int) -> int:
            book.note(str(n))
            return n

        found = step.map("map", item if not version else other(item), [1, 2])
        step.run("b", book.fn("b"))
        return found

    book.start(code)
    with durably.Durably(book.path) as app:
        (run,) = app.runs()
        app.set_item(run, "map", 1, 7)
    assert book.start(code) == "b"
    assert book.result == [1, 7]
    assert book.start(lambda step: code(step, 1)) == "1 b"
    assert book.result == [1, 7]
    with durably.Durably(book.path) as app:
        app.redo(run, only="map[1]")
    assert book.start(lambda step: code(step, 1)) == "2 b"


def test_steps_inside_of_items(book: Book) -> None:
    """Those of one item are not before those of another."""

    def code(step: Any, items: Any, version: int = 0) -> None:
        def item(n: int) -> None:
            book.note(str(n))
            step.run(f"in-{n}", book.fn(f"in_{n}"))
            if n in failing:
                raise ValueError

        step.map("map", item if not version else other(item), items, key=str)

    failing = {2}
    with pytest.raises(durably.ItemsFailedError):
        book.start(lambda step: code(step, [1, 2, 3]))
    failing.clear()
    assert book.start(lambda step: code(step, [1, 2, 3])) == "2"
    assert book.start(lambda step: code(step, [1, 2, 3], 1)) == "1 in_1 2 in_2 3 in_3"
    assert book.start(lambda step: code(step, [1, 2, 3], 1)) == ""


# -- large results -----------------------------------------------------------------------------


def test_files_of_results_that_were_replaced(book: Book) -> None:
    """Nothing refers to them any more."""

    def big(value: int) -> bytes:
        return bytes([value]) * 5_000_000

    def code(step: Any, value: int) -> None:
        step.run("a", big, value)
        step.map("map", big, [value])

    for value in (1, 2, 2):
        book.start(lambda step, value=value: code(step, value))
        assert len(book.rows("SELECT DISTINCT hash FROM durably_blobs")) == 1


# -- cells of a notebook -----------------------------------------------------------------------


@define
class Cells:
    """A notebook with one open session, whose cells are executed in any order."""

    book: Book
    step: Any = None
    number: int = 0
    now: Any = None

    def open(self) -> None:
        """Restart the kernel."""
        if self.step is not None:
            self.step.close()
        self.step = durably.session("book", self.book.path, key="book", on_change="redo")

    def execute(self, cell: str, **versions: int) -> str:
        self.book.executed.clear()
        self.number += 1
        self.now = Cell(cell, str(self.number))
        for name, version in versions.items():
            self.step.run(name, self.book.fn(name, version))
        return " ".join(self.book.executed)


@pytest.fixture
def cells(book: Book, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cells]:
    found = Cells(book)
    monkeypatch.setattr(sessions, "is_ipython", lambda: True)
    monkeypatch.setattr(session_run, "executing_cell", lambda: found.now)
    found.open()
    yield found
    found.step.close()


def test_a_cell_that_is_edited_and_executed_again(cells: Cells) -> None:
    """It executes what has changed, and then so do the cells below it, as after a restart."""
    assert cells.execute("one", a=0) == "a"
    assert cells.execute("two", b=0) == "b"
    assert cells.execute("three", c=0) == "c"
    assert cells.execute("one", a=0) == ""
    assert cells.execute("two", b=0) == ""
    assert cells.execute("two", b=1) == "b"
    assert cells.execute("two", b=1) == ""
    assert cells.execute("one", a=0) == ""
    assert cells.execute("three", c=0) == "c"
    assert cells.execute("three", c=0) == ""
    cells.open()
    for cell, step in (("one", {"a": 0}), ("two", {"b": 1}), ("three", {"c": 0})):
        assert cells.execute(cell, **step) == ""


def test_a_step_that_is_new_in_a_cell(cells: Cells) -> None:
    """It comes before the cells below, although it was executed after them."""
    cells.execute("one", a=0)
    cells.execute("two", b=0)
    assert cells.execute("one", a=0, new=0) == "new"
    assert cells.execute("two", b=0) == "b"
    assert cells.execute("one", a=0, new=0) == ""
    assert cells.execute("two", b=0) == ""


def test_a_kernel_that_is_restarted_before_the_cells_below_were_executed(cells: Cells) -> None:
    """They are executed then, although no code has changed since."""
    cells.execute("one", a=0)
    cells.execute("two", b=0)
    assert cells.execute("one", a=1) == "a"
    cells.open()
    assert cells.execute("one", a=1) == ""
    assert cells.execute("two", b=0) == "b"
    cells.execute("one", a=1, new=0)
    cells.open()
    assert cells.execute("one", a=1, new=0) == ""
    assert cells.execute("two", b=0) == "b"
    cells.open()
    assert cells.execute("one", a=1, new=0) + cells.execute("two", b=0) == ""
