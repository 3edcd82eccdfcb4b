"""A folder is a registry: a plug-in is a file in it, found by its name and imported when it is used.

Adding a sampler, family, metric or figure is adding one file. The first line of its docstring is what `dlmbench list`
shows. Plug-ins import torch inside functions, so that listing and planning stay instant.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import KnobValue

_ROOT = Path(__file__).parent


def names(folder: str) -> tuple[str, ...]:
    """The plug-ins in `folder` (relative to the package, as `samplers` or `samplers/commit`), sorted."""
    return tuple(sorted(p.stem for p in (_ROOT / folder).glob("*.py") if not p.stem.startswith("_")))


@cache
def summary(folder: str, name: str) -> str:
    """The first line of the plug-in's docstring, read without importing it."""
    source = (_ROOT / folder / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


@cache
def load(folder: str, name: str) -> ModuleType:
    """Import the plug-in `name` of `folder`; looked for once, for a plan asks thousands of times.

    Raises:
        BenchError: no such file, with the nearest known name.
    """
    if name not in names(folder):
        kind = folder.rpartition("/")[2].removesuffix("s").replace("familie", "family").replace("_", " ")
        raise BenchError(f"unknown {kind} '{name}'", did_you_mean(name, names(folder)))
    return importlib.import_module(f"dlmbench.{folder.replace('/', '.')}.{name}")


# ---------------------------------------------------------------- knobs: the grid axes that samplers declare


@dataclass(frozen=True)
class Knob:
    """One setting of a sampler: a field of its `Knobs` dataclass, hence a grid axis, an option and a CSV column."""

    name: str
    kind: type
    optional: bool
    default: KnobValue
    help: str
    owner: str


def _declared(module: ModuleType, owner: str) -> Iterator[Knob]:
    kinds = typing.get_type_hints(module.Knobs)
    for f in dataclasses.fields(module.Knobs):
        kind, optional = kinds[f.name], False
        if isinstance(kind, types.UnionType):
            kind, optional = next(k for k in typing.get_args(kind) if k is not type(None)), True
        yield Knob(f.name, kind, optional, typing.cast(KnobValue, f.default), f.metadata.get("help", ""), owner)


def parts(sampler: str) -> dict[str, str]:
    """Which knobs of a sampler name a part (as `commit` does), and the folder that part is a file of."""
    return dict(getattr(load("samplers", sampler), "PARTS", {}))


def knobs_of(sampler: str, chosen: Mapping[str, KnobValue]) -> dict[str, Knob]:
    """The knobs of a sampler once its parts are chosen: its own, and those of each chosen part.

    Raises:
        BenchError: an unknown sampler or part.
    """
    own = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, folder in parts(sampler).items():
        part = str(chosen.get(knob, own[knob].default))
        own |= {k.name: k for k in _declared(load(folder, part), f"{knob}={part}")}
    return own


def all_knobs(sampler: str) -> dict[str, Knob]:
    """Every knob of a sampler, those of all its possible parts included."""
    found = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, folder in parts(sampler).items():
        for part in names(folder):
            for k in _declared(load(folder, part), f"{knob}={part}"):
                found.setdefault(k.name, k)
    return found


@cache
def knob_names() -> tuple[str, ...]:
    """The names of all knobs of all samplers, sorted: the knob columns of the CSV."""
    return tuple(sorted({name for sampler in names("samplers") for name in all_knobs(sampler)}))
