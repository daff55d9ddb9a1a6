"""AdamW as every stage uses it.

References: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, arXiv 1711.05101.
"""

import torch
from torch import nn

__all__ = ["adamw"]

_BETAS = (0.9, 0.98)  # a shorter memory of squares than usual: the stages are a few thousand steps long


def adamw(network: nn.Module, *, lr: float, weight_decay: float = 0.0, capturable: bool = False) -> torch.optim.AdamW:
    """AdamW for all trainable parameters; each group holds the peak rate that a `BudgetedModule` scales.

    Args:
        network: whose parameters move.
        lr: peak learning rate > 0.
        weight_decay: decoupled decay of the weights with two or more axes, >= 0.
        capturable: whether a CUDA graph can record its steps; the rate is then a tensor beside the weights.
    """
    if lr <= 0 or weight_decay < 0:
        raise ValueError(f"lr must be positive and weight_decay >= 0, got {lr} and {weight_decay}")
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1], "peak_lr": lr, "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "peak_lr": lr, "weight_decay": 0.0},
    ]
    if not capturable:
        return torch.optim.AdamW(groups, lr=lr, betas=_BETAS)
    rate = torch.tensor(lr, device=trained[0].device)
    return torch.optim.AdamW(groups, lr=rate, betas=_BETAS, capturable=True, fused=True)
