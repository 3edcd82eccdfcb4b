"""What the document is made of: a run, its study, what its experiment file said, its figures and some of its texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dlmbench import registry
from dlmbench.analysis.study import CellSummary, Curve, Study
from dlmbench.charts.write import caption, write_one
from dlmbench.errors import BenchError
from dlmbench.results import GENERATIONS, read_generations
from dlmbench.types import Cell, CellResult, ModelSpec, PromptSettings, ProtocolSettings, Run, from_mapping

EXPERIMENT = "experiment.json"
# The published checkpoints that the study is about; anything else is said to be something else.
PUBLISHED = ("meta-llama/Meta-Llama-3-8B", "GSAI-ML/LLaDA-8B-Base")
FAMILIES = {"llada": "LLaDA", "llama": "LLaMA"}


@dataclass(frozen=True)
class Settings:
    """What the experiment file said beyond the cells; None and empty where the folder does not keep it."""

    description: str = ""
    protocol: ProtocolSettings | None = None
    prompts: PromptSettings | None = None
    metrics: tuple[str, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A figure: its title, its caption, and where its picture lies relative to the document."""

    title: str
    caption: str
    path: str


@dataclass(frozen=True)
class Source:
    """One run and everything the document says of it."""

    run: Run
    study: Study
    settings: Settings
    figures: tuple[Drawn, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.run.name

    @cached_property
    def results(self) -> Mapping[str, CellResult]:
        """Results by cell id."""
        return {r.cell.id: r for r in self.run.results}

    @cached_property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every model that has a cell, baselines first."""
        found = dict.fromkeys(s.cell.model for s in self.study.cells)
        return tuple(sorted(found, key=lambda m: m.role != "baseline"))

    @property
    def random(self) -> tuple[str, ...]:
        """The models whose weights are random."""
        return tuple(m.key for m in self.models if m.weights == "random")

    @property
    def targets(self) -> tuple[CellSummary, ...]:
        """Every diffusion cell."""
        return tuple(s for s in self.study.cells if s.cell.model.role == "target")

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves over K."""
        return self.study.curves

    def of_role(self, role: str) -> tuple[CellSummary, ...]:
        """All cells of the baseline or the target."""
        return tuple(s for s in self.study.cells if s.cell.model.role == role)

    def values(self, name: str, role: str | None = None) -> tuple[Any, ...]:
        """The values that a cell's attribute or knob takes, ascending where they can be ordered."""
        cells = (s.cell for s in self.study.cells if role in (None, s.cell.model.role))
        return ordered(setting(c, name) for c in cells)


def setting(cell: Cell, name: str) -> Any:
    """An attribute of a cell, or the knob of that name."""
    return getattr(cell, name) if hasattr(cell, name) else cell.knob(name)


def ordered(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each value once, None left out, numbers ascending."""
    found = [v for v in dict.fromkeys(values) if v is not None]
    numbers = all(isinstance(v, int | float) for v in found)
    return tuple(sorted(found)) if numbers else tuple(found)


def model_words(model: ModelSpec) -> str:
    """A model as a reader knows it."""
    family = FAMILIES.get(model.family, model.family)
    if model.weights == "random":
        return f"{model.key}: {family} of shape {model.source}, random weights"
    revision = f", revision {model.revision}" if model.revision else ""
    return f"{model.key}: {family}, {model.source}{revision}"


def load_settings(run: Run) -> Settings:
    """What experiment.json of the run's folder says; nothing where there is none.

    Raises:
        BenchError: the file is there and is not what dlmbench wrote.
    """
    path = Path(run.folder) / EXPERIMENT
    if not path.is_file():
        return Settings()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Settings(
            description=str(saved.get("description", "")),
            protocol=from_mapping(ProtocolSettings, saved["protocol"]),
            prompts=from_mapping(PromptSettings, saved["prompts"]),
            metrics=tuple(map(str, saved.get("metrics", ()))),
            hardware=dict(saved.get("hardware", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{path} is not the file dlmbench wrote ({error})", "Take it from a backup, or delete it"
        ) from error


def load(run: Run, study: Study, folder: Path, number: int | None = None) -> Source:
    """Everything about one run, with its figures; those whose pictures are not there are drawn.

    number: of the run among several in one document, whose figures then lie in a folder each.
    """
    return Source(run, study, load_settings(run), _figures(run, study, folder, number))


def _figures(run: Run, study: Study, folder: Path, number: int | None) -> tuple[Drawn, ...]:
    own = folder / "figures"
    if number is not None:
        own /= f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', run.name).strip('-')[:40]}"
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
            picture = next((p / f"{name}.png" for p in places if (p / f"{name}.png").is_file()), None)
            if picture is None:
                own.mkdir(parents=True, exist_ok=True)
                picture = write_one(name, module, frame, own)[0]
            relative = quote(Path(os.path.relpath(picture, folder)).as_posix())
            found.append(Drawn(title, caption(module, frame), relative))
        except Exception as error:  # whatever one figure does, the document stands and says so
            found.append(Drawn(title, f"Not drawn: {type(error).__name__}: {error}.", ""))
    return tuple(found)


def sample_texts(source: Source, cells: Iterable[Cell]) -> tuple[tuple[Cell, str], ...]:
    """The generated text of the first prompt that all of `cells` have a text for."""
    wanted = list(cells)
    if not (Path(source.run.folder) / GENERATIONS).is_file():
        return ()
    texts: dict[str, dict[int, str]] = {}
    for g in read_generations(Path(source.run.folder)):
        if g.text:
            texts.setdefault(g.cell_id, {})[g.prompt_index] = g.text
    shared = set.intersection(*(set(texts.get(c.id, {})) for c in wanted)) if wanted else set()
    return tuple((c, texts[c.id][min(shared)]) for c in wanted) if shared else ()
