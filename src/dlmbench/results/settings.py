"""The settings of a run beyond its cells, as experiment.json in its folder holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlmbench.results.folder import differences
from dlmbench.results.journal import read_json
from dlmbench.types import Experiment, ModelSpec, PromptSettings, ProtocolSettings, from_mapping

EXPERIMENT = "experiment.json"


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of the experiment file beyond the cells; None and empty where the folder has no such file."""

    description: str = ""
    models: tuple[ModelSpec, ...] = ()
    protocol: ProtocolSettings | None = None
    prompts: PromptSettings | None = None
    metrics: tuple[str, ...] = ()
    metric_settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def load_settings(folder: Path | str) -> ExperimentSettings:
    """The settings in experiment.json of a run folder; empty where there is none.

    Raises:
        BenchError: the file exists and is not what dlmbench wrote.
    """

    def parse(saved: dict[str, Any]) -> ExperimentSettings:
        return replace(from_mapping(ExperimentSettings, saved), protocol=recorded_protocol(saved["protocol"]))

    return read_json(Path(folder) / EXPERIMENT, parse, "Take it from a backup, or delete it") or ExperimentSettings()


def recorded_protocol(values: Mapping[str, Any]) -> ProtocolSettings:
    """The protocol as experiment.json holds it; before schema version 3 each round could have a process of its own."""
    settings = from_mapping(ProtocolSettings, values)
    if "processes" in values:
        return settings
    if values.get("fresh_process_per_round"):
        return replace(settings, processes=settings.rounds, rounds=1)
    return replace(settings, processes=1)


def other_settings(recorded: ExperimentSettings, experiment: Experiment) -> list[str]:
    """In what prompt source, seed or protocol `experiment` is another than the recorded one, as phrases."""
    if recorded.protocol is None:
        return []
    prompts = differences(recorded.prompts, experiment.prompts, ("source", "path", "seed", "chat"))
    protocol = differences(recorded.protocol, experiment.protocol, vars(recorded.protocol))
    named = [f"prompts.{text}" for text in prompts] + [f"protocol.{text}" for text in protocol]
    return named + differences(recorded, experiment, ["seed"])
