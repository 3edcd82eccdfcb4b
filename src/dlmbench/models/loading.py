"""From a model's name to the loaded model: its folder, its architecture, its tokenizer, its weights.

`find` reads what costs little, so that a mistake is reported before weights are loaded; `load` is both steps in one.
`local_folder` and `architectures` never use the network: plans and reports are made of what this machine has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.models import checkpoint, hub
from dlmbench.models.tokenizer import CheckpointTokenizer, find_tokenizer
from dlmbench.tiny import EMBEDDED_MODELS, checkpoint_folder
from dlmbench.types import Architecture, Generator, LanguageModel, ModelSpec, home_expanded

_EMBEDDED = "embedded:"


@dataclass(frozen=True)
class FoundModel:
    """A model that can be loaded; the family of `spec` is filled in.

    folder: None for random weights of an architecture known by name. tokenizer: None where the checkpoint has none.
    """

    spec: ModelSpec
    folder: Path | None
    architecture: Architecture
    tokenizer: CheckpointTokenizer | None

    def load(self, *, engine: str, precision: str, attention: str, device: str, seed: int = 0) -> LoadedModel:
        """Load the weights.

        Args:
            engine: the plug-in that runs the model.
            precision: precision of weights and arithmetic.
            attention: the kernel to enforce; "auto" lets torch choose.
            device: "cuda" or "cpu".
            seed: seed for random weights.

        Raises:
            BenchError: an unknown engine, or weights that are missing, damaged or of another shape.
        """
        backend = registry.load("engines", engine).load(
            self.spec, self.folder, precision=precision, attention=attention, device=device, seed=seed
        )
        return LoadedModel(self.spec, self.folder, self.architecture, self.tokenizer, backend)


@dataclass(frozen=True)
class LoadedModel(FoundModel):
    """A model as an engine loaded it: its backend is a LanguageModel, or a Generator where the engine serves texts."""

    backend: LanguageModel | Generator

    @property
    def language_model(self) -> LanguageModel:
        """The backend, if it provides logits.

        Raises:
            BenchError: the engine returns only texts.
        """
        if isinstance(self.backend, Generator):
            raise BenchError(f"the engine of {self.spec.source} returns only texts, no logits", "Use another engine")
        return self.backend


def find(spec: ModelSpec) -> FoundModel:
    """Find a model and read its config.json and tokenizer; what the hub's cache lacks is downloaded.

    An empty family in `spec` is taken from config.json.

    Raises:
        BenchError: no such model, or a checkpoint that is incomplete or of another family.
    """
    folder = resolve_model(spec)
    if folder is None:
        return FoundModel(spec, None, checkpoint.named_architecture(spec.family, spec.source), None)
    architecture = checkpoint.inspect(folder, spec.family or None)
    return FoundModel(replace(spec, family=architecture.family), folder, architecture, find_tokenizer(folder))


def load(spec: ModelSpec, *, engine: str, precision: str, attention: str, device: str, seed: int = 0) -> LoadedModel:
    """Find a model and load it; see `find` and `FoundModel.load`."""
    return find(spec).load(engine=engine, precision=precision, attention=attention, device=device, seed=seed)


def find_auxiliary(source: str) -> tuple[Path, dict[str, Any]]:
    """Folder and config.json of a model that a metric loads by itself: a judge, an encoder.

    Raises:
        BenchError: no such model, or no readable config.json.
    """
    folder = resolve_model(ModelSpec("auxiliary", "", source, "baseline"))
    assert folder is not None, "only an architecture with random weights has no folder"
    with checkpoint.naming(folder):
        return folder, checkpoint.read_json(folder / "config.json")


# ---------------------------------------------------------------- folders


def resolve_model(spec: ModelSpec, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model: embedded, local, or in the hub's cache; what the cache lacks is downloaded.

    None for random weights of an architecture known by name, which need no files.

    Raises:
        BenchError: no such folder or repository, no network to fetch it, or an incomplete snapshot.
    """
    folder = local_folder(spec, cache_dir)
    if not is_from_hub(spec) or (folder is not None and not checkpoint.problems(folder, spec)):
        return folder
    # Without network the library returns what is in the cache, complete or not: hence the second check.
    folder = hub.fetch(repository(spec), cache_dir)
    if problems := checkpoint.problems(folder, spec):
        raise BenchError(f"model {spec.source} in {folder}: {'; '.join(problems)}", repository(spec).remedy)
    return folder


def local_folder(spec: ModelSpec, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model on this machine, complete or not; never uses the network.

    None where a model of the hub is not in the cache, or where an architecture known by name needs no files.

    Raises:
        BenchError: a source that is neither a folder nor a hub id.
    """
    if is_named_architecture(spec):
        return None
    if spec.source.startswith(_EMBEDDED):
        if spec.source not in EMBEDDED_MODELS:
            raise BenchError(f"unknown embedded model '{spec.source}'", did_you_mean(spec.source, EMBEDDED_MODELS))
        return checkpoint_folder(spec.source.removeprefix(_EMBEDDED))
    local = home_expanded(Path(spec.source))
    if local.is_dir():
        return local
    if spec.source.startswith((".", "/", "~")) or spec.source.count("/") != 1:
        known = registry.load("families", spec.family).KNOWN if spec.weights == "random" else ()
        architecture = f", or the name of an architecture ({', '.join(known)})" if known else ""
        raise BenchError(f"no model folder at {spec.source}", f"Name a folder or a hub id (org/name){architecture}")
    return hub.cached(repository(spec), cache_dir)


def is_named_architecture(spec: ModelSpec) -> bool:
    """Whether a spec asks for random weights of an architecture known by name."""
    return (
        spec.weights == "random" and spec.family != "" and spec.source in registry.load("families", spec.family).KNOWN
    )


def is_from_hub(spec: ModelSpec) -> bool:
    """Whether a model's source is a hub id."""
    is_local = spec.source.startswith(_EMBEDDED) or home_expanded(Path(spec.source)).is_dir()
    return not is_local and not is_named_architecture(spec)


def repository(spec: ModelSpec) -> hub.Repository:
    """The files a model needs from the hub; with random weights only its configuration and its tokenizer."""
    is_needed = spec.weights == "pretrained"
    files = tuple(pattern for pattern in hub.MODEL_FILES if is_needed or "safetensors" not in pattern)
    return hub.Repository(spec.source, "model", files, spec.revision)


# ---------------------------------------------------------------- architectures, without loading


def architecture_of(spec: ModelSpec) -> Architecture | str:
    """The architecture of a model by the config.json on this machine, or the reason why it is unknown."""
    try:
        if is_named_architecture(spec):
            return checkpoint.named_architecture(spec.family, spec.source)
        folder = local_folder(spec)
        if folder is not None and (folder / "config.json").is_file():
            return checkpoint.architecture_from(checkpoint.read_json(folder / "config.json"), spec.family)
        # A published checkpoint whose shape the family knows, though its config.json is not on this machine.
        published = getattr(registry.load("families", spec.family), "PUBLISHED", {})
        if spec.source in published:
            return checkpoint.named_architecture(spec.family, published[spec.source])
        return f"config.json is not here ({spec.source})"
    except BenchError as error:
        return error.message


def architectures(models: Iterable[ModelSpec]) -> tuple[dict[str, Architecture], dict[str, str]]:
    """The architectures that are known, by model key, and why the others are not."""
    by_key = {spec.key: architecture_of(spec) for spec in models}
    known = {key: found for key, found in by_key.items() if isinstance(found, Architecture)}
    return known, {key: reason for key, reason in by_key.items() if isinstance(reason, str)}
