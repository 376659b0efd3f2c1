"""A reader of many sites, stage by stage: ``python training/many.py STAGE --work FOLDER --texts FILE --passages FILE``.

Stages, each under ten minutes on one GPU, each resuming where it was: ``plan`` (prints sizes and times, needs no GPU),
``tokens`` (CPU alone), ``read`` (both models at all sites; ``--model``: one of them), ``statistics``, ``saes``,
``probes``, ``words`` (CPU alone), ``records`` (of every latent by half), ``latents`` (which are held out),
``windows`` (by which texts are told apart), ``train --arm ARM`` (vectors, the reader, what it says of held-out latents:
``judge_reader.py``). ``--share K/N`` does every N-th part of a stage, so that several processes share it. What must be
shown, and the arms, is declared in README.md before anything is run; figures are made of the folder by
``bench/feature_verbalizer.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

import av
import corpus
import judge_reader
import latents as rules
import pack
import probe
import sae
import settings as s
import sites
import targets
import vectors
from dragoman.measures.firing import quoted
from many_files import (
    APART,
    BESIDE,
    TOPIC,
    WHY,
    WORD,
    activations_of,
    codes_of,
    documents_of,
    halves,
    head,
    judged_latents,
    load_words,
    open_site,
    put,
    records_of,
    say,
)
from setup import Setup
from word_means import WordMeans

T = TypeVar("T")
RECORD, AFFINE = "training.yaml", "affine.safetensors"


def plan(args: argparse.Namespace) -> None:
    """Sizes, and seconds scaled from what README.md says was measured; nothing is run."""
    widths = {"tiny-smollm2": 576, "tiny-gemma": 640}
    n = args.positions
    places = Setup.of_the_pair().places
    part, steps, count = n / 1.5e6, args.steps or s.MANY_STEPS, len(places) + 1
    on_disk = sum(2 * n * widths[p.model] for p in places) / 2**30
    d_all = s.MANY_D_SAE * len(places) + s.MANY_D_SAE // 2
    rows = [
        ("tokens", "both tokenizers over all texts, CPU", 48.0),
        ("read", f"{n} positions x {len(places)} sites, {on_disk:.1f} GiB", 62 * part),
        ("statistics", "which positions are usable, means", 21 * part),
        ("saes", f"{count} of {s.MANY_D_SAE} latents", count * s.MANY_SAE_STEPS * 2.5e-3),
        ("records", f"what {d_all} latents fire on, by half", 41 * part),
        ("latents", f"which of {d_all} latents correlate, {4 * d_all**2 / 2**30:.1f} GiB", 28.0),
        ("train", f"{steps} steps of {s.MANY_BATCH}, three arms at once", steps * 0.65 + 40),
        ("judge", f"{args.checks} rows x {count} sites and nulls, three arms at once", 10.0 * count),
    ]
    for name, what, seconds in rows:
        sys.stdout.write(f"{name:10s} {what:60s} {seconds:6.0f} s\n")


def share_of(args: argparse.Namespace, jobs: Sequence[T]) -> list[T]:
    """The jobs that are this process's."""
    k, n = (int(part) for part in args.share.split("/"))
    return list(jobs[k - 1 :: n])


def tokens_stage(args: argparse.Namespace) -> None:
    """The texts as either model's tokens, and the positions both end a token at."""
    if (args.work / "wanted.npz").exists():
        say("tokens: there already")
        return
    documents = documents_of(args)
    tokens = sites.encoded(documents, args.setup.models)
    owner, end = sites.positions(documents, tokens, s.MANY_PER_DOCUMENT, args.positions, s.SEED)
    for ref, encoded in tokens.items():
        sites.save_tokens(args.work / f"tokens-{sites.of_model(ref)}.npz", encoded)
    put(args.work / "wanted.npz", lambda part: np.savez(part, owner=owner, end=end))
    say(f"{len(owner)} positions in {len(documents)} documents")


def read_stage(args: argparse.Namespace) -> None:
    """Activations of every site at the positions."""
    at = np.load(args.work / "wanted.npz")
    if args.model and args.model not in args.setup.models:
        raise SystemExit(f"--model {args.model}: none of {', '.join(args.setup.models)}, which are read")
    for ref in (args.model,) if args.model else args.setup.models:
        files = {p: args.work / f"x-{p.key}.safetensors" for p in args.setup.places if p.model == ref}
        if all(file.exists() for file in files.values()):
            continue
        tokens = sites.load_tokens(args.work / f"tokens-{sites.of_model(ref)}.npz")
        blocks = args.setup.blocks(ref)
        for place, x in sites.read(ref, blocks, tokens, at["owner"], at["end"], args.device, args.batch).items():
            put(files[place], lambda part, x=x: save_file({"x": x.cpu()}, part))
        say(f"read {ref}")


