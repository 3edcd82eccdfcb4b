"""The file of a machine's self-check: where it is kept, and its copy in a run folder.

One file per environment, in the user's state folder: measurements of one environment can be compared, whatever the
host is called. A run folder keeps a copy, so that its report can be made on any machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlmbench.results.journal import read_json, replace_file, write_error
from dlmbench.types import Environment, Selfcheck, from_mapping

SELFCHECK = "selfcheck.json"  # in a run folder
VARIABLE = "DLMBENCH_SELFCHECK"

# Standard deviations of log medians beyond this are no measurement: a factor of 20,000.
MOST_SD = 10.0


def selfcheck_path(environment_id: str) -> Path:
    """Where the self-check of an environment is kept: $DLMBENCH_SELFCHECK, else a file in the user's state folder."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "dlmbench" / "selfcheck" / f"{environment_id}.json"


def write_selfcheck(path: Path, selfcheck: Selfcheck) -> None:
    """Replace the file; its folder is created.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, path) from error
    replace_file(path, json.dumps(asdict(selfcheck), indent=2, allow_nan=False) + "\n")


def read_selfcheck(path: Path) -> Selfcheck | None:
    """The self-check in a file; None without the file.

    Raises:
        BenchError: the file cannot be read, or is not one that dlmbench wrote.
    """
    return read_json(path, _parse, "Delete it, then run `dlmbench selfcheck` again")


def _parse(values: Any) -> Selfcheck:
    found = from_mapping(Selfcheck, values)
    if wrong := [f.sd_log_upper for f in found.floors if not 0 < f.sd_log_upper < MOST_SD]:
        raise ValueError(f"a noise floor has the deviation {wrong[0]}")
    return found


def selfcheck_of(environment: Environment) -> tuple[Selfcheck | None, str]:
    """This machine's self-check, and a hint where there is none that suits the environment.

    Raises:
        BenchError: see `read_selfcheck`.
    """
    path = selfcheck_path(environment.id)
    found = read_selfcheck(path)
    if found is None:
        return None, "The noise of this machine is unknown: `dlmbench selfcheck` measures it in a few minutes"
    if found.environment_id != environment.id:
        text = f"{path} is of another environment ({found.device}) and is ignored"
        return None, f"{text}: run `dlmbench selfcheck` here"
    return found, ""


def copy_selfcheck(folder: Path, environment: Environment) -> str:
    """Put this machine's self-check into a run folder, in place of an older copy; with neither, returns a hint.

    Raises:
        BenchError: see `read_selfcheck`.
    """
    found, hint = selfcheck_of(environment)
    if found is not None:
        write_selfcheck(folder / SELFCHECK, found)
    return "" if (folder / SELFCHECK).exists() else hint


def merge_selfchecks(output: Path, shards: Iterable[Path]) -> None:
    """Put the shards' self-check into `output`: where there are several, the one of the noisiest host."""
    found = [check for folder in shards if (check := read_selfcheck(folder / SELFCHECK)) is not None]
    if found:
        write_selfcheck(
            output / SELFCHECK, max(found, key=lambda check: max((f.ratio for f in check.floors), default=0.0))
        )
