"""The page as a file: what it says, that text stays text, that no request could leave it."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dlmbench import registry
from dlmbench.analysis.study import analyse
from dlmbench.charts import style
from dlmbench.charts.figure import csv_of, figures_of
from dlmbench.report import page
from dlmbench.report.source import Source
from dlmbench.report.text import spread
from dlmbench.results.views import raw_metrics
from dlmbench.types import LeftOut
from support.hostile_run import ATTACKS, hostile_run
from support.synthetic_run import LLADA, LLAMA, failed, target_cell, tiny_run

RUN = tiny_run(batches=(1, 8), blocks=(None,), steps=(4, 16, 64), repetitions=12)
STUDY = analyse(RUN, draws=200)
COLOUR = re.compile(r'"(#[0-9a-f]{6})"', re.IGNORECASE)


class Reader(HTMLParser):
    """Every element with its attributes, scripts with their text, and all text that is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.shown: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif not self.open or self.open[-1] != "style":
            self.shown.append(data)

    def packed(self, name: str) -> str:
        text = next(text for attributes, text in self.scripts if attributes.get("id") == name)
        return gzip.decompress(base64.b64decode(text)).decode()


@pytest.fixture(scope="module")
def read() -> Reader:
    return Reader(page.compose(Source(RUN, STUDY)))


# ---------------------------------------------------------------- the first screen


def test_the_first_screen_is_headline_rows_and_one_figure(read):
    order = [a.get("id") or a.get("data-value") for _, a in read.elements if a.get("id") or a.get("data-value")]
    assert order.index("headline") < order.index("b1-p64-g64.workload") < order.index("figure-pareto_frontier")
    assert (
        order.index("figure-pareto_frontier") < order.index("figures") < order.index("cells") < order.index("findings")
    )
    parts = [a for tag, a in read.elements if tag == "details" and a.get("id")]
    assert [a["id"] for a in parts] == ["figures", "cells", "findings", "missing", "how"]
    assert not any("open" in a for a in parts), "evidence is one click away"
    links = [a["data-find"] for _, a in read.elements if "data-find" in a]
    assert links == ["B=1 P=64 G=64", "B=8 P=64 G=64"]


def test_s_parity_and_break_even_are_explained_where_they_stand(read):
    tips = [a["title"] for tag, a in read.elements if tag == "abbr"]
    assert [t.partition(":")[0] for t in tips] == ["S_parity", "k*"]


@pytest.mark.parametrize(
    "run",
    [
        tiny_run(roles=("target",), batches=(1,), steps=(4, 8)),
        tiny_run(roles=("baseline",), batches=(1,)),
        tiny_run(steps=(16,), batches=(1,), repetitions=3),
        replace(RUN, results=tuple(failed(r.cell) for r in RUN.results)),
        replace(RUN, cells=(), results=(), text_scores=(), environment=None),
    ],
    ids=["no baseline", "no target", "one K", "all failed", "nothing"],
)
def test_degenerate_runs_have_a_page_that_says_what_is_missing(run):
    reader = Reader(page.compose(Source(run, analyse(run, draws=20))))
    text = " ".join(" ".join(reader.shown).split())
    assert "What was not measured" in text
    assert "None" not in text.replace("None of", "")
    assert "nan" not in text.split()


# ---------------------------------------------------------------- one file


