"""Helpers of the families to read a config.json: required keys, unsupported values, special token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbench.errors import BenchError

_OF_THIS_CHECKPOINT = "Use the config.json of this checkpoint"


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


def token_ids(config: Mapping[str, Any], key: str, vocab_size: int) -> tuple[int, ...]:
    """The ids of a special token, of which a config may list several. -1, as in old configs, is none.

    Raises:
        BenchError: no id of the vocabulary.
    """
    value = config.get(key)
    ids = [i for i in (value if isinstance(value, list) else [value]) if i not in (None, -1)]
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            raise BenchError(
                f"config.json: {key} = {i!r} is no id of the vocabulary of {vocab_size}", _OF_THIS_CHECKPOINT
            )
    return tuple(ids)


def token_id(config: Mapping[str, Any], key: str, vocab_size: int) -> int | None:
    """The first of `token_ids`, None where there is none."""
    return next(iter(token_ids(config, key, vocab_size)), None)


def size(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """A size: the first of `keys` that is set, else `default`.

    Raises:
        BenchError: none of them is, and there is no default; or the value is not a positive whole number.
    """
    key = next((key for key in keys if config.get(key) is not None), keys[0])
    value = required(config, *keys) if default is None else config.get(key) or default
    if type(value) is not int or value < 1:
        raise BenchError(f"config.json: {key} = {value!r} is not a positive whole number", _OF_THIS_CHECKPOINT)
    return value


def multiple(config: Mapping[str, Any], whole: str, part: str) -> None:
    """Check that the size `whole`, where it is given, is a multiple of the size `part`.

    Raises:
        BenchError: it is not.
    """
    a, b = config.get(whole), config.get(part)
    if a and b and a % b:
        raise BenchError(f"config.json: {whole} = {a} is not a multiple of {part} = {b}", _OF_THIS_CHECKPOINT)
