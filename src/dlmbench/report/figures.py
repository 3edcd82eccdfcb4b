"""The figures of a report: pictures beside the document, interactive plots in the page."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import pandas as pd

from dlmbench import registry
from dlmbench.analysis.results import Study
from dlmbench.charts import style
from dlmbench.charts.frames import why_missing
from dlmbench.charts.write import (
    caption,
    csv_of,
    figures_folder,
    names_in_order,
    panel_titles,
    specification,
    write_one,
)
from dlmbench.report.source import ReportFigure
from dlmbench.types import Run

# With more panels than this the page shows one at a time and a menu to choose it.
MOST_PANELS = 8


def document_figures(run: Run, study: Study, folder: Path, number: int | None = None) -> tuple[ReportFigure, ...]:
    """Every figure for a document in `folder`; pictures that do not exist yet are drawn.

    number: of the run among several in one document, whose figures then have a folder each.
    """
    own = folder / "figures"
    if number is not None:
        own /= f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', run.name).strip('-')[:40]}"
    places = [own]
    # A run in raw_data has its figures beside it; any other folder gets its own, so that it can be moved.
    if folder.resolve() == Path(run.folder).resolve():
        places.append(figures_folder(folder))

    def with_picture(figure: ReportFigure, module: ModuleType, frame: pd.DataFrame) -> ReportFigure:
        picture = next((p / f"{figure.name}.png" for p in places if (p / f"{figure.name}.png").is_file()), None)
        if picture is None:
            own.mkdir(parents=True, exist_ok=True)
            picture = write_one(figure.name, module, frame, own)[0]
        text = caption(module, frame, specification(module, frame))
        return replace(figure, caption=text, picture=quote(Path(os.path.relpath(picture, folder)).as_posix()))

    return tuple(_figure(run, study, name, with_picture) for name in registry.names("figures"))


def page_figures(run: Run, study: Study) -> tuple[ReportFigure, ...]:
    """Every figure in the page's order, those not measured included."""
    return tuple(_figure(run, study, name, _with_plot) for name in names_in_order())


def _figure(
    run: Run, study: Study, name: str, complete: Callable[[ReportFigure, ModuleType, pd.DataFrame], ReportFigure]
) -> ReportFigure:
    figure = ReportFigure(name, re.split(r"[,:]", registry.summary("figures", name))[0].rstrip("."))
    try:
        module = registry.load("figures", name)
        return complete(figure, module, module.points(run, study))
    except Exception as error:  # a figure that fails is named; the report is written without it
        return replace(figure, missing=f"Not drawn: {type(error).__name__}: {error}")


def _with_plot(figure: ReportFigure, module: ModuleType, frame: pd.DataFrame) -> ReportFigure:
    if why := why_missing(frame):
        return replace(figure, missing=why)
    spec = specification(module, frame) | {"config": style.config(12, is_print=False), "description": figure.title}
    panels = panel_titles(spec)
    rows = 1 if len(panels) > MOST_PANELS else -(-len(panels) // 2) or 1
    return replace(
        figure,
        caption=caption(module, frame),
        # Names may come from a user's file: no text of a figure can be a tag.
        plot=packed(json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
        csv=packed(csv_of(frame)),
        height_px=260 * rows + 120,
        views=tuple(panels if len(panels) > MOST_PANELS else ()),
    )


def packed(text: str) -> str:
    """Text as base64 of gzip, the same bytes every time."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")
