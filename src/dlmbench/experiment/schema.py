"""The schema of the experiment file as pydantic models, and readable messages for their errors.

Names of plug-ins (families, samplers, knobs, engines, metrics, prompt sources) come from the registry, so that a new
plug-in is valid here, and known to editors through the JSON schema, without a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dlmbench import registry
from dlmbench.errors import did_you_mean
from dlmbench.tiny import EMBEDDED_MODELS

PROMPT_SIZES = {"small": 8, "medium": 32, "large": 128}
DEFAULT_METRICS = ("likelihood", "distinct_1", "distinct_2", "distinct_3", "repetition")


def user_error(what: str, hint: str = "") -> PydanticCustomError:
    """An error whose text is shown to the user unchanged."""
    return PydanticCustomError("dlmbench", "{what}", {"what": what, "hint": hint})


class Strict(BaseModel):
    """Unknown keys are errors, strict mode, so no value of one type is taken for another, instances are immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise user_error(f"unknown key '{key}'", did_you_mean(str(key), cls.model_fields))
        return value


# ---------------------------------------------------------------- kinds of values


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def axis(kind: Any) -> Any:
    """One value or a non-empty list of values."""
    as_list = BeforeValidator(_as_list, json_schema_input_type=kind | list[kind])
    return Annotated[list[kind], as_list, Field(min_length=1)]


def one_of(names: Iterable[str], what: str) -> Any:
    """A string that must be one of `names`; the error suggests the nearest one."""
    known = list(names)

    def check(value: str) -> str:
        if value not in known:
            raise user_error(f"unknown {what} '{value}'", did_you_mean(value, known))
        return value

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "enum": known})]


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


def knobs_model(sampler: str) -> type[BaseModel]:
    """The knobs of a sampler and of all its parts, each as an axis."""
    fields: dict[str, Any] = {}
    folders = registry.parts(sampler)
    for knob in registry.all_knobs(sampler).values():
        kind: Any = knob.kind
        if knob.name in folders:
            kind = one_of(registry.names(folders[knob.name]), f"value of {knob.name}")
        elif kind is int:
            kind = Count
        # None: not an axis of this grid, so that the sampler's default applies.
        fields[knob.name] = (axis(kind | None if knob.optional else kind), Field(default=None, description=knob.help))
    return create_model(f"{sampler}_knobs", __base__=Strict, **fields)


def _samplers_model() -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name in registry.loadable("samplers"):
        model = knobs_model(name)
        or_none = BeforeValidator(lambda v: {} if v is None else v, json_schema_input_type=model | None)
        kind = Annotated[model, or_none]  # type: ignore[valid-type]
        fields[name] = (kind, Field(default=None, description=registry.summary("samplers", name)))
    return create_model("samplers", __base__=Strict, **fields)


if TYPE_CHECKING:  # the types below are created at import time, which a type checker cannot follow
    Counts = list[int]
    FamilyName = str
    SourceName = str
    EngineNames = list[str]
    SamplerAxesEntry = BaseModel
else:
    Counts = axis(Count)
    FamilyName = one_of(registry.names("families"), "family")
    SourceName = one_of(registry.names("prompts"), "prompt source")
    EngineNames = axis(one_of(registry.names("engines"), "engine"))
    SamplerAxesEntry = _samplers_model()


# ---------------------------------------------------------------- the file


class ModelEntry(Strict):
    """One model: where it comes from, and its role."""

    family: FamilyName
    source: str = Field(min_length=1, description="hub id, local folder, embedded:ar or embedded:llada")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    weights: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: speed only; source may then be an architecture name such as 8b"
    )
    role: Literal["baseline", "target"] | None = Field(default=None, description="default: the family's")

    @model_validator(mode="after")
    def _source_exists(self) -> ModelEntry:
        if self.source.startswith("embedded:") and self.source not in EMBEDDED_MODELS:
            raise user_error(f"unknown source '{self.source}'", did_you_mean(self.source, EMBEDDED_MODELS))
        return self


_LENGTH_FORMS = (
    {"total", "prompt_ratio"},
    {"total", "new_tokens"},
    {"total", "prompt_tokens"},
    {"prompt_tokens", "new_tokens"},
)
Ratio = Annotated[float, Field(gt=0, lt=1)]


