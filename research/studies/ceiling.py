"""How high co-firing can come: read-outs that no carried row can pass.

In: a ``PairReading``. Out: per read-out the AUROC of each latent at the tokens by which carried rows are judged. The
dictionary's own encoder, in its own model, before latents compete (a TopK leaves out latents that would fire: below 1);
the latent's own row in its own model, read as carried rows are; and at the target the best linear read-out, trained
with labels: what is missing to it, no direction of the target tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import Floats
from dragoman.stats.roc import auroc
from studies.cofiring import TellingTokens, Whitening
from studies.row_judge import RowJudge, nearest_columns, plain
from studies.yardstick import PairReading

Doubles = NDArray[np.float64]
Areas = dict[str, Any]  # "ids", "cofiring", "cofiring_silent"
PENALTIES = (0.003, 0.03, 0.1, 0.3, 1.0)
PART = 4096  # rows encoded at a time
BATCH = 65536  # rows whose losses are summed at a time
STEPS = 40  # of L-BFGS


def ceilings(pair: PairReading, device: str) -> dict[str, Areas]:
    """The three read-outs; the trained one for the latents drawn by frequency alone."""
    every, drawn, source = pair.chosen.every, pair.chosen.drawn, pair.ground.source
    judge, x = pair.row_judge(every), pair.judge.x[source.block]
    encoder: Any = pair.ground.encoder
    columns = [int(i) for i in every]
    parts = (encoder.pre_activations(x[start : start + PART])[:, columns] for start in range(0, len(x), PART))
    own = Whitening.of(pair.fit.x[source.block])
    reads = own.precision @ pair.ground.rows.pick(every).unit.T.astype(np.float64)
    return {
        "encoder": areas(judge, every, np.concatenate(list(parts))),
        "own row": areas(judge, every, x @ reads.astype(np.float32)),
        "trained": trained(pair, judge, drawn, device),
    }


def areas(judge: RowJudge, ids: Sequence[str], scores: NDArray[Any]) -> Areas:
    """AUROC (n,) of each column of ``scores`` (T, n) where its latent fires against the two kinds of other tokens."""
    place = {name: k for k, name in enumerate(judge.rows.ids)}
    both: tuple[tuple[str, TellingTokens], ...] = (("cofiring", judge.tokens), ("cofiring_silent", judge.silent))
    found: Areas = {"ids": list(ids)}
    for name, tokens in both:
        values = np.full(len(ids), np.nan)
        for j, i in enumerate(ids):
            rows, n = tokens.rows[place[i]], tokens.firing[place[i]]
            if n:
                values[j] = auroc(scores[rows[:n], j], scores[rows[n:], j])
        found[name] = plain(values)
    return found


def trained(pair: PairReading, judge: RowJudge, ids: Sequence[str], device: str) -> Areas:
    """Logistic regressions on the openings, negatives as they are judged: half of siblings' tokens, or none of these.

    Of five penalties the one that is best on the judging tokens is told, for a bound has to lie above.
    """
    target = pair.ground.target.block
    y = (pair.judge.y[target] - pair.whitening.mean).astype(np.float32)
    near = nearest_columns(pair.ground.rows.pick(ids), pair.ground.rows)
    seen = Openings.of(pair.fit.y[target], pair.fit.fired, [int(i) for i in ids], near, pair.whitening, device)
    found: Areas = {"ids": list(ids)}
    for name, hard in (("cofiring", 0.5), ("cofiring_silent", 0.0)):
        tries = [(penalty, areas(judge, ids, y @ seen.logistic(penalty, hard))[name]) for penalty in PENALTIES]
        best = max(tries, key=lambda one: np.nanmean([np.nan if v is None else v for v in one[1]]))
        found |= {name: best[1], f"{name} penalty": best[0]}
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Openings:
    """What read-outs are trained on: T rows and where n latents and their siblings fire.

    ``white``: (T, q) rows, whitened. ``fires``, ``siblings``: (T, n), whether the latent fires; whether a latent with a
    similar row does and it does not. ``root``: (q, q), back to read-outs of the rows as they are.
    """

    white: torch.Tensor
    fires: torch.Tensor
    siblings: torch.Tensor
    root: torch.Tensor

    @classmethod
    def of(
        cls,
        y: Floats,
        fired: Any,
        columns: Sequence[int],
        near: NDArray[np.int64],
        whitening: Whitening,
        device: str,
    ) -> Openings:
        """Rows ``y`` (T, q), sparse activations (T, M) at them, n latents' columns, (n, h) columns of siblings."""
        by_column = fired.tocsc()
        on = np.zeros((len(y), len(columns)), dtype=bool)
        sibling = np.zeros_like(on)
        for j, column in enumerate(columns):
            on[_rows(by_column, column), j] = True
            for other in near[j]:
                sibling[_rows(by_column, int(other)), j] = True
        root = torch.linalg.cholesky(torch.tensor(whitening.precision, device=device)).float()
        centred = torch.tensor(y, device=device) - torch.tensor(whitening.mean, device=device).float()
        return cls(
            white=centred @ root,
            fires=torch.tensor(on, device=device),
            siblings=torch.tensor(sibling & ~on, device=device),
            root=root,
        )

    def logistic(self, penalty: float, hard: float) -> Floats:
        """(q, n) weights of logistic regressions of firing, both outcomes of equal weight.

        Args:
            penalty: half of it times the squared weights is added to the mean loss.
            hard: share of the negatives' weight that lies on siblings' tokens.
        """
        device, n = self.white.device, self.fires.shape[1]
        weights = torch.zeros(self.white.shape[1], n, device=device, requires_grad=True)
        shift = torch.zeros(n, device=device, requires_grad=True)
        steps = torch.optim.LBFGS([weights, shift], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")
        positive, theirs = (1 / one.sum(0).clamp(min=1) for one in (self.fires, self.siblings))
        easy = (1 - hard) / len(self.white)

        def loss() -> torch.Tensor:
            steps.zero_grad()
            total = 0.5 * penalty * (weights**2).sum()
            total.backward()
            total = total.detach()
            for start in range(0, len(self.white), BATCH):
                part = slice(start, start + BATCH)
                fires = self.fires[part]
                counts = torch.where(fires, positive, easy + hard * theirs * self.siblings[part])
                logits = self.white[part] @ weights + shift
                one = (counts * torch.nn.functional.softplus(torch.where(fires, -logits, logits))).sum()
                one.backward()
                total = total + one.detach()
            return total

        steps.step(loss)  # type: ignore[arg-type]
        return (self.root @ weights.detach()).cpu().numpy()


def _rows(by_column: Any, column: int) -> NDArray[np.int64]:
    return by_column.indices[by_column.indptr[column] : by_column.indptr[column + 1]]
