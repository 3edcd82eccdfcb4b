"""Models and data sets: fetched ahead of time, checked offline, and found again when a run needs them.

A compute node often has no network: whatever a run will read can be fetched on another machine and verified on this
one, file by file, before a job is queued. Only safetensors, JSON and tokenizer files are ever fetched or accepted.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models import hub
from dlmbench.types import Experiment, ModelSpec

_EMBEDDED = "embedded:"
_TINY = Path(__file__).parents[1] / "tiny" / "checkpoints"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_LONGEST_HEADER = 100_000_000  # bytes; the safetensors format's own limit


@dataclass(frozen=True)
class AssetReport:
    """One model or data set: where it lies, its size, and what is missing or broken (nothing when it is ready)."""

    kind: str
    name: str
    folder: Path | None
    files: int
    size_bytes: int
    problems: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def is_ready(self) -> bool:
        """All files are there and whole."""
        return not self.problems

    @property
    def line(self) -> str:
        """The report in one line."""
        if self.problems:
            return f"{self.kind} {self.name}: {'; '.join(self.problems)}. {self.remedy}".strip()
        where = f" in {self.folder}" if self.folder is not None else ""
        return f"{self.kind} {self.name}: {self.files} files, {self.size_bytes / 1e6:.1f} MB{where}"


def read_token(option: str | None) -> str | None:
    """The token of `--hf-token`: itself, or the first line of a file that it names; None leaves it to $HF_TOKEN.

    Raises:
        BenchError: an empty token, or a file that is missing or unreadable; the text given is never repeated.
    """
    if option is None:
        return None
    token = option.strip()
    try:
        path = Path(token).expanduser()
        if token and path.is_file():
            token = path.read_text(encoding="utf-8").strip().partition("\n")[0]
        elif "/" in token or token.startswith("~"):
            raise BenchError("--hf-token names a file, and there is no such file", "Give the token, or a readable file")
    except (OSError, ValueError, RuntimeError):
        raise BenchError("--hf-token: the file it names cannot be read", "Give the token, or a readable file") from None
    if not token or any(sign.isspace() for sign in token) or not token.isascii():
        raise BenchError("--hf-token is not a token", f"Make one at {hub.HOME}/settings/tokens")
    return token


# ---------------------------------------------------------------- where a model lies


def resolve_model(spec: ModelSpec, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model: embedded, local, or in the hub's cache; what the cache lacks is fetched.

    None where random weights of an architecture known by name need no files.

    Raises:
        BenchError: no such folder or repository, no network to fetch it, or a snapshot that is not complete.
    """
    folder = _without_network(spec, cache_dir)
    if not _is_from_hub(spec):
        return folder
    if folder is not None and not _model_problems(folder, spec):
        return folder
    # Without network the library gives back what is in the cache, whole or not: hence the second look.
    folder = hub.fetch(_repository(spec), cache_dir)
    problems = _model_problems(folder, spec)
    if problems:
        raise BenchError(f"model {spec.source} in {folder}: {'; '.join(problems)}", _remedy(_repository(spec)))
    return folder


