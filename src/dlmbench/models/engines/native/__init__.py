"""One compact transformer for both paradigms: fused kernels, CUDA graphs, the head only where a commit can happen."""

from dlmbench.models.engines.native.transformer import load

__all__ = ["load"]