def statistics_stage(args: argparse.Namespace) -> None:
    """Which positions are usable at every site, and each site's statistics there."""
    wanted = np.load(args.work / "wanted.npz")
    keep = np.ones(len(wanted["owner"]), bool)
    for place in args.setup.places:
        keep &= sites.usable(load_file(args.work / f"x-{place.key}.safetensors")["x"].to(args.device))
    np.savez(
        args.work / "positions.npz", owner=wanted["owner"][keep], end=wanted["end"][keep], kept=np.flatnonzero(keep)
    )
    found = {place: sites.Statistics.of(activations_of(args, place)) for place in args.setup.places}
    sites.save_statistics(args.work, found)
    say(f"kept {int(keep.sum())} positions; spreads {[round(one.spread, 3) for one in found.values()]}")


def saes_stage(args: argparse.Namespace) -> None:
    """An SAE for each dictionary that does not exist, on training documents; one for testing is half as wide."""
    owner = np.load(args.work / "positions.npz")["owner"]
    split = np.array([d.split for d in documents_of(args)])[owner]
    size = args.d_sae or s.MANY_D_SAE
    for one in share_of(args, [one for one in args.setup.dictionaries if not one.ref]):
        name, d_sae, seed = one.name, size // (1 + one.tested), s.SEED + one.tested
        file = args.work / f"sae-{name}.safetensors"
        if file.exists():
            continue
        x = activations_of(args, one.place)[torch.as_tensor(np.isin(split, ("train", "heldout")), device=args.device)]
        tensors, figures = sae.train(x, d_sae, seed, args.sae_steps or s.MANY_SAE_STEPS)
        (args.work / f"sae-{name}.json").write_text(json.dumps(figures) + "\n")
        halved = {k: v.half().contiguous().cpu() for k, v in tensors.items()}
        put(file, lambda part, halved=halved: save_file(halved, part))
        say(f"{name}: {figures}")


def probes_stage(args: argparse.Namespace) -> None:
    """A linear probe of the planted categories at each own site: what a linear reader of activations can get."""
    documents, owner = documents_of(args), np.load(args.work / "positions.npz")["owner"]
    names = corpus.categories(documents)
    y = np.array([names.index(d.category) if d.category else -1 for d in documents])[owner]
    split = np.array([d.split for d in documents])[owner]
    rng = np.random.default_rng(s.SEED)
    at = {k: np.sort(rng.permutation(np.flatnonzero((split == k) & (y >= 0)))[:200_000]) for k in ("train", "dev")}
    for place in share_of(args, args.setup.own):
        x = activations_of(args, place)
        rows = {k: torch.as_tensor(where, device=args.device) for k, where in at.items()}
        target = {k: torch.as_tensor(y[where], device=args.device) for k, where in at.items()}
        weight, bias = probe.best(x[rows["train"]], target["train"], x[rows["dev"]], target["dev"], len(names))
        save_file({"weight": weight.cpu(), "bias": bias.cpu()}, args.work / f"probe-{place.key}.safetensors")
        say(f"probe {place.key}: {probe.accuracy((weight, bias), x[rows['dev']], target['dev']):.3f} of dev positions")


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


def records_stage(args: argparse.Namespace) -> None:
    """Records of every latent by half."""
    owner = np.load(args.work / "positions.npz")["owner"]
    half_a = halves(documents_of(args))[owner]
    words = load_words(args.work)
    for one in share_of(args, args.setup.dictionaries):
        files = {half: args.work / f"records-{one.name}-{half}.jsonl.gz" for half in "ab"}
        if all(file.exists() for file in files.values()):
            continue
        codes = codes_of(args, one, activations_of(args, one.place))
        for half, rows in (("a", np.flatnonzero(half_a)), ("b", np.flatnonzero(~half_a))):
            found = rules.records(codes, words, rows, owner)
            rows_told = [rules.told(r) for r in found.values()]
            put(files[half], lambda part, told=rows_told: pack.write_rows(told, part))
        say(f"{one.name}: records")


