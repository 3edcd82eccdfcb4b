"""Load an Experiment from a YAML file and the overrides of the command line.

Everything is checked here, strictly and before anything is loaded, so that a typo is reported at once, not after
an hour of downloads. An error is one line: file, place in it, what is wrong, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import dlmbench
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
    describe_error,
    json_schema,
    knobs_model,
)
from dlmbench.types import (
    Experiment,
    Grid,
    KnobValue,
    ModelSpec,
    PromptSettings,
    ProtocolSettings,
    SamplerAxes,
    home_expanded,
)

__all__ = ["Overrides", "json_schema", "knob_values", "load", "parse_overrides"]


# ---------------------------------------------------------------- overrides


@dataclass(frozen=True)
class Overrides:
    """Values from the command line that replace those of the file; None or empty keeps the file's.

    steps, batch_size, seq_len and knobs replace the axis in every grid that has it. max_prompts is an upper limit.
    """

    steps: tuple[int, ...] | None = None
    batch_size: tuple[int, ...] | None = None
    seq_len: tuple[int, ...] | None = None
    max_prompts: int | None = None
    prompt_file: str | None = None
    compute_bertscore: bool = False
    models: tuple[str, ...] | None = None
    knobs: tuple[tuple[str, tuple[KnobValue, ...]], ...] = ()


_ONE_LIMIT = "Write, for example, --max-prompts 16"


def _items(option: str, text: str | None, pattern: str, what: str, hint: str = "") -> tuple[str, ...] | None:
    """The items of a comma-separated list, each of which must match `pattern`; None where the option is not given."""
    if text is None:
        return None
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    for item in items:
        if not re.fullmatch(pattern, item):
            raise BenchError(
                f"{option}: '{item}' is not {what}", hint or f"Separate several values by commas: {option} A,B"
            )
    return items


def parse_overrides(*, knobs: Sequence[str] = (), **options: Any) -> Overrides:
    """Parse the options of the command line; lists are separated by commas.

    Args:
        knobs: `name=value` or `name=value,value`, for any knob of any sampler.
        options: the other fields of `Overrides`, as text.

    Raises:
        BenchError: an invalid number, knob name or knob value.
    """
    settings: dict[str, tuple[KnobValue, ...]] = {}
    for item in knobs:
        name, _, values = (part.strip() for part in item.partition("="))
        if not name or not values:
            raise BenchError(f"--knob: '{item}' is not name=value", "Write, for example, --knob block_length=16,32")
        settings[name] = knob_values(name, values.split(","))
    if options.get("steps") is not None and "steps" in settings:
        raise BenchError("steps are set both by --steps and by --knob", "Keep one of them")
    for name in ("steps", "batch_size", "seq_len", "max_prompts"):
        option = f"--{name.replace('_', '-')}"
        hint = _ONE_LIMIT if name == "max_prompts" else ""
        found = _items(option, options.get(name), "[1-9][0-9]*", "a positive whole number", hint)
        options[name] = None if found is None else tuple(map(int, found))
    if limit := options.pop("max_prompts"):
        if len(limit) > 1:
            raise BenchError("--max-prompts: more than one number", _ONE_LIMIT)
        options["max_prompts"] = limit[0]
    options["models"] = _items("--models", options.get("models"), ".+", "the name of a model")
    return Overrides(**options, knobs=tuple(settings.items()))


def knob_values(knob: str, texts: Sequence[str]) -> tuple[KnobValue, ...]:
    """Values of a knob from the command line, read and checked as those of the file.

    Raises:
        BenchError: an unknown knob, a value of the wrong type, or a part that does not exist.
    """
    sampler = axes.owners(knob)[0]
    try:
        values = [yaml.load(text, Loader=_Loader) for text in texts]
        chosen = knobs_model(sampler).model_validate({knob: values})
    except ValidationError as error:
        what, hint = describe_error(error.errors(include_url=False)[0])
        raise BenchError(f"knob {knob}: {what}", hint or registry.all_knobs(sampler)[knob].help) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BenchError(f"knob {knob}: '{','.join(texts)[:60]}' is not a value", "Write it as in the file") from None
    return tuple(dict.fromkeys(getattr(chosen, knob)))


# ---------------------------------------------------------------- reading the file


class _Loader(yaml.SafeLoader):
    """YAML, except that 1e-3 is a number, and that duplicate keys and numbers in base 8 or 60 are errors."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse duplicate keys. Merges (<<) come later, so that they can still override keys."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.composer.ComposerError(None, None, f"duplicate key '{name}'", key.start_mark)
            seen.add(name)
        return node


MOST = 2**53  # whole numbers up to here are exact as a float too


def _decimal(read: Callable[[_Loader, yaml.ScalarNode], float]) -> Callable[[_Loader, yaml.ScalarNode], float]:
    """`read`, but refusing a number that YAML does not take for the decimal one it looks like."""

    def checked(loader: _Loader, node: yaml.ScalarNode) -> float:
        value = read(loader, node)
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            base = 60 if ":" in node.value else 8
            problem = f"{node.value} would be {value:g}: YAML reads it in base {base}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if isinstance(value, int) and abs(value) > MOST:
            raise yaml.constructor.ConstructorError(None, None, f"a number beyond {MOST}", node.start_mark)
        return value

    return checked


