"""The commands that make a run again and write its report, with what its experiment file alone would not give."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from dlmbench.analysis.stats import group_by
from dlmbench.errors import BenchError
from dlmbench.experiment import load as configuration
from dlmbench.experiment import plan as grid
from dlmbench.report.text import without_folders
from dlmbench.results.journal import read_json
from dlmbench.results.settings import ExperimentSettings, other_settings
from dlmbench.types import Cell, Experiment, Run

CONFIG = Path(__file__).parents[3] / "config"


def commands_of(run: Run, settings: ExperimentSettings) -> list[str]:
    """One line each. A line with # names what no option changes: the file has become another one since."""
    path = _file_of(run.name)
    shown = f"config/{path.name}" if path else f"{run.name}.yaml"
    folder, submission = without_folders(run.folder), Path(run.folder) / "submission.json"
    words = ["dlmbench", "submit" if submission.is_file() else "run", "--config", shown]
    remarks, scored = [], []
    try:
        if path is not None:
            experiment = configuration.load(path)
            words += _options(run, settings, experiment, path)
            others = [text for text in other_settings(settings, experiment) if not text.startswith("prompts.path:")]
            remarks = [f"# {shown} has changed since: {text}" for text in others]  # that is --prompt-file
            later = dict.fromkeys(s.metric for s in run.scores if s.metric not in experiment.metrics)
            scored = ["dlmbench", "score", folder, "--metrics", ",".join(later)] if later else []
        words += read_json(submission, _queued, "Take it from a backup") or []
    except BenchError as error:
        remarks = [f"# its options are not known: {error.message}"]
    lines = ([*words, "--output_dir", folder], scored, ["dlmbench", "report", folder])
    return [*remarks, *(shlex.join(line) for line in lines if line)]


def _queued(submission: dict[str, Any]) -> list[str]:
    """How a submitted run was cut and on what, as options."""
    return ["--shards", str(len(submission["shards"])), "--gres", submission["resources"]["gres"] or "none"]


def _file_of(name: str) -> Path | None:
    """The experiment file of that name among those of this checkout."""
    texts = ((path, path.read_text(encoding="utf-8")) for path in sorted(CONFIG.glob("*.yaml")))
    return next((path for path, text in texts if f"\nname: {name}\n" in text), None)


def _options(run: Run, settings: ExperimentSettings, experiment: Experiment, path: Path) -> Iterator[str]:
    """The options that lead from the cells and prompts of the file to those on record."""
    keys = {c.model.key for c in run.cells}
    in_file = [m.key for m in experiment.models]
    if not keys <= set(in_file):
        return
    given = {"models": ",".join(k for k in in_file if k in keys)} if keys < set(in_file) else {}
    planned = [c for c in grid.expand(experiment).cells if c.model.key in keys]
    for option, name in (("batch_size", "batch_size"), ("seq_len", "sequence_length")):
        values, others = (_texts({getattr(c, name) for c in cells}) for cells in (run.cells, planned))
        given |= {option: values} if values != others else {}
    # Knobs may follow from lengths, so they are compared at those on record.
    planned = list(grid.expand(configuration.load(path, configuration.parse_overrides(**given))).cells)
    recorded, now = _knobs(run.cells), _knobs(planned)
    knobs = {name: recorded[name] for name in recorded if name in now and recorded[name] != now[name]}
    given |= {"steps": knobs.pop("steps")} if "steps" in knobs else {}
    for option, values in given.items():
        yield from (f"--{option.replace('_', '-')}", values)
    for name, values in knobs.items():
        yield from ("--knob", f"{name}={values}")
    if (own := settings.prompts) is None:
        return
    if own.path and own.path != experiment.prompts.path:
        yield from ("--prompt-file", without_folders(own.path))
    most = own.limit or own.count
    if most and most != (experiment.prompts.limit or experiment.prompts.count):
        yield from ("--max-prompts", str(most))


def _knobs(cells: Iterable[Cell]) -> dict[str, str]:
    """Every knob with its values."""
    pairs = group_by((knob for c in cells for knob in c.knobs), lambda knob: knob[0])
    return {name: _texts({value for _, value in found}) for name, found in sorted(pairs.items())}


def _texts(values: Set[Any]) -> str:
    """Values as an option takes them."""
    ordered = sorted(values, key=lambda v: (v is None, isinstance(v, str), v))
    return ",".join(v if isinstance(v, str) else json.dumps(v) for v in ordered)
