"""The examples of docs/adding.md: their files, and a package of them installed into a folder."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from dlmbench import registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
PACKAGE = "dlmbench_examples"


def examples() -> dict[str, tuple[str, str]]:
    """By kind: the name of the file and its text, as docs/adding.md has them."""
    kinds = {f"src/dlmbench/{kind.subpackage.replace('.', '/')}": name for name, kind in registry.KINDS.items()}
    found = {}
    before, *rest = TEXT.split("```python\n")
    for part in rest:
        folder, name = re.findall(r"`(src/dlmbench/\S+)/(\w+)\.py`", before)[-1]
        code, _, before = part.partition("```")
        found[kinds[folder]] = (name, code)
    return found


def install(source: Path, target: Path, points: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
    """Install a package of `modules` with entry points (by kind, then by name) into the folder `target`.

    By pip and setuptools where both are there; else its files are laid out as an installer leaves them.
    """
    package = source / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Examples of plug-ins."""\n')
    for name, code in modules.items():
        (package / f"{name}.py").write_text(code)
    if importlib.util.find_spec("pip") and importlib.util.find_spec("setuptools"):
        lines = [
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"',
            f'[project]\nname = "{PACKAGE}"\nversion = "1.0"',
            f'[tool.setuptools]\npackages = ["{PACKAGE}"]',
        ]
        for kind, entries in points.items():
            lines.append(f'[project.entry-points."dlmbench.{kind}"]')
            lines += [f'{name} = "{module}"' for name, module in entries.items()]
        (source / "pyproject.toml").write_text("\n".join(lines) + "\n")
        options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    information = target / f"{PACKAGE}-1.0.dist-info"
    information.mkdir(parents=True)
    package.rename(target / PACKAGE)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    text = ""
    for kind, entries in points.items():
        text += f"[dlmbench.{kind}]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items())
    (information / "entry_points.txt").write_text(text)
