"""One compact transformer for both paradigms: fused kernels, CUDA graphs, the head only where a commit can happen."""

from dlmbench.models.engines.native.transformer import load

__all__ = ["CONFIDENCE_DTYPE", "load"]

# In a model's bfloat16 many confidences tie, and float64 softmax over the vocabulary costs time without changing much.
CONFIDENCE_DTYPE = "float32"
