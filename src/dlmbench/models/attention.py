"""The attention kernel as a controlled variable: only the chosen one is allowed, so torch cannot fall back silently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dlmbench.errors import BenchError

KERNELS = {
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "math": "MATH",
}


@contextmanager
def enforced(attention: str) -> Iterator[None]:
    """Allow one attention kernel only; `auto` lets torch choose.

    Raises:
        BenchError: the kernel cannot run here.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if attention == "auto":
        yield
        return
    try:
        with sdpa_kernel(getattr(SDPBackend, KERNELS[attention])):
            yield
    except RuntimeError as error:
        if "No available kernel" in str(error) or "No viable backend" in str(error):  # on CUDA, on a CPU
            raise BenchError(
                f"attention '{attention}' cannot run here (this device, precision or padding)",
                "Set attention: math, which always can, or auto",
            ) from error
        raise
