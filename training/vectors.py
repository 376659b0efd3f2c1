"""The vectors that a reader of many sites learns from, each with the rule's text: drawn once, by the seed.

In: per site activations at shared positions, codes, statistics, records of half A, which latents are held out; maps
from the other model. Out: ``Mix``: rows as a reader is given them (``Statistics.normal``), site by site.

Kinds: activations; decoder rows on-shell around real carriers at which the latent is silent, by half to one and a half
on-shell angles; direct rows (mean activation where a latent fires, in a subsample of documents, of latents of any
model); rows of the other model mapped by ridge maps fitted on subsamples of documents; nulls, "nothing in particular".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as f

import settings as s
from corpus import Description
from dragoman.maps.words import word_span
from dragoman.measures.excerpts import CLOSE, OPEN
from latents import Codes, Record, agreement, rule_text
from sites import Place, Statistics
from targets import null

AT_ONCE = 48  # positions averaged into a direct row, at most
FIT = 60_000  # positions a map is fitted on
RELATIVE = 0.1  # ridge penalty, times the mean eigenvalue of the source's covariance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """What is known of one place.

    ``x`` (n, d): activations at shared positions. ``w_dec`` (m, d). ``a``, ``b``: records by half. ``why`` (m,): why a
    latent is not trained on, 0 where it is.
    """

    place: Place
    statistics: Statistics
    x: torch.Tensor
    codes: Codes
    w_dec: torch.Tensor
    a: Mapping[int, Record]
    b: Mapping[int, Record]
    why: np.ndarray
    firing: dict[int, torch.Tensor] = field(default_factory=dict)

    def trained_on(self) -> list[int]:
        """Latents with a record that are not held out."""
        return [k for k in sorted(self.a) if not self.why[k]]

    def described(self, latent: int, rng: np.random.Generator) -> Description:
        """The rule's text by half A, fields weighted by how far half B tells the same."""
        return rule_text(self.a[latent], agreement(self.a[latent], self.b.get(latent)), rng)

    def index_firing(self, allowed: torch.Tensor, most: int = 512) -> None:
        """Keep, of every latent, up to ``most`` of the allowed positions at which it fires, in random order."""
        rows = torch.nonzero(allowed).flatten()
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(s.SEED)).to(rows.device)]
        index, value = self.codes.index[rows], self.codes.value[rows]
        latent = index.long().flatten()
        where = rows[:, None].expand_as(index).flatten()
        fires = value.flatten() > 0
        latent, where = latent[fires], where[fires]
        order = latent.argsort(stable=True)
        latent, where = latent[order], where[order]
        counts = torch.bincount(latent, minlength=self.codes.size)
        starts = counts.cumsum(0) - counts
        for k, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
            if count:
                self.firing[k] = where[start : start + min(count, most)]


def ridge(source: torch.Tensor, target: torch.Tensor, relative: float = RELATIVE) -> torch.Tensor:
    """(d_source, d_target) map of centred rows, penalised by ``relative`` times the mean eigenvalue."""
    a, b = source.float() - source.float().mean(0), target.float() - target.float().mean(0)
    gram = a.T @ a
    penalty = relative * gram.diagonal().mean()
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), device=gram.device), a.T @ b)


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """Rows of one width as a reader is given them, with what is said of each; ``site``: where, ``kind``: by name."""

    x: torch.Tensor
    told: list[Description]
    site: list[str]
    kind: list[str]

    def __getitem__(self, rows: np.ndarray) -> Mix:
        """Those rows alone."""
        pick = lambda some: [some[i] for i in rows]  # noqa: E731
        return Mix(self.x[torch.as_tensor(rows, device=self.x.device)], *map(pick, (self.told, self.site, self.kind)))

    @classmethod
    def joined(cls, parts: Sequence[Mix]) -> Mix:
        """One after another."""
        return cls(
            torch.cat([p.x for p in parts]),
            [t for p in parts for t in p.told],
            [n for p in parts for n in p.site],
            [k for p in parts for k in p.kind],
        )


def activations(site: Site, rows: torch.Tensor, told: list[Description]) -> Mix:
    """Real activations at positions, with the targets of the positions."""
    return _mix(site, site.statistics.normal(site.x[rows]), told, "activation")


def carried_rows(site: Site, latents: Sequence[int], carriers: torch.Tensor, rng: np.random.Generator) -> Mix:
    """Decoder rows around carriers (positions) where they are silent; a carrier where one fires is replaced."""
    carriers, k = carriers.clone(), torch.as_tensor(np.asarray(latents, np.int64), device=site.x.device)
    for _ in range(8):
        fires = ((site.codes.index[carriers] == k[:, None]) & (site.codes.value[carriers] > 0)).any(1)
        if not bool(fires.any()):
            break
        carriers[fires] = carriers[torch.as_tensor(rng.integers(len(carriers), size=int(fires.sum())), device=k.device)]
    times = torch.as_tensor(rng.uniform(0.5, 1.5, len(k)), dtype=torch.float32, device=k.device)
    x = site.statistics.on_shell(site.x[carriers], site.w_dec[k], times)
    return _mix(site, site.statistics.normal(x), [site.described(int(i), rng) for i in latents], "row")