def test_nothing_on_the_page_points_outside(read):
    for tag, attributes in read.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith("#"), (tag, name, value)
    policy = next(a["content"] for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert "https:" not in policy


def test_the_policy_names_the_two_scripts_by_their_hashes(read):
    policy = next(a["content"] for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    own = [text for attributes, text in read.scripts if attributes.get("type") != "text/plain"]
    assert len(own) == 1
    assert page.script_hash(own[0]) in policy
    assert page.script_hash(read.packed("vega")) in policy
    assert policy.count("sha256-") == 2


def test_a_figure_of_the_page_that_leaves_nothing_out_does_not_say_so():
    run = tiny_run(batches=(1, 2, 4))
    captions = {f.name: f.caption for f in figures_of(run, analyse(run, draws=20))}
    assert captions["pareto_frontier"].startswith("Quality")
    assert not any("panels;" in caption for caption in captions.values())


def test_figures_on_the_page_hold_their_points(read):
    drawn = [a["data-plot"].removeprefix("plot-") for _, a in read.elements if "data-plot" in a]
    assert drawn[0] == "pareto_frontier"
    assert len(drawn) >= 6
    for name in drawn:
        module = registry.load("figures", name)
        frame = module.points(RUN, STUDY)
        assert read.packed(f"csv-{name}") == csv_of(frame)
        plot = json.loads(read.packed(f"plot-{name}"))
        assert any(plot["datasets"].values())
    latency = json.loads(read.packed("plot-latency_vs_steps"))
    shown = sorted(r["latency_s"] for rows in latency["datasets"].values() for r in rows if r["kind"] == "curve")
    assert shown == pytest.approx(sorted(p.latency.median for c in STUDY.curves for p in c.points), rel=1e-5)


def test_every_colour_of_a_figure_has_a_dark_counterpart(read):
    light = set(style.DARK)
    assert len(light) == len(style.DARK)
    for _, attributes in read.elements:
        if name := attributes.get("data-plot"):
            used = {c.lower() for c in COLOUR.findall(read.packed(name))}
            assert used
            assert used <= light, (name, used - light)


def test_cells_are_all_in_the_table(read):
    table = json.loads(read.packed("cells-data"))
    cells = sorted(STUDY.cells, key=lambda c: c.cell.batch_size)  # the only thing in which the workloads differ
    assert [c.cell.model.role for c in cells[:2]] == ["baseline", "target"]
    assert table["ids"] == [c.cell.id for c in cells]
    columns = {c["key"]: c["texts"] for c in table["columns"]}
    latency = next(c for c in table["columns"] if c["key"] == "latency")
    expected = [None if not c.latency else float(f"{c.latency.median * 1e3:.5g}") for c in cells]
    assert latency["value"] == expected
    assert latency["low"] == [float(f"{c.latency.low * 1e3:.5g}") for c in cells]
    assert columns["latency"] == [spread(c.latency.interval.times(1e3)) for c in cells]
    lead = [c["key"] for c in table["columns"]][:6]
    assert lead == ["model", "steps", "batch", "latency", "speedup", "shown"]
    assert not {"prompt", "new", "status"} & set(columns)  # the same in every cell, hence named above the table
    assert any("The same in all rows: P: 64; G: 64;" in text for text in read.shown)
    assert set(table["constant"]) >= {"p=64", "prompt=64", "g=64", "status=ok"}
    assert set(columns["parity"]) == {"", "worse"}
    assert set(columns["shown"]) == {"", "faster", "slower"}
    assert "energy" not in columns  # measured nowhere, hence named among what is missing
    assert any("energy" in after for what, after in itertools.pairwise(read.shown) if what == "In no cell")


def test_random_weights_and_uncommitted_changes_are_on_the_first_screen_and_texts_not_shown():
    run = tiny_run(batches=(1,), weights="random", steps=(4, 16), repetitions=5)
    run = replace(run, environment=replace(run.environment, git_commit="abc-dirty"))
    reader = Reader(page.compose(Source(run, analyse(run, draws=20))))
    first_screen = reader.shown[: reader.shown.index("batch, prompt + new tokens")]
    assert any(text.startswith("Speed only: random weights.") for text in first_screen)
    assert any("with uncommitted changes" in text for text in first_screen)
    assert any(text.startswith("Random weights (") for text in first_screen)
    assert style.RANDOM_WEIGHTS in json.loads(reader.packed("plot-latency_vs_steps"))["title"]
    assert not [a for _, a in reader.elements if a.get("id") == "texts"]


# ---------------------------------------------------------------- text is untrusted


def test_hostile_text_is_shown_and_never_markup(tmp_path):
    run = hostile_run(tmp_path)
    reader = Reader(page.compose(Source(run, analyse(run, draws=20))))
    assert [a for a, _ in reader.scripts if a.get("type") != "text/plain"] == [{}]
    allowed = {"html", "head", "meta", "title", "style", "body", "a", "header", "main", "footer", "nav", "section"}
    allowed |= {"article", "h1", "h2", "h3", "p", "span", "b", "i", "em", "sub", "div", "dl", "dt", "dd", "ul", "li"}
    allowed |= {"details", "summary", "figure", "figcaption", "button", "script", "noscript", "code", "label", "input"}
    allowed |= {
        "select",
        "option",
        "form",
        "output",
        "table",
        "caption",
        "colgroup",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    allowed |= {"abbr"}
    assert {tag for tag, _ in reader.elements} <= allowed
    for _, attributes in reader.elements:
        assert not [n for n in attributes if n.startswith("on")]
        assert "javascript:" not in (attributes.get("href") or "")
    text = "".join(reader.shown)
    for attack in ATTACKS:
        assert attack in text, attack
    for _, attributes in reader.elements:
        if name := attributes.get("data-plot"):
            assert "<script" not in reader.packed(name)
            assert "<img" not in reader.packed(name)


def test_no_field_of_any_csv_is_a_formula(tmp_path):
    run = hostile_run(tmp_path)
    study = analyse(run, draws=20)
    tables = [raw_metrics(run.results)]
    for name in registry.names("figures"):
        module = registry.load("figures", name)
        tables.append(csv_of(module.points(run, study)))
    fields = [f for table in tables for row in csv.reader(io.StringIO(table)) for f in row]
    assert any(f.startswith("'=cmd") for f in fields)
    for field in fields:
        if field and field[0] in "=+-@\t\r\n＝":
            float(field)  # a number may be negative


def test_a_page_is_the_same_file_every_time(tmp_path):
    first, again = (page.write(Source(RUN, STUDY), folder).read_bytes() for folder in (tmp_path, tmp_path))
    assert first == again
    assert len(first) < 6e6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html"]


def test_left_out_and_failed_cells_are_named_with_their_reason():
    lost = target_cell(64, None, 8)
    results = tuple(failed(r.cell, reason="needs 90 GiB") if r.cell.id == lost.id else r for r in RUN.results)
    run = replace(RUN, results=results, left_out=(LeftOut("llada K=3", "steps 3 is no multiple"),))
    text = " ".join(Reader(page.compose(Source(run, analyse(run, draws=20)))).shown)
    assert "needs 90 GiB" in text
    assert "steps 3 is no multiple" in text
    assert "llada K=3" in text
    assert LLAMA.key in text
    assert LLADA.key in text


def test_the_package_carries_its_templates():
    folder = Path(page.__file__).parent / "templates"
    assert {"page.html.j2", "page.css", "page.js"} <= {p.name for p in folder.iterdir()}
