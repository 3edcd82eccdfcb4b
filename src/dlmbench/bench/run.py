"""A whole run, as its table of contents: prompts, speed pass, quality pass, analysis, figures.

`conclude` works from the run folder alone, so it can be repeated without the models, and on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dlmbench import prompts as prompt_sources
from dlmbench.bench.forecast import AS_FOUND, Machine, forecast_run
from dlmbench.bench.quality import score_run
from dlmbench.bench.speed import SpeedPass
from dlmbench.bench.worker import Pool
from dlmbench.errors import BenchError
from dlmbench.experiment import plan as grid
from dlmbench.measure.environment import fingerprint
from dlmbench.models import checkpoint, identity
from dlmbench.models.assets import resolve_model
from dlmbench.models.shapes import architectures
from dlmbench.models.tokenizer import Codec, find
from dlmbench.results import Store, read_run
from dlmbench.results.journal import replace_file
from dlmbench.roofline.operators import element_bytes
from dlmbench.scoring.settings import MetricSettings, settle
from dlmbench.types import (
    Architecture,
    Cell,
    Experiment,
    ModelSpec,
    Plan,
    Progress,
    Prompt,
    PromptBatch,
    PromptSets,
    PromptSettings,
    from_mapping,
)

EXPERIMENT = "experiment.json"


@dataclass(frozen=True)
class Setting:
    """What a run works with, once its models are resolved to folders (None: random weights of a known shape)."""

    models: tuple[ModelSpec, ...]
    prompts: PromptSettings
    cells: tuple[Cell, ...]
    folders: dict[str, Path | None]
    architectures: dict[str, Architecture]
    device: str


def prepare(models: tuple[ModelSpec, ...], prompts: PromptSettings, cells: tuple[Cell, ...]) -> Setting:
    """Find every model before anything is measured.

    Raises:
        BenchError: a model is not there, or not what the experiment says or the run was begun with; which file, and
            what to do.
    """
    import torch

    used = {c.model.key for c in cells}
    folders = {spec.key: resolve_model(spec) for spec in models if spec.key in used}
    for spec in models:
        folder = folders.get(spec.key)
        if folder is not None:
            checkpoint.inspect(folder, spec.family)
    known, unknown = architectures(spec for spec in models if spec.key in used)
    for key, why in unknown.items():
        raise BenchError(f"model {key}: {why}", "Name a whole checkpoint, or an architecture known by name")
    models = tuple(identity.with_content(spec, folders[spec.key]) if spec.key in used else spec for spec in models)
    return Setting(models, prompts, cells, folders, known, "cuda" if torch.cuda.is_available() else "cpu")


def measure(
    experiment: Experiment,
    plan: Plan,
    output: Path,
    progress: Progress,
    machine: Machine = AS_FOUND,
    *,
    try_oom: bool = False,
    whole: Plan | None = None,
) -> None:
    """Speed pass, then quality pass; what is on record already is not done again.

    `try_oom`: also try the cells that are predicted not to fit into memory. `whole`: of which `plan` is a part; prompts
    suit every model of the whole, so that all parts have the same ones.

    Raises:
        BenchError: a model that cannot be used, a folder that cannot be written or holds results of other models,
            another device than `machine` says.
    """
    # What a metric lacks is to be known now, and not after hours of measuring.
    requests = settle(experiment.metrics, experiment.metric_settings)
    setting = prepare(experiment.models, experiment.prompts, (whole or plan).cells)
    experiment, plan = replace(experiment, models=setting.models), grid.with_models(plan, setting.models)
    environment = fingerprint(setting.device)
    outlook = forecast_run(plan.cells, setting.architectures, environment, machine)
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(output, environment, experiment.name, plan))
        replace_file(output / EXPERIMENT, json.dumps(asdict(experiment), indent=2) + "\n")
        pool = stack.enter_context(Pool(setting.folders, setting.device))
        sets = _Prompts(setting)
        # Whatever is scored now, texts are kept: another metric may be added when the models are gone.
        needs_texts = bool(experiment.metrics)
        speed = SpeedPass(
            plan, experiment.protocol, store, pool, progress, outlook.expectation, experiment.seed, needs_texts
        )
        if not try_oom:
            speed.skip(outlook.too_large)
        if not speed.is_done:
            speed.run(sets.speed(), together=_fit_together(setting, {cell.model.key for cell in plan.cells}))
        score_run(plan, requests, store, lambda: pool, sets.quality, progress)


def score(output: Path, metrics: Sequence[str], settings: MetricSettings, progress: Progress) -> None:
    """Add `metrics` to a finished run, from its texts and references; `settings` win over the experiment's.

    Raises:
        BenchError: no run there, or a metric that does not exist or lacks what it needs.
    """
    run = read_run(output)
    assert run.environment is not None
    saved = json.loads((output / EXPERIMENT).read_text(encoding="utf-8"))
    recorded = saved.get("metric_settings", {})
    requests = settle(metrics, {m: {**recorded.get(m, {}), **settings.get(m, {})} for m in metrics})
    models = tuple(from_mapping(ModelSpec, m) for m in saved["models"])
    setting = prepare(models, from_mapping(PromptSettings, saved["prompts"]), run.cells)
    with ExitStack() as stack:
        # Scores do not depend on where the speed was measured, so the folder's own environment is kept.
        store = stack.enter_context(Store.open(output, run.environment, run.name))
        pool = stack.enter_context(Pool(setting.folders, setting.device))
        score_run(Plan(run.cells), requests, store, lambda: pool, _Prompts(setting).quality, progress)


def _fit_together(setting: Setting, keys: Set[str]) -> bool:
    """Whether the weights of these models fit at once, with half of the memory left for activations and caches."""
    import psutil
    import torch

    on_gpu = setting.device == "cuda"
    room = torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().available
    width = max(element_bytes(cell.precision) for cell in setting.cells)
    return sum(arch.parameters for key, arch in setting.architectures.items() if key in keys) * width <= room / 2


class _Prompts:
    """The prompts of every model and length, made when they are first asked for."""

    def __init__(self, setting: Setting) -> None:
        self._settings = setting.prompts
        self._roles = {spec.key: spec.role for spec in setting.models}
        self._shapes = dict.fromkeys((c.model.key, c.prompt_tokens, c.new_tokens) for c in setting.cells)
        self._codecs = {key: find(folder) if folder else None for key, folder in setting.folders.items()}
        self._tokenizers = {key: _tokenizer(codec) for key, codec in self._codecs.items()}
        self._speed: PromptSets | None = None
        self._quality: PromptSets | None = None

    def speed(self) -> PromptSets:
        """The first P tokens of each passage by the model's own tokenizer, and the next G as the continuation."""
        if self._speed is None:
            self._speed = {shape: self._take(*shape) for shape in self._shapes}
        return self._speed

    def quality(self) -> PromptSets:
        """The same for a target; a baseline with another tokenizer gets the bytes of the target's prompt and span."""
        if self._quality is None:
            self._quality = {shape: self._same_bytes(*shape) for shape in self._shapes}
        return self._quality

    def _take(self, key: str, prompt_tokens: int, new_tokens: int) -> PromptBatch:
        """Continuations are wanted but not required: a metric that needs them says so when they are missing."""
        own, others = self._tokenizers[key], [t for k, t in self._tokenizers.items() if k != key]
        try:
            return prompt_sources.take(self._settings, own, prompt_tokens, new_tokens, others)
        except BenchError:
            return prompt_sources.take(self._settings, own, prompt_tokens, new_tokens, others, references=False)

    def _same_bytes(self, key: str, prompt_tokens: int, new_tokens: int) -> PromptBatch:
        mine = self.speed()[key, prompt_tokens, new_tokens]
        targets = [k for k, role in self._roles.items() if role == "target" and k in self._codecs]
        references = all(p.reference_ids for p in mine.prompts)
        if not targets or not references or all(_alike(self._codecs[key], self._codecs[t]) for t in targets):
            return mine
        target = targets[0]
        source = self._take(target, prompt_tokens, new_tokens)
        spans = prompt_sources.scored_spans(source, self._tokenizers[target], self._tokenizers[key])
        prompts = []
        for prompt, span in zip(source.prompts, spans, strict=True):
            count = span.last - span.first
            if self._roles[key] == "target":
                prompts.append(_with_span(mine.prompts[prompt.index], span.first, span.last))
            else:
                ids, reference = span.prompt_ids, span.reference_ids
                prompts.append(Prompt(prompt.index, ids, span.before, reference, span.text, scored_tokens=count))
        return PromptBatch(tuple(prompts), source.prompt_hash)


def _with_span(prompt: Prompt, first: int, last: int) -> Prompt:
    return Prompt(prompt.index, prompt.ids, prompt.text, prompt.reference_ids, prompt.reference_text, (first, last))


def _tokenizer(codec: Codec | None) -> prompt_sources.Tokenizer:
    if codec is None:
        return prompt_sources.BYTES
    return prompt_sources.Tokenizer(codec.encode, codec.decode, codec.chat)


def _alike(one: Codec | None, other: Codec | None) -> bool:
    return one is other or (one is not None and other is not None and one.content == other.content)
