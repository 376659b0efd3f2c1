"""What a verbalizer says of rows mixed into its site's mean more or less strongly: ``python training/strengths.py``.

In: the folder that ``make.py`` wrote, and which of its verbalizers. Out: a line for each strength, on the shell, and of
random directions, which mean nothing: shares told "nothing", naming the category, quoting a word the latent fires on.
Latents are those of ranks six to ten of their categories, of which nothing is reported elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import judged
import settings as s
from dragoman.models.decode import Verbalizer
from dragoman.stats.planted import names_category
from dragoman.store import read_arrays, read_jsonl

FOLDERS = {  # verbalizer -> its site's dictionary, and where the mean of its site lies
    "smollm2-av": ("sae", f"gemma-sae/direct/tiny-smollm2-{s.SOURCE_BLOCK}"),
    "gemma-av": ("gemma-sae", f"sae/direct/tiny-gemma-{s.TARGET_BLOCK}"),
}
STRENGTHS = (0.3, 0.5, 0.7, 0.85)


def main() -> None:
    """One line after the other."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True, help="what make.py wrote")
    parse.add_argument("--by", choices=list(FOLDERS), default="smollm2-av")
    parse.add_argument("--limit", type=int, default=100, help="latents")
    args = parse.parse_args()
    sae, beside = FOLDERS[args.by]
    ranked = [row for row in read_jsonl(args.out / f"latents-{sae}.jsonl.gz") if row.get("rank") is not None]
    latents = [r for r in ranked if s.FEATURES_PER_CATEGORY < r["rank"] <= 2 * s.FEATURES_PER_CATEGORY][: args.limit]
    w_dec = read_arrays(args.out / sae / "sae_weights.safetensors")[0]["W_dec"].astype(np.float64)
    rows = w_dec[[int(one["id"]) for one in latents]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stored = read_arrays(args.out / beside / "background.safetensors")[0]
    mean = np.asarray(next(one for one in stored.values() if one.ndim == 1), dtype=np.float64)
    off = np.sqrt(1 - mean @ mean)
    nothing = np.random.default_rng(0).standard_normal(rows.shape)
    nothing /= np.linalg.norm(nothing, axis=1, keepdims=True)
    unit = mean / np.linalg.norm(mean)
    kinds = {f"mix {w:g}": (1 - w) * unit + w * rows for w in STRENGTHS}
    kinds |= {"bare": rows, "on-shell": mean + off * rows, "random": nothing, "random, on-shell": mean + off * nothing}
    by = Verbalizer.open(f"{args.out / args.by}", dtype="float32", device="cpu")
    for name, vectors in kinds.items():
        said = [judged.Told.of(one.raw) for one in by.verbalize(vectors.astype(np.float32), max_new_tokens=90)]
        both = list(zip(said, latents, strict=True))
        named = np.mean([names_category(told.theme, [one["category"], one["topic"]]) for told, one in both])
        words = [{w.lower() for w in (*told.words, *told.token)} & set(one["top_tokens"][:3]) for told, one in both]
        share = np.mean([told.nothing for told in said]), named, np.mean(list(map(bool, words)))
        sys.stdout.write(f"{name:18} nothing {share[0]:.2f}  category {share[1]:.2f}  words {share[2]:.2f}\n")


if __name__ == "__main__":
    main()
