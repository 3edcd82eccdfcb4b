"""A sampler over a language model as the `Generator` that the benchmark measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from dlmbench import registry
from dlmbench.models import LoadedModel
from dlmbench.types import Generation, Generator, KnobValue, LanguageModel, OnStep, PromptBatch


@dataclass(frozen=True)
class SamplerGenerator:
    """A `Generator` made of a language model and a sampler plug-in."""

    model: LanguageModel
    sampler: ModuleType

    def generate(
        self,
        batch: PromptBatch,
        new_tokens: int,
        knobs: Mapping[str, KnobValue],
        seed: int,
        on_step: OnStep | None = None,
        trace: bool = False,
    ) -> Generation:
        """See `Generator.generate`."""
        generation: Generation = self.sampler.generate(self.model, batch, new_tokens, knobs, seed, on_step, trace)
        return generation

    def reset(self) -> None:
        """Drop the model's captured graphs and caches."""
        self.model.reset_graphs()


def generator_for(model: LoadedModel, sampler: str) -> Generator:
    """How a loaded model generates: by the named sampler, or by itself where its engine serves texts only."""
    if isinstance(model.backend, Generator):
        return model.backend
    return SamplerGenerator(model.backend, registry.load("samplers", sampler))