class Lengths(Strict):
    """Lengths of prompt and continuation: two of these keys, in one of four pairs, determine all three lengths."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [*sorted(form)]} for form in _LENGTH_FORMS]})

    total: Counts | None = Field(default=None, description="N, prompt and new tokens together")
    prompt_ratio: Ratio | None = Field(default=None, description="the prompt's share of N")
    prompt_tokens: Counts | None = Field(default=None, description="P")
    new_tokens: Counts | None = Field(default=None, description="G, the tokens each model generates")

    @model_validator(mode="after")
    def _one_form(self) -> Lengths:
        if self._keys not in _LENGTH_FORMS:
            keys = " and ".join(sorted(self._keys)) or "nothing"
            raise user_error(
                f"{keys} given, which does not determine the lengths",
                "Give total with prompt_ratio, new_tokens or prompt_tokens; or prompt_tokens with new_tokens",
            )
        self.pairs()
        return self

    @property
    def _keys(self) -> set[str]:
        return set(self.model_dump(exclude_none=True))

    def with_total(self, totals: list[int]) -> Lengths:
        """The same lengths for other N: the prompt's share or length stays, otherwise the number of new tokens."""
        kept = next(key for key in ("prompt_ratio", "prompt_tokens", "new_tokens") if key in self._keys)
        return Lengths.model_validate({"total": totals, kept: getattr(self, kept)})

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs (prompt tokens, new tokens) in the order of the file, without duplicates."""
        found: list[tuple[int, int]] = []
        if self.total is None:
            found = [(prompt, new) for prompt in self.prompt_tokens or () for new in self.new_tokens or ()]
        for total in self.total or ():
            if self.prompt_ratio is not None:
                prompts = [round(total * self.prompt_ratio)]
            elif self.prompt_tokens is not None:
                prompts = self.prompt_tokens
            else:
                prompts = [total - new for new in self.new_tokens or ()]
            for prompt in prompts:
                if not 0 < prompt < total:
                    what = f"a prompt of {prompt} tokens" if prompt > 0 else f"{total - prompt} new tokens"
                    left = "new tokens" if prompt > 0 else "a prompt"
                    raise user_error(
                        f"a sequence length of {total} is too short for {left} and {what}",
                        "The sequence length counts prompt and new tokens together",
                    )
                found.append((prompt, total - prompt))
        return tuple(dict.fromkeys(found))


class GridEntry(Strict):
    """One grid, whose cells are the product of its axes."""

    lengths: Lengths
    batch_size: Counts = Field(default=[1], description="B, sequences generated together")
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    attention: Literal["flash", "efficient", "cudnn", "math", "auto"] = Field(
        default="math", description="the kernel enforced for every model; auto leaves the choice to torch"
    )
    engine: EngineNames = Field(default=["hf"], description="the implementation that runs every model")
    samplers: SamplerAxesEntry = Field(description="by sampler, the knobs to sweep")


class PromptEntry(Strict):
    """Where prompts come from and how many there are."""

    source: SourceName = "wikitext-103"
    size: Literal["small", "medium", "large"] | None = Field(default=None, description="8, 32 or 128 prompts")
    count: Count | None = Field(default=None, description="a number of prompts instead of a size")
    path: str | None = Field(default=None, min_length=1, description="a local file or folder to read")
    seed: int = Field(default=0, ge=0, description="for the choice of passages")
    chat: bool = Field(default=False, description="wrap prompts in the tokenizer's chat template")

    @model_validator(mode="after")
    def _consistent(self) -> PromptEntry:
        if self.size is not None and self.count is not None:
            raise user_error("both size and count are given", "Keep one of them")
        source = registry.load("prompts", self.source)
        if getattr(source, "NEEDS_PATH", False) and self.path is None:
            raise user_error(f"source {self.source} needs a path", "Name the file with path: or --prompt-file")
        if not getattr(source, "TAKES_PATH", True) and self.path is not None:
            raise user_error(f"source {self.source} has no path", "Its texts come with the package; remove path")
        if not getattr(source, "TAKES_CHAT", True) and self.chat:
            raise user_error(f"source {self.source} has no chat template", "Remove chat")
        return self


class ProtocolEntry(Strict):
    """How a cell is measured: warm-up, repetitions, when to stop, rounds."""

    warmup: int = Field(
        default=3, ge=0, description="untimed passes before measuring; recorded, excluded from statistics"
    )
    pilot: int = Field(default=5, ge=2, description="first repetitions, which decide how many more there are")
    min_repeats: int = Field(default=10, ge=0, description="minimum of repetitions after the pilot")
    max_repeats: int = Field(default=100, ge=1, description="maximum of repetitions after the pilot")
    max_time_s: float = Field(default=300.0, gt=0, description="maximum of measured seconds per cell, all processes")
    half_width: float = Field(
        default=0.01, gt=0, lt=1, description="target half-width of the median's interval, as a fraction"
    )
    processes: int = Field(
        default=3, ge=1, description="fresh processes that measure each cell, one after another; a verdict needs three"
    )
    rounds: int = Field(default=2, ge=1, description="visits of a cell within a process, so that drift spreads")

    @model_validator(mode="after")
    def _ordered(self) -> ProtocolEntry:
        if self.min_repeats > self.max_repeats:
            raise user_error(
                f"min_repeats {self.min_repeats} is more than max_repeats {self.max_repeats}",
                "Lower the one or raise the other",
            )
        return self


def _metric(value: Any) -> Any:
    """A metric's name, or {name: {setting: value}}."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, settings = next(iter(value.items()))
    else:
        name, settings = value, {}
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise user_error(f"is {shown(value)}, not the name of a metric", "Write name, or name: {setting: value}")
    if name not in registry.names("metrics"):
        raise user_error(f"unknown metric '{name}'", did_you_mean(name, registry.names("metrics")))
    return {"name": name, "settings": dict(settings)}


