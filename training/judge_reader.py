"""What a reader of many sites says of held-out latents, of activations, of mixtures and of nulls; beside baselines.

In: a trained reader, the work folder. Out: ``judged-ARM-SEED.json`` (figures by site) and ``spoken-ARM-SEED.jsonl.gz``
(every text). Rows of held-out latents are held against their records of half B. Beside the reader: the rule's text of
half A, that of the most similar row it may have learnt from, words by the base model's output layer (``lens``) and
words whose mean activation lies nearest (``probe``). At home rows are given in other forms too (``WASHED``, ``BARE``).

The verbalizer that nobody taught here (arm ``as-packaged``) is given all of it as activations lie, as it was trained.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as f

import av
import corpus
import judged
import latents as rules
import pack
import settings as s
import targets
import vectors
from dragoman.models.load import text_stack
from dragoman.stats.planted import names_category
from many_files import documents_of, halves, head, judged_latents, load_words, open_site, put, say
from setup import Setup
from sites import Place
from word_means import WordMeans, listed

SHARES = (0.5, 0.25, 0.1)  # of a latent's row in a mixture with another's
WASHED = (0.5, 1.5)  # times the on-shell angle by which rows are turned from the background, beside 1
BARE = "bare"  # a row alone, without the background
CENTRED = "centred"  # what is given without the background to a verbalizer that others give it to
POSITIONS = 300  # real activations judged at a site
TRUST = {"theme": 1.0, "words": 1.0, "token": 1.0}


def judge(args: argparse.Namespace, arm: str, trainer: av.Trainer, record: dict[str, Any]) -> None:
    """Every site in its turn: all that is said there is decoded in one batch; ``judged-`` is written when all are."""
    out: dict[str, Any] = {"arm": arm, "seed": args.seed, "training": record, "sites": {}}
    spoken: list[dict[str, Any]] = []
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    half_a = halves(documents)[at["owner"]]
    teller, words = targets.Teller(documents), load_words(args.work)
    home: vectors.Site | None = None
    # What matters most comes first, and every site is kept when it is done: a reader that is stopped has been heard.
    # Seeds beyond the first are judged where something was declared.
    setup: Setup = args.setup
    listed_home = setup.dictionaries[setup.number(setup.home.key)]
    few = bool(args.seed) or args.declared_only
    wanted = [one for one in setup.dictionaries if not few or one.name in setup.declared]
    for one in sorted(wanted, key=lambda one: one is not listed_home):
        name, place = one.name, one.place
        site = open_site(args, one)
        pool = judged_latents(site, args.checks)
        if not pool:
            continue
        rows = site.w_dec[torch.as_tensor(pool, device=site.w_dec.device)].float()
        target = site
        if place in setup.others:
            home = home or open_site(args, listed_home)
            target, rows = home, carried(site, home, rows, half_a)
        save_rows(args, name, pool, rows)
        asked = forms_of(target, rows, every=one is listed_home)
        whole = place in setup.own and not one.tested
        where = np.zeros(0, np.int64)
        if whole:
            rng = np.random.default_rng(s.SEED)
            asked["null"] = vectors.null_rows(site, 2 * min(args.checks, 100), rng).x
            where = unseen_positions(documents, at["owner"], rng, min(POSITIONS, args.checks))
            asked["activation"] = site.statistics.normal(site.x[torch.as_tensor(where, device=site.x.device)])
            for share in SHARES if one is listed_home else ():
                asked[f"mixed-{share}"] = vectors.judged_rows(site, mixed(rows, share))
        asked = as_trained(setup, arm, target, asked, every=one is listed_home)
        means = WordMeans.of(words, target.statistics, target.x, np.flatnonzero(half_a))
        x = torch.cat([some.float() for some in asked.values()])
        near = means.told(x) if setup.is_told_near(arm) else [""] * len(x)
        said, margins = spoken_at(trainer, asked, [named(setup, arm, target.place) + line for line in near])
        found = of_rows(site, pool, rows, said["reader"], trainer)
        found["probe"] = means.sentences(rows)
        found |= {who: said[who] for who in said if who.startswith("washed-") or who in (BARE, CENTRED)}
        figures: dict[str, Any] = {who: against(some, [site.b[k] for k in pool]) for who, some in found.items() if some}
        for share in SHARES if "mixed-0.5" in said else ():
            texts = found[f"mixed-{share}"] = said[f"mixed-{share}"]
            figures[f"mixed-{share}"] = against(texts, [site.b[k] for k in pool])
        if whole:
            figures["nulls"] = float(np.mean([judged.Told.of(t).nothing for t in said["null"]]))
            figures["activations"] = of_positions(args, teller, documents, at, where, site, said["activation"])
            found |= {who: said[who] for who in ("null", "activation")}
        numbers = {"null": list(range(len(said.get("null", ())))), "activation": where.tolist()}
        for who, some in found.items():
            rows_told = [
                {"site": name, "who": who, "latent": int(k), "text": t}
                for k, t in zip(numbers.get(who, pool), some, strict=False)
            ]
            for row, margin in zip(rows_told, margins.get(who, ()), strict=False):
                row["nothing_margin"] = round(margin, 3)
            spoken += rows_told
        out["sites"][name] = figures
        say(f"{arm} {args.seed} at {name}: {figures}")
        pack.write_rows(spoken, args.work / f"spoken-{arm}-{args.seed}.jsonl.gz")
    (args.work / f"judged-{arm}-{args.seed}.json").write_text(json.dumps(out, indent=1) + "\n")


def forms_of(site: vectors.Site, rows: torch.Tensor, *, every: bool) -> dict[str, torch.Tensor]:
    """Directions on-shell, and in ``every`` other form."""
    asked = {"reader": vectors.judged_rows(site, rows)}
    if every:
        asked |= {f"washed-{times}": vectors.judged_rows(site, rows, times) for times in WASHED}
        asked[BARE] = site.statistics.normal(rows)
    return asked


def as_trained(
    setup: Setup, arm: str, site: vectors.Site, asked: dict[str, torch.Tensor], *, every: bool
) -> dict[str, torch.Tensor]:
    """The vectors as this arm learnt them: about the mean, or as activations lie where nobody taught it here."""
    if setup.arms()[arm][1]:
        return asked
    centred = {CENTRED: asked["reader"]} if every else {}
    return {who: site.statistics.raw(some) for who, some in asked.items()} | centred


def named(setup: Setup, arm: str, place: Place) -> str:
    """A place that a reader has not learnt from has no name that it knows."""
    return head(place.said) if place in setup.arms()[arm][0] else ""


def spoken_at(
    trainer: av.Trainer, asked: dict[str, torch.Tensor], heads: list[str]
) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """Texts by kind, decoded together; and by how much "nothing" was likelier than a theme, for each.

    ``heads``: words given before each, over all kinds in their order.
    """
    x = torch.cat([some.float() for some in asked.values()])
    texts = av.speak(trainer, x, batch=2048, heads=heads)
    margins = av.nothing_margin(trainer, x, heads=heads)
    ends = np.cumsum([len(some) for some in asked.values()])
    parts = {who: slice(int(end) - len(some), int(end)) for (who, some), end in zip(asked.items(), ends, strict=True)}
    return {who: texts[part] for who, part in parts.items()}, {who: margins[part] for who, part in parts.items()}


def carried(site: vectors.Site, home: vectors.Site, rows: torch.Tensor, half_a: np.ndarray) -> torch.Tensor:
    """Rows of another model in the space of the reader's own: a ridge map of positions of half A."""
    fit = np.flatnonzero(half_a)
    some = np.random.default_rng(s.SEED).permutation(fit)[: vectors.FIT]
    chosen = torch.as_tensor(some, device=site.x.device)
    return rows @ vectors.ridge(site.x[chosen], home.x[chosen])


