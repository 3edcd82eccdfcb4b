"""Download models and data sets ahead of a run, or check that they are complete on this machine.

A compute node often has no network: what a run will read can be downloaded on another machine and verified on this
one, file by file, before a job is queued. Only safetensors, JSON and tokenizer files are downloaded or accepted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlmbench import registry
from dlmbench.errors import BenchError
from dlmbench.models import checkpoint, hub
from dlmbench.models.loading import is_from_hub, is_named_architecture, local_folder, repository
from dlmbench.types import Experiment, ModelSpec


@dataclass(frozen=True)
class AssetReport:
    """One model or data set: its folder, its size, and what is missing or broken (nothing when it is ready)."""

    kind: str
    name: str
    folder: Path | None
    files: int
    size_bytes: int
    problems: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether all files are present and complete."""
        return not self.problems

    @property
    def line(self) -> str:
        """The report in one line."""
        if self.problems:
            return f"{self.kind} {self.name}: {'; '.join(self.problems)}. {self.remedy}".strip()
        where = f" in {self.folder}" if self.folder is not None else ""
        return f"{self.kind} {self.name}: {self.files} files, {self.size_bytes / 1e6:.1f} MB{where}"


def read_token(option: str | None) -> str | None:
    """The token of `--hf-token`: itself, or the first line of the file it names; None leaves it to $HF_TOKEN.

    Raises:
        BenchError: an empty token, or a file that is missing or unreadable; the option's text is never repeated.
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


def download(
    experiment: Experiment,
    token: str | None = None,
    model_cache_dir: Path | None = None,
    dataset_cache_dir: Path | None = None,
    extra_model_ids: Sequence[str] = (),
    local_files_only: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> list[AssetReport]:
    """Download what an experiment reads, then verify it; `local_files_only` verifies only, without network.

    Sizes and free space are checked, and sizes passed to `log`, before the download starts. Files that an interrupted
    download completed are kept.

    Raises:
        BenchError: something cannot be fetched (see `hub.fetch`), or the disk is too small. Missing or broken files
            are in the reports instead.
    """
    specs = [*experiment.models, *(ModelSpec(name, "", name, "baseline") for name in extra_model_ids)]
    prompts = experiment.prompts
    dataset = getattr(registry.load("prompts", prompts.source), "DATASET", None)
    if prompts.path is not None:
        dataset = None
    if not local_files_only:
        missing = {}
        for spec in specs:
            # The local folder comes first: a source that is neither a folder nor a hub id is an error here.
            folder = local_folder(spec, model_cache_dir)
            if is_from_hub(spec) and (folder is None or checkpoint.problems(folder, spec)):
                missing[spec.source] = hub.missing(repository(spec), model_cache_dir, token)
        if dataset is not None:
            missing[dataset.name] = hub.missing(dataset, dataset_cache_dir, token)
        _check_space(missing, log)
    reports = [_model(spec, token, model_cache_dir, local_files_only) for spec in specs]
    if prompts.path is not None:
        path = Path(prompts.path)
        problems = () if path.exists() else ("there is nothing at this path",)
        size = path.stat().st_size if path.is_file() else 0
        reports.append(AssetReport("prompts", str(path), path.parent, 1, size, problems, "Check path under prompts"))
    elif dataset is not None:
        reports.append(_dataset(dataset, token, dataset_cache_dir, local_files_only))
    return reports


def _check_space(missing: dict[str, hub.MissingFiles], log: Callable[[str], None]) -> None:
    by_disk: dict[int, list[tuple[Path, int]]] = {}
    for name, what in missing.items():
        if what.files:
            log(f"{name}: {what.files} files to fetch, {what.bytes / 1e9:.2f} GB, into {what.folder}")
            parent = next(p for p in (what.folder, *what.folder.absolute().parents) if p.is_dir())
            by_disk.setdefault(parent.stat().st_dev, []).append((parent, what.bytes))
    for needed in by_disk.values():
        folder, total = needed[0][0], sum(size for _, size in needed)
        free = shutil.disk_usage(folder).free
        if total > free:
            raise BenchError(
                f"the download needs {total / 1e9:.2f} GB, but {folder} has only {free / 1e9:.2f} GB free",
                "Free some space, or name a larger file system with --model-cache-dir or HF_HOME",
            )


def _model(spec: ModelSpec, token: str | None, cache_dir: Path | None, local_files_only: bool) -> AssetReport:
    if is_named_architecture(spec):
        return AssetReport("model", f"{spec.family} {spec.source} (random weights)", None, 0, 0)
    folder = local_folder(spec, cache_dir)
    remedy = "Complete the folder, or name another source"
    if is_from_hub(spec):
        remedy = repository(spec).remedy
        if not local_files_only:
            folder = hub.fetch(repository(spec), cache_dir, token)
    problems = checkpoint.problems(folder, spec) if folder is not None else ()
    return _report("model", spec.source, folder, problems, remedy)


def _dataset(wanted: hub.Repository, token: str | None, cache_dir: Path | None, local_files_only: bool) -> AssetReport:
    if not local_files_only:
        folder: Path | None = hub.fetch(wanted, cache_dir, token)
    else:
        folder = hub.cached(wanted, cache_dir) or next(iter(hub.prepared_datasets(wanted.name)), None)
    tables = [p for p in folder.rglob("*valid*") if p.suffix in (".parquet", ".arrow")] if folder is not None else []
    problems = tuple(_table_problems(tables)) if tables else ("its validation file is missing",)
    return _report("dataset", wanted.name, folder, problems, wanted.remedy)


def _table_problems(tables: Sequence[Path]) -> Iterator[str]:
    """What is wrong with the tables of a data set; Parquet begins and ends with the same four bytes."""
    for path in tables:
        if path.stat().st_size == 0:
            yield f"{path.name} is empty"
        elif path.suffix == ".parquet":
            with path.open("rb") as stream:
                first = stream.read(4)
                stream.seek(-min(4, path.stat().st_size), 2)
                if not first == stream.read(4) == b"PAR1":
                    yield f"{path.name} is not a whole Parquet file"


def _report(kind: str, name: str, folder: Path | None, problems: tuple[str, ...], remedy: str) -> AssetReport:
    if folder is None:
        return AssetReport(kind, name, None, 0, 0, ("it is not in the cache",), remedy)
    files = [p for p in folder.rglob("*") if p.is_file()]
    return AssetReport(kind, name, folder, len(files), sum(p.stat().st_size for p in files), problems, remedy)
