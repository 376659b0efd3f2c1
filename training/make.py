"""One command makes every shipped weight: ``python training/make.py --out packages/dragoman-tiny/src/dragoman_tiny``.

Stages: text (unless ``--texts``), read (activations, SAE, features, probes), the two AVs side by side with checks, pack
(texts, the direct route's table). Under half an hour on one H100; README.md here has what each stage costs and reached.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import av
import corpus
import pack
import probe
import reading
import sae
import select_features
import settings as s
import sweep
from dragoman.core import Site
from dragoman.directions import read_encoder
from dragoman.explain import save_background
from dragoman.lm.load import load_model
from dragoman.lm.paired import Reader, direct_statistics
from dragoman.store import read_jsonl

START = time.time()
MODELS = {"smollm2-av": ("tiny-smollm2", s.SOURCE_BLOCK), "gemma-av": ("tiny-gemma", s.TARGET_BLOCK)}


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    sys.stderr.write(f"[{time.time() - START:6.0f}s] {text}\n")
    sys.stderr.flush()


def read_stage(args: argparse.Namespace, documents: list[corpus.Document]) -> None:
    """Read both models, train the SAE, choose features, fit probes, save what the AV processes need."""
    rows: dict[str, reading.Rows] = {}
    for name, (ref, block) in MODELS.items():
        model, tokenizer = load_model(ref, dtype="bfloat16", device=args.device)
        rows[name] = reading.read_all(model, tokenizer, block, [d.text for d in documents], args.device, args.batch)
        say(f"read {len(rows[name].x)} tokens of {ref} block {block}, left out {rows[name].where.dropped} outliers")
        del model
    source, target = rows["smollm2-av"], rows["gemma-av"]
    pairs = reading.aligned(source, target)
    chosen = reading.word_end_pairs(documents, source, pairs, s.SEED)
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
    in_training = torch.as_tensor(
        np.array([d.split in ("train", "heldout") for d in documents])[source.where.document], device=args.device
    )
    tensors, figures["sae"] = sae.train(source.x[in_training], s.SEED, args.sae_steps)
    say(f"SAE {figures['sae']}")
    listed = select_features.choose(select_features.masses(tensors, source, len(documents)), documents)
    tokens = select_features.top_tokens(tensors, source, [int(f["id"]) for f in listed], documents)
    for feature in listed:
        feature["top_tokens"] = tokens[int(feature["id"])]
    write_sae(args.out / "sae", tensors)
    (args.out / "features.json").write_text(json.dumps(listed, indent=0, ensure_ascii=False))
    (args.work / "figures.json").write_text(json.dumps(figures, indent=1))
    say(f"{len(listed)} features listed, in {len({f['category'] for f in listed})} categories")


def fit_probe(
    args: argparse.Namespace, documents: list[corpus.Document], name: str, x: torch.Tensor, owner: np.ndarray
) -> dict[str, float]:
    """The linear probe the AV is compared with: the same activations of the same training documents."""
    names = sorted({d.category for d in documents})
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


def write_sae(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """SAELens' layout: cfg.json and sae_weights.safetensors, float16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous().cpu() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    site = {
        "hook_name": f"blocks.{s.SOURCE_BLOCK}.hook_resid_post",
        "model_name": "tiny-smollm2",
        "hf_hook_name": f"model.layers.{s.SOURCE_BLOCK}",
    }
    config = {
        "architecture": "topk",
        "k": s.TOPK,
        "d_in": tensors["W_dec"].shape[1],
        "d_sae": s.D_SAE,
        "dtype": "float16",
        "apply_b_dec_to_input": True,
        "metadata": site,
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))


def av_stage(args: argparse.Namespace, documents: list[corpus.Document], name: str) -> None:
    """Train one AV, round by round, and check it on held-out activations and on development features."""
    ref, block = MODELS[name]
    figures = json.loads((args.work / "figures.json").read_text())[name]
    trainer = av.Trainer(args.out / name, ref, block, round(figures["median_norm"], 1), args.device)
    x = load_file(args.work / f"{name}.safetensors")["x"]
    pairs = np.load(args.work / "pairs.npz")
    split = np.array([d.split for d in documents])[pairs["document"]]
    describer = corpus.Describer(documents)
    record: dict[str, Any] = {"rounds": []}
    for turn, (rate, steps) in enumerate(s.AV_ROUNDS[name]):
        rng = np.random.default_rng(s.SEED + turn)
        train = np.sort(rng.permutation(np.flatnonzero(split == "train"))[: args.limit or s.AV_PAIRS])
        where = zip(pairs["document"][train], pairs["end"][train], strict=True)
        paragraphs = [describer.describe(documents[d], int(e), rng) for d, e in where]
        say(f"{name}: {len(train)} descriptions, for example: {' / '.join(paragraphs[0])}")
        rows = x[torch.as_tensor(train)].to(args.device)
        done = av.train(
            trainer,
            rows,
            paragraphs,
            rate=rate,
            steps=args.steps or steps,
            batch=args.av_batch or s.AV_BATCH,
            seed=s.SEED + turn,
            say=lambda text: say(f"{name} {text}"),
        )
        record["rounds"].append(done)
    record |= check(args, documents, trainer, name, x, pairs["document"], split)
    trainer.save(record)
    say(f"{name} done: {record}")


