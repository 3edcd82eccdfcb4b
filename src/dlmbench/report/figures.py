"""The figures of a report: pictures beside the document, interactive plots in the page."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dlmbench import registry
from dlmbench.analysis.results import Study
from dlmbench.charts import style
from dlmbench.charts.frames import why_missing
from dlmbench.charts.write import caption, csv_of, names_in_order, panel_titles, specification, write_one
from dlmbench.report.source import DocumentFigure
from dlmbench.types import Run

# With more panels than this the page shows one at a time and a menu to choose it.
MOST_PANELS = 8


def document_figures(run: Run, study: Study, folder: Path) -> tuple[DocumentFigure, ...]:
    """Every figure for a document in `folder`; pictures that do not exist yet are drawn."""
    own = folder / "figures"
    places = [own]
    # A run in raw_data has its figures beside it; any other folder gets its own, so that it can be moved.
    if folder.resolve() == Path(run.folder).resolve() and folder.resolve().name == "raw_data":
        places.append(folder.parent / "figures")
    found = []
    for name in registry.names("figures"):
        title = registry.summary("figures", name).rstrip(".")
        try:
            module = registry.load("figures", name)
            frame = module.points(run, study)
            if why := why_missing(frame):
                found.append(DocumentFigure(title, f"{why}.", ""))
                continue
            picture = next((p / f"{name}.png" for p in places if (p / f"{name}.png").is_file()), None)
            if picture is None:
                own.mkdir(parents=True, exist_ok=True)
                picture = write_one(name, module, frame, own)[0]
            relative = quote(Path(os.path.relpath(picture, folder)).as_posix())
            found.append(DocumentFigure(title, caption(module, frame, specification(module, frame)), relative))
        except Exception as error:  # a figure that fails is named; the document is written without it
            found.append(DocumentFigure(title, f"{type(error).__name__}: {error}.", ""))
    return tuple(found)


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page: `plot` and `csv` packed. `missing`: why nothing could be drawn."""

    name: str
    title: str
    caption: str = ""
    missing: str = ""
    plot: str = ""
    csv: str = ""
    height_px: int = 0
    views: tuple[str, ...] = ()


def page_figures(run: Run, study: Study) -> tuple[PageFigure, ...]:
    """Every figure in the page's order, those not measured included."""
    return tuple(_page_figure(run, study, name) for name in names_in_order())


def _page_figure(run: Run, study: Study, name: str) -> PageFigure:
    title = re.split(r"[,:]", registry.summary("figures", name))[0].rstrip(".")
    try:
        module = registry.load("figures", name)
        frame = module.points(run, study)
        if why := why_missing(frame):
            return PageFigure(name, title, missing=why)
        spec = specification(module, frame) | {"config": style.config(12, is_print=False), "description": title}
        panels = panel_titles(spec)
        rows = 1 if len(panels) > MOST_PANELS else -(-len(panels) // 2) or 1
        return PageFigure(
            name,
            title,
            caption(module, frame),
            # Names may come from a user's file: no text of a figure can be a tag.
            plot=packed(json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
            csv=packed(csv_of(frame)),
            height_px=260 * rows + 120,
            views=tuple(panels if len(panels) > MOST_PANELS else ()),
        )
    except Exception as error:  # a figure that fails is named; the page is written without it
        return PageFigure(name, title, missing=f"it could not be drawn ({type(error).__name__}: {error})")


def packed(text: str) -> str:
    """Text as base64 of gzip, the same bytes every time."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")
