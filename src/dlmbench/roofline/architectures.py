"""The shapes of an experiment's models, found without the network.

From a config.json that is on this machine, from a family's known shapes for random weights, or, where an experiment
names exactly the published 8B pair, from those: so that a run can be held against the device on any laptop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dlmbench import assets, registry
from dlmbench.errors import BenchError
from dlmbench.types import Architecture, ModelSpec

# Whose shapes are known although their config.json may not be here.
PUBLISHED_8B = {("llama", "meta-llama/Meta-Llama-3-8B"), ("llada", "GSAI-ML/LLaDA-8B-Base")}


def architecture_of(spec: ModelSpec) -> Architecture | str:
    """The shape of a model as its config.json on this machine states it, or why it is not known."""
    family = registry.load("families", spec.family)
    try:
        if spec.weights == "random" and spec.source in family.KNOWN:
            config: Any = family.KNOWN[spec.source]
        elif (folder := assets.local_folder(spec)) is not None and (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        elif (spec.family, spec.source) in PUBLISHED_8B:
            config = family.KNOWN["8b"]
        else:
            return f"config.json is not here ({spec.source})"
        architecture: Architecture = family.architecture(config)
        if architecture.parameters <= 0 or architecture.head_size <= 0:
            return f"config.json of {spec.source} describes no model"
    except BenchError as error:
        return error.message
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError):
        return f"config.json of {spec.source} cannot be read"
    return architecture


def architectures(models: Iterable[ModelSpec]) -> tuple[dict[str, Architecture], dict[str, str]]:
    """The shapes that are known by model key, and why the others are not."""
    known: dict[str, Architecture] = {}
    unknown: dict[str, str] = {}
    for spec in models:
        found = architecture_of(spec)
        if isinstance(found, Architecture):
            known[spec.key] = found
        else:
            unknown[spec.key] = found
    return known, unknown
