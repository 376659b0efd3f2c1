"""One command makes every shipped weight: ``python training/make.py --out packages/dragoman-tiny/src/dragoman_tiny``.

Stages: text (unless ``--texts``), read (activations, SAEs, features, probes), the two AVs side by side with checks, the
two ARs likewise, pack (texts, the direct route's table). README.md here has what each stage costs and reached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

import activations
import ar
import av
import corpus
import judged
import pack
import probe
import sae
import select_features
import settings as s
import sweep
import targets
from dragoman.core import Site
from dragoman.dictionaries import open_dictionary
from dragoman.models.harvest import Reader
from dragoman.models.load import load_model
from dragoman.models.paired import direct_statistics
from dragoman.stats.planted import names_category
from dragoman.store import read_jsonl
from dragoman.store.arrays import save_background

START = time.time()
MODELS = {"smollm2-av": ("tiny-smollm2", s.SOURCE_BLOCK), "gemma-av": ("tiny-gemma", s.TARGET_BLOCK)}
READERS = {"smollm2-ar": "smollm2-av", "gemma-ar": "gemma-av"}
DICTIONARIES = {"sae": ("smollm2-av", s.D_SAE), "gemma-sae": ("gemma-av", s.TARGET_D_SAE)}


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    sys.stderr.write(f"[{time.time() - START:6.0f}s] {text}\n")
    sys.stderr.flush()


def read_stage(args: argparse.Namespace, documents: list[corpus.Document]) -> None:
    """Read both models, train the SAE, choose features, fit probes, save what the AV processes need."""
    rows: dict[str, activations.Rows] = {}
    for name, (ref, block) in MODELS.items():
        model, tokenizer = load_model(ref, dtype="bfloat16", device=args.device)
        rows[name] = activations.read_all(model, tokenizer, block, [d.text for d in documents], args.device, args.batch)
        say(f"read {len(rows[name].x)} tokens of {ref} block {block}, left out {rows[name].where.dropped} outliers")
        del model
    source, target = rows["smollm2-av"], rows["gemma-av"]
    pairs = activations.aligned(source, target)
    chosen = activations.word_end_pairs(documents, source, pairs, s.SEED)
    left, right = pairs[0][chosen], pairs[1][chosen]
    say(f"{len(pairs[0])} aligned pairs, {len(chosen)} kept")
    np.savez(args.work / "pairs.npz", document=source.where.document[left], end=source.where.end[left])
    figures: dict[str, Any] = {
        "tokens": {k: len(r.x) for k, r in rows.items()},
        "aligned_pairs": len(pairs[0]),
        "kept_pairs": len(chosen),
    }
    for name, index in (("smollm2-av", left), ("gemma-av", right)):
        x = rows[name].x[torch.as_tensor(index, device=args.device)]
        save_file({"x": x.cpu()}, args.work / f"{name}.safetensors")
        norms = x.float().norm(dim=1)
        unit = (x.float() / norms[:, None]).mean(0)
        figures[name] = {"median_norm": float(norms.median()), "spread": 1 - float(unit.pow(2).sum())}
        figures[name] |= fit_probe(args, documents, name, x, source.where.document[left])
        say(f"{name}: {figures[name]}")
    for folder, (name, d_sae) in DICTIONARIES.items():
        figures[folder] = dictionary(args, documents, folder, rows[name], name, d_sae)
    (args.work / "figures.json").write_text(json.dumps(figures, indent=1))


def dictionary(
    args: argparse.Namespace,
    documents: list[corpus.Document],
    folder: str,
    rows: activations.Rows,
    name: str,
    d_sae: int,
) -> dict[str, float]:
    """Train a site's SAE (one that lies in ``--out`` already is kept), say what each latent fires on, list features."""
    kept = args.out / folder / "sae_weights.safetensors"
    if kept.exists():
        tensors = {k: v.to(args.device, torch.float32) for k, v in load_file(kept).items()}
        figures = {"kept": 1.0, "fvu": sae.fvu(tensors, rows.x[:20_000])}
    else:
        in_training = torch.as_tensor(
            np.array([d.split in ("train", "heldout") for d in documents])[rows.where.document], device=args.device
        )
        tensors, figures = sae.train(rows.x[in_training], d_sae, s.SEED, args.sae_steps)
        write_sae(args.out / folder, tensors, MODELS[name])
    say(f"{folder}: {figures}")
    latents = select_features.ranked(select_features.masses(tensors, rows, len(documents)), documents)
    tokens = select_features.top_tokens(tensors, rows, [int(f["id"]) for f in latents], documents)
    for latent in latents:
        latent["top_tokens"] = tokens[int(latent["id"])]
    pack.write_rows(latents, args.out / f"latents-{folder}.jsonl.gz")
    listed = select_features.listed(latents)
    if folder == "sae":
        write_truth(listed, documents, args.out / folder)
    say(f"{folder}: {len(latents)} latents described, {len(listed)} listed")
    return figures


