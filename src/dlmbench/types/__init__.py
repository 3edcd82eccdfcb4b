"""The dataclasses and protocols that all packages share, with units in field names. Standard library only.

None means unknown or not measured; 0 means zero. Shape suffixes used across the project: B rows of a batch, P prompt
tokens, G new (generated) tokens, N = P + G canvas, Q positions of one forward, D hidden size, V vocabulary,
K diffusion steps.
"""

from dlmbench.types._cost import Efficiencies, EngineCost, ForwardShape
from dlmbench.types._parts import (
    Architecture,
    EagerRunner,
    Generator,
    GraphRunner,
    LanguageModel,
    OnStep,
    Progress,
    TensorSpec,
    Texts,
)
from dlmbench.types.records import (
    SCHEMA_VERSION,
    CellResult,
    CellStatus,
    CommitOrder,
    ConvertedScore,
    EnergyPass,
    Environment,
    Finding,
    Generation,
    Likelihood,
    MemoryPass,
    Prompt,
    PromptBatch,
    PromptSets,
    Run,
    Sample,
    Score,
    StoredGeneration,
    TextResult,
    TextScore,
    Trace,
    TracedPass,
    Unscored,
    UnscoredText,
    WholeScore,
)
from dlmbench.types.study import (
    Cell,
    Experiment,
    Grid,
    Knobs,
    KnobValue,
    LeftOut,
    MetricRequest,
    ModelSpec,
    Plan,
    Prediction,
    PromptSettings,
    ProtocolSettings,
    Role,
    SamplerAxes,
    Status,
    Weights,
    from_mapping,
    stable_hash,
)
