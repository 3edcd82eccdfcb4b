"""The Hugging Face hub: snapshots of repositories, from the cache where possible, with errors a user can act on.

Weights come as safetensors only: no pattern names a pickle, because unpickling runs code. A token is passed to the
library; it is neither stored nor shown. The library's exceptions are never passed on: they may quote HTTP headers.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dlmbench.errors import BenchError

Kind = Literal["model", "dataset"]

HOME = "https://huggingface.co"
MODEL_FILES = ("*.safetensors", "*.json", "tokenizer*", "*.model", "*.jinja", "LICENSE*")
REFUSED_FILES = ("original/*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.py")
DOWNLOAD = "dlmbench download --config FILE"
_PATIENCE_S = 5.0
_NAME = r"(?!.*(--|\.\.))\w([\w.-]*\w)?/\w([\w.-]*\w)?"


@dataclass(frozen=True)
class Repository:
    """What to fetch: org/name, file patterns, and the revision; None is the newest."""

    name: str
    kind: Kind
    files: Sequence[str] = MODEL_FILES
    revision: str | None = None

    @property
    def page(self) -> str:
        """Its web page."""
        return f"{HOME}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    @property
    def remedy(self) -> str:
        """How to get it onto a machine without network."""
        return f"Run `{DOWNLOAD}` on a machine with network access; page: {self.page}"


def cache_folder() -> Path:
    """The library's default cache folder for models."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether the library is set to never use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def offline_if_unreachable() -> Iterator[bool]:
    """Lets the libraries use only their caches where the hub does not answer; gives whether it is so.

    They would try again for a minute otherwise, for every file.
    """
    from huggingface_hub import constants, get_session

    is_off = was_offline = is_offline()
    # `datasets` keeps a copy of the setting.
    modules = [constants] + [sys.modules[name] for name in ("datasets.config",) if name in sys.modules]
    if not was_offline:
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
        except Exception:  # whatever the HTTP client raises
            is_off = True
    for module in modules:
        module.HF_HUB_OFFLINE = is_off  # type: ignore[attr-defined]
    try:
        yield is_off
    finally:
        for module in modules:
            module.HF_HUB_OFFLINE = was_offline  # type: ignore[attr-defined]


def cached(wanted: Repository, cache_dir: Path | None = None) -> Path | None:
    """The snapshot folder of a repository in the cache, complete or not, or None; never uses the network.

    Raises:
        BenchError: a name that no repository can have.
    """
    from_environment = os.environ.get("HF_DATASETS_CACHE") if wanted.kind == "dataset" else None
    given = [cache_dir, Path(from_environment) if from_environment else None]
    folders = [folder for folder in given if folder is not None] + [cache_folder()]
    # Checked without the library, which is slow to import.
    if len(wanted.name) > 96 or not re.fullmatch(_NAME, wanted.name, re.ASCII):
        raise BenchError(
            f"'{wanted.name}' is neither a folder here nor the name of a hub repository", "Names look like org/name"
        )
    subfolder = f"{wanted.kind}s--{wanted.name.replace('/', '--')}"
    if not any((folder / subfolder).is_dir() for folder in folders):
        return None
    from huggingface_hub.errors import LocalEntryNotFoundError

    for folder in folders:
        try:
            return Path(_snapshot_download(wanted, folder, local_files_only=True))
        except LocalEntryNotFoundError as error:
            # Newer versions of the library give the folder of an incomplete snapshot.
            incomplete = getattr(error, "snapshot_path", None)
            if incomplete is not None:
                return Path(incomplete)
    return None


def _snapshot_download(wanted: Repository, cache_dir: Path | None, **options: Any) -> Any:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        wanted.name,
        repo_type=wanted.kind,
        revision=wanted.revision,
        cache_dir=cache_dir,
        allow_patterns=list(wanted.files),
        ignore_patterns=list(REFUSED_FILES),
        **options,
    )


def prepared_datasets(name: str) -> tuple[Path, ...]:
    """Existing folders where `datasets.load_dataset` keeps its Arrow copy of a data set."""
    from huggingface_hub.constants import HF_HOME

    root = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    folder = root / name.replace("/", "___")
    return (folder,) if folder.is_dir() else ()


@dataclass(frozen=True)
class MissingFiles:
    """The files of a repository that the cache lacks, and their size. folder: where they will be stored."""

    files: int
    bytes: int
    folder: Path


def missing(wanted: Repository, cache_dir: Path | None = None, token: str | None = None) -> MissingFiles:
    """Ask the hub what `fetch` would download; a partly downloaded file counts as a whole one.

    Raises:
        BenchError: as `fetch`.
    """
    folder = cache_dir if cache_dir is not None else cache_folder()
    todo = [f for f in _snapshot(wanted, cache_dir, token, dry_run=True) if f.will_download]
    return MissingFiles(len(todo), sum(f.file_size or 0 for f in todo), folder)


def fetch(wanted: Repository, cache_dir: Path | None = None, token: str | None = None) -> Path:
    """Download a snapshot, or complete the one in the cache, and return its folder.

    Raises:
        BenchError: no such repository or revision, a gated one without access, no network, no space.
    """
    return Path(_snapshot(wanted, cache_dir, token, dry_run=False))


def _snapshot(wanted: Repository, cache_dir: Path | None, token: str | None, dry_run: bool) -> Any:
    """Call `snapshot_download`, and turn its exceptions into BenchErrors."""
    from huggingface_hub import errors

    try:
        return _snapshot_download(wanted, cache_dir, token=token, dry_run=dry_run)
    except errors.DryRunError as error:
        failure = _failure(wanted, error.__cause__ or error)
    except Exception as error:  # whatever the library, the HTTP client or the disk raises
        failure = _failure(wanted, error)
    # Raised outside the handlers, so that the library's exception is not attached as context.
    raise failure


def _failure(wanted: Repository, error: BaseException) -> BenchError:
    """What a user can do about an exception of `snapshot_download`."""
    from huggingface_hub import errors

    name, kind, where = wanted.name, wanted.kind, wanted.page
    again = "dlmbench download --config FILE --hf-token TOKEN"
    match error:
        case errors.GatedRepoError():
            return BenchError(
                f"{kind} {name} is gated and this account has no access",
                f"Accept its conditions at {where}, make a token at {HOME}/settings/tokens, then run `{again}`",
            )
        case errors.RevisionNotFoundError():
            hint = f"See the branches and tags at {where}"
            return BenchError(f"{kind} {name} has no revision '{wanted.revision}'", hint)
        case errors.RepositoryNotFoundError():
            hint = f"Check the name at {where}; for a private one run `{again}`"
            return BenchError(f"{kind} '{name}' was not found on the hub, or it is private", hint)
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return BenchError(
                f"{kind} {name} is not in the cache and {HOME} cannot be reached",
                f"On a machine with network access, run `{DOWNLOAD}` (page: {where}), and point HF_HOME or "
                "HF_HUB_CACHE to the folder it filled",
            )
        case errors.HfHubHTTPError():
            status = getattr(error.response, "status_code", None)
            reason = "the token is not valid" if status == 401 else f"the hub answered with status {status}"
            return BenchError(f"cannot fetch {kind} {name}: {reason}", f"See {where}, then run `{again}`")
    code = getattr(error, "errno", None)
    reason = os.strerror(code) if isinstance(code, int) else f"it failed with {type(error).__name__}"
    hint = f"Check network and space, then run `{DOWNLOAD}` again: complete files are kept"
    return BenchError(f"cannot fetch {kind} {name}: {reason}", hint)
