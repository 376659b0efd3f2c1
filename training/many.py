"""A reader of many sites, stage by stage: ``python training/many.py STAGE --work FOLDER --texts FILE --passages FILE``.

Stages, each under ten minutes on one GPU, each resuming where it was: ``plan`` (prints sizes and times, needs no GPU),
``read`` (both models at all sites), ``saes``, ``words`` (CPU alone), ``latents`` (records by half, components, held-out
latents), ``windows`` (by which texts are told apart), ``train --arm ARM`` (vectors, the reader, what it says of
held-out latents). What must be shown, and the arms, is declared in README.md before anything is run; figures are made
of the folder by ``bench/feature_verbalizer.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import av
import corpus
import judged
import latents as rules
import pack
import sae
import settings as s
import sites
import targets
import vectors
from dragoman.measures.firing import quoted
from dragoman.models.load import text_stack
from dragoman.stats.planted import names_category
from dragoman.store import read_jsonl
from sites import PLACES, Place

START = time.time()
BASE = "tiny-smollm2"  # the model that reads
OWN = tuple(p for p in PLACES if p.model == BASE)
OTHERS = tuple(p for p in PLACES if p.model != BASE)
UNSEEN = tuple(Place(*p) for p in s.MANY_UNSEEN)
SECOND = Place(*s.MANY_SECOND)
WHY = ("not", "component", "word", "topic")  # why a latent is held out
COMPONENT, WORD, TOPIC = 1, 2, 3
ARMS: dict[str, tuple[tuple[Place, ...], tuple[str, ...]]] = {
    **{f"activations-{p.block}": ((p,), ("activation",)) for p in OWN},
    **{f"rows-{p.block}": ((p,), ("row",)) for p in OWN},
    "affine": (OWN, ("row",)),
    "many-activations": (OWN, ("activation",)),
    "many-everything": (OWN, tuple(s.MANY_MIX)),
    "without-blocks": (tuple(p for p in OWN if p not in UNSEEN), tuple(s.MANY_MIX)),
    "without-model": (OWN, ("activation", "row", "direct")),
}


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    sys.stderr.write(f"[{time.time() - START:6.0f}s] {text}\n")
    sys.stderr.flush()


def documents_of(args: argparse.Namespace) -> list[corpus.Document]:
    """Both kinds of text."""
    return corpus.read(args.texts)[: args.documents] + corpus.read_passages(args.passages)[:: args.every]


def halves(documents: list[corpus.Document]) -> np.ndarray:
    """(documents,) bool: whether of half A, by the source work's digest; a written text is its own work."""
    works = (d.work or d.text for d in documents)
    return np.array([hashlib.sha256(f"half {s.SEED} {w}".encode()).digest()[0] % 2 == 0 for w in works])


def plan(args: argparse.Namespace) -> None:
    """Sizes and seconds from the throughput that README.md states; nothing is run."""
    widths = {"tiny-smollm2": 576, "tiny-gemma": 640}
    n, tokens = s.MANY_POSITIONS, 10.2e6
    on_disk = sum(2 * n * widths[p.model] for p in PLACES) / 2**30
    d_all = s.MANY_D_SAE * (len(PLACES) + 1) + s.MANY_D_SAE // 2
    rows = [
        ("read", f"{n} positions x {len(PLACES)} sites, {on_disk:.1f} GiB", 90 + tokens / 3.78e6 * 56 + on_disk * 2),
        ("saes", f"{len(PLACES) + 1} of {s.MANY_D_SAE} latents", (len(PLACES) + 1) * s.MANY_SAE_STEPS * 3.5e-3),
        ("words", f"{n} positions, CPU, beside the SAEs", n * 2e-5),
        ("latents", f"components of {d_all} latents, {4 * d_all**2 / 2**30:.1f} GiB", 120.0),
        ("windows", "held-out latents of 12 dictionaries, once", 60.0),
        ("train", f"{s.MANY_STEPS} steps of {s.MANY_BATCH}, one arm", s.MANY_STEPS * 0.44 + 60),
        ("judge", f"600 rows x {len(PLACES)} sites and nulls, one arm", 60.0),
    ]
    for name, what, seconds in rows:
        sys.stdout.write(f"{name:8s} {what:55s} {seconds:6.0f} s\n")