def latents_stage(args: argparse.Namespace) -> None:
    """Which latents correlate, over all sites; which are not trained on."""
    if (args.work / "components.npz").exists():
        say("latents: there already")
        return
    owner = np.load(args.work / "positions.npz")["owner"]
    documents = documents_of(args)
    words = load_words(args.work)
    chosen = np.sort(np.random.default_rng(s.SEED).permutation(len(owner))[: s.MANY_CORRELATED])
    some = torch.as_tensor(chosen, device=args.device)
    listed = args.setup.dictionaries
    kept = [codes_of(args, one, activations_of(args, one.place)[some]) for one in listed]
    torch.set_float32_matmul_precision("high")
    near = rules.correlated(kept)
    starts = np.cumsum([0, *(c.size for c in kept)])
    why, of = left_out(args.setup, near, starts)
    known = [records_of(args, one.name, "a") for one in listed]
    often = np.flatnonzero(np.bincount(words.at, minlength=len(words.names)) > s.MANY_COMMON * len(owner))
    chosen_words = rules.unseen_words(known, s.MANY_WORDS, s.SEED, frozenset(words.names[i] for i in often))
    topics = sorted({d.topic for d in documents if d.split == "heldout"})
    for start, found in zip(starts, known, strict=False):
        for k, record in found.items():
            if why[start + k] == 0 and rules.main_word(record) in chosen_words:
                why[start + k] = WORD
            elif why[start + k] == 0 and rules.theme_of(record)[1] in topics:
                why[start + k] = TOPIC
    (args.work / "unseen.json").write_text(json.dumps({"words": chosen_words, "topics": topics}, indent=1) + "\n")
    put(args.work / "components.npz", lambda part: np.savez(part, of=of, why=why, starts=starts))
    sizes = np.bincount(of[why == APART])
    found = {
        one.name: int((why[start:end] == APART).sum())
        for one, start, end in zip(listed, starts, starts[1:], strict=False)
    }
    say(
        f"{near.nnz / len(why):.1f} correlate with one of {len(why)} latents; not trained on: "
        f"{ {name: f'{(why == number).mean():.1%}' for number, name in enumerate(WHY)} }; "
        f"apart {found}, the largest cluster {sizes.max(initial=0)}"
    )


