"""Draw the figure plug-ins, and write every figure of a run as PNG and PDF, its points beside them as CSV.

Files appear whole or not at all (written under another name, then renamed). A figure that fails is reported, and its
files say so; the others are drawn all the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from dlmbench import registry
from dlmbench.analysis.study import Study
from dlmbench.charts import page, style
from dlmbench.charts.frames import why_missing
from dlmbench.results import spreadsheet_field
from dlmbench.types import Run

PICTURES = ("png", "pdf")
_LAST = 1_000_000  # the ORDER of a figure without one
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
            written += write_one(name, module, module.points(run, study), folder)
        except Exception as error:  # the other figures are drawn whatever happens to one
            if on_error is not None:
                on_error(name, error)
            else:
                _LOG.warning("figure %s could not be drawn: %s: %s", name, type(error).__name__, error)
            failure = style.new_figure()
            style.not_measured(failure, f"this figure could not be drawn ({type(error).__name__}: {error})")
            written += _pictures(failure, folder, name)
    return written


def names_in_order() -> list[str]:
    """The figures by their ORDER, then those without one, by name."""

    def order(name: str) -> tuple[int, str]:
        try:
            return getattr(registry.load("figures", name), "ORDER", _LAST), name
        except Exception:  # a figure that cannot be imported is reported where it is drawn
            return _LAST, name

    return sorted(registry.names("figures"), key=order)


def figures_folder(run_folder: Path) -> Path:
    """Where a run's figures go: beside a folder named raw_data, inside any other."""
    return run_folder.parent / "figures" if run_folder.resolve().name == "raw_data" else run_folder / "figures"


def write_one(name: str, module: ModuleType, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """The pictures and the CSV of the figure `name` from its table of points."""
    return [*_pictures(render(module, frame), folder, name), _save(csv_of(frame), folder / f"{name}.csv")]


def csv_of(frame: pd.DataFrame) -> str:
    """The points as CSV, in which no spreadsheet takes a text for a formula."""
    plain = frame.copy()
    for column in plain:
        if not pd.api.types.is_numeric_dtype(plain[column]):
            plain[column] = plain[column].map(spreadsheet_field)
    return str(plain.to_csv(index=False, lineterminator="\n"))


# ---------------------------------------------------------------- one figure: text, picture, interactive


def caption(module: ModuleType, frame: pd.DataFrame, *, on_page: bool = False) -> str:
    """The text under the figure; on the page that of what the page draws, where it draws more than the picture."""
    if why := why_missing(frame):
        return f"Not measured: {why}."
    written = getattr(module, "page_caption", module.caption) if on_page else module.caption
    return str(written(frame))


def render(module: ModuleType, frame: pd.DataFrame) -> Figure:
    """The figure as matplotlib draws it, for a PNG or a document; marked where weights are random."""
    with mpl.rc_context(dict(style.RC)):
        figure = style.new_figure()
        if why := why_missing(frame):
            style.not_measured(figure, why)
            return figure
        module.draw(frame, figure)
        if (frame["weights"] == "random").any():
            figure.suptitle(page.RANDOM_WEIGHTS, color=style.ALARM, fontsize=8.5, fontweight="bold")
    return figure


def interactive(module: ModuleType, frame: pd.DataFrame) -> page.Figure:
    """The figure as plotly draws it on the page."""
    if why := why_missing(frame):
        return page.not_measured(why)
    return module.interactive(frame)


# ---------------------------------------------------------------- files


def _pictures(figure: Figure, folder: Path, name: str) -> list[Path]:
    paths = []
    for ending in PICTURES:
        paths.append(_save(figure, folder / f"{name}.{ending}"))
        # Where everything goes is found once; it takes longer than drawing.
        figure.set_layout_engine("none")
    return paths


def _save(content: Figure | str, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if isinstance(content, str):
            partial.write_text(content, encoding="utf-8", newline="\n")
        else:
            # Without its date, a PDF of the same points is the same file.
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
            with mpl.rc_context(dict(style.RC)):
                content.savefig(partial, format=path.suffix[1:], dpi=style.DPI, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