def read_stage(args: argparse.Namespace) -> None:
    """Positions, activations of every site, statistics."""
    if (args.work / "statistics.json").exists():
        say("read: there already")
        return
    documents = documents_of(args)
    tokens = sites.encoded(documents)
    owner, end = sites.positions(documents, tokens, s.MANY_PER_DOCUMENT, args.positions, s.SEED)
    say(f"{len(owner)} positions in {len(documents)} documents")
    found: dict[Place, torch.Tensor] = {}
    for ref in s.MANY_BLOCKS:
        found |= sites.read(ref, tokens[ref], owner, end, args.device, args.batch)
        say(f"read {ref}")
    keep = sites.usable(found)
    statistics = {}
    for place, x in found.items():
        kept = x[torch.as_tensor(keep, device=x.device)]
        statistics[place] = sites.Statistics.of(kept)
        save_file({"x": kept.cpu()}, args.work / f"x-{place.key}.safetensors")
    np.savez(args.work / "positions.npz", owner=owner[keep], end=end[keep])
    sites.save_statistics(args.work, statistics)
    say(f"kept {int(keep.sum())} positions; spreads {[round(one.spread, 3) for one in statistics.values()]}")


def saes_stage(args: argparse.Namespace) -> None:
    """An SAE a site on training documents; a second at one of them."""
    owner = np.load(args.work / "positions.npz")["owner"]
    split = np.array([d.split for d in documents_of(args)])[owner]
    figures_file = args.work / "saes.json"
    figures = json.loads(figures_file.read_text()) if figures_file.exists() else {}
    size = args.d_sae or s.MANY_D_SAE
    jobs = [(p, p.key, size, s.SEED) for p in PLACES]
    jobs.append((SECOND, f"{SECOND.key}-second", size // 2, s.SEED + 1))
    for place, name, d_sae, seed in jobs:
        file = args.work / f"sae-{name}.safetensors"
        if file.exists():
            continue
        x = load_file(args.work / f"x-{place.key}.safetensors")["x"]
        x = x[torch.as_tensor(np.isin(split, ("train", "heldout")))].to(args.device)
        tensors, figures[name] = sae.train(x, d_sae, seed, args.sae_steps or s.MANY_SAE_STEPS)
        save_file({k: v.half().contiguous().cpu() for k, v in tensors.items()}, file)
        figures_file.write_text(json.dumps(figures, indent=1) + "\n")
        say(f"{name}: {figures[name]}")


def words_stage(args: argparse.Namespace) -> None:
    """What stands at every position."""
    if (args.work / "words.json").exists():
        say("words: there already")
        return
    at = np.load(args.work / "positions.npz")
    words = rules.Words.of(documents_of(args), at["owner"], at["end"])
    np.savez(
        args.work / "words.npz",
        at=words.at, before=words.before, after=words.after,
        forms=words.forms, category=words.category, topic=words.topic,
    )  # fmt: skip
    told = {"names": words.names, "categories": words.categories, "topics": words.topics}
    (args.work / "words.json").write_text(json.dumps(told))
    say(f"{len(words.names)} words")


def load_words(work: Path) -> rules.Words:
    """What the words stage saved."""
    arrays, told = np.load(work / "words.npz"), json.loads((work / "words.json").read_text())
    some = {k: arrays[k] for k in ("at", "before", "after", "forms", "category", "topic")}
    return rules.Words(names=told["names"], **some, categories=told["categories"], topics=told["topics"])


def sae_of(args: argparse.Namespace, name: str) -> dict[str, torch.Tensor]:
    """An SAE of the saes stage, float32 on the device."""
    return {k: v.float().to(args.device) for k, v in load_file(args.work / f"sae-{name}.safetensors").items()}


def dictionaries() -> list[tuple[str, Place]]:
    """Names of all SAEs with their places, in the order of the components; the second one last."""
    return [*((p.key, p) for p in PLACES), (f"{SECOND.key}-second", SECOND)]


def latents_stage(args: argparse.Namespace) -> None:
    """Records of every latent by half; components over all sites; which latents are held out."""
    owner = np.load(args.work / "positions.npz")["owner"]
    documents = documents_of(args)
    half_a = halves(documents)[owner]
    words = load_words(args.work)
    chosen = np.sort(np.random.default_rng(s.SEED).permutation(len(owner))[: s.MANY_CORRELATED])
    kept: list[rules.Codes] = []
    for name, place in dictionaries():
        x = load_file(args.work / f"x-{place.key}.safetensors")["x"].to(args.device)
        codes = rules.Codes.of(sae_of(args, name), x)
        kept.append(codes[torch.as_tensor(chosen, device=args.device)])
        for half, rows in (("a", np.flatnonzero(half_a)), ("b", np.flatnonzero(~half_a))):
            file = args.work / f"records-{name}-{half}.jsonl.gz"
            if not file.exists():
                found = rules.records(codes, words, rows, owner)
                pack.write_rows([rules.told(r) for r in found.values()], file)
        say(f"{name}: records")
    torch.set_float32_matmul_precision("high")
    of, sizes = rules.components(kept)
    starts = np.cumsum([0, *(c.size for c in kept)])
    why = np.where(rules.held_out(of, s.MANY_HELD_OUT, s.MANY_LARGEST, s.SEED), COMPONENT, 0).astype(np.int8)
    known = [records_of(args, name, "a") for name, _ in dictionaries()]
    often = np.flatnonzero(np.bincount(words.at, minlength=len(words.names)) > s.MANY_COMMON * len(owner))
    chosen_words = rules.unseen_words(known, s.MANY_WORDS, s.SEED, frozenset(words.names[i] for i in often))
    topics = sorted({d.topic for d in documents if d.split == "heldout"})
    for start, some in zip(starts, known, strict=False):
        for k, record in some.items():
            if why[start + k] == 0 and rules.main_word(record) in chosen_words:
                why[start + k] = WORD
            elif why[start + k] == 0 and rules.theme_of(record)[1] in topics:
                why[start + k] = TOPIC
    np.savez(args.work / "components.npz", of=of, why=why, starts=starts)
    (args.work / "unseen.json").write_text(json.dumps({"words": chosen_words, "topics": topics}, indent=1) + "\n")
    shares = {name: f"{(why == number).mean():.1%}" for number, name in enumerate(WHY)}
    say(f"{len(sizes)} components of {len(of)} latents, the largest {sizes.max()}; by why held out: {shares}")


def records_of(args: argparse.Namespace, name: str, half: str) -> dict[int, rules.Record]:
    """What the latents stage wrote."""
    return {r.latent: r for r in map(rules.Record.read, read_jsonl(args.work / f"records-{name}-{half}.jsonl.gz"))}


def open_site(args: argparse.Namespace, name: str, place: Place, number: int) -> vectors.Site:
    """A place with one of its dictionaries, all of it on the device."""
    x = load_file(args.work / f"x-{place.key}.safetensors")["x"].to(args.device)
    tensors, parts = sae_of(args, name), np.load(args.work / "components.npz")
    return vectors.Site(
        place=place,
        statistics=sites.load_statistics(args.work, place),
        x=x,
        codes=rules.Codes.of(tensors, x),
        w_dec=tensors["W_dec"],
        a=records_of(args, name, "a"),
        b=records_of(args, name, "b"),
        held=parts["why"][parts["starts"][number] : parts["starts"][number + 1]] > 0,
    )


def judged_latents(site: vectors.Site, most: int) -> list[int]:
    """Held-out latents with records of both halves, drawn."""
    pool = [k for k in sorted(site.b) if k in site.a and site.held[k]]
    return [int(k) for k in np.random.default_rng(s.SEED).permutation(pool)[:most]]


def windows_stage(args: argparse.Namespace) -> None:
    """Windows of half B by which the texts of judged latents are told apart (``bench/feature_verbalizer.py``)."""
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    half_b = ~halves(documents)[at["owner"]]
    parts = np.load(args.work / "components.npz")
    texts, rows = [d.text for d in documents], np.flatnonzero(half_b)
    for number, (name, place) in enumerate(dictionaries()):
        file = args.work / f"windows-{name}.jsonl.gz"
        if file.exists():
            continue
        site = open_site(args, name, place, number)
        site.index_firing(torch.as_tensor(half_b, device=args.device), most=64)
        pool = judged_latents(site, args.checks)
        found = vectors.windows(site, pool, texts, at["owner"], at["end"], rows)
        of, why = (parts[key][parts["starts"][number] :] for key in ("of", "why"))
        told = [
            {"latent": k, "component": int(of[k]), "why": WHY[why[k]]} | one for k, one in zip(pool, found, strict=True)
        ]
        pack.write_rows(told, file)
        say(f"{name}: windows of {len(pool)} latents")


def mix_of(args: argparse.Namespace, arm: str) -> vectors.Mix:
    """The arm's vectors: as many distinct ones for every arm."""
    places, kinds = ARMS[arm]
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    owner = at["owner"]
    train = np.array([d.split == "train" for d in documents]) & halves(documents)
    allowed = torch.as_tensor(train[owner], device=args.device)
    rows = torch.nonzero(allowed).flatten()
    rng = np.random.default_rng([s.SEED, args.seed])
    numbers = {p: k for k, (_, p) in enumerate(dictionaries()[:-1])}
    wanted = {p for p in PLACES if p in places or (p in OTHERS and {"mapped"} & set(kinds))}
    opened = {p: open_site(args, p.key, p, numbers[p]) for p in PLACES if p in wanted}
    for site in opened.values():
        site.index_firing(allowed)
    say(f"{arm}: {len(opened)} sites open, {len(rows)} positions to train on")
    count = args.rows or s.MANY_ROWS
    more = int(count * 1.3)  # texts that quote an unseen word or topic are dropped
    weights = np.array([s.MANY_MIX[k] for k in kinds])
    per_kind = np.floor(more * (1 - s.NULL_SHARE) * weights / weights.sum()).astype(int)
    teller = targets.Teller(documents) if "activation" in kinds else None
    parts: list[vectors.Mix] = []
    pick = lambda pool, n: pool[rng.integers(len(pool), size=n)]  # noqa: E731
    for kind, total in zip(kinds, per_kind, strict=True):
        for place, n in zip(places, np.diff(np.linspace(0, total, len(places) + 1).astype(int)), strict=True):
            site = opened[place]
            if kind == "activation":
                chosen = pick(rows, int(n)) if len(rows) else rows
                some = chosen.cpu().numpy()
                told = targets.all_described(teller, documents, owner[some], at["end"][some], args.seed, args.workers)  # type: ignore[arg-type]
                parts.append(vectors.activations(site, chosen, told))
            elif kind == "row":
                ids = pick(np.array(site.trained_on()), int(n))
                parts.append(vectors.carried_rows(site, ids.tolist(), pick(rows, int(n)), rng))
            elif kind == "direct":
                for of, m in _spread([opened[p] for p in (*places, *OTHERS) if p in opened], int(n)):
                    ids = pick(np.array([k for k in of.trained_on() if k in of.firing]), m)
                    parts.append(vectors.direct_rows(site, of, ids.tolist(), rng))
            else:
                for of, m in _spread([opened[p] for p in OTHERS], int(n)):
                    ids = pick(np.array(of.trained_on()), m)
                    parts.append(vectors.mapped_rows(site, of, ids.tolist(), rows, rng))
    for place in places:
        parts.append(vectors.null_rows(opened[place], int(more * s.NULL_SHARE / len(places)), rng))
    unseen = json.loads((args.work / "unseen.json").read_text())
    mix = vectors.Mix.joined(parts)
    seen = np.flatnonzero([not quotes(t.text, unseen["words"], unseen["topics"]) for t in mix.told])
    return mix[np.sort(rng.permutation(seen)[:count])]


def quotes(text: str, words: list[str], topics: list[str]) -> bool:
    """Whether a text quotes one of the words or tells one of the topics."""
    said = {part.lower().strip(".,;:!?") for one in quoted(text) for part in one.split()}
    return not said.isdisjoint(words) or any(t in text.split("\n\n")[0] for t in topics)


def _spread(some: list[vectors.Site], count: int) -> list[tuple[vectors.Site, int]]:
    shares = np.diff(np.linspace(0, count, len(some) + 1).astype(int))
    return [(one, int(n)) for one, n in zip(some, shares, strict=True) if n]


def head(said: str) -> str:
    """The words by which a reader is told where a vector was read."""
    return f"({said})\n"


def trainer_of(args: argparse.Namespace, arm: str) -> av.Trainer:
    """A reader not yet trained; its vectors come at the median norm of the first own site."""
    scale = sites.load_statistics(args.work, OWN[0]).norm
    folder = args.work / f"reader-{arm}-{args.seed}"
    return av.Trainer(
        folder, BASE, OWN[0].block, round(scale, 1), args.device, seed=s.SEED + args.seed, affine=arm == "affine"
    )


def train_stage(args: argparse.Namespace) -> None:
    """Draw the arm's vectors and train its reader, then judge it, while it is there."""
    arm = args.arm
    if (args.work / f"judged-{arm}-{args.seed}.json").exists():
        say(f"{arm} {args.seed}: there already")
        return
    mix = mix_of(args, arm)
    rng = np.random.default_rng([s.SEED, args.seed, 1])
    heads = [head(n) if rng.random() >= s.SITE_DROPPED else "" for n in mix.site]
    counted = {k: mix.kind.count(k) for k in dict.fromkeys(mix.kind)}
    say(f"{arm}: {len(mix.told)} vectors {counted}, {len({t.text for t in mix.told})} distinct texts")
    trainer = trainer_of(args, arm)
    record = av.train(
        trainer, mix.x.to(args.device), mix.told,
        rate=1e-2 if arm == "affine" else s.AV_RATE, steps=args.steps or s.MANY_STEPS, seconds=0.0,
        batch=args.av_batch or s.MANY_BATCH, seed=s.SEED + args.seed, say=say, heads=heads,
    )  # fmt: skip
    record |= {"kinds": counted, "distinct_texts": len({t.text for t in mix.told})}
    if trainer.affine:
        own = {"scale": trainer.affine[0].detach().cpu(), "bias": trainer.affine[1].detach().cpu()}
        save_file(own, trainer.folder / "affine.safetensors")
    trainer.save(record)
    trainer.model.to(torch.bfloat16)
    del mix
    judge(args, arm, trainer, record)


def judge(args: argparse.Namespace, arm: str, trainer: av.Trainer, record: dict[str, Any]) -> None:
    """Rows of held-out latents at every site, the other model's by a map, against half B; nulls; rule, kNN."""
    out: dict[str, Any] = {"arm": arm, "seed": args.seed, "training": record, "sites": {}}
    spoken: list[dict[str, Any]] = []
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    fit = torch.as_tensor(np.flatnonzero(halves(documents)[at["owner"]]), device=args.device)
    nearest = {p: p for p in OWN} | dict.fromkeys(OTHERS, SECOND)
    read_at: dict[Place, vectors.Site] = {}

    def named(place: Place) -> str:
        # A place that a reader has not learnt from has no name that it knows.
        return head(place.said) if place in ARMS[arm][0] else ""

    numbers = {name: k for k, (name, _) in enumerate(dictionaries())}
    for name, place in dictionaries():
        site = open_site(args, name, place, numbers[name])
        pool = judged_latents(site, args.checks)
        if not pool:
            continue
        rows = site.w_dec[torch.as_tensor(pool, device=site.w_dec.device)].float()
        target = site
        if place in OTHERS:
            home = nearest[place]
            if home not in read_at:
                read_at[home] = open_site(args, home.key, home, numbers[home.key])
            target = read_at[home]
            some = fit[
                torch.as_tensor(np.random.default_rng(s.SEED).permutation(len(fit))[: vectors.FIT], device=fit.device)
            ]
            rows = rows @ vectors.ridge(site.x[some], target.x[some])
        texts = av.speak(trainer, vectors.judged_rows(target, rows), head=named(target.place))
        rng = np.random.default_rng(s.SEED)
        trust = {"theme": 1.0, "words": 1.0, "token": 1.0}
        known = site.trained_on()
        unit = torch.nn.functional.normalize(site.w_dec.float(), dim=1)
        near = [known[int(i)] for i in (unit[pool] @ unit[known].T).argmax(1)] if known else []
        truths = [site.b[k] for k in pool]
        said = {
            "reader": texts,
            "rule": [rules.rule_text(site.a[k], trust, rng).text for k in pool],
            "lens": lens_texts(trainer, rows),
            "nearest": [rules.rule_text(site.a[k], trust, rng).text for k in near],
        }
        out["sites"][name] = {who: against(some, truths) for who, some in said.items() if some}
        for who, some in said.items():
            spoken += [{"site": name, "who": who, "latent": k, "text": t} for k, t in zip(pool, some, strict=False)]
        if place in OWN and not name.endswith("second"):
            lost = av.speak(trainer, vectors.null_rows(site, 2 * min(args.checks, 100), rng).x, head=named(place))
            out["sites"][name]["nulls"] = float(np.mean([judged.Told.of(t).nothing for t in lost]))
        say(f"{arm} at {name}: {out['sites'][name]}")
    pack.write_rows(spoken, args.work / f"spoken-{arm}-{args.seed}.jsonl.gz")
    (args.work / f"judged-{arm}-{args.seed}.json").write_text(json.dumps(out, indent=1) + "\n")


@torch.no_grad()
def lens_texts(trainer: av.Trainer, rows: torch.Tensor) -> list[str]:
    """What the base model's own output layer makes of directions in its space: three words, in a sentence of words."""
    base = trainer.model.get_base_model()
    weight = base.get_output_embeddings().weight.float()
    scaled = torch.nn.functional.normalize(rows.float(), dim=1) * text_stack(base).norm.weight.float()
    out = []
    for top in (scaled @ weight.T).topk(40, dim=1).indices.tolist():
        words = [w.strip().lower() for w in trainer.tokenizer.batch_decode([[i] for i in top])]
        best = list(dict.fromkeys(w for w in words if w.isalpha() and w.isascii() and len(w) > 2))[:3]
        out.append("Words such as " + ", ".join(f'"{w}"' for w in best) + " stand out.")
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


def main() -> None:
    """Run one stage, or all before training."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("stage", choices=["plan", "read", "saes", "words", "latents", "windows", "train"])
    parse.add_argument("--work", type=Path, default=Path("training-work"))
    parse.add_argument("--texts", type=Path)
    parse.add_argument("--passages", type=Path)
    parse.add_argument("--arm", choices=list(ARMS), default="many-everything")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--batch", type=int, default=512)
    parse.add_argument("--positions", type=int, default=s.MANY_POSITIONS)
    parse.add_argument("--rows", type=int, help="vectors of an arm, if not those of settings.py")
    parse.add_argument("--steps", type=int)
    parse.add_argument("--sae-steps", type=int)
    parse.add_argument("--d-sae", type=int, help="latents of a dictionary, if not those of settings.py")
    parse.add_argument("--av-batch", type=int)
    parse.add_argument("--checks", type=int, default=600)
    parse.add_argument("--workers", type=int, default=1)
    parse.add_argument("--documents", type=int, help="use only so many documents (rehearsals)")
    parse.add_argument("--every", type=int, default=1, help="use each n-th human passage only (rehearsals)")
    args = parse.parse_args()
    if args.stage == "plan":
        plan(args)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    {
        "read": read_stage,
        "saes": saes_stage,
        "words": words_stage,
        "latents": latents_stage,
        "windows": windows_stage,
        "train": train_stage,
    }[args.stage](args)


if __name__ == "__main__":
    main()