def check(
    args: argparse.Namespace,
    documents: list[corpus.Document],
    trainer: av.Trainer,
    name: str,
    x: torch.Tensor,
    owner: np.ndarray,
    split: np.ndarray,
) -> dict[str, float]:
    """Share of explanations whose first paragraph holds the category's word: dev, heldout, development features."""
    out, spoken = {}, []
    rng = np.random.default_rng(s.SEED)
    for kind in ("dev", "heldout"):
        rows = rng.permutation(np.flatnonzero(split == kind))[: args.checks]
        texts = av.speak(trainer, x[torch.as_tensor(rows)])
        truth = [documents[i].category for i in owner[rows]]
        out[f"av_{kind}"] = round(float(np.mean([t in named(e) for t, e in zip(truth, texts, strict=True)])), 4)
        spoken += [{"kind": kind, "truth": t, "text": e} for t, e in zip(truth, texts, strict=True)]
    if name == "smollm2-av":
        listed = [f for f in json.loads((args.out / "features.json").read_text()) if f["split"] == "develop"]
        rows = load_file(args.out / "sae" / "sae_weights.safetensors")["W_dec"][[int(f["id"]) for f in listed]]
        texts = av.speak(trainer, rows.float())
        out["native_develop"] = round(
            float(np.mean([f["category"] in named(e) for f, e in zip(listed, texts, strict=True)])), 4
        )
        spoken += [{"kind": "native", "truth": f["category"], "text": e} for f, e in zip(listed, texts, strict=True)]
    with gzip.open(args.work / f"spoken-{name}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in spoken)
    return out


def direct_stage(args: argparse.Namespace) -> None:
    """The direct route's table and background over the packed texts, as ``dragoman demo --from-scratch`` makes them."""
    texts = [row["text"] for row in read_jsonl(args.out / "documents.jsonl.gz") if row["split"] == "direct"]
    readers = [
        Reader.open(Site(ref, block), dtype="bfloat16", device=args.device)
        for ref, block in (MODELS["smollm2-av"], MODELS["gemma-av"])
    ]
    stats, background = direct_statistics(*readers, read_encoder(args.out / "sae"), texts)
    stats.table().save(args.out / "direct.safetensors")
    save_background(background, args.out / "background.safetensors")
    say(f"direct route: {len(texts)} texts, {background.n} pairs, spread {background.spread:.3f}")


def named(text: str) -> set[str]:
    """Words of the theme paragraph (a rough check; the fixed rule lives in dragoman.score.planted)."""
    theme = text.replace("<explanation>", "").strip().split("\n")[0].lower()
    return set(corpus.WORD.findall(theme))


def main() -> None:
    """Run the stages asked for, all by default."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--out", type=Path, required=True)
    parse.add_argument("--work", type=Path, default=Path("training-work"))
    parse.add_argument("--texts", type=Path)
    parse.add_argument("--stage", choices=["all", "sweep", "read", "smollm2-av", "gemma-av", "pack"], default="all")
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--batch", type=int, default=512)
    parse.add_argument("--av-batch", type=int)
    parse.add_argument("--limit", type=int)
    parse.add_argument("--steps", type=int, help="steps of every round (rehearsals)")
    parse.add_argument("--checks", type=int, default=2000)
    parse.add_argument("--sae-steps", type=int)
    parse.add_argument("--documents", type=int, help="use only so many documents (rehearsals)")
    args = parse.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    texts = args.texts or args.work / "documents.jsonl.gz"
    if not texts.exists():
        from write_text import write

        write(texts, 14, args.device)
        say(f"wrote {texts}")
    documents = corpus.read(texts)[: args.documents]
    if args.stage == "sweep":
        sweep.sweep(
            [ref for ref, _ in MODELS.values()], documents, args.device, args.out / "sweep.json", batch=args.batch
        )
    if args.stage in ("all", "read"):
        read_stage(args, documents)
    if args.stage == "all":
        command = [sys.executable, __file__, *sys.argv[1:], "--stage"]
        jobs = [subprocess.Popen([*command, name]) for name in MODELS]
        codes = [job.wait() for job in jobs]
        if any(codes):
            raise SystemExit("an AV's training failed; its lines above say why")
        pack.write(documents, args.work, args.out)
        direct_stage(args)
    elif args.stage == "pack":
        pack.write(documents, args.work, args.out)
        direct_stage(args)
    elif args.stage in MODELS:
        av_stage(args, documents, args.stage)


if __name__ == "__main__":
    main()
