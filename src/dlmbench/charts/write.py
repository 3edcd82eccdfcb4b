"""Draw the figure plug-ins, and write every figure of a run as PNG and PDF, its points as CSV.

Each figure is one Vega-Lite specification. vl-convert draws it for print; the page draws the same one in the browser.
Files appear whole or not at all (written under another name, then renamed). A figure that fails is reported, and its
files say so; the others are drawn all the same.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from dlmbench import registry
from dlmbench.analysis.study import Study
from dlmbench.charts import style
from dlmbench.charts.frames import why_missing
from dlmbench.errors import BenchError
from dlmbench.results import spreadsheet_field
from dlmbench.results.journal import write_error
from dlmbench.types import Run

DPI, POINTS_PER_INCH = 300, 72
WIDTH_PT = 3.4 * POINTS_PER_INCH  # a column of a two-column paper
FONT_PT, LETTER_PT = 7.0, 3.9
MOST_PRINTED_PANELS = 4
Spec = dict[str, Any]
_LAST = 1_000_000  # the ORDER of a figure without one
_LOG = logging.getLogger("dlmbench.figures")


def write_all(run: Run, study: Study, folder: Path) -> list[Path]:
    """Draw every figure into `folder` and return the files written: PNG, PDF and CSV.

    A figure that fails is logged as a warning.

    Raises:
        BenchError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, folder) from error
    written: list[Path] = []
    for name in registry.names("figures"):
        try:
            module = registry.load("figures", name)
            written += write_one(name, module, module.points(run, study), folder)
        except BenchError:
            raise
        except Exception as error:  # the other figures are drawn whatever happens to one
            _LOG.warning("figure %s could not be drawn: %s: %s", name, type(error).__name__, error)
            failure = style.notice(f"this figure could not be drawn ({type(error).__name__}: {error})")
            written += _pictures(failure.to_dict(), folder, name)
    return written


def names_in_order() -> list[str]:
    """The figures by their ORDER, then those without one (or that cannot be imported), by name."""
    orders = {name: registry.attribute("figures", name, "ORDER", _LAST) for name in registry.loadable("figures")}
    return sorted(registry.names("figures"), key=lambda name: (orders.get(name, _LAST), name))


def figures_folder(run_folder: Path) -> Path:
    """Where a run's figures go: beside a folder named raw_data, inside any other."""
    return run_folder.parent / "figures" if run_folder.resolve().name == "raw_data" else run_folder / "figures"


def write_one(name: str, module: ModuleType, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """The pictures and the CSV of the figure `name` from its table of points."""
    csv = csv_of(frame).encode()
    return [*_pictures(specification(module, frame), folder, name), _save(csv, folder / f"{name}.csv")]


def csv_of(frame: pd.DataFrame) -> str:
    """The points as CSV, in which no spreadsheet takes a text for a formula."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    return frame.assign(**texts.map(spreadsheet_field)).to_csv(index=False, lineterminator="\n")


# ---------------------------------------------------------------- one figure: text and specification


def caption(module: ModuleType, frame: pd.DataFrame, spec: Spec | None = None) -> str:
    """The text under the figure; of a printed `spec` also how many of its panels are printed."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    text = str(module.caption(frame))
    n = len(panel_titles(spec or {}))
    if n <= MOST_PRINTED_PANELS:
        return text
    return f"{text} Drawn: {MOST_PRINTED_PANELS} of {n} panels; the page has all of them."


def specification(module: ModuleType, frame: pd.DataFrame) -> Spec:
    """The figure as Vega-Lite, marked where weights are random; a note where nothing was measured."""
    if why := why_missing(frame):
        return dict(style.notice(f"not measured: {why}").to_dict())
    with alt.data_transformers.disable_max_rows():
        spec = dict(module.chart(frame).to_dict())
    if (frame["weights"] == "random").any():
        spec["title"] = style.RANDOM_WEIGHTS
    marks = json.dumps({key: value for key, value in spec.items() if key != "datasets"})
    for name, rows in spec.get("datasets", {}).items():
        spec["datasets"][name] = [{c: v for c, v in row.items() if c == "kind" or c in marks} for row in rows]
    return spec


def panel_titles(spec: Spec) -> list[str]:
    """The titles of the panels, none for a chart without panels."""
    facet = spec.get("facet", {})
    return list(facet.get("sort", [])) if facet.get("field") == "panel" else []


# ---------------------------------------------------------------- print


def svg(spec: Spec) -> str:
    """The figure in a paper's column, 3.4 inches wide, at most four panels of it."""
    printed = copy.deepcopy(spec)
    printed["config"] = style.config(FONT_PT, is_print=True)
    inner, columns = printed, 1
    if titles := panel_titles(spec):
        inner = printed["spec"]
        columns = printed["columns"] = min(printed.get("columns", 1), len(titles))
        _keep_panels(printed, titles)
    _fit_legends(printed)
    inner["width"] = (WIDTH_PT - 40) / columns - 10
    inner.setdefault("height", 120 if columns == 1 else 85)
    drawn = vl_convert.vegalite_to_svg(printed)
    # Labels need space that only drawing tells: what is too wide or too narrow is given to the panels.
    found = re.search(r'<svg[^>]* width="([\d.]+)"', drawn)
    assert found is not None
    inner["width"] = max(inner["width"] + (WIDTH_PT - 1 - float(found[1])) / columns, 40)
    return vl_convert.vegalite_to_svg(printed)


def _keep_panels(spec: Spec, titles: list[str]) -> None:
    """At most four panels, evenly chosen, their titles wrapped to the width of a panel."""
    n = min(len(titles), MOST_PRINTED_PANELS)
    kept = [titles[round(i * (len(titles) - 1) / max(n - 1, 1))] for i in range(n)]
    letters = int((WIDTH_PT - 40) / spec["columns"] / LETTER_PT) - 2
    wrapped = {t: "\n".join(textwrap.wrap(t, letters)) for t in kept}
    spec["facet"]["sort"] = list(wrapped.values())
    spec["facet"].setdefault("header", {})["labelLimit"] = (WIDTH_PT - 45) / spec["columns"]
    for name, rows in spec["datasets"].items():
        spec["datasets"][name] = [r | {"panel": wrapped[r["panel"]]} for r in rows if r["panel"] in wrapped]


def _fit_legends(part: Any) -> None:
    """Long names are cut, and a legend has as many columns as its names leave space for."""
    if isinstance(part, dict):
        if isinstance(part.get("legend"), dict) and (domain := (part.get("scale") or {}).get("domain")):
            longest = max(len(str(d)) for d in domain)
            across = int((WIDTH_PT - 45) // (LETTER_PT * longest + 20))
            part["legend"] |= {"columns": min(max(across, 1), len(domain)), "labelLimit": WIDTH_PT - 70}
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _fit_legends(inner)


# ---------------------------------------------------------------- files


def _pictures(spec: Spec, folder: Path, name: str) -> list[Path]:
    drawn = svg(spec)
    png = vl_convert.svg_to_png(drawn, scale=1, ppi=DPI)
    return [_save(png, folder / f"{name}.png"), _save(vl_convert.svg_to_pdf(drawn), folder / f"{name}.pdf")]


def _save(content: bytes, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
