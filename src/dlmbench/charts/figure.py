"""The figures of a run: each a table of points, a caption and one chart, which print and page draw.

A chart is a Vega-Lite specification. vl-convert draws it as PNG and PDF in a paper's column; the page draws the same
one in the browser. Both show at most four of its panels; the page's appendix has all. Files appear whole or not at all.
A figure that fails is named with its reason, and stops no other.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import logging
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unicodedata import east_asian_width
from urllib.parse import quote

import altair as alt
import pandas as pd
import vl_convert
from altair.utils.schemapi import debug_mode

from dlmbench import registry
from dlmbench.analysis.results import Study
from dlmbench.charts import style
from dlmbench.charts.frames import why_missing
from dlmbench.results import spreadsheet_field
from dlmbench.results.journal import replace_file, write_error
from dlmbench.types import Run

DPI = 300
MOST_PANELS = 4
MOST_LINES = 2  # of a panel's title
ENDINGS = ("png", "pdf", "csv")
Spec = dict[str, Any]
_LAST = 1_000_000  # the ORDER of a figure without one
_LOG = logging.getLogger("dlmbench.figures")


@dataclass(frozen=True)
class Figure:
    """A figure of a run. missing: why there is nothing to draw, "" where there is.

    csv: its points. spec: its chart, with all panels. picture: the PNG's path relative to the run's folder, once drawn.
    """

    name: str
    title: str
    missing: str = ""
    caption: str = ""
    csv: str = ""
    spec: Spec = field(default_factory=dict)
    picture: str = ""

    @property
    def panels(self) -> list[str]:
        """The titles of all panels."""
        return panel_titles(self.spec)

    @property
    def plot(self) -> str:
        """The chart as JSON for the page, in which no text can be a tag, whatever names a user's file has."""
        spec = self.spec | {"config": style.config(12, is_print=False), "description": self.title}
        spec["usermeta"] = {"shown": shown_panels(self.spec)}
        return json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def figures_of(run: Run, study: Study) -> tuple[Figure, ...]:
    """Every figure in the order of the page: by ORDER, then those without one by name."""
    orders = {name: registry.attribute("figures", name, "ORDER", _LAST) for name in registry.loadable("figures")}
    names = sorted(registry.names("figures"), key=lambda name: (orders.get(name, _LAST), name))
    return tuple(_figure(run, study, name) for name in names)


def _figure(run: Run, study: Study, name: str) -> Figure:
    figure = Figure(name, re.split(r"[,:]", registry.summary("figures", name))[0].rstrip("."))
    try:
        module = registry.load("figures", name)
        frame = module.points(run, study)
        # A series has the same colour in all figures, also in those that lack some series.
        targets = (c.cell for c in study.cells if c.cell.model.role == "target")
        frame.attrs["series"] = list(dict.fromkeys(map(study.label, targets)))
        if why := why_missing(frame):
            return replace(figure, missing=why)
        spec = specification(module, frame)
        return replace(figure, caption=caption(module, frame, spec), csv=csv_of(frame), spec=spec)
    except Exception as error:  # the other figures are drawn whatever happens to one
        return _failed(figure, error)


def _failed(figure: Figure, error: Exception) -> Figure:
    why = f"it could not be drawn ({type(error).__name__}: {error})"
    _LOG.warning("figure %s: %s", figure.name, why)
    return Figure(figure.name, figure.title, missing=why)


def csv_of(frame: pd.DataFrame) -> str:
    """The points as CSV, in which no spreadsheet takes a text for a formula.

    Whole numbers are exact; others have six digits, more than any interval allows, as a fit's last ones depend on the
    machine that computes it.
    """
    texts = frame.select_dtypes(exclude=["number", "bool"])
    columns = frame.assign(**texts.map(spreadsheet_field))
    return columns.to_csv(index=False, lineterminator="\n", float_format=_digits)


def _digits(value: object) -> str:
    number = float(str(value))
    return f"{number:.0f}" if number.is_integer() else f"{number:.6g}"


def caption(module: ModuleType, frame: pd.DataFrame, spec: Spec) -> str:
    """The text under the figure, with what its panels share and how many of them are left out."""
    texts, titles = [str(module.caption(frame))], panel_titles(spec)
    if same := spec.get("usermeta", {}).get("same"):
        texts.append(f"In all panels: {same}.")
    if any(re.search(r"\d\+\d+ tokens", title) for title in titles):
        texts.append("Titles: prompt + new tokens.")
    if len(titles) > MOST_PANELS:
        texts.append(f"{MOST_PANELS} of {len(titles)} panels; the report's page has all.")
    return " ".join(texts)


def specification(module: ModuleType, frame: pd.DataFrame) -> Spec:
    """The chart of a figure as Vega-Lite, stamped where weights are random."""
    # Altair checks against its schema for seconds; tests do that for the figures here.
    alt.data_transformers.disable_max_rows()
    with debug_mode(False):
        drawn = module.chart(frame)
        spec = drawn if isinstance(drawn, dict) else drawn.to_dict(validate=False)
    if (frame["weights"] == "random").any():
        spec["title"] = style.RANDOM_WEIGHTS
    # Of a row only what is drawn.
    marks = json.dumps({key: value for key, value in spec.items() if key != "datasets"})
    for name, rows in spec.get("datasets", {}).items():
        spec["datasets"][name] = [{c: v for c, v in row.items() if c == "kind" or c in marks} for row in rows]
    return spec


def panel_titles(spec: Spec) -> list[str]:
    """The titles of all panels, none for a chart without panels."""
    facet = spec.get("facet", {})
    return list(facet.get("sort", [])) if facet.get("field") == "panel" else []


