"""Every noun of the project, as frozen records with units in their names.

Standard library only. None means unknown or not measured; 0 means zero. Shape legend used across the project:
B rows of a batch, P prompt tokens, G new (generated) tokens, N = P + G canvas, Q positions given to one forward,
D hidden width, V vocabulary, K diffusion steps.
"""

from dlmbench.types._base import SCHEMA_VERSION, Knobs, KnobValue, Role, Status, Weights, from_mapping, stable_hash
from dlmbench.types._measurements import (
    CellResult,
    CellStatus,
    CommitOrder,
    EnergyPass,
    Environment,
    MemoryPass,
    Sample,
    TracedPass,
)
from dlmbench.types._parts import Architecture, LanguageModel, Progress, StepObserver, TensorSpec, Texts, Workspace
from dlmbench.types._results import Finding, Run, Score, TextScore
from dlmbench.types._study import (
    Cell,
    Experiment,
    Grid,
    LeftOut,
    ModelSpec,
    Plan,
    Prediction,
    PromptSettings,
    ProtocolSettings,
    SamplerAxes,
)
from dlmbench.types._texts import Generation, Likelihood, Prompt, PromptBatch, PromptSets, StoredGeneration, Trace

__all__ = [
    "SCHEMA_VERSION",
    "Architecture",
    "Cell",
    "CellResult",
    "CellStatus",
    "CommitOrder",
    "EnergyPass",
    "Environment",
    "Experiment",
    "Finding",
    "Generation",
    "Grid",
    "KnobValue",
    "Knobs",
    "LanguageModel",
    "LeftOut",
    "Likelihood",
    "MemoryPass",
    "ModelSpec",
    "Plan",
    "Prediction",
    "Progress",
    "Prompt",
    "PromptBatch",
    "PromptSets",
    "PromptSettings",
    "ProtocolSettings",
    "Role",
    "Run",
    "Sample",
    "SamplerAxes",
    "Score",
    "Status",
    "StepObserver",
    "StoredGeneration",
    "TensorSpec",
    "TextScore",
    "Texts",
    "Trace",
    "TracedPass",
    "Weights",
    "Workspace",
    "from_mapping",
    "stable_hash",
]
