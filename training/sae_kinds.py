"""Small SAEs whose encoders are no top-k: ReLU with an L1 loss, and JumpReLU (Rajamanoharan et al., arXiv 2407.14435).

In: activations (n, d). Out: tensors in SAELens' names, and figures. How much sparsity weighs is steered while training,
so that ``L0`` latents fire at a token on average whatever the model: the coefficient grows where more fire.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

import settings as s

Kind = Literal["standard", "jumprelu"]
L0 = 32.0
_WIDTH = 0.05  # of the window around a threshold in which it is moved, in units of the scaled stream
_GAIN = 0.02  # by which the coefficient follows how many fire, a step


class Jump(torch.autograd.Function):
    """Whether a pre-activation is above its threshold; the derivative by that counts what lies near it."""

    @staticmethod
    def forward(ctx: Any, pre: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        """1 above, else 0."""
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        """By the threshold alone: a pre-activation is moved by what it adds, not by whether it counts."""
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < _WIDTH / 2).to(grad.dtype)
        return None, -(grad * near).sum(0) / _WIDTH


def train(
    x: torch.Tensor, d_sae: int, kind: Kind, seed: int, steps: int, batch: int
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Train on rows drawn with replacement; decoder rows stay at unit length."""
    torch.manual_seed(seed)
    device, d = x.device, x.shape[1]
    sample = x[torch.randint(len(x), (min(len(x), 100_000),), device=device)].float()
    b_dec = sample.mean(0).clone().requires_grad_()
    scale = (sample - b_dec.detach()).pow(2).mean().sqrt()
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d, device=device), dim=1).requires_grad_()
    w_enc = w_dec.detach().T.clone().requires_grad_()
    b_enc = torch.zeros(d_sae, device=device, requires_grad=True)
    log_threshold = torch.full((d_sae,), -1.0, device=device, requires_grad=True)
    params = [w_enc, b_enc, w_dec, b_dec, *([log_threshold] if kind == "jumprelu" else [])]
    optimiser = torch.optim.Adam(params, lr=s.SAE_RATE * 2, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(1.0, (t + 1) / 200, (steps - t) / (0.2 * steps))
    )
    weight, fires = 0.3, L0
    for _ in range(steps):
        raw = x[torch.randint(len(x), (batch,), device=device)].float()
        with torch.autocast(device.type, torch.bfloat16):
            centred = (raw - b_dec) / scale
            pre = (centred @ w_enc + b_enc).float()
            if kind == "jumprelu":
                open_ = Jump.apply(pre, log_threshold.exp())
                codes = pre * open_
                sparsity = open_.sum(1).mean() / d
            else:
                codes = pre.relu()
                sparsity = codes.sum(1).mean() / d
            loss = (centred - codes @ w_dec).float().pow(2).mean() + weight * sparsity
        optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            w_dec /= w_dec.norm(dim=1, keepdim=True)
            fires = 0.9 * fires + 0.1 * float((codes > 0).float().sum(1).mean())
            weight *= min(max(fires / L0, 0.5), 2.0) ** _GAIN
    tensors = {"W_enc": w_enc, "b_enc": b_enc * scale, "W_dec": w_dec, "b_dec": b_dec}
    if kind == "jumprelu":
        tensors["threshold"] = log_threshold.exp() * scale
    tensors = {k: v.detach().float() for k, v in tensors.items()}
    return tensors, figures(tensors, sample[:20_000])


@torch.no_grad()
def figures(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, float]:
    """Share of variance unexplained, latents that fire at a token, and how many fire at all, on these rows."""
    pre = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    codes = torch.where(pre > tensors.get("threshold", torch.zeros(())), pre, 0.0)
    left = x - codes @ tensors["W_dec"] - tensors["b_dec"]
    return {
        "fvu": float(left.pow(2).sum() / (x - x.mean(0)).pow(2).sum()),
        "l0": float((codes > 0).float().sum(1).mean()),
        "alive": float((codes > 0).any(0).sum()),
    }
