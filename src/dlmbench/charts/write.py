"""Write every figure of a run: a PNG for the eye, a PDF for a paper, and beside them the points shown as CSV.

Files appear whole or not at all (written under another name, then renamed). A figure that fails is reported and leaves
a panel that says so; the others are not held up by it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from dlmbench import registry
from dlmbench.analysis.study import Study
from dlmbench.charts import style
from dlmbench.results import spreadsheet_field
from dlmbench.types import Run

PICTURES = ("png", "pdf")
_LOG = logging.getLogger("dlmbench.figures")


def write_all(
    run: Run, study: Study, folder: Path, on_error: Callable[[str, Exception], None] | None = None
) -> list[Path]:
    """Draw every figure into `folder` and return the files written: PNG, PDF and CSV.

    A figure that fails is handed to `on_error` with its name (by default: logged as a warning).
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name in registry.names("figures"):
        try:
            module = registry.load("figures", name)
            written += write_one(module, module.points(run, study), folder)
        except Exception as error:  # whatever one figure does, the next one is drawn
            if on_error is not None:
                on_error(name, error)
            else:
                _LOG.warning("figure %s could not be drawn: %s: %s", name, type(error).__name__, error)
            failure = style.new_figure()
            style.not_measured(failure, f"this figure could not be drawn ({type(error).__name__}: {error})")
            written += _pictures(failure, folder, name)
    return written


def figures_folder(run_folder: Path) -> Path:
    """Where a run's figures go: beside a folder named raw_data, inside any other."""
    return run_folder.parent / "figures" if run_folder.resolve().name == "raw_data" else run_folder / "figures"


def write_one(module: ModuleType, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """One figure's pictures and CSV from its table of points."""
    return [*_pictures(render(module, frame), folder, module.NAME), _table(frame, folder / f"{module.NAME}.csv")]


def csv_of(frame: pd.DataFrame) -> str:
    """The points as CSV, whose texts no spreadsheet runs as a formula."""
    plain = frame.copy()
    for column in plain:
        if not pd.api.types.is_numeric_dtype(plain[column]):
            plain[column] = plain[column].map(spreadsheet_field)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def render(module: ModuleType, frame: pd.DataFrame) -> Figure:
    """The figure, drawn in the shared style, for a PNG or a document."""
    with mpl.rc_context(dict(style.RC)):
        figure = style.new_figure()
        module.draw(frame, figure)
    return figure


def _pictures(figure: Figure, folder: Path, name: str) -> list[Path]:
    paths = []
    for ending in PICTURES:
        paths.append(_save(figure, folder / f"{name}.{ending}"))
        # Where everything goes is found once; it takes longer than drawing.
        figure.set_layout_engine("none")
    return paths


def _save(figure: Figure, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with mpl.rc_context(dict(style.RC)):
            # Without its date, a PDF of the same points is the same file.
            dated: dict[str, Any] = {"metadata": {"CreationDate": None}} if path.suffix == ".pdf" else {}
            figure.savefig(partial, format=path.suffix[1:], dpi=style.DPI, **dated)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _table(frame: pd.DataFrame, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(csv_of(frame), encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
