"""The optimiser of the denoiser: Muon for the matrices inside the blocks, AdamW for everything else."""

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class Optimizers:
    """Several optimisers as one; `rate` scales each one's own peak learning rate.

    Muon (Jordan et al. 2024) orthogonalises the momentum of matrices; with updates as large as AdamW's
    (Liu et al. 2025) both take rates of one size.
    """

    def __init__(self, model: nn.Module, lr: float, muon: bool, weight_decay: float = 0.01) -> None:
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        inner = {n for n, p in named.items() if muon and p.ndim == 2 and ".blocks." in f".{n}"}
        rest = [p for n, p in named.items() if n not in inner]
        fused = next(iter(named.values())).is_cuda
        self._all: list[Optimizer] = [AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=fused)]
        if inner:
            matrices = [p for n, p in named.items() if n in inner]
            self._all.append(
                Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
            )
        self._parameters = list(named.values())

    def step(self, rate: float, clip: float = 1.0) -> torch.Tensor:
        """One update at learning rate `rate` from the gradients, which are cleared; their norm."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, clip)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm
