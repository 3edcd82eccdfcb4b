"""The settings of a run beyond its cells, as experiment.json in its folder holds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dlmbench.errors import BenchError
from dlmbench.results.records import recorded_protocol
from dlmbench.types import PromptSettings, ProtocolSettings, Run, from_mapping

EXPERIMENT = "experiment.json"


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of the experiment file beyond the cells; None and empty where the folder has no such file."""

    description: str = ""
    protocol: ProtocolSettings | None = None
    prompts: PromptSettings | None = None
    metrics: tuple[str, ...] = ()


def load_settings(run: Run) -> ExperimentSettings:
    """The settings in experiment.json of the run's folder; empty where there is none.

    Raises:
        BenchError: the file exists and is not what dlmbench wrote.
    """
    path = Path(run.folder) / EXPERIMENT
    if not path.is_file():
        return ExperimentSettings()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return ExperimentSettings(
            description=str(saved.get("description", "")),
            protocol=recorded_protocol(saved["protocol"]),
            prompts=from_mapping(PromptSettings, saved["prompts"]),
            metrics=tuple(map(str, saved.get("metrics", ()))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{path} is not the file dlmbench wrote ({error})", "Take it from a backup, or delete it"
        ) from error