class MetricEntry(Strict):
    """A metric and its settings."""

    name: str
    settings: dict[str, JsonValue] = {}


_METRIC_INPUT = one_of(registry.names("metrics"), "metric") | dict[str, dict[str, JsonValue]]
Metric = Annotated[MetricEntry, BeforeValidator(_metric, json_schema_input_type=_METRIC_INPUT)]
Grids = Annotated[
    list[GridEntry],
    BeforeValidator(_as_list, json_schema_input_type=GridEntry | list[GridEntry]),
    Field(min_length=1),
]


class Document(Strict):
    """An experiment of dlmbench: which models are compared, on which grid, with which prompts and metrics."""

    name: str = Field(min_length=1)
    description: str = ""
    models: dict[str, ModelEntry] = Field(min_length=1)
    grid: Grids
    prompts: PromptEntry = PromptEntry()
    protocol: ProtocolEntry = ProtocolEntry()
    metrics: list[Metric] = Field(
        default_factory=lambda: [MetricEntry(name=name) for name in DEFAULT_METRICS],
        description=f"default: {', '.join(DEFAULT_METRICS)}",
    )
    hardware: dict[str, JsonValue] = Field(default={}, description="free-form notes about the intended machine")
    seed: int = Field(default=0, ge=0, description="for all random numbers")
    published: str | None = Field(
        default=None, min_length=1, description="a CSV of published scores that the report joins with the run's times"
    )
    gpus: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=1, description="how many GPUs of this node `run` uses"
    )


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors."""
    schema = Document.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_null_defaults(schema)}


def _without_null_defaults(node: Any) -> Any:
    """Without `default: null`, which means "not given" and which editors would offer as a value."""
    if isinstance(node, dict):
        return {
            key: _without_null_defaults(value)
            for key, value in node.items()
            if not (key == "default" and value is None and "properties" not in node)
        }
    return [_without_null_defaults(item) for item in node] if isinstance(node, list) else node


# ---------------------------------------------------------------- messages


def shown(value: Any) -> str:
    """A value as shown in a message of one line."""
    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    if text is None:
        text = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def describe_error(error: Mapping[str, Any]) -> tuple[str, str]:
    """(what is wrong, hint) for one of pydantic's errors, whose own text is never shown."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "dlmbench":
        return context["what"], context["hint"]
    if kind == "missing":
        return f"'{error['loc'][-1]}' is missing", "Add it"
    if kind in _WANTED:
        hint = "Put it in quotes" if kind == "string_type" and isinstance(value, bool | int | float) else ""
        return f"is {shown(value)}, not {_WANTED[kind]}", hint
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"is {shown(value)}, but must be {word} {context[key]:g}", ""
    if kind in ("too_short", "string_too_short"):
        return "is empty", "Give at least one value"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"is {shown(value)}, which is not a known value", did_you_mean(str(value), known)
    return f"is {shown(value)}, which is not a valid value", "See docs/experiment_variables.md"
