"""The shape of a model that is named but not loaded: what plans, memory checks and figures are made of.

Nothing here asks the network: a shape comes from a config.json that is on this machine, or from the published 8B
pair's where an experiment names exactly that pair. Where neither is there, that is said, and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models import assets
from dlmbench.types import Architecture, ModelSpec

# Whose shapes are known although their config.json may not be here.
PUBLISHED_8B = {("llama", "meta-llama/Meta-Llama-3-8B"), ("llada", "GSAI-ML/LLaDA-8B-Base")}


def architecture_of(spec: ModelSpec) -> Architecture | str:
    """The shape of a model as its config.json on this machine states it, or why it is not known."""
    try:
        family = registry.load("families", spec.family)
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
    found = {spec.key: architecture_of(spec) for spec in models}
    known = {key: one for key, one in found.items() if isinstance(one, Architecture)}
    return known, {key: why for key, why in found.items() if isinstance(why, str)}