def save_rows(args: argparse.Namespace, name: str, pool: list[int], rows: torch.Tensor) -> None:
    """The directions as they are judged, for verbalizers that are asked elsewhere; once for all arms."""
    file = args.work / f"rows-{name}.safetensors"
    if not file.exists():
        made = {"rows": f.normalize(rows, dim=1).half().cpu(), "latent": torch.tensor(pool)}
        put(file, lambda part: save_file(made, part))


def mixed(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Of each row ``share`` parts, of the next one's 1 - ``share``, both at unit length."""
    unit = f.normalize(rows, dim=1)
    return share * unit + (1 - share) * unit.roll(-1, 0)


def unseen_positions(
    documents: list[corpus.Document], owner: np.ndarray, rng: np.random.Generator, most: int
) -> np.ndarray:
    """Positions of documents that nothing was trained on (split dev), of both kinds of text."""
    dev = np.array([d.split == "dev" for d in documents])[owner]
    return np.sort(rng.permutation(np.flatnonzero(dev))[:most])


def of_positions(
    args: argparse.Namespace,
    teller: targets.Teller,
    documents: list[corpus.Document],
    at: Any,
    where: np.ndarray,
    site: vectors.Site,
    texts: list[str],
) -> dict[str, float]:
    """``judged.figures`` of the texts, and the category's share beside the linear probe's where one is planted."""
    owner, end = at["owner"][where], at["end"][where]
    truths = [judged.Truth.of(teller, documents[d], int(e)) for d, e in zip(owner, end, strict=True)]
    out = judged.figures(texts, truths)
    file = args.work / f"probe-{site.place.key}.safetensors"
    names = corpus.categories(documents)
    planted = [i for i, t in enumerate(truths) if t.theme.category in names]
    if file.exists() and planted:
        probe = load_file(file)
        x = site.x[torch.as_tensor(where[planted], device=site.x.device)].float().cpu()
        best = (x @ probe["weight"].float().T + probe["bias"].float()).argmax(1).tolist()
        out["with_category"] = float(len(planted))
        out["probe"] = round(
            float(np.mean([names[b] == truths[i].theme.category for b, i in zip(best, planted, strict=True)])), 4
        )
        told = [names_category(judged.Told.of(texts[i]).theme, [truths[i].theme.category]) for i in planted]
        out["category"] = round(float(np.mean(told)), 4)
    return out


def of_rows(
    site: vectors.Site, pool: list[int], rows: torch.Tensor, texts: list[str], trainer: av.Trainer
) -> dict[str, list[str]]:
    """What the reader said, and what needs no reader."""
    rng = np.random.default_rng(s.SEED)
    known = site.trained_on()
    unit = f.normalize(site.w_dec.float(), dim=1)
    near = [known[int(i)] for i in (unit[pool] @ unit[known].T).argmax(1)] if known else []
    return {
        "reader": texts,
        "rule": [rules.rule_text(site.a[k], TRUST, rng).text for k in pool],
        "lens": lens_texts(trainer, rows),
        "nearest": [rules.rule_text(site.a[k], TRUST, rng).text for k in near],
    }


@torch.no_grad()
def lens_texts(trainer: av.Trainer, rows: torch.Tensor) -> list[str]:
    """What the base model's own output layer makes of directions in its space: three words, in a sentence of words."""
    base = trainer.model.get_base_model()
    weight = base.get_output_embeddings().weight.float()
    scaled = f.normalize(rows.float(), dim=1) * text_stack(base).norm.weight.float()
    out = []
    for top in (scaled @ weight.T).topk(40, dim=1).indices.tolist():
        words = [w.strip().lower() for w in trainer.tokenizer.batch_decode([[i] for i in top])]
        out.append(listed(list(dict.fromkeys(w for w in words if w.isalpha() and w.isascii() and len(w) > 2))[:3]))
    return out


def against(texts: list[str], truths: list[rules.Record]) -> dict[str, float]:
    """Firing-word F1 and its dealt level, theme named, false theme, nothing; by the other half's records."""
    told = [judged.Told.of(t) for t in texts]
    with_words = [i for i, r in enumerate(truths) if r.words]
    dealt = [with_words[(k + 1) % len(with_words)] for k in range(len(with_words))]
    themes = [rules.theme_of(r) for r in truths]
    word = lambda i, j: judged.f1((*told[i].token, *told[i].words), list(truths[j].words))  # noqa: E731
    mean = lambda some: round(float(np.mean(some)), 4) if len(some) else float("nan")  # noqa: E731
    return {
        "n": len(texts),
        "with_words": len(with_words),
        "words": mean([word(i, i) for i in with_words]),
        "words_dealt": mean([word(i, j) for i, j in zip(with_words, dealt, strict=True)]),
        "with_theme": sum(bool(c) for c, _ in themes),
        "theme": mean([names_category(t.theme, [c]) for t, (c, _) in zip(told, themes, strict=True) if c]),
        "false_theme": mean([bool(t.theme) for t, (c, _) in zip(told, themes, strict=True) if not c]),
        "nothing": mean([t.nothing for t in told]),
    }
