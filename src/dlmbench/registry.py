"""Plug-ins: a module found by its name, in a folder of this package or as an entry point of an installed package.

Adding a sampler, family, engine, metric, figure or prompt source is adding one file; another package lists its modules
in an entry point group (`dlmbench.metrics`, for example). The first line of a module's docstring is what
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
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from dlmbench.errors import BenchError, did_you_mean
from dlmbench.types import KnobValue


@dataclass(frozen=True)
class PluginKind:
    """One kind of plug-in: the subpackage of the built-in ones, what a single one is called, and what it must have."""

    subpackage: str
    singular: str
    required: tuple[str, ...]


# The entry point group of a kind is `dlmbench.<kind>`. docs/adding.md has an example of each.
KINDS = {
    "families": PluginKind(
        "models.families", "family", ("PARADIGM", "SAMPLER", "ROLE", "KNOWN", "architecture", "tensors")
    ),
    "samplers": PluginKind("sampling.samplers", "sampler", ("PARADIGM", "KNOBS", "check", "generate")),
    "commit": PluginKind("sampling.commit", "commit rule", ("SCHEDULED", "KNOBS", "confidence", "decide")),
    "cache": PluginKind("sampling.cache", "cache", ("USES_KV_CACHE", "KNOBS", "span")),
    "engines": PluginKind("models.engines", "engine", ("load",)),
    "prompts": PluginKind("prompts.sources", "prompt source", ("WINDOWS", "SHUFFLED", "load")),
    "metrics": PluginKind("metrics", "metric", ("UNIT", "HIGHER_IS_BETTER", "ROLE", "NEEDS", "score")),
    "figures": PluginKind("figures", "figure", ("points", "caption", "chart")),
}


@cache
def _modules(kind: str) -> dict[str, str]:
    """Dotted module of every plug-in of `kind`, by name.

    Prompt sources are data sets, whose names have dashes: wikitext_103.py is wikitext-103, in an entry point too.

    Raises:
        BenchError: an installed package uses the name of another plug-in.
    """
    subpackage = KINDS[kind].subpackage
    folder = Path(__file__).parent.joinpath(*subpackage.split("."))
    files = [p.stem for p in folder.glob("*.py")] + [p.parent.name for p in folder.glob("*/__init__.py")]
    modules = {name: f"dlmbench.{subpackage}.{name}" for name in files if not name.startswith("_")}
    by_name = {_public_name(kind, name): module for name, module in modules.items()}
    for point in entry_points(group=f"dlmbench.{kind}"):
        name = _public_name(kind, point.name)
        if by_name.setdefault(name, point.value) != point.value:
            raise BenchError(
                f"two {kind} plug-ins are named '{name}': {by_name[name]} and {point.value}",
                "Rename the entry point of the installed package, or uninstall it",
            )
    return by_name


def _public_name(kind: str, name: str) -> str:
    return name.replace("_", "-") if kind == "prompts" else name


def names(kind: str) -> tuple[str, ...]:
    """The plug-ins of `kind` (a key of KINDS), sorted."""
    return tuple(sorted(_modules(kind)))


@cache
def summary(kind: str, name: str) -> str:
    """The first line of the plug-in's docstring, read without importing the plug-in."""
    module = _modules(kind)[name]
    try:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (ImportError, AssertionError, OSError, ValueError, SyntaxError):
        return f"(broken: the module {module} cannot be read)"


@cache
def load(kind: str, name: str) -> ModuleType:
    """Import the plug-in `name` of `kind`; cached: a plan calls this thousands of times.

    Raises:
        BenchError: there is no such plug-in (with the nearest known name), it cannot be imported, or it lacks a
            required attribute.
    """
    singular = KINDS[kind].singular
    if name not in _modules(kind):
        raise BenchError(f"unknown {singular} '{name}'", did_you_mean(name, names(kind)))
    where = _modules(kind)[name]
    try:
        module = importlib.import_module(where)
    except Exception as error:  # whatever the module does while it is imported
        raise BenchError(
            f"{singular} '{name}' cannot be imported from {where}: {type(error).__name__}: {error}",
            "Fix the module, or uninstall the package that names it",
        ) from error
    missing = [attribute for attribute in KINDS[kind].required if not hasattr(module, attribute)]
    if missing:
        raise BenchError(f"{singular} '{name}' ({where}) lacks {', '.join(missing)}", "See docs/adding.md")
    return module


def attribute(kind: str, name: str, attribute: str, default: Any) -> Any:
    """An attribute of a plug-in, `default` where it has none or is not installed (e.g. for a run made elsewhere)."""
    return getattr(load(kind, name), attribute, default) if name in _modules(kind) else default


@cache
def loadable(kind: str) -> tuple[str, ...]:
    """The plug-ins of `kind` that can be imported, sorted: a broken one must not stop the others."""
    found = []
    for name in names(kind):
        with suppress(BenchError):
            load(kind, name)
            found.append(name)
    return tuple(found)


# ---------------------------------------------------------------- knobs: the grid axes that samplers declare


@dataclass(frozen=True)
class Knob:
    """One setting of a sampler: a field of its KNOBS dataclass, hence a grid axis, an option and a CSV column."""

    name: str
    kind: type
    optional: bool
    default: KnobValue
    help: str
    owner: str


def _declared(module: ModuleType, owner: str) -> Iterator[Knob]:
    knobs = module.KNOBS
    kinds = typing.get_type_hints(knobs)
    for f in dataclasses.fields(knobs):
        kind, optional = kinds[f.name], False
        if isinstance(kind, types.UnionType):
            kind, optional = next(k for k in typing.get_args(kind) if k is not type(None)), True
        yield Knob(f.name, kind, optional, typing.cast(KnobValue, f.default), f.metadata.get("help", ""), owner)


def parts(sampler: str) -> dict[str, str]:
    """The knobs of a sampler that choose a plug-in (as `commit` does), and its kind."""
    return dict(getattr(load("samplers", sampler), "PARTS", {}))


def knobs_of(sampler: str, chosen: Mapping[str, KnobValue]) -> dict[str, Knob]:
    """The knobs of a sampler with chosen parts: its own, and those of each part.

    Raises:
        BenchError: an unknown sampler or part.
    """
    own = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, kind in parts(sampler).items():
        part = str(chosen.get(knob, own[knob].default))
        own |= {k.name: k for k in _declared(load(kind, part), f"{knob}={part}")}
    return own


def all_knobs(sampler: str) -> dict[str, Knob]:
    """Every knob of a sampler, including those of all possible parts."""
    found = {k.name: k for k in _declared(load("samplers", sampler), sampler)}
    for knob, kind in parts(sampler).items():
        for part in loadable(kind):
            for k in _declared(load(kind, part), f"{knob}={part}"):
                found.setdefault(k.name, k)
    return found


@cache
def knob_names() -> tuple[str, ...]:
    """The names of all knobs of all samplers, sorted: the knob columns of the CSV."""
    return tuple(sorted({name for sampler in loadable("samplers") for name in all_knobs(sampler)}))
