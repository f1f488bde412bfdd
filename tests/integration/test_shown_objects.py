"""What objects show of themselves: one line, a card or a table, a dict, a frame."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pandas as pd
import pytest
from databases import open_database
from engines import engine
from notebooks import Notebook
from rendered import read

import durably
from durably.models import RunList
from durably.models.questions import QuestionList
from durably.models.records import AttemptList, ItemList, LogList, StepList
from durably.testing import FindingList, check

TEXT = re.compile("(?<=>)[^<]+")  # between two tags
NASTY = "<script>\x1b[2J\u202e'\""


@attrs.define
class Crawl:
    pages: int
    site: str = NASTY


def fetch(page: int) -> int:
    if page == 3:
        raise ValueError(f"{NASTY} page {page}")
    return page * page


@durably.job("crawl")
def crawl(step: durably.StepContext, payload: Crawl) -> int:
    step.log.warning("%s begun", NASTY, site=payload.site)
    done = step.map("pages", fetch, range(payload.pages), on_failed="return", key=lambda n: f"p{n}")
    step.progress(1, 2, NASTY)
    return step.run(f"sum {NASTY[:8]}", sum, done)


@durably.job("fails")
def fails(step: durably.StepContext) -> None:
    step.run("good", int)
    raise ValueError(NASTY)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[durably.Durably]:
    """An engine with one run of each job, and 55 that are pending."""
    folder = tmp_path_factory.mktemp("shown")
    with engine(
        folder, crawl, fails, durably.Job("many", lambda step: None), persist_logs=True
    ) as app:
        app.batch_trigger("many", [None] * 55)
        app.run(crawl, Crawl(5), key="crawl-1", labels={"who": NASTY})
        with pytest.raises(durably.RunFailedError):
            app.run(fails, key=f"key {NASTY}")
        yield app


def html(thing: Any) -> str:
    """The HTML of what shows itself, which is harmless; and as text."""
    bundle = thing._repr_mimebundle_()
    assert bundle.keys() == {"text/plain", "text/html"}
    if not isinstance(thing, durably.Durably):
        assert bundle["text/plain"] == repr(thing)
    # Beside the text of its cells: a time that goes on is another one a moment later.
    assert TEXT.sub("", bundle["text/html"]) == TEXT.sub("", thing._repr_html_())
    assert "\n" not in bundle["text/plain"]
    assert "\x1b" not in bundle["text/plain"]
    return read(bundle["text/html"])


def test_a_run_shows_a_card(app: durably.Durably) -> None:
    """What it is, its payload, output or error, its steps and times; nothing that is empty."""
    completed, failed = app.jobs["crawl"].get_runs()[0], app.jobs["fails"].get_runs()[0]

    shown = html(completed)
    assert repr(completed) == f"<Run {completed.id} crawl completed, key 'crawl-1', 2 steps>"
    for part in (
        "crawl",
        "completed",
        completed.id,
        "Crawl(pages=5",
        "output 21",
        "2 done, attempt 1",
    ):
        assert part in shown
    assert "crawl-1" in shown
    assert "who" in shown
    assert "concurrency" not in shown
    assert "ago" in shown

    shown = html(failed)
    assert repr(failed).startswith(f"<Run {failed.id} fails failed, key 'key <script>")
    assert "1 step: ValueError: <script>" in repr(failed)
    assert "in fails" in shown  # a frame of the user's
    assert "output" not in shown
    pending = app.jobs["many"].get_runs(limit=1)[0]
    assert repr(pending) == f"<Run {pending.id} many pending, 0 steps>"
    assert "created" in html(pending)


def test_a_waiting_run_says_for_what_it_waits(tmp_path: Path) -> None:
    """In its line, on its card and in a list; one for later says when it is due."""

    def run(step: durably.StepContext, name: str) -> object:
        if name == "parent":
            return step.call("child", "run", "ask")
        return step.ask("ask") if name == "ask" else step.sleep_until(name, 3600)

    with durably.Durably(tmp_path / "waits.db", jobs=[durably.Job("run", run)]) as app:
        later = app.trigger("run", "later", delay=3600)
        runs = [app.trigger("run", name) for name in ("parent", "nap")]
        app.run_until_idle()
        parent, nap = [app.get_run(each) for each in runs]
        [child] = app.get_runs(parent=runs[0])
        for each, waits in (
            (parent, f"run {child.id}"),
            (nap, "the time of 'nap'"),
            (child, "an answer to 'ask'"),
        ):
            assert f" run waiting for {waits}, " in repr(each)
            assert waits in html(each)
            assert f"waits for {waits}" in html(app.get_runs())
        assert "until" in html(nap)
        assert "until" not in html(child)
        assert "due" in html(app.get_run(later))


def test_lists_show_tables_and_keep_their_kind(app: durably.Durably) -> None:
    """Of 50 rows at most, with how many more there are."""
    runs = app.runs()
    run, failed = app.jobs["crawl"].get_runs()[0], app.jobs["fails"].get_runs()[0]
    assert repr(runs) == "<57 runs: 55 pending, 1 failed, 1 completed>"
    assert html(runs).endswith("7 more")
    assert runs._repr_html_().count("<tr>") == 51
    assert runs[:2]._repr_html_().count("<tr>") == 3
    assert "4 of 5 items, 1 failed" in html(run.steps)
    items = html(run.items("pages"))
    assert "p3" in items
    assert "ValueError: <script>" in items
    assert "warning" in html(run.logs)
    assert "ValueError: <script>" in html(failed.attempts)
    for kind, listing, line in (
        (RunList, runs, "<57 runs: 55 pending, 1 failed, 1 completed>"),
        (StepList, run.steps, "<2 steps: 2 completed>"),
        (ItemList, run.items("pages"), "<5 items: 4 completed, 1 failed>"),
        (LogList, run.logs, "<1 log line: 1 warning>"),
        (AttemptList, failed.attempts, "<1 attempt: 1 failed>"),
    ):
        assert type(listing) is kind
        assert isinstance(listing, list)
        assert repr(listing) == line
        assert listing[0] == next(iter(listing)) == listing[:1][0]
        assert type(listing[::-1]) is kind
        assert listing[::-1] == list(listing)[::-1]
        assert html(listing[:0]).strip() == f"no {listing._one}s"
        html(listing[0])  # one record is a card


def test_the_findings_of_a_check_show_themselves(tmp_path: Path) -> None:
    """As a table with what is wrong and where; a sound file has none."""
    path = tmp_path / "x.db"
    durably.Durably(path).close()
    sound = check(path)
    assert (sound, repr(sound)) == ([], "<0 findings>")
    assert html(sound).strip() == "no findings"
    db = open_database(path)
    db.execute('CREATE INDEX "durably_<b>" ON durably_runs (payload)')
    db.close()
    found = check(path)
    assert type(found[:1]) is FindingList
    assert repr(found) == "<1 finding: 1 the schema is not durably's>"
    assert html(found).split()[:2] == ["where", "the"]
    assert "'durably_<b>' is not durably's" in html(found)
    assert html(found[0]).startswith("the schema is not durably's")
    assert found.to_dict() == [{"problem": found[0].problem, "where": found[0].where}]


def test_an_engine_shows_its_jobs_and_how_their_runs_are(
    app: durably.Durably, tmp_path: Path
) -> None:
    """A handle shows its own; one that is closed says so."""
    counts = {"crawl": {"completed": 1}, "fails": {"failed": 1}, "many": {"pending": 55}}
    path = app.to_dict()["path"]
    assert app.to_dict() == {"path": path, "jobs": ["crawl", "fails", "many"], "runs": counts}
    assert app.jobs["many"].to_dict() == {"name": "many", "runs": {"pending": 55}}
    assert html(app.jobs["many"]).split() == ["many", "runs", "pending", "55"]
    plain = app._repr_mimebundle_()["text/plain"]
    assert plain.startswith("Durably /")
    assert plain.partition(" · ")[0].endswith(".db")
    for part in ("many: 55 pending", "fails: 1 failed"):
        assert part in plain.partition(" · ")[2].split("; ")
    shown = html(app)
    assert path in shown
    assert " ".join(shown.split()).endswith("crawl completed 1 fails failed 1 many pending 55")
    with engine(tmp_path, durably.Job("<b>", lambda step: None)) as other:
        assert html(other).endswith("no runs yet")
        assert html(other.jobs["<b>"]).endswith("no runs yet")
    assert "closed" in html(other)
    assert "closed" in html(durably.JobHandle("x", other._client.submitter))


def test_a_map_shows_its_items_and_a_session_its_run(tmp_path: Path) -> None:
    """The line of a map's result has the results, cut in the middle."""
    with durably.session("s", tmp_path / "s.db") as step:
        result = step.map("m", fetch, range(60), on_failed="return")
        assert "running" in html(step)
        assert step.to_dict()["job_name"] == "s"
    assert " ".join(html(step).split()).startswith("s completed")
    assert type(result.failed) is ItemList
    shown = html(result)
    assert shown.endswith("10 more")
    assert "ValueError: <script>" in shown
    line = repr(result)
    assert line.startswith("MapResult([0, 1, 4, 16,")
    assert line.endswith("3481], 1 failed)")
    assert len(line) < 130
    assert repr(durably.MapResult([1, "a"], keys=[0, 1])) == "MapResult([1, 'a'])"
    assert html(durably.MapResult()).strip() == "no items"
    rows = result.to_dict()
    assert len(rows) == 60
    assert rows[2] | {"seconds": 0} == {
        "key": 2, "status": "completed", "result": 4, "error": None, "seconds": 0, "attempts": 1,
    }  # fmt: skip
    assert rows[3]["error"].startswith("ValueError: ")