def _encodable(loader: _Loader, node: yaml.ScalarNode) -> str:
    """A text, which has no half of a surrogate pair: no file could hold it."""
    value: str = loader.construct_yaml_str(node)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise yaml.constructor.ConstructorError(None, None, "half of a surrogate pair is no character", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:str", _encodable)
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal(_Loader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal(_Loader.construct_yaml_float))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


PACKAGE = Path(dlmbench.__file__).parent


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, where a number is the decimal one that it looks like.

    Raises:
        BenchError: no such file, unreadable, not text, not YAML (with the line).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}", "Name a readable YAML file") from None
    except UnicodeDecodeError:
        raise BenchError(f"{path} is not a text file", "Name a YAML file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise BenchError(
            f"{path}: {line}{error.problem or error.context}", "Fix the YAML at that line, or quote a text"
        ) from None
    except yaml.reader.ReaderError as error:
        number = text[: error.position].count("\n") + 1
        raise BenchError(f"{path}: line {number}: a character that YAML does not allow", "Remove it") from None
    except RecursionError:
        raise BenchError(f"{path} is nested too deeply", "Write lists and mappings with fewer levels") from None
    except ValueError as error:
        raise BenchError(f"{path}: invalid value: {error}", "Correct that value") from None


def _validate(path: Path) -> Document:
    if not path.exists():
        raise BenchError(f"no experiment file at {path}", "Check --config; examples are in config/")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else "is not a mapping of keys to values"
        raise BenchError(f"{path} {what}", "Start from one of the files in config/")
    try:
        return Document.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = errors[0]
        what, hint = describe_error(first)
        keys = [key for key in first["loc"] if key != "[key]"][: -1 if first["type"] == "missing" else None]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        place = _dotted(keys, raw)
        raise BenchError(f"{path}: {place}: {what}{more}" if place else f"{path}: {what}{more}", hint) from None


def _dotted(keys: Sequence[int | str], raw: Any) -> str:
    """A dotted path such as grid[0].batch_size, without the index where the file has one value and not a list."""
    text, node = "", raw
    for part in keys:
        if isinstance(part, str):
            text += f".{part}" if text else part
            node = node.get(part) if isinstance(node, Mapping) else None
        elif isinstance(node, list):
            text += f"[{part}]"
            node = node[part] if part < len(node) else None
    return text


# ---------------------------------------------------------------- from the document to the experiment


def _shipped(path: Path) -> Path:
    """A file of config/ as it came with the package, where the working folder has no such file."""
    for folder in (PACKAGE / "config", PACKAGE.parents[1] / "config"):
        if path.parent == Path("config") and not path.exists() and (folder / path.name).is_file():
            return folder / path.name
    return path


def load(path: Path | str, overrides: Overrides | None = None) -> Experiment:
    """The experiment in a YAML file, after the overrides.

    Raises:
        BenchError: unreadable or malformed YAML, an unknown key or name, a value of the wrong type or out of bounds,
            lengths without a prompt, a knob without effect, or a knob value that no combination can run.
    """
    path, overrides = _shipped(Path(path)), overrides or Overrides()
    document = _validate(path)
    file_grids = tuple(_grid(entry, entry.lengths) for entry in document.grid)
    for place, _, swept in _samplers(file_grids):
        for knob in axes.unused_knobs(swept):
            raise BenchError(
                f"{path}: {place}.{knob}: has no effect: no selected part of the sampler has this knob",
                f"It belongs to {_owner_text(swept.sampler, knob)}",
            )
    models = _models(document, overrides, path)
    grids = _apply_overrides(document, file_grids, models, overrides, path)
    for place, grid, swept in _samplers(grids):
        if (impossible := axes.impossible_value(grid, swept)) is not None:
            knob, value, reason = impossible
            raise BenchError(
                f"{path}: {place}.{knob}: {value} is invalid for every length and all values of other knobs: {reason}",
                f"Change {knob}, or the setting that the reason names",
            )
    return Experiment(
        name=document.name,
        models=models,
        grids=grids,
        prompts=_prompts(document.prompts, overrides),
        protocol=ProtocolSettings(**document.protocol.model_dump()),
        metrics=_metrics(document.metrics, overrides),
        metric_settings={entry.name: entry.settings for entry in document.metrics if entry.settings},
        hardware=document.hardware,
        seed=document.seed,
        gpus=document.gpus,
        description=document.description,
        published=document.published and str(home_expanded(Path(document.published))),
    )


def _samplers(grids: tuple[Grid, ...]) -> Iterator[tuple[str, Grid, SamplerAxes]]:
    """Each sampler of each grid, with its place in the file."""
    for number, grid in enumerate(grids):
        for swept in grid.samplers:
            yield f"grid{f'[{number}]' if len(grids) > 1 else ''}.samplers.{swept.sampler}", grid, swept


