"""Helpers of the families to read a config.json: required keys, unsupported values, special token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError


def read_known(module_file: str) -> dict[str, dict[str, Any]]:
    """Configs by name, from the JSON file beside a family's module."""
    found: dict[str, dict[str, Any]] = json.loads(Path(module_file).with_suffix(".json").read_text(encoding="utf-8"))
    return found


def required(config: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of `keys` that is set.

    Raises:
        BenchError: none of them is.
    """
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise BenchError(f"config.json has no '{keys[0]}'", "The checkpoint is incomplete or of another family")


def refuse(config: Mapping[str, Any], key: str, supported: tuple[Any, ...]) -> None:
    """Refuse an unsupported value: ignoring it would compute another model.

    Raises:
        BenchError: `key` is present with another value.
    """
    if key in config and config[key] not in supported:
        raise BenchError(
            f"config.json: {key} = {config[key]!r} is not supported",
            f"Supported: {' or '.join(repr(v) for v in supported)}",
        )


def rope_theta(config: Mapping[str, Any]) -> float:
    """The RoPE base, at top level (transformers 4) or in rope_parameters (transformers 5).

    Raises:
        BenchError: scaled RoPE, which is not implemented.
    """
    for key in ("rope_scaling", "rope_parameters"):
        scaled = config.get(key) or {}
        kind = scaled.get("rope_type", scaled.get("type", "default"))
        if kind != "default":
            raise BenchError(f"config.json: {key}.rope_type = {kind!r} is not supported", "Supported: 'default'")
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10000.0
    return float(theta)


def token_id(config: Mapping[str, Any], key: str) -> int | None:
    """A special token id; where the config lists several, the first."""
    value = config.get(key)
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else int(value)
