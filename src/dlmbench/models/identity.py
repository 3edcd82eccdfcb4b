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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models import checkpoint
from dlmbench.models.loading import FoundModel, find, local_folder
from dlmbench.types import ModelSpec, stable_hash

READ_WHOLE_BYTES = 64 << 20
SAMPLE_BYTES = 4 << 10
# Keys of config.json that say how the file was written and nothing about the model.
_PROVENANCE = ("_name_or_path", "transformers_version")


def fingerprint(folder: Path | None, spec: ModelSpec) -> str:
    """The content of a model as a short hash; `folder` None for random weights of an architecture known by name.

    Raises:
        BenchError: a file that is missing or cannot be read.
    """
    if folder is None:
        assert spec.weights == "random"
        config = registry.load("families", spec.family).KNOWN.get(spec.source)
        if config is None:
            raise BenchError(f"model {spec.key}: {spec.source} is not on this machine", "Fetch it, or name a folder")
        return _of_architecture(config, spec, {})
    with checkpoint.naming(folder):
        config, tokenizer = checkpoint.read_json(folder / "config.json"), _tokenizer(folder)
        if spec.weights == "random":
            return _of_architecture(config, spec, tokenizer)
        config = {key: value for key, value in config.items() if key not in _PROVENANCE}
        weights = {path.name: _weights(path) for path in sorted(set(checkpoint.weight_map(folder).values()))}
        return stable_hash({"config": config, "weights": weights, **tokenizer})


def _of_architecture(config: dict[str, Any], spec: ModelSpec, tokenizer: dict[str, str]) -> str:
    architecture = asdict(registry.load("families", spec.family).architecture(config))
    # Random weights end no text, and a field that came later must not change what is on record.
    del architecture["more_eos_ids"]
    return stable_hash({"architecture": architecture, **tokenizer})


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
            f"model {spec.key}: {folder or spec.source} contains a different checkpoint than when this run was "
            f"recorded (content {found} now, {spec.content} then)",
            "Put the recorded checkpoint back, or start a new run with another --output-dir",
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
        known.append(spec)
        with suppress(BenchError):
            known[-1] = with_content(spec, local_folder(spec))
    return tuple(known)


def _tokenizer(folder: Path) -> dict[str, str]:
    """Hash of tokenizer.json and the chat template, wherever the checkpoint keeps it; None without a file."""
    settings = folder / "tokenizer_config.json"
    template = checkpoint.read_json(settings).get("chat_template") if settings.is_file() else None
    file = folder / "chat_template.jinja"
    found = {"tokenizer": _hash(folder / "tokenizer.json"), "chat_template": _hash(file) or template}
    return {name: value for name, value in found.items() if value is not None}


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _weights(path: Path) -> dict[str, Any]:
    """Size, header and values of a safetensors file."""
    header, size, values = checkpoint.read_header(path), path.stat().st_size, hashlib.sha256()
    offsets = sorted(tuple(entry["data_offsets"]) for name, entry in header.items() if name != checkpoint.METADATA)
    first = size - max((end for _, end in offsets), default=0)  # the data end the file
    with path.open("rb") as file:
        if size <= READ_WHOLE_BYTES:
            file.seek(first)
            values.update(file.read())
        else:
            for start, end in offsets:
                file.seek(first + start)
                values.update(file.read(min(SAMPLE_BYTES, end - start)))
    return {"size": size, "header": header, "values": values.hexdigest()}