def _owner_text(sampler: str, knob: str) -> str:
    """Where a knob belongs: to a sampler, or to the parts that have it."""
    if registry.all_knobs(sampler)[knob].owner == sampler:
        return f"sampler {sampler}"
    return " or ".join(
        f"{part}: {name}"
        for part, folder in registry.parts(sampler).items()
        for name in registry.names(folder)
        if knob in registry.knobs_of(sampler, {part: name})
    )


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
        names = [name for name in type(chosen).model_fields if name in chosen.model_fields_set]
        knobs = tuple((name, tuple(dict.fromkeys(getattr(chosen, name)))) for name in names)
        samplers.append(SamplerAxes(sampler, knobs))
    return Grid(
        lengths=lengths.pairs(),
        batch_sizes=tuple(dict.fromkeys(entry.batch_size)),
        samplers=tuple(sorted(samplers, key=lambda s: s.sampler)),
        engines=tuple(dict.fromkeys(entry.engine)),
        precision=entry.precision,
        attention=entry.attention,
    )


def _apply_overrides(
    document: Document, file_grids: tuple[Grid, ...], models: tuple[ModelSpec, ...], overrides: Overrides, path: Path
) -> tuple[Grid, ...]:
    grids = file_grids
    if overrides.seq_len is not None:
        try:
            grids = tuple(
                replace(grid, lengths=entry.lengths.with_total(list(overrides.seq_len)).pairs())
                for grid, entry in zip(grids, document.grid, strict=True)
            )
        except ValidationError as error:
            what, hint = describe_error(error.errors(include_url=False)[0])
            raise BenchError(f"--seq-len does not fit {path}: {what}", hint) from None
    if overrides.batch_size is not None:
        grids = tuple(replace(grid, batch_sizes=overrides.batch_size) for grid in grids)
    # Parts first, because they decide which other knobs have an effect.
    parts = {part for sampler in registry.names("samplers") for part in registry.parts(sampler)}
    knobs = sorted(overrides.knobs, key=lambda item: item[0] not in parts)
    if overrides.steps is not None:
        knobs.append(("steps", overrides.steps))
    for name, values in knobs:
        grids = _with_knob(grids, models, name, values)
    return grids


def _with_knob(
    grids: tuple[Grid, ...], models: tuple[ModelSpec, ...], name: str, values: tuple[KnobValue, ...]
) -> tuple[Grid, ...]:
    option = "--steps" if name == "steps" else f"--knob {name}"
    having = axes.owners(name)
    paradigms = {registry.load("families", model.family).PARADIGM for model in models}
    exists = effect = False
    changed = []
    for grid in grids:
        samplers = []
        for old in grid.samplers:
            new = replace(old, knobs=(*((k, v) for k, v in old.knobs if k != name), (name, values)))
            usable = old.sampler in having and name not in axes.unused_knobs(new)
            exists |= usable
            effect |= usable and registry.load("samplers", old.sampler).PARADIGM in paradigms
            samplers.append(new if usable else old)
        changed.append(replace(grid, samplers=tuple(samplers)))
    if exists and not effect:
        raise BenchError(
            f"{option} has no effect: none of the models {', '.join(model.key for model in models)} uses this knob",
            "Leave it out, or add a model of the other kind",
        )
    if not exists:
        raise BenchError(
            f"{option} has no effect: no grid has a sampler, or a part of one, with this knob",
            f"It belongs to {_owner_text(having[0], name)}",
        )
    return tuple(changed)


def _prompts(entry: PromptEntry, overrides: Overrides) -> PromptSettings:
    count = entry.count if entry.count is not None else PROMPT_SIZES[entry.size] if entry.size is not None else None
    if count is None and not getattr(registry.load("prompts", entry.source), "ALL_BY_DEFAULT", False):
        count = PROMPT_SIZES["medium"]
    path = entry.path and str(home_expanded(Path(entry.path)))
    settings = PromptSettings(entry.source, count, path, entry.seed, entry.chat)
    if overrides.prompt_file is not None:
        # The count was chosen for another source; with --prompt-file all prompts are used.
        settings = replace(settings, source="file", path=str(home_expanded(Path(overrides.prompt_file))), count=None)
    if overrides.max_prompts is None:
        return settings
    if settings.count is None:
        return replace(settings, limit=overrides.max_prompts)
    return replace(settings, count=min(settings.count, overrides.max_prompts))


def _metrics(entries: Sequence[MetricEntry], overrides: Overrides) -> tuple[str, ...]:
    names = dict.fromkeys(entry.name for entry in entries)
    if overrides.compute_bertscore:
        if "bertscore" not in registry.names("metrics"):
            raise BenchError("--compute-bertscore: the metric bertscore is not installed", "Leave the option out")
        names["bertscore"] = None
    return tuple(names)