def shown_panels(spec: Spec) -> list[str]:
    """The titles of the panels in print and first on the page: at most four, evenly chosen over batch sizes first."""
    titles = panel_titles(spec)
    rows = spec["datasets"]["points"] if len(titles) > MOST_PANELS else ()
    batch_size = {row["panel"]: row.get("batch_size") or 0 for row in reversed(rows)}
    ordered = sorted(titles, key=lambda title: batch_size.get(title, 0))
    n = min(len(titles), MOST_PANELS)
    chosen = {ordered[round(i * (len(titles) - 1) / max(n - 1, 1))] for i in range(n)}
    return [title for title in titles if title in chosen]


# ---------------------------------------------------------------- print


def svg(spec: Spec) -> str:
    """The figure in a paper's column, 3.4 inches wide."""
    printed = copy.deepcopy(spec)
    printed["config"] = style.config(style.FONT_PT, is_print=True)
    inner, columns, titles = printed, 1, shown_panels(spec)
    if titles:
        inner, columns = printed["spec"], min(printed.get("columns", 1), len(titles))
        if any(len(_lines(title, columns)) > MOST_LINES for title in titles):
            columns = 1
        printed["columns"] = columns
        _keep_panels(printed, titles)
    inner["width"] = (style.WIDTH_PT - 40) / columns - 10
    inner.setdefault("height", 85 if columns > 1 else 60 if len(titles) > 1 else 120)
    drawn = vl_convert.vegalite_to_svg(printed)
    # Labels need space that only drawing tells: what is too wide or too narrow is given to the panels.
    found = re.search(r'<svg[^>]* width="([\d.]+)"', drawn)
    assert found is not None
    inner["width"] = max(inner["width"] + (style.WIDTH_PT - 1 - float(found[1])) / columns, 40)
    return vl_convert.vegalite_to_svg(printed)


def _keep_panels(spec: Spec, titles: Sequence[str]) -> None:
    """Only the panels of these titles, broken into lines as wide as a panel, and only their names in the legend."""
    lines = json.dumps({title: _cut(_lines(title, spec["columns"])) for title in titles})
    spec["facet"]["sort"] = list(titles)
    spec["facet"]["header"] = {"labelExpr": f"({lines})[datum.label]"}
    spec["facet"]["header"]["labelLimit"] = (style.WIDTH_PT - 60) / spec["columns"]
    for name, rows in spec["datasets"].items():
        spec["datasets"][name] = [row for row in rows if row["panel"] in titles]
    _fit_legends(spec["spec"], [row for rows in spec["datasets"].values() for row in rows])


def _fit_legends(part: object, rows: Sequence[Spec]) -> None:
    """Every legend in this part of a chart with the names that `rows` have, and no other."""
    if isinstance(part, list):
        for item in part:
            _fit_legends(item, rows)
    if not isinstance(part, dict):
        return
    if part.get("legend") and part["type"] == "nominal" and (names := part.get("scale", {}).get("domain")):
        drawn = {row.get(part["field"]) for row in rows}
        part["legend"]["values"] = [name for name in names if name in drawn]
    for item in part.values():
        _fit_legends(item, rows)


def _lines(title: str, columns: int) -> list[str]:
    """A title in lines as wide as a panel of so many side by side; a number stays beside its word."""
    bound = re.sub(r"(?<=\d) | (?=\d)", "\u00a0", title)
    # Chinese letters are twice as wide as others.
    spaced = "".join(c + "\u200b" * (east_asian_width(c) in "WF") for c in bound)
    letters = int((style.WIDTH_PT - 40) / columns / style.LETTER_PT) - 2
    return [line.replace("\u200b", "").replace("\u00a0", " ") for line in textwrap.wrap(spaced, letters)]


def _cut(lines: list[str]) -> list[str]:
    """Of many lines the first and the last, where names of models differ from one another."""
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 2], f"{lines[MOST_LINES - 2]}…", lines[-1]]


# ---------------------------------------------------------------- files


def figures_folder(run_folder: Path) -> Path:
    """Where a run's figures go: beside a folder named raw_data, inside any other."""
    return run_folder.parent / "figures" if run_folder.resolve().name == "raw_data" else run_folder / "figures"


def draw(figures: Sequence[Figure], run_folder: Path) -> tuple[Figure, ...]:
    """The figures with their files written: PNG, PDF and CSV. Earlier files of those not measured are removed.

    Raises:
        BenchError: the folder cannot be written.
    """
    folder = figures_folder(run_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, folder) from error
    drawn = []
    for figure in figures:
        try:
            drawn.append(_with_files(figure, run_folder, folder))
        except (ValueError, RuntimeError) as error:  # as vl-convert raises where a chart is not valid
            drawn.append(_failed(figure, error))
        if drawn[-1].missing:
            for ending in ENDINGS:
                (folder / f"{figure.name}.{ending}").unlink(missing_ok=True)
    return tuple(drawn)


def files_of(figures: Sequence[Figure], run_folder: Path) -> list[Path]:
    """The files of the figures that were drawn."""
    return [figures_folder(run_folder) / f"{f.name}.{ending}" for f in figures if f.picture for ending in ENDINGS]


def _with_files(figure: Figure, run_folder: Path, folder: Path) -> Figure:
    if figure.missing:
        return figure
    picture = svg(figure.spec)
    replace_file(folder / f"{figure.name}.png", vl_convert.svg_to_png(picture, scale=1, ppi=DPI))
    replace_file(folder / f"{figure.name}.pdf", vl_convert.svg_to_pdf(picture))
    replace_file(folder / f"{figure.name}.csv", figure.csv)
    path = Path(os.path.relpath(folder / f"{figure.name}.png", run_folder))
    return replace(figure, picture=quote(path.as_posix()))


def packed(text: str) -> str:
    """Text as base64 of gzip, the same bytes every time."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")
