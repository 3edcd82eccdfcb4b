"""A checkpoint folder: its config.json, the check that its files are complete, and its weights, tensor by tensor.

Weights are read by the family's tensor map, one tensor at a time, straight to the device. Pickled weights are refused,
because unpickling runs code; no remote code is ever run. Only the functions that read weights import torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models.config_json import token_ids
from dlmbench.types import Architecture, ModelSpec

if TYPE_CHECKING:
    import torch

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
METADATA = "__metadata__"  # the one key of a safetensors header that is no tensor
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
_DOWNLOAD = "Download it again with `dlmbench download`"


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Put the folder's name before the message of a BenchError."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{folder}: {error.message}", error.hint) from None


# ---------------------------------------------------------------- config.json


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BenchError: the file is missing, unreadable or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{path.name} is missing", _DOWNLOAD) from None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BenchError(f"{path.name} is damaged", _DOWNLOAD)
    return value


def architecture_from(config: dict[str, Any], family: str) -> Architecture:
    """The architecture that a config.json of `family` describes.

    Raises:
        BenchError: a missing or unsupported value, or invalid sizes.
    """
    try:
        architecture: Architecture = registry.load("families", family).architecture(config)
        if architecture.parameters > 0 and architecture.head_size > 0:
            return architecture
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        pass
    raise BenchError("config.json describes no model", "The sizes must be positive numbers")


def inspect(folder: Path, family: str | None = None) -> Architecture:
    """The architecture in config.json; `family` None takes it from model_type.

    Raises:
        BenchError: no folder, no or broken config.json, a family that differs, an unsupported value.
    """
    if not folder.is_dir():
        raise BenchError(f"no checkpoint folder at {folder}", "Check the path, or fetch it with `dlmbench download`")
    with naming(folder):
        config = read_json(folder / "config.json")
        found = config.get("model_type")
        known = registry.names("families")
        if found not in known:
            raise BenchError(
                f"config.json: model_type = {found!r} is not supported", f"Known families: {', '.join(known)}"
            )
        if family is not None and found != family:
            raise BenchError(f"this is a checkpoint of family '{found}', not '{family}'", f"Set family: {found}")
        return _with_generation_config(architecture_from(config, str(found)), folder)


def _with_generation_config(architecture: Architecture, folder: Path) -> Architecture:
    """With the ends of a text that only generation_config.json names, as it does for many Instruct checkpoints."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return architecture
    named = token_ids(read_json(path), "eos_token_id", architecture.vocab_size)
    others = tuple(i for i in dict.fromkeys(named) if i not in architecture.eos_ids)
    return replace(architecture, more_eos_ids=architecture.more_eos_ids + others)


def named_architecture(family: str, name: str) -> Architecture:
    """An architecture known by name ("8b", "tiny"), for random weights.

    Raises:
        BenchError: the family has no architecture of this name.
    """
    known = registry.load("families", family).KNOWN
    if name not in known:
        raise BenchError(f"family '{family}' has no architecture named '{name}'", f"Known: {', '.join(known)}")
    return architecture_from(known[name], family)