def left_out(setup: Setup, near: Any, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(why each latent is not trained on, its cluster): drawn at home, topped up elsewhere, the rest as it falls."""
    rng, never = np.random.default_rng(s.SEED), np.zeros(starts[-1], bool)
    pools = {one.name: np.arange(starts[k], starts[k + 1]) for k, one in enumerate(setup.dictionaries)}
    for one in setup.dictionaries:
        never[pools[one.name]] = one.tested
    held, home = rules.HeldOut.of(near, never), pools[setup.home.key]
    drawn = held.draw(home, s.MANY_JUDGED, s.MANY_LARGEST, s.MANY_HELD_OUT, rng)
    held.top_up([pools[p.key] for p in setup.topped_up], s.MANY_JUDGED, s.MANY_HELD_OUT, rng)
    apart = held.apart()
    apart[home] = False
    apart[drawn] = True  # of the others at this site those that correlate with little would be too many
    why = np.where(apart, APART, np.where(held.out & ~never, BESIDE, 0)).astype(np.int8)
    return why, rules.clusters(near, apart, starts)


def windows_stage(args: argparse.Namespace) -> None:
    """Windows of half B by which the texts of judged latents are told apart (``bench/feature_verbalizer.py``).

    ``evidence``: windows of half A in which each fires, the word there in marks, for labels from contexts.
    """
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    half_b = ~halves(documents)[at["owner"]]
    parts = np.load(args.work / "components.npz")
    texts = [d.text for d in documents]
    for one in share_of(args, args.setup.dictionaries):
        name, number = one.name, args.setup.number(one.name)
        file = args.work / f"windows-{name}.jsonl.gz"
        if file.exists():
            continue
        site = open_site(args, one)
        pool = judged_latents(site, args.checks)
        found: dict[str, list[dict[str, list[str]]]] = {}
        for half, where in (("a", ~half_b), ("b", half_b)):
            site.firing.clear()
            site.index_firing(torch.as_tensor(where, device=args.device), most=64)
            rows = np.flatnonzero(where)
            found[half] = vectors.windows(site, pool, texts, at["owner"], at["end"], rows, marked=half == "a")
        of, why = (parts[key][parts["starts"][number] :] for key in ("of", "why"))
        told = [
            {"latent": k, "cluster": int(of[k]), "why": WHY[why[k]], "evidence": a["firing"]} | b
            for k, a, b in zip(pool, found["a"], found["b"], strict=True)
        ]
        put(file, lambda part, told=told: pack.write_rows(told, part))
        say(f"{name}: windows of {len(pool)} latents")


def mix_of(args: argparse.Namespace, arm: str) -> vectors.Mix:
    """The arm's vectors: as many distinct ones for every arm."""
    setup = args.setup
    places, kinds = setup.arms()[arm]
    documents, at = documents_of(args), np.load(args.work / "positions.npz")
    owner = at["owner"]
    train = np.array([d.split == "train" for d in documents]) & halves(documents)
    allowed = torch.as_tensor(train[owner], device=args.device)
    rows = torch.nonzero(allowed).flatten()
    rng = np.random.default_rng([s.SEED, args.seed])
    wanted = {*places, *(setup.others if "mapped" in kinds else ())}
    trained_on = [one for one in setup.dictionaries if not one.tested]
    opened = {one.place: open_site(args, one) for one in trained_on if one.place in wanted}
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
                for of, m in _spread([opened[p] for p in (*places, *setup.others) if p in opened], int(n)):
                    ids = pick(np.array([k for k in of.trained_on() if k in of.firing]), m)
                    parts.append(vectors.direct_rows(site, of, ids.tolist(), rng))
            else:
                for of, m in _spread([opened[p] for p in setup.others], int(n)):
                    ids = pick(np.array(of.trained_on()), m)
                    parts.append(vectors.mapped_rows(site, of, ids.tolist(), rows, rng))
    for place in places:
        parts.append(vectors.null_rows(opened[place], int(more * s.NULL_SHARE / len(places)), rng))
    unseen = json.loads((args.work / "unseen.json").read_text())
    mix = vectors.Mix.joined(parts)
    seen = np.flatnonzero([not quotes(t.text, unseen["words"], unseen["topics"]) for t in mix.told])
    return mix[np.sort(rng.permutation(seen)[:count])]


def told_near(args: argparse.Namespace, mix: vectors.Mix) -> list[str]:
    """Of each vector the words whose mean activations at its site lie nearest, by the activations of half A."""
    fit = np.flatnonzero(halves(documents_of(args))[np.load(args.work / "positions.npz")["owner"]])
    words, lines = load_words(args.work), [""] * len(mix.site)
    for place in args.setup.own:
        rows = np.flatnonzero([site == place.said for site in mix.site])
        if len(rows):
            statistics = sites.load_statistics(args.work, place)
            means = WordMeans.of(words, statistics, activations_of(args, place), fit)
            for i, line in zip(rows, means.told(mix.x[torch.as_tensor(rows, device=mix.x.device)]), strict=True):
                lines[i] = line
    return lines


def quotes(text: str, words: list[str], topics: list[str]) -> bool:
    """Whether a text quotes one of the words or tells one of the topics."""
    said = {part.lower().strip(".,;:!?") for one in quoted(text) for part in one.split()}
    return not said.isdisjoint(words) or any(t in text.split("\n\n")[0] for t in topics)


def _spread(some: list[vectors.Site], count: int) -> list[tuple[vectors.Site, int]]:
    shares = np.diff(np.linspace(0, count, len(some) + 1).astype(int))
    return [(one, int(n)) for one, n in zip(some, shares, strict=True) if n]


def trainer_of(args: argparse.Namespace, arm: str, start: Path | None) -> av.Trainer:
    """A reader before training, or where ``start`` leaves off; vectors come at the median norm of one own site."""
    home = args.setup.home
    scale = sites.load_statistics(args.work, home).norm
    folder = args.work / (f"reader-{arm}-{args.seed}" if av.first() else f"part-{os.getpid()}")
    return av.Trainer(
        folder, args.setup.base, home.block, round(scale, 1), args.device, start,
        seed=s.SEED + args.seed, affine=arm == "affine",
    )  # fmt: skip


def train_stage(args: argparse.Namespace) -> None:
    """Train the arm's reader, unless it is there, and judge it; several processes (``torchrun``) share the training."""
    arm = args.arm
    if (args.work / f"judged-{arm}-{args.seed}.json").exists():
        say(f"{arm} {args.seed}: there already")
        return
    folder = args.work / f"reader-{arm}-{args.seed}"
    with av.joined(args.device) as args.device:
        first = av.first()
        if not args.setup.arms()[arm][1]:
            trainer = trainer_of(args, arm, args.start)
            record: dict[str, Any] = {"start": args.start.name if args.start else "", "steps": 0}
        elif (folder / RECORD).exists():
            trainer, record = kept_reader(args, arm, folder)
        else:
            trainer, record = new_reader(args, arm)
    if not first:
        return
    trainer.model.to(torch.bfloat16)
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
    judge_reader.judge(args, arm, trainer, record)


def kept_reader(args: argparse.Namespace, arm: str, folder: Path) -> tuple[av.Trainer, dict[str, Any]]:
    """One that was trained and not judged to the end."""
    record = yaml.safe_load((folder / RECORD).read_text())
    trainer = trainer_of(args, arm, folder)
    if trainer.affine:
        kept = load_file(folder / AFFINE)
        for parameter, name in zip(trainer.affine, ("scale", "bias"), strict=True):
            parameter.data.copy_(kept[name])
    return trainer, record


def new_reader(args: argparse.Namespace, arm: str) -> tuple[av.Trainer, dict[str, Any]]:
    """Draw the arm's vectors and learn to read them; saved, with what it was made of."""
    mix = mix_of(args, arm)
    rng = np.random.default_rng([s.SEED, args.seed, 1])
    heads = [head(n) if rng.random() >= s.SITE_DROPPED else "" for n in mix.site]
    if args.setup.is_told_near(arm):
        heads = [h + line for h, line in zip(heads, told_near(args, mix), strict=True)]
    counted = {k: mix.kind.count(k) for k in dict.fromkeys(mix.kind)}
    say(f"{arm}: {len(mix.told)} vectors {counted}, {len({t.text for t in mix.told})} distinct texts")
    trainer = trainer_of(args, arm, args.start)
    record = av.train(
        trainer, mix.x.to(args.device), mix.told,
        rate=1e-2 if arm == "affine" else s.AV_RATE, steps=args.steps or s.MANY_STEPS, seconds=0.0,
        batch=args.av_batch or s.MANY_BATCH, seed=s.SEED + args.seed, say=say if av.first() else str, heads=heads,
        pieces=args.pieces,
    )  # fmt: skip
    record |= {"start": args.start.name if args.start else "", "kinds": counted}
    record["distinct_texts"] = len({t.text for t in mix.told})
    if not av.first():
        return trainer, record
    if trainer.affine:
        scale, bias = (one.detach().cpu() for one in trainer.affine)
        save_file({"scale": scale, "bias": bias}, trainer.folder / AFFINE)
    trainer.save(record)
    return trainer, record


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "tokens": tokens_stage,
    "read": read_stage,
    "statistics": statistics_stage,
    "saes": saes_stage,
    "probes": probes_stage,
    "words": words_stage,
    "records": records_stage,
    "latents": latents_stage,
    "windows": windows_stage,
    "train": train_stage,
}


