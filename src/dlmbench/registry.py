"""Plug-ins: a module found by its name, in a folder of this package or as an entry point of an installed one.

Adding a sampler, family, engine, metric, figure or prompt source is adding one file; a package of your own names its
modules in an entry point group (`dlmbench.metrics`, for example). The first line of a module's docstring is what
`dlmbench list` shows. Plug-ins import torch inside functions, so that listing and planning stay instant.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import KnobValue

# The subpackage that holds the built-in plug-ins of each kind. The entry point group of a kind is `dlmbench.<kind>`.
KINDS = {
    "families": "models.families",
    "samplers": "sampling.samplers",
    "commit": "sampling.commit",
    "cache": "sampling.cache",
    "engines": "models.engines",
    "prompts": "prompts.sources",
    "metrics": "metrics",
    "figures": "figures",
}
_SINGULAR = {"families": "family", "samplers": "sampler", "commit": "commit rule", "engines": "engine"} | {
    "prompts": "prompt source",
    "metrics": "metric",
    "figures": "figure",
}


@cache
def _modules(kind: str) -> dict[str, str]:
    """Dotted module of every plug-in of `kind`, by name.

    Raises:
        BenchError: an installed package uses the name of a built-in plug-in.
    """
    subpackage = f"dlmbench.{KINDS[kind]}"
    folder = Path(__file__).parent.joinpath(*KINDS[kind].split("."))
    files = [p.stem for p in folder.glob("*.py")] + [p.parent.name for p in folder.glob("*/__init__.py")]
    found = {name: f"{subpackage}.{name}" for name in files if not name.startswith("_")}
    for point in entry_points(group=f"dlmbench.{kind}"):
        if found.setdefault(point.name, point.value) != point.value:
            raise BenchError(
                f"two {kind} plug-ins are named '{point.name}': {found[point.name]} and {point.value}",
                "rename the entry point of the installed package, or uninstall it",
            )
    return found


def names(kind: str) -> tuple[str, ...]:
    """The plug-ins of `kind` (a key of KINDS), sorted."""
    return tuple(sorted(_modules(kind)))


@cache
def summary(kind: str, name: str) -> str:
    """The first line of the plug-in's docstring, read without importing the plug-in."""
    spec = importlib.util.find_spec(_modules(kind)[name])
    if spec is None or spec.origin is None:
        return "(its module cannot be found)"
    source = Path(spec.origin).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


@cache
def load(kind: str, name: str) -> ModuleType:
    """Import the plug-in `name` of `kind`; cached, because a plan asks thousands of times.

    Raises:
        BenchError: there is no such plug-in, with the nearest known name.
    """
    if name not in _modules(kind):
        raise BenchError(f"unknown {_SINGULAR.get(kind, kind)} '{name}'", did_you_mean(name, names(kind)))
    return importlib.import_module(_modules(kind)[name])


# ---------------------------------------------------------------- knobs: the grid axes that samplers declare


@dataclass(frozen=True)
class Knob:
    """One setting of a sampler: a field of its `KNOBS` dataclass, hence a grid axis, an option and a CSV column."""

    name: str
    kind: type
    optional: bool
    default: KnobValue
    help: str
    owner: str


def _declared(module: ModuleType, owner: str) -> Iterator[Knob]:
    kinds = typing.get_type_hints(module.KNOBS)
    for f in dataclasses.fields(module.KNOBS):
        kind, optional = kinds[f.name], False
        if isinstance(kind, types.UnionType):
            kind, optional = next(k for k in typing.get_args(kind) if k is not type(None)), True
        yield Knob(f.name, kind, optional, typing.cast(KnobValue, f.default), f.metadata.get("help", ""), owner)


def parts(sampler: str) -> dict[str, str]:
    """Which knobs of a sampler name a part (as `commit` does), and the kind of plug-in it names."""
    return dict(getattr(load("samplers", sampler), "PARTS", {}))


def knobs_of(sampler: str, chosen: Mapping[str, KnobValue]) -> dict[str, Knob]:
    """The knobs of a sampler once its parts are chosen: its own, and those of each chosen part.

    Raises:
        BenchError: an unknown sampler or part.
    """
    own = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, kind in parts(sampler).items():
        part = str(chosen.get(knob, own[knob].default))
        own |= {k.name: k for k in _declared(load(kind, part), f"{knob}={part}")}
    return own


def all_knobs(sampler: str) -> dict[str, Knob]:
    """Every knob of a sampler, those of all its possible parts included."""
    found = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, kind in parts(sampler).items():
        for part in names(kind):
            for k in _declared(load(kind, part), f"{knob}={part}"):
                found.setdefault(k.name, k)
    return found


@cache
def knob_names() -> tuple[str, ...]:
    """The names of all knobs of all samplers, sorted: the knob columns of the CSV."""
    return tuple(sorted({name for sampler in names("samplers") for name in all_knobs(sampler)}))