def test_dicts_have_the_attributes_and_nothing_else(app: durably.Durably) -> None:
    """Their values are what the attributes are; parts are dicts."""
    run = app.jobs["fails"].get_runs()[0]
    shown = run.to_dict()
    for name in ("id", "job_name", "status", "payload", "labels", "created_at", "duration", "kind"):
        assert shown[name] == getattr(run, name)
    assert shown["error"] == {
        "type": "ValueError",
        "message": NASTY,
        "traceback": run.error.traceback if run.error else None,
        "notes": (),
    }
    assert json.loads(json.dumps(shown, default=str))["status"] == "failed"
    assert app.runs().to_dict()[0] == shown
    crawled = app.jobs["crawl"].get_runs()[0]
    assert crawled.to_dict()["progress"] == {"current": 1, "total": 2, "message": NASTY}
    assert crawled.steps.to_dict()[0]["items"] == {
        "done": 4, "failed": 1, "reused": 0, "total": 5,
    }  # fmt: skip
    assert set(crawled.logs.to_dict()[0]) == {"level", "message", "data", "step_name", "created_at"}


def test_frames_have_a_row_for_each(app: durably.Durably, tmp_path: Path) -> None:
    """Times are instants, errors are text, integers stay integers; also where there is none."""
    run = app.jobs["crawl"].get_runs()[0]
    frame = app.runs().to_frame()
    assert list(frame["job_name"][:2]) == ["fails", "crawl"]
    assert list(frame["output"][:2]) == [None, 21]
    assert type(frame["output"][1]) is int
    assert frame["error"][0].startswith("ValueError: <script>")
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    assert frame["completed_at"].isna().sum() == 55
    assert frame["started_at"][1].to_pydatetime() == run.started_at
    assert frame["attempt"].sum() == 2
    assert frame["duration"][1] == run.duration
    assert list(run.to_frame()["id"]) == [run.id]
    assert list(run.to_frame().columns) == list(app.runs()[:0].to_frame().columns)
    assert list(run.steps.to_frame()["name"]) == [step.name for step in run.steps]
    items = run.items("pages").to_frame()
    assert list(items[items["status"] == "failed"]["key"]) == ["p3"]
    assert list(run.logs.to_frame()["level"]) == ["warning"]
    assert list(run.attempts.to_frame()["ended_at"]) == [run.completed_at]
    assert app.to_frame().to_dict("records")[-1] == {
        "job_name": "many", "status": "pending", "runs": 55,
    }  # fmt: skip
    assert len(app.jobs["fails"].to_frame()) == 1
    with durably.session("s", tmp_path / "s.db") as step:
        assert list(step.to_frame()["kind"]) == ["session"]
        frame = step.map("m", fetch, range(5), on_failed="return").to_frame()
    assert list(frame.columns) == ["key", "status", "result", "error", "seconds", "attempts"]
    assert isinstance(frame, pd.DataFrame)


