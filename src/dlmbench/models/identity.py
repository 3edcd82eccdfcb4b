"""The content of a checkpoint as one hash: what identifies a model, whatever its folder is called.

Part of the hash: config.json (parsed, so that spacing and order of keys do not matter), tokenizer.json and the chat
template (prompts depend on both), and for every safetensors file its name, size, header (names, dtypes and shapes of
all tensors) and values. Files up to 64 MB are read whole. Of larger ones the first 4 KiB of every tensor are read:
a few megabytes for an 8B model.

Detected: another checkpoint of the same shapes, a fine-tuned or merged one, a quantized one, one cut into other
shards, another tokenizer. Not detected: a change beyond the first 4 KiB of the tensors of a large file, as when
single weights are edited by hand.

Random weights are identified by the architecture, and by tokenizer and chat template where the source has them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models.loading import FoundModel, find, local_folder
from dlmbench.types import ModelSpec, stable_hash

READ_WHOLE_BYTES = 64 << 20
SAMPLE_BYTES = 4 << 10
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# Keys of config.json that say how the file was written and nothing about the model.
_PROVENANCE = ("_name_or_path", "transformers_version")


def fingerprint(folder: Path | None, spec: ModelSpec) -> str:
    """The content of a model as a short hash.

    Args:
        folder: where its files are; None for random weights of an architecture known by name.
        spec: its family, and whether its weights are read or drawn at random.

    Raises:
        BenchError: a file that is missing or cannot be read.
    """
    if folder is None:
        config = registry.load("families", spec.family).KNOWN.get(spec.source)
        if config is None:
            raise BenchError(f"model {spec.key}: {spec.source} is not on this machine", "Fetch it, or name a folder")
    else:
        config = _json(folder / "config.json")
    tokenizer = {} if folder is None else _tokenizer(folder)
    if spec.weights == "random":
        architecture = registry.load("families", spec.family).architecture(config)
        return stable_hash({"architecture": asdict(architecture), **tokenizer})
    assert folder is not None
    config = {key: value for key, value in config.items() if key not in _PROVENANCE}
    weights = {path.name: _weights(path) for path in _weight_files(folder)}
    return stable_hash({"config": config, "weights": weights, **tokenizer})


def with_content(spec: ModelSpec, folder: Path | None) -> ModelSpec:
    """`spec` with the content of the checkpoint in `folder`; unchanged for a model without files here.

    Raises:
        BenchError: the content was recorded before and is another now; or as `fingerprint`.
    """
    if folder is None and spec.weights == "pretrained":
        return spec
    found = fingerprint(folder, spec)
    if spec.content not in (None, found):
        raise BenchError(
            f"model {spec.key}: {folder or spec.source} holds another checkpoint than when this run was recorded "
            f"(content {found} now, {spec.content} then)",
            "Put the recorded checkpoint back, or start a new run with another --output_dir",
        )
    return replace(spec, content=found)


def find_identified(spec: ModelSpec) -> FoundModel:
    """`models.find`, with the content of the checkpoint in the spec.

    Raises:
        BenchError: as `models.find` and `with_content`.
    """
    found = find(spec)
    return replace(found, spec=with_content(found.spec, found.folder))


def with_known_content(specs: Iterable[ModelSpec]) -> tuple[ModelSpec, ...]:
    """The models with their content where this machine has the checkpoint; the others unchanged. No network."""
    known = []
    for spec in specs:
        try:
            known.append(with_content(spec, local_folder(spec)))
        except BenchError:
            known.append(spec)
    return tuple(known)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{path.parent} has no {path.name}", "Name a folder that holds a whole checkpoint") from None
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read: {error}", "Download the checkpoint again") from None


def _tokenizer(folder: Path) -> dict[str, str | None]:
    """Hash of tokenizer.json and the chat template, wherever the checkpoint keeps it; None without a file."""
    settings = folder / "tokenizer_config.json"
    template = _json(settings).get("chat_template") if settings.is_file() else None
    file = folder / "chat_template.jinja"
    found = {"tokenizer": _hash(folder / "tokenizer.json"), "chat_template": _hash(file) or template}
    return {name: value for name, value in found.items() if value is not None}


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the engines read."""
    if (folder / _INDEX).is_file():
        names = sorted(set(_json(folder / _INDEX).get("weight_map", {}).values()))
    else:
        names = [_SINGLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise BenchError(
            f"{folder} has no {', '.join(missing) or 'weights in ' + _INDEX}",
            "Fetch the weights as safetensors with `dlmbench download`; pickled weights are not read",
        )
    return [folder / name for name in names]


def _weights(path: Path) -> dict[str, Any]:
    """Size, header and values of a safetensors file: 8 bytes with the length of the header, the header, the data."""
    size = path.stat().st_size
    values = hashlib.sha256()
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            if size <= READ_WHOLE_BYTES:
                values.update(file.read())
            else:
                tensors = [entry for name, entry in header.items() if name != "__metadata__"]
                for start, end in sorted(tuple(entry["data_offsets"]) for entry in tensors):
                    file.seek(8 + length + start)
                    values.update(file.read(min(SAMPLE_BYTES, end - start)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BenchError(f"{path} is not a safetensors file: {error}", "Download the checkpoint again") from None
    return {"size": size, "header": header, "values": values.hexdigest()}
