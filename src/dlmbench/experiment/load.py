"""A YAML file and the command line's overrides to an Experiment: strict, and in one line when something is wrong.

Everything is checked before anything is loaded, so that a slip shows in a second and not after an hour of downloads.
`python -m dlmbench.experiment.load` prints the JSON schema of the file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

from dlmbench import registry
from dlmbench.errors import BenchError, did_you_mean
from dlmbench.experiment import knobs as axes
from dlmbench.experiment.schema import (
    PROMPT_SIZES,
    Document,
    GridEntry,
    Lengths,
    MetricEntry,
    PromptEntry,
    in_words,
    json_schema,
)
from dlmbench.experiment.yaml_file import place, read
from dlmbench.types import Experiment, Grid, KnobValue, ModelSpec, PromptSettings, ProtocolSettings, SamplerAxes

__all__ = ["Overrides", "json_schema", "load", "parse_overrides"]


# ---------------------------------------------------------------- overrides


@dataclass(frozen=True)
class Overrides:
    """What the command line puts in the place of the file; None or empty leaves the file's word.

    steps, batch_size, seq_len and knobs replace the axis in every grid that has it. max_prompts is a limit.
    """

    steps: tuple[int, ...] | None = None
    batch_size: tuple[int, ...] | None = None
    seq_len: tuple[int, ...] | None = None
    max_prompts: int | None = None
    prompt_file: str | None = None
    compute_bertscore: bool = False
    models: tuple[str, ...] | None = None
    knobs: tuple[tuple[str, tuple[KnobValue, ...]], ...] = ()


def _counts(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    found: list[int] = []
    for item in text.split(","):
        if not re.fullmatch(r"\s*[1-9][0-9]*\s*", item):
            raise BenchError(f"{option}: '{item.strip()}' is not a whole number of at least 1", f"as in {option} 16,32")
        found.append(int(item))
    return tuple(dict.fromkeys(found))


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    found = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    if "" in found:
        raise BenchError(f"{option}: '{text}' holds an empty name", f"as in {option} llama,llada")
    return found


def parse_overrides(
    *,
    steps: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    max_prompts: str | None = None,
    prompt_file: str | None = None,
    compute_bertscore: bool = False,
    models: str | None = None,
    knobs: Sequence[str] = (),
) -> Overrides:
    """Overrides from texts as the command line gives them; lists are separated by commas.

    Args:
        knobs: `name=value` or `name=value,value`, any knob of any sampler.

    Raises:
        BenchError: naming the option and the text that is no number, no knob or no value of it.
    """
    limit = _counts("--max_prompts", max_prompts)
    if limit is not None and len(limit) > 1:
        raise BenchError(f"--max_prompts: '{max_prompts}' is more than one number", "as in --max_prompts 16")
    settings: dict[str, tuple[KnobValue, ...]] = {}
    for item in knobs:
        name, sign, values = item.partition("=")
        if not sign or not name.strip() or not values.strip():
            raise BenchError(f"--knob: '{item}' is not name=value", "as in --knob block_length=16,32")
        settings[name.strip()] = axes.from_text(name.strip(), [value.strip() for value in values.split(",")])
    if steps is not None and "steps" in settings:
        raise BenchError("steps are given twice, by --steps and --knob", "keep one of them")
    return Overrides(
        steps=_counts("--steps", steps),
        batch_size=_counts("--batch_size", batch_size),
        seq_len=_counts("--seq_len", seq_len),
        max_prompts=None if limit is None else limit[0],
        prompt_file=prompt_file,
        compute_bertscore=compute_bertscore,
        models=_names("--models", models),
        knobs=tuple(settings.items()),
    )


# ---------------------------------------------------------------- from the document to the experiment


def _parse(path: Path) -> Document:
    raw = read(path)
    try:
        return Document.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = errors[0]
        what, hint = in_words(first)
        where = place([p for p in first["loc"] if p != "[key]"][: -1 if first["type"] == "missing" else None], raw)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BenchError(f"{path}: {where}: {what}{more}" if where else f"{path}: {what}{more}", hint) from None


def load(path: Path | str, overrides: Overrides | None = None) -> Experiment:
    """The experiment that a YAML file states, after the overrides.

    Raises:
        BenchError: file, place as a dotted path, what is wrong and what to do: unreadable or malformed YAML, an
            unknown key or name, a value of the wrong type or out of bounds, lengths without room for a prompt, a knob
            or a value of a knob with which nothing can run.
    """
    path, overrides = Path(path), overrides or Overrides()
    document = _parse(path)
    models = _models(document, overrides, path)
    written = tuple(_grid(entry, entry.lengths) for entry in document.grid)
    many = len(written) > 1
    for number, grid in enumerate(written):
        for sampler_axes in grid.samplers:
            for knob in axes.unused_knobs(sampler_axes):
                raise BenchError(
                    f"{path}: {_axis_place(number, many, sampler_axes.sampler, knob)}: without effect, for none of the "
                    "parts chosen has this knob",
                    f"It belongs to {_parts_with(sampler_axes.sampler, knob)}",
                )
    grids = _overridden(document, written, overrides, path)
    for number, grid in enumerate(grids):
        for sampler_axes in grid.samplers:
            found = axes.impossible_value(grid, sampler_axes)
            if found is not None:
                knob, value, reason = found
                where = _axis_place(number, many, sampler_axes.sampler, knob)
                raise BenchError(
                    f"{path}: {where}: {value} goes with no length and no other value of the grid: {reason}",
                    f"Change {knob}, or what it must go with",
                )
    protocol = document.protocol
    return Experiment(
        name=document.name,
        models=models,
        grids=grids,
        prompts=_prompts(document.prompts, overrides),
        protocol=ProtocolSettings(**protocol.model_dump()),
        metrics=_metrics(document.metrics, overrides),
        metric_settings={entry.name: entry.settings for entry in document.metrics if entry.settings},
        hardware=document.hardware,
        seed=document.seed,
        description=document.description,
    )


def _axis_place(number: int, many: bool, sampler: str, knob: str) -> str:
    return f"grid{f'[{number}]' if many else ''}.samplers.{sampler}.{knob}"


def _parts_with(sampler: str, knob: str) -> str:
    found = [
        f"{part}: {name}"
        for part, folder in registry.parts(sampler).items()
        for name in registry.names(folder)
        if knob in registry.knobs_of(sampler, {part: name})
    ]
    return " or ".join(found)


def _models(document: Document, overrides: Overrides, path: Path) -> tuple[ModelSpec, ...]:
    for key in overrides.models or ():
        if key not in document.models:
            raise BenchError(f"--models: {path} has no model '{key}'", did_you_mean(key, document.models))
    return tuple(
        ModelSpec(
            key=key,
            family=entry.family,
            source=entry.source,
            role=entry.role or registry.load("families", entry.family).ROLE,
            revision=entry.revision,
            weights=entry.weights,
        )
        for key, entry in document.models.items()
        if overrides.models is None or key in overrides.models
    )


def _grid(entry: GridEntry, lengths: Lengths) -> Grid:
    samplers = []
    for sampler in entry.samplers.model_fields_set:
        chosen: BaseModel = getattr(entry.samplers, sampler)
        given = {name: getattr(chosen, name) for name in type(chosen).model_fields if name in chosen.model_fields_set}
        knobs = tuple((name, tuple(dict.fromkeys(values))) for name, values in given.items())
        samplers.append(SamplerAxes(sampler, knobs))
    return Grid(
        lengths=lengths.pairs(),
        batch_sizes=tuple(dict.fromkeys(entry.batch_size)),
        samplers=tuple(sorted(samplers, key=lambda s: s.sampler)),
        engines=tuple(dict.fromkeys(entry.engine)),
        precision=entry.precision,
        attention=entry.attention,
    )


def _overridden(document: Document, written: tuple[Grid, ...], overrides: Overrides, path: Path) -> tuple[Grid, ...]:
    grids = written
    if overrides.seq_len is not None:
        try:
            grids = tuple(
                replace(grid, lengths=entry.lengths.with_total(list(overrides.seq_len)).pairs())
                for grid, entry in zip(grids, document.grid, strict=True)
            )
        except ValidationError as error:
            what, hint = in_words(error.errors(include_url=False)[0])
            raise BenchError(f"--seq_len with the lengths of {path}: {what}", hint) from None
    if overrides.batch_size is not None:
        grids = tuple(replace(grid, batch_sizes=overrides.batch_size) for grid in grids)
    # Parts first: whether a knob has an effect depends on them.
    parts = {part for sampler in registry.names("samplers") for part in registry.parts(sampler)}
    knobs = sorted(overrides.knobs, key=lambda item: item[0] not in parts)
    if overrides.steps is not None:
        knobs.append(("steps", overrides.steps))
    for name, values in knobs:
        grids = _with_knob(grids, name, values)
    return grids


def _with_knob(grids: tuple[Grid, ...], name: str, values: tuple[KnobValue, ...]) -> tuple[Grid, ...]:
    option = "--steps" if name == "steps" else f"--knob {name}"
    having = axes.owners(name)
    effect = False
    changed = []
    for grid in grids:
        samplers = []
        for old in grid.samplers:
            new = replace(old, knobs=(*((k, v) for k, v in old.knobs if k != name), (name, values)))
            usable = old.sampler in having and name not in axes.unused_knobs(new)
            effect = effect or usable
            samplers.append(new if usable else old)
        changed.append(replace(grid, samplers=tuple(samplers)))
    if not effect:
        raise BenchError(f"{option} is without effect: no grid runs a sampler that has it", f"{name}: {having[0]}")
    return tuple(changed)


def _prompts(entry: PromptEntry, overrides: Overrides) -> PromptSettings:
    count = entry.count if entry.count is not None else PROMPT_SIZES[entry.size] if entry.size is not None else None
    if count is None and not getattr(registry.load("prompts", entry.source), "ALL_BY_DEFAULT", False):
        count = PROMPT_SIZES["medium"]
    settings = PromptSettings(entry.source, count, entry.path, entry.seed, entry.chat)
    if overrides.prompt_file is not None:
        # How many prompts a corpus was to give says nothing about a file of one's own: all of it is meant.
        settings = replace(settings, source="file", path=overrides.prompt_file, count=None)
    if overrides.max_prompts is not None and settings.count is None:
        return replace(settings, limit=overrides.max_prompts)
    if overrides.max_prompts is not None and settings.count is not None:
        return replace(settings, count=min(settings.count, overrides.max_prompts))
    return settings


def _metrics(entries: Sequence[MetricEntry], overrides: Overrides) -> tuple[str, ...]:
    names = dict.fromkeys(entry.name for entry in entries)
    if overrides.compute_bertscore:
        if "bertscore" not in registry.names("metrics"):
            raise BenchError(
                "--compute_bertscore: the metric bertscore is not part of this version of dlmbench",
                f"Leave the option out; known metrics: {', '.join(registry.names('metrics'))}",
            )
        names["bertscore"] = None
    return tuple(names)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
