"""Starts the program for a test: in this process, or as one of its own; and what a run of it measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from dlmbench.cli import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command run in this process, which saves the seconds of importing.

    On a busy machine a step that takes long is named on a line of its own, which ends in " ..."; it is left out here.
    """
    try:
        main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, "".join(line for line in err.splitlines(keepends=True) if not line.rstrip().endswith(" ..."))


def fails(capsys, *arguments: object, says: str) -> None:
    """The command ends with code 2 and one line that has the words of `says`."""
    code, _, err = run(capsys, *arguments)
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    for word in says.split(" ... "):
        assert word in err, err


def command_line(*arguments: object) -> list[str]:
    """The command line that starts it as a process of its own."""
    return [sys.executable, "-m", "dlmbench", *map(str, arguments)]


def start(*arguments: object, timeout: float, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own, to its end; `settings` as of subprocess.run."""
    return subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=timeout, **settings)


def measured_lines(run_folder: Path) -> list[str]:
    """All records but the environment's, which names the checkout's commit."""
    lines = (run_folder / "records.jsonl").read_text().splitlines()
    return [line for line in lines if '"kind": "environment"' not in line]
