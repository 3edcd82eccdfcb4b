"""Muon for the matrices inside the blocks, AdamW for everything else.

Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest semi-orthogonal matrix, found by five
Newton-Schulz steps. All matrices of one shape are orthogonalised in one batch: for such a small model a loop over 42
matrices would take longer than the model itself.
"""

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of the Muon authors


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly semi-orthogonal matrices for a batch (n, rows, columns) of them; singular values land between about 0.7
    and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, orthogonalisation, decoupled weight decay."""

    def __init__(self, matrices: list[Tensor], weight_decay: float, momentum: float = 0.95) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        shapes = dict.fromkeys(matrix.shape for matrix in matrices)
        self._groups = [[matrix for matrix in matrices if matrix.shape == shape] for shape in shapes]
        self.velocities = [torch.zeros_like(torch.stack(group)) for group in self._groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update; `rate` is the size of an update in spectral norm, for a square matrix."""
        for group, velocity in zip(self._groups, self.velocities, strict=True):
            gradients = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            velocity.lerp_(gradients, 1 - self.momentum)
            updates = orthogonalised(gradients.lerp(velocity, self.momentum))  # Nesterov momentum
            rows, columns = group[0].shape
            scale = max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(group, 1 - rate * self.weight_decay)
            torch._foreach_add_(group, list(updates.unbind()), alpha=-rate * scale)


class Optimizer:
    """Both on one schedule: linear warm-up, constant, then linear decay to zero."""

    def __init__(
        self, weights: dict[str, Tensor], steps: int, use_muon: bool, matrix_rate: float, matrix_decay: float,
        other_rate: float, warm_up: int = 300, decay_share: float = 0.45,
    ) -> None:  # fmt: skip
        self._steps, self._warm_up, self._decay_share = steps, warm_up, decay_share
        self._matrix_rate, self._other_rate = matrix_rate, other_rate
        matrices = [tensor for name, tensor in weights.items() if name.startswith("blocks.") and tensor.ndim == 2]
        in_muon = {id(tensor) for tensor in matrices} if use_muon else set()
        others = [tensor for tensor in weights.values() if id(tensor) not in in_muon]
        self.muon = Muon(matrices, weight_decay=matrix_decay) if use_muon else None
        self.adam = torch.optim.AdamW(
            [
                {"params": [tensor for tensor in others if tensor.ndim == 2], "weight_decay": 0.05},
                {"params": [tensor for tensor in others if tensor.ndim == 1], "weight_decay": 0.0},
            ],
            lr=other_rate,
            betas=(0.9, 0.95),
            fused=others[0].is_cuda,
        )
        self._everything = list(weights.values())

    def factor(self, step: int) -> float:
        """The factor of both learning rates at `step`."""
        remaining = (self._steps - step) / (self._decay_share * self._steps)
        return min(1.0, (step + 1) / self._warm_up, remaining)

    def step(self, step: int) -> None:
        """Update the weights from their gradients, clipped to norm 1."""
        torch.nn.utils.clip_grad_norm_(self._everything, 1.0)
        factor = self.factor(step)
        for group in self.adam.param_groups:
            group["lr"] = self._other_rate * factor
        self.adam.step()
        if self.muon is not None:
            self.muon.step(self._matrix_rate * factor)
