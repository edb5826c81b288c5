"""The view in a notebook, in a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest
from progress_events import event, new_run

from langgraph_hpc_fanout.watch.display.markup import markup
from langgraph_hpc_fanout.watch.display.notebook import NotebookView

TESTS = Path(__file__).parents[2]
SETUP = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
import asyncio
from graphs import build, molecules
from langgraph_hpc_fanout import Limits, OpenAIEndpoint, Pool
from langgraph_hpc_fanout.testing.fleet import FakeFleet
fleet = FakeFleet(latency=0.2)
fleet.start()
pool = Pool(OpenAIEndpoint(fleet.urls[0], name="<north>", limits=Limits(concurrency=2)))
async def ask(count):
    return await build(pool).ainvoke({{"molecules": molecules(count)}})
"""


def executed(*cells):
    """The cells after the first, executed in a kernel of their own."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (SETUP, *cells)]
    )
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    return notebook.cells[1:]


def views(cell):
    return [output.data for output in cell.outputs if output.output_type == "display_data"]


def test_the_final_counts_stay_in_the_saved_notebook():
    cells = executed(
        "await ask(12);",
        "build(pool).invoke({'molecules': molecules(12)});",
        "await asyncio.gather(ask(8), ask(9));",
    )
    for cell in cells[:2]:
        (view,) = views(cell)
        assert view["text/plain"].startswith("screen: 12/12 done, 12 ok, 0 failed, 0 in flight")
        assert "12/12 (100%)" in view["text/html"]
        assert " left</span>" not in view["text/html"]
        assert "&lt;north&gt;</td>" in view["text/html"]
    both = sorted(view["text/plain"].split(" done")[0] for view in views(cells[2]))
    assert both == ["screen: 8/8", "screen: 9/9"]


def test_a_view_is_updated_in_place(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown, updates = [], []

    class Handle:
        def update(self, formats, raw):
            updates.append(formats)

    def show(formats, raw, display_id):
        shown.append(formats)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    view = NotebookView()
    view.show(new_run())
    assert not shown
    view.show(event())
    view.show(event(done=6))
    view.close(event(done=6))
    assert len(shown) == 1
    assert [sorted(formats) for formats in updates] == [["text/html", "text/plain"]] * 2
    assert " left</span>" in updates[0]["text/html"]
    assert "stopped" in updates[1]["text/html"]


# -- the HTML -------------------------------------------------------------------------------------


def test_the_html_has_all_the_counts():
    html = markup(event(), ended=False)
    for words in (
        "<b>screen</b> 5/10 (50%)",
        "width:40.00%",
        "width:10.00%",
        "4 ok",
        "1 known before",
        "1 failed: 1 timeout",
        "2 in flight",
        "0.5 items/s, 15 tokens/s",
        "0:00:08, 0:00:10 left",
    ):
        assert words in html


def test_names_are_escaped():
    html = markup(
        event(node="<script>", endpoints={"<img src=x>": 3, '"&': 1}, failed={"<b>": 1}),
        ended=False,
    )
    assert "<script>" not in html
    assert "<img" not in html
    assert "1 &lt;b&gt;" in html
    assert "&lt;script&gt;" in html
    assert "&quot;&amp;" in html


def test_a_new_run_and_an_empty_one():
    assert "0/10 (0%)" in markup(new_run(), ended=False)
    assert "0/0 (100%)" in markup(new_run(total=0), ended=True)


def test_the_busiest_of_many_endpoints_are_listed():
    html = markup(event(endpoints={f"e{number}": number for number in range(40)}), ended=False)
    assert html.count("<tr") == 12
    assert "e39<" in html
    assert "and 28 more endpoints" in html
    assert len(html) < 4000


def test_the_view_says_for_what_a_run_waits():
    html = markup(event(waiting="no endpoint can be asked (<a> is away)"), ended=False)
    assert "waiting: no endpoint can be asked (&lt;a&gt; is away)</div>" in html
    assert "waiting" not in markup(event(), ended=False)
