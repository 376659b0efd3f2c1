"""A TopK sparse autoencoder with unit decoder rows and an auxiliary loss for dead latents (Gao et al. 2024).

In: activations (n, d). Out: tensors in SAELens' names and the share of variance unexplained.
"""

from __future__ import annotations

import torch

import settings as s


def topk(x: torch.Tensor, k: int) -> torch.Tensor:
    """Keep each row's k largest pre-activations, at least 0."""
    values, index = x.topk(k, dim=-1)
    return torch.zeros_like(x).scatter_(-1, index, values.relu())


def train(
    x: torch.Tensor, d_sae: int, seed: int, steps: int | None = None, batch: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Train on rows drawn with replacement; returns SAELens-named float32 tensors and figures."""
    torch.manual_seed(seed)
    device, d = x.device, x.shape[1]
    steps, batch = steps or s.SAE_STEPS, batch or s.SAE_BATCH
    sample = x[torch.randint(len(x), (min(len(x), 200_000),), device=device)].float()
    b_dec = sample.mean(0).clone().requires_grad_()
    # Inputs are scaled to unit mean square so that rates do not depend on the model.
    scale = (sample - b_dec.detach()).pow(2).mean().sqrt()
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d, device=device), dim=1).requires_grad_()
    w_enc = w_dec.detach().T.clone().requires_grad_()
    b_enc = torch.zeros(d_sae, device=device, requires_grad=True)
    params = [w_enc, b_enc, w_dec, b_dec]
    optimiser = torch.optim.Adam(params, lr=s.SAE_RATE, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(1.0, (t + 1) / 200, (steps - t) / (0.2 * steps))
    )
    quiet = torch.zeros(d_sae, device=device)
    for _ in range(steps):
        raw = x[torch.randint(len(x), (batch,), device=device)].float()
        with torch.autocast(device.type, torch.bfloat16):
            centred = (raw - b_dec) / scale
            pre = centred @ w_enc + b_enc
            codes = topk(pre, s.TOPK)
            error = centred - codes @ w_dec
            loss = error.float().pow(2).mean()
            fired = (codes > 0).any(0)
            quiet = torch.where(fired, 0.0, quiet + 1)
            dead = quiet > 200
            if int(dead.sum()) > 64:
                extra = topk(torch.where(dead, pre, -1e4), 64)
                loss = loss + (error.detach() - extra @ w_dec).float().pow(2).mean() / 32
        optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            w_dec /= w_dec.norm(dim=1, keepdim=True)
    # Fold the scale back: (x - b_dec) @ W_enc + b_enc gives activations in the model's own units.
    tensors = {"W_enc": w_enc, "b_enc": b_enc * scale, "W_dec": w_dec, "b_dec": b_dec}
    tensors = {k: v.detach().float() for k, v in tensors.items()}
    return tensors, {"fvu": fvu(tensors, sample), "alive": float((quiet < 200).sum()), "rows": float(len(x))}


@torch.no_grad()
def encode(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Latent activations (n, d_sae)."""
    return topk((x.float() - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"], s.TOPK)


@torch.no_grad()
def fvu(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    """Fraction of variance unexplained on given rows."""
    x = x[:20_000].float()
    back = encode(tensors, x) @ tensors["W_dec"] + tensors["b_dec"]
    return float((x - back).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
