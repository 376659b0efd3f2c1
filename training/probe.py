"""A linear probe: multinomial logistic regression on single activations, what a linear reader can get.

In: activations and classes of training documents. Out: weight (classes, d) and bias on standardised inputs folded
back to raw ones.
"""

from __future__ import annotations

import torch
from torch.nn import functional as f


def fit(
    x: torch.Tensor, y: torch.Tensor, classes: int, *, decay: float = 1e-3, epochs: int = 12, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """AdamW with a cosine rate over ``epochs``; returns (weight (classes, d), bias (classes,)) for raw inputs."""
    generator = torch.Generator(device=x.device).manual_seed(seed)
    mean, scale = x.float().mean(0), x.float().std(0) + 1e-6
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    batch = 4096
    steps = max(1, epochs * (len(x) // batch + 1))
    optimiser = torch.optim.AdamW([weight, bias], lr=3e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=generator, device=x.device)
        logits = ((x[rows].float() - mean) / scale) @ weight.T + bias
        loss = f.cross_entropy(logits, y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    folded = (weight / scale).detach()
    return folded, (bias - folded @ mean).detach()


def best(
    x: torch.Tensor, y: torch.Tensor, dev_x: torch.Tensor, dev_y: torch.Tensor, classes: int, **how: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The probe whose weight decay does best on development documents."""
    fits = [fit(x, y, classes, decay=decay, **how) for decay in (1e-3, 1e-1, 1.0)]  # type: ignore[arg-type]
    return max(fits, key=lambda wb: accuracy(wb, dev_x, dev_y))


def accuracy(probe: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of rows whose arg-max class is right."""
    weight, bias = probe
    return float(((x.float() @ weight.T + bias).argmax(1) == y).float().mean())