def direct_rows(site: Site, of: Site, latents: Sequence[int], rng: np.random.Generator) -> Mix:
    """Mean activations at ``site`` where latents of ``of`` fire, each in a subsample of positions."""
    rows, said = [], []
    for k in latents:
        where = of.firing[k]
        chosen = where[torch.as_tensor(rng.permutation(len(where))[:AT_ONCE], device=where.device)]
        rows.append(f.normalize(site.x[chosen].float(), dim=1).mean(0))
        said.append(of.described(k, rng))
    return _mix(site, site.statistics.normal(torch.stack(rows)), said, "direct")


def mapped_rows(site: Site, of: Site, latents: Sequence[int], fit: torch.Tensor, rng: np.random.Generator) -> Mix:
    """Rows of another model's latents by a ridge map fitted at positions ``fit``, on-shell around the background."""
    rows = fit[torch.as_tensor(rng.permutation(len(fit))[:FIT], device=fit.device)]
    directions = of.w_dec[torch.as_tensor(np.asarray(latents, np.int64), device=of.w_dec.device)]
    carried = directions.float() @ ridge(of.x[rows], site.x[rows])
    times = torch.as_tensor(rng.uniform(0.5, 1.5, len(latents)), dtype=torch.float32, device=carried.device)
    mean = site.statistics.mean.to(carried.device).expand_as(carried)
    x = site.statistics.on_shell(mean, carried, times)
    return _mix(site, site.statistics.normal(x), [of.described(int(k), rng) for k in latents], "mapped")


def null_rows(site: Site, count: int, rng: np.random.Generator) -> Mix:
    """Around the background: random directions, and mean differences of random halves of a few activations."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    device, d = site.x.device, site.x.shape[1]
    noise = torch.randn(count, d, generator=generator).to(device)
    half = count // 2
    some = torch.randint(len(site.x), (half, 2, AT_ONCE), generator=generator).to(device)
    means = f.normalize(site.x[some.flatten()].float(), dim=1).view(half, 2, AT_ONCE, d).mean(2)
    noise[:half] = means[:, 0] - means[:, 1]
    times = torch.as_tensor(rng.uniform(0.5, 1.5, count), dtype=torch.float32, device=device)
    mean = site.statistics.mean.to(device).expand_as(noise)
    return _mix(site, site.statistics.normal(site.statistics.on_shell(mean, noise, times)), [null()] * count, "null")


def judged_rows(site: Site, rows: torch.Tensor, times: float = 1.0) -> torch.Tensor:
    """Directions (m, d) as they are judged: on-shell around the background, by ``times`` of the on-shell angle."""
    mean = site.statistics.mean.to(rows.device).expand_as(rows)
    turned = site.statistics.on_shell(mean, rows, torch.full((len(rows),), times, device=rows.device))
    return site.statistics.normal(turned)


def window(text: str, end: int, *, marked: bool = False) -> str:
    """What stands around a character: 160 before it, 60 behind it, whole words; ``marked``: its word in marks."""
    start, cut_off = max(0, end - 160), end + 60 < len(text)
    before, word, after = text[start:end], "", text[end : end + 60]
    if marked:
        a, b = word_span(text, end)
        before, word, after = text[start:a], OPEN + text[a:b] + CLOSE, text[b : end + 60]
    before = before.split(" ", 1)[-1] if start else before
    after = after.rsplit(" ", 1)[0] if cut_off else after
    return " ".join((before + word + after).split())


def windows(
    site: Site,
    latents: Sequence[int],
    texts: Sequence[str],
    owner: np.ndarray,
    end: np.ndarray,
    rows: np.ndarray,
    *,
    marked: bool = False,
) -> list[dict[str, list[str]]]:
    """Of each latent eight windows where it fires, where it is silent, and where that of the most similar row fires.

    All at positions ``rows``, of different documents; the latter two of documents in which it does not fire. Needs
    ``index_firing``. ``marked``: the word at the position in marks, for labels that are made from windows.
    """
    unit = f.normalize(site.w_dec.float(), dim=1)
    fires_in = {k: set(owner[site.firing[k].cpu().numpy()].tolist()) if k in site.firing else set() for k in latents}
    rng, out = np.random.default_rng(s.SEED), list[dict[str, list[str]]]()
    for k in latents:
        like = unit @ unit[k]
        like[k] = -2.0
        near = next((int(j) for j in like.argsort(descending=True)[:20] if int(j) in site.firing), None)
        pools = {
            "firing": site.firing[k].cpu().numpy() if k in site.firing else rows[:0],
            "silent": rows[rng.integers(len(rows), size=64)],
            "hard": site.firing[near].cpu().numpy() if near is not None else rows[:0],
        }
        told: dict[str, list[str]] = {}
        for name, pool in pools.items():
            seen = set[int]() if name == "firing" else set(fires_in[k])
            told[name] = []
            for i in pool:
                if len(told[name]) < 8 and int(owner[i]) not in seen:
                    seen.add(int(owner[i]))
                    told[name].append(window(texts[int(owner[i])], int(end[i]), marked=marked))
        out.append(told)
    return out


def _mix(site: Site, x: torch.Tensor, told: list[Description], kind: str) -> Mix:
    return Mix(x.to(torch.bfloat16), told, [site.place.said] * len(told), [kind] * len(told))
