"""What the stages of ``many.py`` left in the work folder, opened: documents, activations, dictionaries, records, sites.

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
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import corpus
import latents as rules
import sae
import settings as s
import sites
import vectors
from dragoman.dictionaries import open_dictionary
from dragoman.models.encoding import DeviceEncoding
from dragoman.store import read_jsonl
from setup import Listed
from sites import Place

START = time.time()
WHY = ("not", "apart", "word", "topic", "beside")  # why a latent is not trained on; what is only beside is not judged
APART, WORD, TOPIC, BESIDE = 1, 2, 3, 4


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


def codes_of(args: argparse.Namespace, one: Listed, x: torch.Tensor) -> rules.Codes:
    """Which latents of a dictionary fire at rows (n, d), on the device; of one that exists those of ``drawn``."""
    if not one.ref:
        tensors = sae_of(args, one)
        return rules.Codes.of(lambda rows: sae.encode(tensors, rows), x, len(tensors["W_dec"]))
    numbers, _ = drawn(one.ref, args.d_sae or s.MANY_D_SAE)
    encoding = DeviceEncoding(open_dictionary(one.ref).need_encoder(), args.device)
    columns = torch.as_tensor(numbers, device=args.device)
    return rules.Codes.of(lambda rows: encoding.dense(rows.float(), columns), x, len(numbers))


def w_dec_of(args: argparse.Namespace, one: Listed) -> torch.Tensor:
    """(m, d) decoder rows of the latents that are used, on the device."""
    if not one.ref:
        return sae_of(args, one)["W_dec"]
    return torch.as_tensor(drawn(one.ref, args.d_sae or s.MANY_D_SAE)[1], device=args.device)


@cache
def drawn(ref: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents (m,) of a dictionary that exists and their rows (m, d): all with a direction, or ``most`` at random.

    Correlations are taken of all pairs of all dictionaries, so 65,536 of each would be too many.
    """
    living = open_dictionary(ref).rows()
    numbers = np.array([int(k) for k in living.ids], np.int64)
    chosen = np.sort(np.random.default_rng(s.SEED).permutation(len(numbers))[:most])
    return numbers[chosen], np.asarray(living.unit)[chosen]


def sae_of(args: argparse.Namespace, one: Listed) -> dict[str, torch.Tensor]:
    """An SAE of the saes stage, float32 on the device."""
    return {k: v.float().to(args.device) for k, v in load_file(args.work / f"sae-{one.name}.safetensors").items()}


def records_of(args: argparse.Namespace, name: str, half: str) -> dict[int, rules.Record]:
    """What the latents stage wrote."""
    return {r.latent: r for r in map(rules.Record.read, read_jsonl(args.work / f"records-{name}-{half}.jsonl.gz"))}


def open_site(args: argparse.Namespace, one: Listed) -> vectors.Site:
    """A place with one of its dictionaries, all of it on the device."""
    x, parts = activations_of(args, one.place), np.load(args.work / "components.npz")
    number = args.setup.number(one.name)
    return vectors.Site(
        place=one.place,
        statistics=sites.load_statistics(args.work, one.place),
        x=x,
        codes=codes_of(args, one, x),
        w_dec=w_dec_of(args, one),
        a=records_of(args, one.name, "a"),
        b=records_of(args, one.name, "b"),
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