def test_a_frame_without_pandas_says_how_to_install_it(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked for it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    run = app.runs()[0]
    for thing in (app, app.jobs["many"], app.runs(), run, run.steps, durably.MapResult()):
        with pytest.raises(ImportError, match="pip install pandas") as missing:
            thing.to_frame()
        assert missing.value.name == "pandas"


def test_showing_counts_no_more_than_the_newest_runs(
    app: durably.Durably, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may have millions; the card says that it counts some of them."""
    monkeypatch.setattr("durably.client.overview.MOST_COUNTED", 10)
    assert app.to_dict()["runs"] == {
        "crawl": {"completed": 1},
        "fails": {"failed": 1},
        "many": {"pending": 8},
    }
    assert html(app).endswith("of the newest 10 runs")


@pytest.mark.slow
def test_a_notebook_shows_cards_and_tables(tmp_path: Path) -> None:
    """In a real kernel: the last line of a cell is shown as HTML, and a key is completed."""
    with Notebook(tmp_path) as notebook:
        notebook.ok("""
            import durably

            @durably.job("crawl")
            def crawl(step, pages: int) -> int:
                return sum(step.run(f"page-{n}", int, n) for n in range(pages))

            app = durably.Durably("nb.db", jobs=[crawl])
        """)
        assert "no runs yet" in read(notebook.ok("app").html)
        notebook.ok("run = app.run(crawl, 60, key='crawl-1')")
        cell = notebook.ok("run")
        assert cell.result.endswith("crawl completed, key 'crawl-1', 60 steps>")
        assert "1770" in read(cell.html)
        cell = notebook.ok("run.steps")
        assert cell.result == "<60 steps: 60 completed>"
        assert read(cell.html).endswith("10 more")
        assert notebook.ok("app.runs()[:1]").html.count("<tr>") == 2
        assert "crawl" in notebook.ok("""get_ipython().complete('app.jobs["')[1]""").result
        assert "KeyError" in notebook.execute("app.jobs['craw']").error


def test_open_questions_show_themselves(tmp_path: Path) -> None:
    """As a table, a frame and dicts; one of them is a card."""

    @durably.job
    def release(step: durably.StepContext) -> Any:
        return step.ask("approve", question="Release <1.2>?", returns=bool, timeout=3600)

    with engine(tmp_path, release) as app:
        assert repr(app.get_questions()) == "<0 open questions>"
        app.jobs["release"].trigger()
        assert app.process_one()
        found = app.get_questions()
        assert type(found) is QuestionList
        assert type(found[:1]) is QuestionList
        assert repr(found) == "<1 open question: 1 release>"
        assert "Release <1.2>?" in html(found)
        assert "Release <1.2>?" in html(found[0])
        assert found.to_dict()[0]["name"] == "approve"
