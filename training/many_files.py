"""What the stages of ``many.py`` left in the work folder, opened: documents, activations, SAEs, records, sites; arms.

In: the command's arguments (``work``, ``texts``, ``passages``, ``device``). Out: the parts that later stages and the
judging of readers share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import corpus
import latents as rules
import settings as s
import sites
import vectors
from dragoman.store import read_jsonl
from sites import PLACES, Place

START = time.time()
BASE = "tiny-smollm2"  # the model that reads
OWN = tuple(p for p in PLACES if p.model == BASE)
OTHERS = tuple(p for p in PLACES if p.model != BASE)
UNSEEN = tuple(Place(*p) for p in s.MANY_UNSEEN)
SECOND = Place(*s.MANY_SECOND)
WHY = ("not", "apart", "word", "topic", "beside")  # why a latent is not trained on; what is only beside is not judged
APART, WORD, TOPIC, BESIDE = 1, 2, 3, 4
ARMS: dict[str, tuple[tuple[Place, ...], tuple[str, ...]]] = {
    **{f"activations-{p.block}": ((p,), ("activation",)) for p in OWN},
    **{f"rows-{p.block}": ((p,), ("row",)) for p in OWN},
    "affine": (OWN, ("row",)),
    "many-activations": (OWN, ("activation",)),
    "many-everything": (OWN, tuple(s.MANY_MIX)),
    "without-blocks": (tuple(p for p in OWN if p not in UNSEEN), tuple(s.MANY_MIX)),
    "without-model": (OWN, ("activation", "row", "direct")),
    "as-packaged": ((), ()),  # not trained: the verbalizer that the others start from
}


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    sys.stderr.write(f"[{time.time() - START:6.0f}s] {text}\n")
    sys.stderr.flush()


def put(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole: a stage that was stopped leaves none that the next run would take for done."""
    part = file.with_name(f"part-{os.getpid()}-{file.name}")
    write(part)
    part.rename(file)


def documents_of(args: argparse.Namespace) -> list[corpus.Document]:
    """Both kinds of text."""
    return corpus.read(args.texts)[: args.documents] + corpus.read_passages(args.passages)[:: args.every]


def halves(documents: list[corpus.Document]) -> np.ndarray:
    """(documents,) bool: whether of half A, by the source work's digest; a written text is its own work."""
    works = (d.work or d.text for d in documents)
    return np.array([hashlib.sha256(f"half {s.SEED} {w}".encode()).digest()[0] % 2 == 0 for w in works])


def activations_of(args: argparse.Namespace, place: Place) -> torch.Tensor:
    """(n, d) bfloat16 activations of a place at the usable positions, on the device."""
    kept = torch.as_tensor(np.load(args.work / "positions.npz")["kept"], device=args.device)
    return load_file(args.work / f"x-{place.key}.safetensors")["x"].to(args.device)[kept]


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


def records_of(args: argparse.Namespace, name: str, half: str) -> dict[int, rules.Record]:
    """What the latents stage wrote."""
    return {r.latent: r for r in map(rules.Record.read, read_jsonl(args.work / f"records-{name}-{half}.jsonl.gz"))}


def open_site(args: argparse.Namespace, name: str, place: Place, number: int) -> vectors.Site:
    """A place with one of its dictionaries, all of it on the device."""
    x = activations_of(args, place)
    tensors, parts = sae_of(args, name), np.load(args.work / "components.npz")
    return vectors.Site(
        place=place,
        statistics=sites.load_statistics(args.work, place),
        x=x,
        codes=rules.Codes.of(tensors, x),
        w_dec=tensors["W_dec"],
        a=records_of(args, name, "a"),
        b=records_of(args, name, "b"),
        why=parts["why"][parts["starts"][number] : parts["starts"][number + 1]],
    )


def judged_latents(site: vectors.Site, most: int) -> list[int]:
    """Latents with records of both halves that are judged: up to ``most`` that are apart, and all of unseen words."""
    known = [k for k in sorted(site.b) if k in site.a]
    rng = np.random.default_rng(s.SEED)
    apart = rng.permutation([k for k in known if site.why[k] == APART])[:most]
    return [int(k) for k in (*apart, *(k for k in known if site.why[k] in (WORD, TOPIC)))]


def head(said: str) -> str:
    """The words by which a reader is told where a vector was read."""
    return f"({said})\n"
