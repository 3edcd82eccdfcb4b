"""From an experiment to its plan: every cell in a fixed order, and the combinations left out with the reason.

The plan is a pure function of the experiment: the same file gives the same cells in the same order on every machine,
so that a run can be resumed, or split into jobs, without communication.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dlmbench import prompts, registry
from dlmbench.errors import BenchError
from dlmbench.experiment import knobs as axes
from dlmbench.types import Cell, Experiment, Grid, LeftOut, ModelSpec, Plan, SamplerAxes


def expand(experiment: Experiment) -> Plan:
    """The plan of an experiment, without predictions: grids in the order of the file, equal cells only once.

    Order within a grid: length, batch size, model, engine, knobs, the last one varying fastest. `Cell.knobs` are the
    values the sampler resolves (defaults included), sorted by name.

    Raises:
        BenchError: an unknown name, an unreadable prompt file, a model listed twice, or nothing left to run.
    """
    _refuse_duplicates(experiment.models)
    source = prompts.identity(experiment.prompts)
    cells: dict[str, Cell] = {}
    left_out: dict[str, LeftOut] = {}
    for grid in experiment.grids:
        for found in _grid(experiment, grid, source):
            if isinstance(found, Cell):
                cells.setdefault(found.id, found)
            else:
                left_out.setdefault(found.label, found)
    if not cells:
        why = next(iter(left_out.values())).reason if left_out else "no sampler of the grid fits the models chosen"
        raise BenchError(f"nothing to run in '{experiment.name}': {why}", "Add a model, a sampler or a value")
    return Plan(tuple(cells.values()), tuple(left_out.values()))


def with_models(plan: Plan, models: Iterable[ModelSpec]) -> Plan:
    """The plan with `models`, matched by key, in place of its own: how their content gets into the cells' ids.

    Raises:
        BenchError: two of the models are the same checkpoint.
    """
    by_key = {model.key: model for model in models}
    used = dict.fromkeys(cell.model.key for cell in plan.cells)
    _refuse_duplicates(by_key[key] for key in used)
    return replace(plan, cells=tuple(replace(cell, model=by_key[cell.model.key]) for cell in plan.cells))


def _refuse_duplicates(models: Iterable[ModelSpec]) -> None:
    keys: dict[tuple[str, str, str], str] = {}
    for model in models:
        first = keys.setdefault(model.identity, model.key)
        if first != model.key:
            raise BenchError(
                f"models '{first}' and '{model.key}' are the same checkpoint of {model.source}",
                "Remove one of them, or choose one with --models",
            )


def _grid(experiment: Experiment, grid: Grid, source: str) -> Iterator[Cell | LeftOut]:
    points = itertools.product(grid.lengths, grid.batch_sizes, experiment.models, grid.engines)
    for (prompt_tokens, new_tokens), batch_size, model, engine in points:
        for sampler_axes in fitting(grid, model):
            sampler = registry.load("samplers", sampler_axes.sampler)
            for chosen in axes.combinations(sampler_axes):
                reason = sampler.check(chosen, new_tokens)
                if reason is not None:
                    swept = [f"{name}={chosen[name]}" for name, _ in sampler_axes.knobs if chosen.get(name) is not None]
                    label = " ".join((f"{model.key} P={prompt_tokens} G={new_tokens}", *swept))
                    yield LeftOut(label, reason)
                    continue
                can_resolve = hasattr(sampler, "resolve")
                knobs = sampler.resolve(chosen, engine, new_tokens) if can_resolve else chosen
                yield Cell(
                    model=model,
                    engine=engine,
                    sampler=sampler_axes.sampler,
                    knobs=tuple(sorted(knobs.items())),
                    batch_size=batch_size,
                    prompt_tokens=prompt_tokens,
                    new_tokens=new_tokens,
                    precision=grid.precision,
                    attention=grid.attention,
                    seed=experiment.seed,
                    prompts=source,
                )


def fitting(grid: Grid, model: ModelSpec) -> Iterator[SamplerAxes]:
    """The samplers of the grid that can run this model: those of its family's paradigm."""
    paradigm = registry.load("families", model.family).PARADIGM
    for sampler_axes in grid.samplers:
        if paradigm == registry.load("samplers", sampler_axes.sampler).PARADIGM:
            yield sampler_axes
