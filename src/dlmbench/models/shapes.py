"""The architecture of a model that is named but not loaded, for plans, memory checks and figures.

Nothing here asks the network: an architecture comes from a config.json on this machine, or from the family where it
knows the checkpoint (its PUBLISHED). Otherwise the reason is returned, and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models import assets
from dlmbench.types import Architecture, ModelSpec


def architecture_of(spec: ModelSpec) -> Architecture | str:
    """The architecture of a model, or why it is not known on this machine."""
    try:
        family = registry.load("families", spec.family)
        if spec.weights == "random" and spec.source in family.KNOWN:
            config: Any = family.KNOWN[spec.source]
        elif (folder := assets.local_folder(spec)) is not None and (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        elif spec.source in (published := getattr(family, "PUBLISHED", {})):
            config = family.KNOWN[published[spec.source]]
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
    """The known architectures by model key, and why the others are not known."""
    found = {spec.key: architecture_of(spec) for spec in models}
    known = {key: one for key, one in found.items() if isinstance(one, Architecture)}
    return known, {key: why for key, why in found.items() if isinstance(why, str)}