# ---------------------------------------------------------------- files, read without torch


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. It states the length of the file, so a truncated file is noticed.

    Raises:
        BenchError: the file is missing, truncated or of another format.
    """
    if not path.is_file():
        raise BenchError(f"{path.name} is missing", _DOWNLOAD)
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length <= min(size, _MAX_HEADER_BYTES) else None
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != METADATA]
        if any(type(end) is not int for end in ends):
            raise TypeError
    except (OSError, ValueError, RecursionError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        problem = "is empty" if size == 0 else "is not a safetensors file"
        raise BenchError(f"{path.name} {problem}", _DOWNLOAD) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise BenchError(f"{path.name} has {size} bytes of {expected}: not a whole safetensors file", _DOWNLOAD)
    return dict(header)


def weight_map(folder: Path) -> dict[str, Path]:
    """Which safetensors file holds each tensor.

    Raises:
        BenchError: no weights, weights in another format, or a broken index.
    """
    if (folder / _INDEX).is_file():
        files = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise BenchError(f"{_INDEX} has no weight_map", _DOWNLOAD)
        for file in files.values():
            if Path(file).is_absolute() or ".." in Path(file).parts:
                raise BenchError(f"{_INDEX} names a file outside the checkpoint: {file}", _DOWNLOAD)
        return {name: folder / file for name, file in files.items()}
    if (folder / _SINGLE).is_file():
        names = read_header(folder / _SINGLE).keys() - {METADATA}
        return dict.fromkeys(names, folder / _SINGLE)
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickled:
        raise BenchError(
            f"contains only pickled weights, which are refused (unpickling executes code): {', '.join(pickled)}",
            "Convert them to safetensors",
        )
    raise BenchError(f"no {_SINGLE} and no {_INDEX}", "Fetch the weights with `dlmbench download`")


def problems(folder: Path, spec: ModelSpec) -> tuple[str, ...]:
    """What is missing or broken in a model's folder; nothing when it is complete.

    The config of a model without a family (a judge, an encoder) is read but not interpreted.
    """
    found: list[str] = []

    def attempt(check: Callable[..., Any], *arguments: object) -> Any:
        try:
            return check(*arguments)
        except BenchError as error:
            found.append(error.message)
            return None

    config = attempt(read_json, folder / "config.json")
    if config is not None and spec.family:
        attempt(architecture_from, config, spec.family)
    if not any((folder / name).is_file() and (folder / name).stat().st_size > 0 for name in _TOKENIZERS):
        found.append("tokenizer.json is missing")
    elif (folder / "tokenizer.json").is_file():
        attempt(read_json, folder / "tokenizer.json")
    if spec.weights == "pretrained":
        for file in sorted(set((attempt(weight_map, folder) or {}).values())):
            attempt(read_header, file)
    return tuple(found)


# ---------------------------------------------------------------- weights


def tensors(
    folder: Path, arch: Architecture, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight of a checkpoint under LLaMA's name, on `device` in `dtype`; one tensor at a time, shard after shard.

    Raises:
        BenchError: a file is missing or damaged; a tensor is missing, has another shape or no floats, or is one that
            the family's layout does not have.
    """
    from safetensors import SafetensorError, safe_open

    wanted = {t.official: t for t in registry.load("families", arch.family).tensors(arch)}
    with naming(folder):
        files = weight_map(folder)
        for name in wanted:
            if name not in files:
                raise BenchError(f"tensor '{name}' is missing", _DOWNLOAD)
        # A head of its own beside tied embeddings is a copy of them; rotary frequencies are computed from config.json.
        untied = registry.load("families", arch.family).tensors(replace(arch, tied_head=False))
        unused = files.keys() - {t.official for t in untied}
        for name in sorted(unused):
            if not name.endswith("rotary_emb.inv_freq"):
                what = "is a bias, and biases are not supported" if name.endswith(".bias") else "is not used"
                raise BenchError(
                    f"tensor '{name}' {what}: without it another model would be computed",
                    "Use a checkpoint in the family's plain layout: no quantization, no adapters",
                )
        shards = sorted({files[name] for name in wanted})
        for path in shards:
            read_header(path)
    for path in shards:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in (n for n in wanted if files[n] == path):
                    tensor = file.get_tensor(name)
                    if tuple(tensor.shape) != wanted[name].shape:
                        raise BenchError(
                            f"{path}: tensor '{name}' has shape {tuple(tensor.shape)}, config.json says "
                            f"{wanted[name].shape}",
                            "Use the config.json and the weights of one checkpoint",
                        )
                    if not tensor.is_floating_point():
                        raise BenchError(
                            f"{path}: tensor '{name}' has dtype {tensor.dtype}", "Quantized weights are not supported"
                        )
                    yield wanted[name].llama, tensor.to(dtype)
        except SafetensorError as error:
            raise BenchError(f"{path} is damaged: {error}", _DOWNLOAD) from None


def random_tensors(
    arch: Architecture, device: torch.device, dtype: torch.dtype, seed: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights drawn from N(0, 0.02^2), norms at 1: right for speed, meaningless for quality."""
    import torch

    generator = torch.Generator(device=device).manual_seed(seed)
    for spec in registry.load("families", arch.family).tensors(arch):
        if len(spec.shape) == 1:
            yield spec.llama, torch.ones(spec.shape, device=device, dtype=dtype)
        else:
            weight = torch.empty(spec.shape, device=device, dtype=dtype)
            yield spec.llama, weight.normal_(0, 0.02, generator=generator)


def load_weights(
    spec: ModelSpec, folder: Path | None, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[Architecture, Iterator[tuple[str, torch.Tensor]]]:
    """Architecture and weights of `spec`, as engines take them: each weight under LLaMA's name, one at a time.

    folder: of the checkpoint; None when `spec.source` is a known architecture. seed: of random weights.

    Raises:
        BenchError: see `inspect`, `named_architecture` and `tensors`.
    """
    arch = named_architecture(spec.family, spec.source) if folder is None else inspect(folder, spec.family)
    if folder is None or spec.weights == "random":
        return arch, random_tensors(arch, device, dtype, seed)
    return arch, tensors(folder, arch, device, dtype)