def write_truth(listed: list[dict[str, Any]], documents: list[corpus.Document], folder: Path) -> None:
    """What is planted, and a label of each listed latent, beside the dictionary."""
    words: dict[str, set[str]] = {}
    for document in (d for d in documents if d.category):
        words.setdefault(document.category, {document.category}).add(document.topic)
    truth = {"features": listed, "category_words": {name: sorted(some) for name, some in sorted(words.items())}}
    labels = {one["id"]: f"{one['category']}: {one['topic']}" for one in listed}
    for name, value in (("truth.json", truth), ("labels.json", labels)):
        (folder / name).write_text(json.dumps(value, indent=0, ensure_ascii=False) + "\n")


def fit_probe(
    args: argparse.Namespace, documents: list[corpus.Document], name: str, x: torch.Tensor, owner: np.ndarray
) -> dict[str, float]:
    """The linear probe the AV is compared with: the same activations of the same training documents with a category."""
    names = corpus.categories(documents)
    planted = np.array([bool(d.category) for d in documents])[owner]
    x, owner = x[torch.as_tensor(np.flatnonzero(planted), device=x.device)], owner[planted]
    y = torch.tensor([names.index(documents[i].category) for i in owner], device=args.device)
    split = np.array([d.split for d in documents])[owner]
    at = {
        k: torch.as_tensor(np.flatnonzero(split == k), device=args.device) for k in ("train", "dev", "test", "heldout")
    }
    fitted = probe.best(x[at["train"]], y[at["train"]], x[at["dev"]], y[at["dev"]], len(names))
    save_file({"weight": fitted[0].half().cpu(), "bias": fitted[1].cpu()}, args.work / f"probe-{name}.safetensors")
    return {
        f"probe_{k}": round(probe.accuracy(fitted, x[at[k]], y[at[k]]), 4)
        for k in ("dev", "test", "heldout")
        if len(at[k])
    }


def write_sae(folder: Path, tensors: dict[str, torch.Tensor], model: tuple[str, int]) -> None:
    """SAELens' layout: cfg.json and sae_weights.safetensors, float16."""
    ref, block = model
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous().cpu() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    site = {
        "hook_name": f"blocks.{block}.hook_resid_post",
        "model_name": ref,
        "hf_hook_name": f"model.layers.{block}",
    }
    config = {
        "architecture": "topk",
        "k": s.TOPK,
        "d_in": tensors["W_dec"].shape[1],
        "d_sae": len(tensors["W_dec"]),
        "dtype": "float16",
        "apply_b_dec_to_input": True,
        "metadata": site,
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))