def main() -> None:
    """Run one stage."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("stage", choices=["plan", *STAGES])
    parse.add_argument("--work", type=Path, default=Path("training-work"))
    parse.add_argument("--texts", type=Path)
    parse.add_argument("--passages", type=Path)
    parse.add_argument("--base", help="model that reads, where --sae do not name it as it is to be opened")
    parse.add_argument("--sae", action="append", default=[], help="a dictionary of it; the first one's site is home")
    parse.add_argument("--other-sae", action="append", default=[], help="one of another model, reached by a map")
    parse.add_argument("--test-sae", action="append", default=[], help="one that is judged and not trained on")
    parse.add_argument("--unseen", action="append", type=int, default=[], help="block that arm without-blocks lacks")
    parse.add_argument("--arm", default="many-everything")
    parse.add_argument("--model", help="read one model only")
    parse.add_argument("--share", default="1/1", help="K/N: every N-th part of saes, probes, records or windows")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--batch", type=int, default=512)
    parse.add_argument("--positions", type=int, default=s.MANY_POSITIONS)
    parse.add_argument("--rows", type=int, help="vectors of an arm, if not those of settings.py")
    parse.add_argument("--steps", type=int)
    parse.add_argument("--start", type=Path, help="an adapter that the reader of any arm goes on from")
    parse.add_argument("--sae-steps", type=int)
    parse.add_argument("--d-sae", type=int, help="latents of a dictionary, if not those of settings.py")
    parse.add_argument("--av-batch", type=int, help="rows of a step, over all processes")
    parse.add_argument("--pieces", type=int, default=1, help="parts of a process's share of a step, one after another")
    parse.add_argument("--checks", type=int, default=600)
    parse.add_argument("--declared-only", action="store_true", help="judge where something is declared, no other sites")
    parse.add_argument("--workers", type=int, default=1)
    parse.add_argument("--documents", type=int, help="use only so many documents (rehearsals)")
    parse.add_argument("--every", type=int, default=1, help="use each n-th human passage only (rehearsals)")
    args = parse.parse_args()
    if args.stage == "plan":
        plan(args)
        return
    args.setup = Setup.of(args)
    if args.arm not in args.setup.arms():
        raise SystemExit(f"--arm {args.arm}: none of {', '.join(args.setup.arms())}")
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
