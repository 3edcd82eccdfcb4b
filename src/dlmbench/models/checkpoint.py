"""Reading a checkpoint folder: config.json, safetensors shards, every tensor checked before it is used.

Weights are read by the family's own tensor map, one tensor at a time, straight to the device. Pickled weights are
refused, for loading a pickle runs code; no remote code is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.types import Architecture, ModelSpec

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose config.json was understood."""

    folder: Path
    family: str
    architecture: Architecture


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{path.parent} has no {path.name}", "name a folder that holds a checkpoint") from None
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot read {path}: {error}", "download the checkpoint again") from None
    if not isinstance(value, dict):
        raise BenchError(f"{path} is not a JSON object", "download the checkpoint again")
    return value


def family_of(config: dict[str, Any]) -> str:
    """The family that a config.json belongs to, by its model_type.

    Raises:
        BenchError: no family has this model_type.
    """
    kind = config.get("model_type")
    if kind not in registry.names("families"):
        known = ", ".join(registry.names("families"))
        raise BenchError(f"config.json: model_type = {kind!r} is not supported", f"known families: {known}")
    return str(kind)


def family_module(name: str) -> ModuleType:
    """The family's plug-in."""
    return registry.load("families", name)


def inspect(folder: Path, family: str | None = None) -> Checkpoint:
    """Read config.json; `family` None takes it from model_type.

    Raises:
        BenchError: no folder, no or broken config.json, a family that differs, an unsupported value.
    """
    if not folder.is_dir():
        raise BenchError(f"no checkpoint folder at {folder}", "check the path, or fetch it with `dlmbench download`")
    config = _json(folder / "config.json")
    found = family_of(config)
    if family is not None and found != family:
        raise BenchError(f"{folder} is a checkpoint of family '{found}', not '{family}'", f"set family: {found}")
    try:
        return Checkpoint(folder, found, family_module(found).architecture(config))
    except BenchError as error:
        raise BenchError(f"{folder}: {error.message}", error.hint) from None


def named_architecture(family: str, name: str) -> Architecture:
    """A shape known by name ("8b", "tiny"), for random weights.

    Raises:
        BenchError: the family knows no such shape.
    """
    module = family_module(family)
    if name not in module.KNOWN:
        raise BenchError(f"family '{family}' knows no architecture '{name}'", f"known: {', '.join(module.KNOWN)}")
    arch: Architecture = module.architecture(module.KNOWN[name])
    return arch


def _shards(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor."""
    from safetensors import SafetensorError, safe_open

    if (folder / _INDEX).exists():
        weight_map: dict[str, str] = _json(folder / _INDEX).get("weight_map", {})
        missing = sorted({f for f in weight_map.values() if not (folder / f).is_file()})
        if missing:
            raise BenchError(f"{folder}: missing shards {', '.join(missing)}", "fetch them with `dlmbench download`")
        return {name: folder / file for name, file in weight_map.items()}
    if (folder / _SINGLE).exists():
        try:
            with safe_open(folder / _SINGLE, framework="pt") as file:
                return dict.fromkeys(file.keys(), folder / _SINGLE)
        except SafetensorError as error:
            raise BenchError(f"{folder / _SINGLE} is not a safetensors file: {error}", "download it again") from None
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickled:
        raise BenchError(
            f"{folder} has only pickled weights ({', '.join(pickled)}), and loading those runs code",
            "convert them to safetensors",
        )
    raise BenchError(f"{folder} has no {_SINGLE} and no {_INDEX}", "fetch the weights with `dlmbench download`")


def tensors(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight under LLaMA's name, on `device` in `dtype`; one tensor at a time, shard after shard.

    Raises:
        BenchError: a tensor is missing, has another shape, or is a bias that this layout does not know.
    """
    from safetensors import SafetensorError, safe_open

    where = _shards(checkpoint.folder)
    wanted = {t.official: t for t in family_module(checkpoint.family).tensors(checkpoint.architecture)}
    for name in wanted:
        if name not in where:
            raise BenchError(f"{checkpoint.folder}: tensor '{name}' is missing", "download the checkpoint again")
    biases = sorted(n for n in where if n.endswith(".bias"))
    if biases:
        raise BenchError(f"{checkpoint.folder}: tensor '{biases[0]}' is a bias", "biases are unsupported")
    for path in sorted({where[name] for name in wanted}):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in (n for n in wanted if where[n] == path):
                    tensor = file.get_tensor(name)
                    if tuple(tensor.shape) != wanted[name].shape:
                        raise BenchError(
                            f"{path}: tensor '{name}' has shape {tuple(tensor.shape)}, config.json says "
                            f"{wanted[name].shape}",
                            "config.json and weights belong to different checkpoints",
                        )
                    yield wanted[name].llama, tensor.to(dtype)
        except SafetensorError as error:
            raise BenchError(f"{path} is damaged: {error}", "download it again") from None


def random_tensors(
    arch: Architecture, device: torch.device, dtype: torch.dtype, seed: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights drawn N(0, 0.02^2), norms at 1: right for speed, meaningless for quality."""
    import torch

    generator = torch.Generator(device=device).manual_seed(seed)
    for spec in family_module(arch.family).tensors(arch):
        if len(spec.shape) == 1:
            yield spec.llama, torch.ones(spec.shape, device=device, dtype=dtype)
        else:
            weight = torch.empty(spec.shape, device=device, dtype=dtype)
            yield spec.llama, weight.normal_(0, 0.02, generator=generator)


def load_weights(
    spec: ModelSpec, folder: Path | None, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[Architecture, Iterator[tuple[str, torch.Tensor]]]:
    """Architecture and weights of `spec`, as engines take them: each weight under LLaMA's name, one at a time.

    Args:
        spec: the model; `weights: random` takes only the architecture.
        folder: of the checkpoint; None when `spec.source` is a known architecture.
        device: where the weights go.
        dtype: of the weights.
        seed: of random weights.

    Raises:
        BenchError: see `inspect`, `named_architecture` and `tensors`.
    """
    found = None if folder is None else inspect(folder, spec.family)
    arch = named_architecture(spec.family, spec.source) if found is None else found.architecture
    if found is None or spec.weights == "random":
        return arch, random_tensors(arch, device, dtype, seed)
    return arch, tensors(found, device, dtype)