def pairs_of(
    args: argparse.Namespace, documents: list[corpus.Document], name: str, seed: int
) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Activations of an AV's site, their documents and character ends, and the numbers of those it trains on."""
    x = load_file(args.work / f"{name}.safetensors")["x"]
    pairs = np.load(args.work / "pairs.npz")
    split = np.array([d.split for d in documents])[pairs["document"]]
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
    return x, pairs["document"], pairs["end"], np.sort(chosen[: args.limit or s.AV_PAIRS])


def with_nulls(
    x: torch.Tensor, told: list[corpus.Description], seed: int
) -> tuple[torch.Tensor, list[corpus.Description]]:
    """The rows and descriptions with vectors that mean nothing among them, a twentieth of all."""
    count = int(len(x) * s.NULL_SHARE / (1 - s.NULL_SHARE))
    return torch.cat([x, nulls(x, count, seed)]), told + [targets.null()] * count


def nulls(x: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """(count, d) vectors without a meaning that lie as far from the site's mean as its activations do.

    Half are the mean and a random direction; half the mean and a real deviation whose coordinates are shuffled. Bare
    random directions are not among them: rows of a dictionary are bare too, and are not to be told "nothing" for that.
    """
    generator = torch.Generator().manual_seed(seed)
    some = x[torch.randint(len(x), (count,), generator=generator)].float()
    mean = x[: 1 << 16].float().mean(0)
    apart = some - mean
    length = apart.norm(dim=1, keepdim=True)
    noise = torch.randn(apart.shape, generator=generator).to(apart)
    half = count // 2
    noise[:half] = apart[:half][:, torch.randperm(x.shape[1], generator=generator)]
    return (mean + noise * (length / noise.norm(dim=1, keepdim=True))).to(x.dtype)


def described(
    teller: targets.Teller, documents: list[corpus.Document], owner: np.ndarray, end: np.ndarray, seed: int
) -> list[corpus.Description]:
    """What is said of each pair's position."""
    return targets.all_described(teller, documents, owner, end, seed, max(1, (os.cpu_count() or 2) - 1))


def av_stage(args: argparse.Namespace, documents: list[corpus.Document], name: str) -> None:
    """Train one AV and check it on held-out activations and on development features."""
    ref, block = MODELS[name]
    figures = json.loads((args.work / "figures.json").read_text())[name]
    x, owner, end, train = pairs_of(args, documents, name, s.SEED)
    teller = targets.Teller(documents)
    told = described(teller, documents, owner[train], end[train], s.SEED)
    say(f"{name}: {len(train)} descriptions, for example: {told[0].text!r}")
    rows, told = with_nulls(x[torch.as_tensor(train)], told, s.SEED)
    trainer = av.Trainer(args.out / name, ref, block, round(figures["median_norm"], 1), args.device, args.start)
    record = av.train(
        trainer,
        rows.to(args.device),
        told,
        rate=args.rate or s.AV_RATE,
        steps=args.steps,
        seconds=args.seconds or s.AV_SECONDS,
        batch=args.av_batch or s.AV_BATCH,
        seed=s.SEED,
        say=lambda text: say(f"{name} {text}"),
    )
    record["texts"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (args.texts, args.passages) if f}
    trainer.save(record)
    trainer.model.to(torch.bfloat16)
    if args.checks:
        memory = x[torch.as_tensor(train)].to(args.device), told
        record |= check(args, documents, teller, trainer, name, x, owner, end, memory)
    (args.out / name / "training.yaml").write_text(yaml.safe_dump(record))
    say(f"{name} done: {record}")


def ar_stage(args: argparse.Namespace, documents: list[corpus.Document], name: str) -> None:
    """Train one AR on the same pairs, the other way round, and check it on development and held-out-topic pairs."""
    ref, block = MODELS[READERS[name]]
    scale = json.loads((args.work / "figures.json").read_text())[READERS[name]]["median_norm"]
    x, owner, end, train = pairs_of(args, documents, READERS[name], s.SEED + 3)
    teller = targets.Teller(documents)
    told = [d.text for d in described(teller, documents, owner[train], end[train], s.SEED + 3)]
    trainer = ar.Trainer(args.out / name, ref, block, scale, args.device)
    record: dict[str, Any] = ar.train(
        trainer,
        x[torch.as_tensor(train)].to(args.device),
        told,
        steps=args.steps,
        seconds=args.seconds or s.AR_SECONDS,
        batch=args.av_batch or s.AV_BATCH,
        say=lambda text: say(f"{name} {text}"),
    )
    split = np.array([d.split for d in documents])[owner]
    for kind in ("dev", "heldout"):
        rows = np.random.default_rng(s.SEED).permutation(np.flatnonzero(split == kind))[: args.checks]
        texts = [d.text for d in described(teller, documents, owner[rows], end[rows], s.SEED)]
        record[kind] = ar.check(trainer, x[torch.as_tensor(rows)], texts)
    trainer.save(record)
    say(f"{name} done: {record}")


def check(
    args: argparse.Namespace,
    documents: list[corpus.Document],
    teller: targets.Teller,
    trainer: av.Trainer,
    name: str,
    x: torch.Tensor,
    owner: np.ndarray,
    end: np.ndarray,
    memory: tuple[torch.Tensor, list[corpus.Description]],
) -> dict[str, Any]:
    """What it says of positions in documents it has not seen, against the rule; of nulls; of development features.

    ``nearest``: the same figures of the description of the most similar of the rows it was trained on (``memory``).
    By kind: ``dev`` (written from a topic), ``heldout`` (from a topic it has not seen), ``human`` (human text of split
    dev). ``probe``: the linear probe's share on the same positions that have a category.
    """
    out: dict[str, Any] = {}
    spoken: list[dict[str, Any]] = []
    rng = np.random.default_rng(s.SEED)
    split = np.array([d.split for d in documents])[owner]
    human = np.array([not d.category for d in documents])[owner]
    kinds = {"dev": (split == "dev") & ~human, "heldout": split == "heldout", "human": (split == "dev") & human}
    for kind, where in kinds.items():
        rows = rng.permutation(np.flatnonzero(where))[: args.checks]
        if not len(rows):
            continue
        texts = av.speak(trainer, x[torch.as_tensor(rows)])
        truths = [judged.Truth.of(teller, documents[d], int(e)) for d, e in zip(owner[rows], end[rows], strict=True)]
        out[kind] = judged.figures(texts, truths) | probed(args, documents, name, x[rows], truths, texts)
        out[kind]["nearest"] = judged.figures(nearest(x[rows], memory), truths)
        spoken += [
            {"kind": kind, "document": int(d), "end": int(e), "text": text}
            for d, e, text in zip(owner[rows], end[rows], texts, strict=True)
        ]
    texts = av.speak(trainer, nulls(x, min(args.checks, 500), s.SEED + 5))
    out["nulls"] = {"n": len(texts), "nothing": round(float(np.mean([judged.Told.of(t).nothing for t in texts])), 4)}
    spoken += [{"kind": "null", "text": text} for text in texts]
    folder = next(k for k, (av_name, _) in DICTIONARIES.items() if av_name == name)
    out["features"], said = features(args, trainer, folder, x)
    pack.write_rows(spoken + said, args.work / f"spoken-{name}.jsonl.gz")
    return out


def nearest(x: torch.Tensor, memory: tuple[torch.Tensor, list[corpus.Description]]) -> list[str]:
    """Of each row the text of the remembered one of largest cosine about the mean: what looking up would say."""
    known = memory[0].float()
    mean = known.mean(0)
    known = torch.nn.functional.normalize(known - mean, dim=1)
    near = torch.nn.functional.normalize(x.to(known.device).float() - mean, dim=1) @ known.T
    return [memory[1][int(i)].text for i in near.argmax(1)]


def probed(
    args: argparse.Namespace,
    documents: list[corpus.Document],
    name: str,
    x: torch.Tensor,
    truths: list[judged.Truth],
    texts: list[str],
) -> dict[str, float]:
    """Where the rule has a planted category: the probe's share right, and the texts' that name the category alone."""
    names = corpus.categories(documents)
    at = [i for i, t in enumerate(truths) if t.theme.category in names]
    if not at:
        return {}
    probe_of = load_file(args.work / f"probe-{name}.safetensors")
    y = torch.tensor([names.index(truths[i].theme.category) for i in at])
    right = probe.accuracy((probe_of["weight"].float(), probe_of["bias"]), x[torch.tensor(at)], y)
    said = np.mean([names_category(judged.Told.of(texts[i]).theme, [truths[i].theme.category]) for i in at])
    return {"with_category": float(len(at)), "probe": round(right, 4), "category": round(float(said), 4)}


def features(
    args: argparse.Namespace, trainer: av.Trainer, folder: str, x: torch.Tensor
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Development features of the site's dictionary, bare and on-shell: category named, top word named, declined."""
    latents = [r for r in read_jsonl(args.out / f"latents-{folder}.jsonl.gz") if r.get("rank") is not None]
    listed = [r for r in latents if s.FEATURES_PER_CATEGORY < r["rank"] <= 2 * s.FEATURES_PER_CATEGORY]
    listed = listed[: args.checks]
    if not listed:
        return {}, []
    w_dec = load_file(args.out / folder / "sae_weights.safetensors")["W_dec"].float()
    rows = torch.nn.functional.normalize(w_dec[[int(r["id"]) for r in listed]], dim=1)
    unit = torch.nn.functional.normalize(x[: 1 << 17].float(), dim=1).mean(0)
    out: dict[str, float] = {"n": float(len(listed))}
    said: list[dict[str, Any]] = []
    for how, vectors in (("bare", rows), ("on_shell", unit + (1 - unit.pow(2).sum()).sqrt() * rows)):
        texts = av.speak(trainer, vectors)
        told = [judged.Told.of(text) for text in texts]
        out[f"category_{how}"] = float(
            np.mean([names_category(t.theme, [r["category"], r["topic"]]) for t, r in zip(told, listed, strict=True)])
        )
        out[f"words_{how}"] = float(
            np.mean([bool(_said(t, r["top_tokens"][:3])) for t, r in zip(told, listed, strict=True)])
        )
        out[f"words_{how}_dealt"] = float(
            np.mean([bool(_said(t, r["top_tokens"][:3])) for t, r in zip(told, listed[1:] + listed[:1], strict=True)])
        )
        out[f"nothing_{how}"] = float(np.mean([t.nothing for t in told]))
        said += [{"kind": how, "latent": r["id"], "text": text} for r, text in zip(listed, texts, strict=True)]
    return {k: round(v, 4) for k, v in out.items()}, said


def _said(told: judged.Told, words: list[str]) -> set[str]:
    return {w.lower() for w in (*told.words, *told.token)} & set(words)


def pack_stage(args: argparse.Namespace, documents: list[corpus.Document]) -> None:
    """Texts, probes and direct table, or the part of them that is asked for."""
    if args.stage in ("all", "texts", "pack"):
        texts_stage(args, documents)
    if args.stage in ("all", "pack"):
        pack.write_probes(documents, args.work, args.out)
    if args.stage in ("all", "pack"):
        direct_stage(args)


def texts_stage(args: argparse.Namespace, documents: list[corpus.Document]) -> None:
    """The packed texts: documents that nothing was trained on, and human passages that may be packed.

    ``--packed``: a file of packed documents whose own stay as they are, since published figures rest on them. Without
    it documents are written first, unless they are there.
    """
    if args.packed:
        pack.write_with_human(read_jsonl(args.packed), args.passages, args.out)
        return
    fresh = args.work / "fresh.jsonl.gz"
    if not fresh.exists():
        from write_text import write

        write(fresh, s.FRESH_PER_PROMPT, args.device, seed=s.FRESH_SEED)
    pack.write_texts(documents, corpus.read_fresh(fresh, documents), args.out)


def direct_stage(args: argparse.Namespace) -> None:
    """The direct route's tables and backgrounds over the packed texts, both ways."""
    texts = [row["text"] for row in read_jsonl(args.out / "documents.jsonl.gz") if row["split"] == "direct"]
    readers = [
        Reader.open(Site(ref, block), dtype="bfloat16", device=args.device)
        for ref, block in (MODELS["smollm2-av"], MODELS["gemma-av"])
    ]
    for name, (source, target) in {"sae": readers, "gemma-sae": readers[::-1]}.items():
        encoder = open_dictionary(args.out / name).need_encoder()
        stats, background, _ = direct_statistics(source, target, encoder, texts)
        beside = args.out / name / "direct" / f"{target.site.model}-{target.site.block}"
        beside.mkdir(parents=True, exist_ok=True)
        stats.table().save(beside / "direct.safetensors")
        save_background(background, beside / "background.safetensors")
        say(f"direct route of {name}: {len(texts)} texts, {background.n} pairs, spread {background.spread:.3f}")


def side_by_side(stages: list[str], device: str) -> None:
    """Run stages as processes at once, each on its own GPU where there are several."""
    gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
    jobs = []
    for i, stage in enumerate(stages):
        where = f"cuda:{i % gpus}" if gpus else device
        jobs.append(subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--device", where]))
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise SystemExit("a training failed; its lines above say why")


def main() -> None:
    """Run the stages asked for, all by default."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--work", type=Path, default=Path("training-work"))
    parse.add_argument("--texts", type=Path, help="the corpus, if it is there already")
    stages = ["all", "sweep", "read", *MODELS, *READERS, "texts", "direct", "pack"]
    parse.add_argument("--passages", type=Path, help="human text beside it (passages.py)")
    parse.add_argument("--packed", type=Path, help="packed documents that are kept, beside human ones")
    parse.add_argument("--stage", choices=stages, default="all")
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--batch", type=int, default=512)
    parse.add_argument("--av-batch", type=int)
    parse.add_argument("--limit", type=int)
    parse.add_argument("--steps", type=int, help="steps of the training asked for; else as many as fit the seconds")
    parse.add_argument("--start", type=Path, help="folder of an adapter that an AV's training goes on from")
    parse.add_argument("--rate", type=float, help="an AV's learning rate, if not that of settings.py")
    parse.add_argument("--seconds", type=float, help="seconds of the training asked for, if not those of settings.py")
    parse.add_argument("--checks", type=int, default=2000)
    parse.add_argument("--sae-steps", type=int)
    parse.add_argument("--documents", type=int, help="use only so many documents (rehearsals)")
    parse.add_argument("--every", type=int, default=1, help="use each n-th human passage only (rehearsals)")
    args = parse.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "direct":  # needs no corpus
        direct_stage(args)
        return
    texts = args.texts or args.work / "documents.jsonl.gz"
    if not texts.exists():
        from write_text import write

        write(texts, 14, args.device)
        say(f"wrote {texts}")
    documents = corpus.read(texts)[: args.documents]
    if args.passages:
        documents += corpus.read_passages(args.passages)[:: args.every]
    if args.stage == "sweep":
        sweep.sweep(
            [ref for ref, _ in MODELS.values()], documents, args.device, args.out / "sweep.json", batch=args.batch
        )
    if args.stage in ("all", "read"):
        read_stage(args, documents)
    if args.stage == "all":
        for group in (MODELS, READERS):
            side_by_side(list(group), args.device)
    pack_stage(args, documents)
    if args.stage in MODELS:
        av_stage(args, documents, args.stage)
    if args.stage in READERS:
        ar_stage(args, documents, args.stage)


if __name__ == "__main__":
    main()
