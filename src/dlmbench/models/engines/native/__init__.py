"""One compact transformer for both paradigms: fused kernels, CUDA graphs, the head only where a commit can happen."""

from dlmbench.models.engines.native.transformer import load
from dlmbench.types import Efficiencies, EngineCost

__all__ = ["CONFIDENCE_DTYPE", "COST", "load"]

# In a model's bfloat16 many confidences tie, and float64 softmax over the vocabulary costs time without changing much.
CONFIDENCE_DTYPE = "float32"
# The chunks are those of the transformer; efficiencies by `dlmbench calibrate docs/study/h200-native`.
COST = EngineCost(
    is_fused=True,
    has_static_cache=True,
    logits_chunk_bytes=2**28,
    mlp_chunk_rows=16384,
    efficiencies={
        "diffusion": Efficiencies(0.692, 0.665, 0.347, 1.24e-3),
        "autoregressive": Efficiencies(0.669, 0.735, 0.403, 1.06e-3),
    },
    measured_on="one H200, bfloat16, flash attention",
)
