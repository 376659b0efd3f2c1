"""A small SAE whose encoder is no top-k: ReLU with an L1 loss, SAELens' "standard".

In: activations (n, d). Out: tensors in SAELens' names, and figures. How much sparsity weighs is steered while training,
so that ``L0`` latents fire at a token on average whatever the model: the coefficient grows where more fire.
"""

from __future__ import annotations

import torch

import settings as s

L0 = 32.0
_GAIN = 0.02  # by which the coefficient follows how many fire, a step


def train(
    x: torch.Tensor, d_sae: int, seed: int, steps: int, batch: int
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
    optimiser = torch.optim.Adam([w_enc, b_enc, w_dec, b_dec], lr=s.SAE_RATE * 2, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(1.0, (t + 1) / 200, (steps - t) / (0.2 * steps))
    )
    weight, fires = 0.3, L0
    for _ in range(steps):
        raw = x[torch.randint(len(x), (batch,), device=device)].float()
        with torch.autocast(device.type, torch.bfloat16):
            centred = (raw - b_dec) / scale
            codes = (centred @ w_enc + b_enc).float().relu()
            error = (centred - codes @ w_dec).float().pow(2).mean()
            loss = error + weight * codes.sum(1).mean() / d
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
    tensors = {k: v.detach().float() for k, v in tensors.items()}
    return tensors, figures(tensors, sample[:20_000])


@torch.no_grad()
def figures(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, float]:
    """Share of variance unexplained, latents that fire at a token, and how many fire at all, on these rows."""
    codes = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    left = x - codes @ tensors["W_dec"] - tensors["b_dec"]
    return {
        "fvu": float(left.pow(2).sum() / (x - x.mean(0)).pow(2).sum()),
        "l0": float((codes > 0).float().sum(1).mean()),
        "alive": float((codes > 0).any(0).sum()),
    }