def local_folder(spec: ModelSpec, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model as far as this machine has it, complete or not; never asks the network.

    None where a model of the hub is not in the cache, or where an architecture known by name needs no files.

    Raises:
        BenchError: a source that is neither a folder here nor a hub id.
    """
    return _without_network(spec, cache_dir)


def _remedy(wanted: hub.Repository) -> str:
    return f"Run `{hub.DOWNLOAD}` where there is network; page: {wanted.page}"


def _is_from_hub(spec: ModelSpec) -> bool:
    is_local = spec.source.startswith(_EMBEDDED) or Path(spec.source).expanduser().is_dir()
    return not is_local and not _is_named_architecture(spec)


def _is_named_architecture(spec: ModelSpec) -> bool:
    # The family of a model that no experiment describes is "".
    known = registry.load("families", spec.family).KNOWN if spec.weights == "random" and spec.family else ()
    return spec.source in known


def _repository(spec: ModelSpec) -> hub.Repository:
    """What a model takes of the hub: with random weights only the architecture and the tokenizer."""
    is_needed = spec.weights == "pretrained"
    files = tuple(pattern for pattern in hub.MODEL_FILES if is_needed or "safetensors" not in pattern)
    return hub.Repository(spec.source, "model", files, spec.revision)


def _without_network(spec: ModelSpec, cache_dir: Path | None) -> Path | None:
    if _is_named_architecture(spec):
        return None
    if spec.source.startswith(_EMBEDDED):
        folder = _TINY / spec.source.removeprefix(_EMBEDDED)
        if not (folder / "config.json").is_file():
            raise BenchError(f"the package lacks its model {spec.source}", "Install dlmbench again")
        return folder
    local = Path(spec.source).expanduser()
    if local.is_dir():
        return local
    if spec.source.startswith((".", "/", "~")) or spec.source.count("/") != 1:
        known = registry.load("families", spec.family).KNOWN if spec.weights == "random" else ()
        architecture = f", or the name of an architecture ({', '.join(known)})" if known else ""
        raise BenchError(f"no model folder at {spec.source}", f"Name a folder, a hub id as org/name{architecture}")
    return hub.cached(_repository(spec), cache_dir)


# ---------------------------------------------------------------- verification, without network


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _shard_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file: its header says how long it must be, so a part of one is noticed."""
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length <= min(size, _LONGEST_HEADER) else None
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        return f"{path.name} is empty" if size == 0 else f"{path.name} is not a safetensors file"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{path.name} has {size} bytes of {expected}"


def _table_problem(path: Path) -> str | None:
    """What is wrong with a table of a data set; Parquet begins and ends with the same four letters."""
    if path.stat().st_size == 0:
        return f"{path.name} is empty"
    if path.suffix != ".parquet":
        return None
    with path.open("rb") as stream:
        first = stream.read(4)
        stream.seek(-min(4, path.stat().st_size), 2)
        last = stream.read(4)
    return None if first == last == b"PAR1" else f"{path.name} is not a whole Parquet file"


def _weight_problems(folder: Path) -> Iterator[str]:
    index = folder / _INDEX
    if index.is_file():
        content = _read_json(index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            yield f"{_INDEX} has no weight_map"
            return
        for name in sorted(set(shards.values())):
            problem = _shard_problem(folder / name)
            if problem is not None:
                yield problem
    elif (folder / _SINGLE).is_file():
        problem = _shard_problem(folder / _SINGLE)
        if problem is not None:
            yield problem
    elif any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        yield "only pickled weights, which are refused because loading them runs code; safetensors are needed"
    else:
        yield f"no {_SINGLE} and no {_INDEX}"


def _model_problems(folder: Path, spec: ModelSpec) -> tuple[str, ...]:
    """What a run would miss in a model's folder. The family of an extra model is "": its config is only read."""
    found: list[str] = []
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        found.append("config.json is damaged" if (folder / "config.json").is_file() else "config.json is missing")
    elif spec.family:
        try:
            registry.load("families", spec.family).architecture(config)
        except BenchError as error:
            found.append(error.message)
    if not any((folder / name).is_file() and (folder / name).stat().st_size > 0 for name in _TOKENIZERS):
        found.append("tokenizer.json is missing")
    elif (folder / "tokenizer.json").is_file() and _read_json(folder / "tokenizer.json") is None:
        found.append("tokenizer.json is damaged")
    if spec.weights == "pretrained":
        found.extend(_weight_problems(folder))
    return tuple(found)


def _report(kind: str, name: str, folder: Path, problems: tuple[str, ...], remedy: str) -> AssetReport:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return AssetReport(kind, name, folder, len(files), sum(p.stat().st_size for p in files), problems, remedy)


# ---------------------------------------------------------------- download


def download(
    experiment: Experiment,
    token: str | None = None,
    model_cache_dir: Path | None = None,
    dataset_cache_dir: Path | None = None,
    extra_model_ids: Sequence[str] = (),
    local_files_only: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[AssetReport]:
    """Fetch what an experiment reads, then verify it; with `local_files_only` only verify, never asking the network.

    Sizes and free space are looked at before the first byte is fetched, and told by `tell`. Files that an
    interrupted download had completed are kept.

    Raises:
        BenchError: something cannot be fetched (see `hub.fetch`), or all of it does not fit. What is found missing or
            broken is reported instead.
    """
    specs = [*experiment.models, *(ModelSpec(name, "", name, "baseline") for name in extra_model_ids)]
    if not local_files_only:
        _check_space(list(_to_fetch(experiment, specs, token, model_cache_dir, dataset_cache_dir)), tell)
    reports = [_model(spec, token, model_cache_dir, local_files_only) for spec in specs]
    source = registry.load("prompts", experiment.prompts.source)
    if experiment.prompts.path is not None:
        path = Path(experiment.prompts.path)
        problems = () if path.exists() else ("there is nothing at this path",)
        size = path.stat().st_size if path.is_file() else 0
        reports.append(AssetReport("prompts", str(path), path.parent, 1, size, problems, "Check path under prompts"))
    elif hasattr(source, "DATASET"):
        reports.append(_dataset(source.DATASET, token, dataset_cache_dir, local_files_only))
    return reports


def _to_fetch(
    experiment: Experiment,
    specs: Sequence[ModelSpec],
    token: str | None,
    model_cache_dir: Path | None,
    dataset_cache_dir: Path | None,
) -> Iterator[tuple[str, hub.Missing]]:
    """Every repository that has something to fetch, by name."""
    for spec in specs:
        # Looked for without network first: a source that is neither a folder nor a hub id is an error here.
        folder = _without_network(spec, model_cache_dir)
        if _is_from_hub(spec) and (folder is None or _model_problems(folder, spec)):
            yield spec.source, hub.missing(_repository(spec), model_cache_dir, token)
    source = registry.load("prompts", experiment.prompts.source)
    if experiment.prompts.path is None and hasattr(source, "DATASET"):
        yield source.DATASET.name, hub.missing(source.DATASET, dataset_cache_dir, token)


def _check_space(wanted: Sequence[tuple[str, hub.Missing]], tell: Callable[[str], None]) -> None:
    needed: dict[Path, int] = {}
    for name, what in wanted:
        if what.files:
            tell(f"{name}: {what.files} files to fetch, {what.bytes / 1e9:.2f} GB, into {what.folder}")
            place = next(p for p in (what.folder, *what.folder.absolute().parents) if p.is_dir())
            needed[place] = needed.get(place, 0) + what.bytes
    by_disk: dict[int, list[Path]] = {}
    for place in needed:
        by_disk.setdefault(place.stat().st_dev, []).append(place)
    for places in by_disk.values():
        total, free = sum(needed[p] for p in places), shutil.disk_usage(places[0]).free
        if total > free:
            raise BenchError(
                f"{total / 1e9:.2f} GB are to be fetched into {places[0]}, where {free / 1e9:.2f} GB are free",
                "Free some space, or name a larger file system with --model-cache-dir or HF_HOME",
            )


def _model(spec: ModelSpec, token: str | None, cache_dir: Path | None, local_files_only: bool) -> AssetReport:
    if _is_named_architecture(spec):
        return AssetReport("model", f"{spec.family} {spec.source} (random weights)", None, 0, 0)
    # Looked for without network first: a source that is neither a folder nor a hub id is an error here.
    folder = _without_network(spec, cache_dir)
    remedy = "Complete the folder, or name another source"
    if _is_from_hub(spec):
        remedy = _remedy(_repository(spec))
        if not local_files_only:
            folder = hub.fetch(_repository(spec), cache_dir, token)
    if folder is None:
        return AssetReport("model", spec.source, None, 0, 0, ("it is not in the cache",), remedy)
    return _report("model", spec.source, folder, _model_problems(folder, spec), remedy)


def _dataset(wanted: hub.Repository, token: str | None, cache_dir: Path | None, local_files_only: bool) -> AssetReport:
    name, remedy = wanted.name, _remedy(wanted)
    if not local_files_only:
        folder: Path | None = hub.fetch(wanted, cache_dir, token)
    else:
        folder = hub.cached(wanted, cache_dir)
        folder = folder or next(iter(hub.prepared_datasets(name)), None)
    if folder is None:
        return AssetReport("dataset", name, None, 0, 0, ("it is not in the cache",), remedy)
    tables = [p for p in folder.rglob("*valid*") if p.suffix in (".parquet", ".arrow")]
    problems = tuple(problem for p in tables if (problem := _table_problem(p)) is not None)
    if not tables:
        problems = ("its validation file is missing",)
    return _report("dataset", name, folder, problems, remedy)
