"""Reading two models of the real size, summing, fitting: ``python bench/aligned_size.py --device cuda``.

Qwen2.5-7B up to block 20 and Gemma-3-27B up to block 41, with random weights made on the device, in bfloat16; an SAE of
65,536 features whose thresholds let some thirty fire at a token, drawn at random too; two tokenizers trained on the
texts, so that their tokens end together about as often as those of two real ones. What is timed is what ``explain``
does before it speaks, its kernels being compiled: every text read once with both models, all features encoded, moments
by fold and sums over firings, every penalty, the map, the map back, and the direct table. Prints each figure as it
comes and writes ``aligned_seconds`` and ``aligned_peak_gb`` (beside the models) into ``bench/results/real_size.json``.

``--shape tiny`` rehearses it on a CPU. ``--ridgecv`` compares the penalty that is chosen by left-out documents with
scikit-learn's at a size that it can hold, here, and writes ``ridgecv_ratio``. Random models say nothing about quality.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from decode import gemma, qwen
from dragoman.core import Directions, Site
from dragoman.dictionaries import Encoder
from dragoman.maps import Crossing
from dragoman.maps.dictionary import to_watch
from dragoman.maps.direct import FLOOR
from dragoman.maps.linear import relative_lambda
from dragoman.maps.moments import FOLDS, MomentStream, fold_of
from dragoman.maps.penalty import GRID
from dragoman.models.algebra import algebra_of, in_double
from dragoman.models.aligned import read_aligned
from dragoman.models.harvest import Reader
from dragoman.models.paired import ReadingOptions
from dragoman.runs.forecast import CHARACTERS, TEXTS
from dragoman.runs.texts import Texts
from measured import GIB, Peak, Record, machine_of

RESULTS = Path(__file__).parent / "results" / "real_size.json"
ASKED = 45  # features, as in the post
WARM = 64  # texts read before the clock starts
RARE = 3.3  # standard deviations above which a feature fires: at one token of two thousand


@dataclass(frozen=True)
class Shape:
    """Two models, read at a block each, and how many features the dictionary has."""

    configs: tuple[Callable[[], Any], Callable[[], Any]]
    blocks: tuple[int, int]
    d_sae: int
    dtype: str
    words: tuple[int, int]  # of the two vocabularies


def small(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same family, a hundredth as wide."""

    def made() -> Any:
        config = make()
        for name, value in {
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "intermediate_size": 128, "vocab_size": 2000, "layer_types": None,
        }.items():  # fmt: skip
            setattr(config, name, value)
        return type(config)(**{k: v for k, v in config.to_dict().items() if k != "layer_types"})

    return made


SHAPES = {
    "real": Shape((qwen, gemma), (20, 41), 65_536, "bfloat16", (32_000, 48_000)),
    "tiny": Shape((small(qwen), small(gemma)), (1, 2), 512, "float32", (1_200, 1_800)),
}


def tokenizer_of(texts: Sequence[str], words: int) -> PreTrainedTokenizerFast:
    """Byte pairs learnt from the texts."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = {"vocab_size": words, "special_tokens": ["<unk>", "<pad>", "<s>"], "initial_alphabet": alphabet}
    made.train_from_iterator(texts, trainers.BpeTrainer(**how, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", padding_side="right"
    )


def reader_of(make: Callable[[], Any], block: int, tokenizer: Any, name: str, shape: Shape, device: str) -> Reader:
    """A model of random weights up to a block, made on the device."""
    config = make()
    config.num_hidden_layers = block + 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: block + 1]
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, shape.dtype))
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model: Any = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return Reader(site=Site(name, block), model=model.eval().requires_grad_(False), tokenizer=tokenizer)


def dictionary_of(reader: Reader, texts: Sequence[str], d_sae: int) -> tuple[Encoder, Directions]:
    """Random features, which fire where a token is far along them."""
    rows = reader.pilot(texts).x
    mean = rows.mean(axis=0)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((d_sae, rows.shape[1]), dtype=np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    spread = (rows - mean) @ w.T
    encoder = Encoder(
        W_enc=np.ascontiguousarray(w.T), b_enc=np.zeros(d_sae, np.float32), b_dec=mean.astype(np.float32), W_dec=w,
        architecture="jumprelu", threshold=(spread.mean(axis=0) + RARE * spread.std(axis=0)).astype(np.float32),
    )  # fmt: skip
    return encoder, Directions.of(reader.site, w, range(d_sae), origin="random features")


def timed(
    shape: Shape, device: str, texts: Sequence[str], *, batch_size: int, characters: int, record: Record | None
) -> None:
    """Read, sum, fit; print what it took, and keep it in ``record``."""
    names, clock = ("a source", "a target"), time.perf_counter
    source, target = (
        reader_of(make, block, tokenizer_of(texts, words), name, shape, device)
        for make, block, words, name in zip(shape.configs, shape.blocks, shape.words, names, strict=True)
    )
    gpu = device.startswith("cuda")
    models_gb = torch.cuda.memory_allocated(device) / 1e9 if gpu else 0.0
    encoder, rows = dictionary_of(source, texts, shape.d_sae)
    watched = to_watch(rows, range(ASKED), seed=0)
    there = in_double(device)
    # Kernels are compiled once a machine, and kept there: that is no part of what is timed.
    warm: dict[str, Any] = {"device": there, "every": there is not None}
    read_aligned(source, target, texts[:WARM], encoder, options=ReadingOptions(watched=watched), **warm)
    print(f"models and dictionary made; they hold {models_gb:.1f} GB, {len(watched)} features are watched", flush=True)
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    peak, begun, last = Peak(device), clock(), [0.0]

    def progress(done: int, of: int) -> None:
        if clock() - last[0] > 5 or done == of:
            last[0] = clock()
            print(f"  {done} of {of} texts, {clock() - begun:.1f} s", flush=True)

    options = ReadingOptions(watched=watched, batch_size=batch_size, batch_characters=characters)
    how: dict[str, Any] = {"options": options, "progress": progress}
    aligned = read_aligned(source, target, texts, encoder, device=there, every=there is not None, **how)
    reading = clock() - begun
    print(f"reading and sums {reading:.1f} s, {aligned.report['pairs']} pairs", flush=True)
    crossing = Crossing.from_tokens(aligned, rows, algebra=algebra_of(device))
    total, memory = clock() - begun, peak.told()
    print(f"penalties, maps and tables {total - reading:.1f} s; in all {total:.1f} s; {memory}", flush=True)
    if record is None:
        return
    fires = aligned.fired.n_eff if aligned.fired is not None else np.zeros(1)
    record.put(
        "aligned_seconds", round(total, 1), **{"reading and sums": round(reading, 1)},
        **{"penalties, maps and tables": round(total - reading, 1)},
        texts=len(texts), tokens={side: told["all"] for side, told in aligned.report["tokens"].items()},
        pairs=aligned.report["pairs"], features=shape.d_sae, watched=len(watched),
        features_with_20_documents=int((fires >= FLOOR).sum()), models_gb=round(models_gb, 1), batch_size=batch_size,
        batch_characters=characters,
        direct_rows=0 if crossing.direct is None else int((crossing.direct.n_eff >= FLOOR).sum()),
        **{name: round(value, 2) for name, value in memory.items()},
    )  # fmt: skip
    if gpu:
        record.put("aligned_peak_gb", round(memory["allocated_gib"] * GIB / 1e9 - models_gb, 2))


def beside_ridgecv(device: str, record: Record) -> None:
    """The penalty and the map beside scikit-learn's RidgeCV, at a size that it can hold; both are timed."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import PredefinedSplit

    rng, n, p, q = np.random.default_rng(0), 20_000, 512, 384
    x = rng.standard_normal((n, p)) * np.geomspace(3, 0.03, p) @ np.linalg.qr(rng.standard_normal((p, p)))[0]
    y = x @ rng.standard_normal((p, q)) / 20 + rng.standard_normal((n, q)) + 2
    documents = np.arange(n) // 20
    algebra, clock = algebra_of(device), time.perf_counter
    begun = clock()
    stream = MomentStream(p, q)
    for start in range(0, n, 2000):
        piece = slice(start, start + 2000)
        stream.add(x[piece], y[piece], documents[piece])
    moments = stream.finish()
    errors = np.sum([algebra.left_out(moments, k, None).errors(GRID) for k in range(FOLDS)], axis=0)
    lam = relative_lambda(moments.total, float(GRID[np.argmin(errors)]))
    total = algebra.total(moments)
    weight = algebra.solve_shifted(total.sxx, lam, total.sxy)
    ours = clock() - begun
    alphas = [relative_lambda(moments.total, float(g)) for g in GRID]
    begun = clock()
    found: Any = RidgeCV(alphas, cv=PredefinedSplit(fold_of(documents)), scoring="neg_mean_squared_error").fit(x, y)
    theirs = clock() - begun
    apart = float(np.abs(found.coef_.T - weight).max() / np.abs(weight).max())
    record.put(
        "ridgecv_ratio", round(theirs / ours, 1), rows=n, widths=[p, q], penalties=len(GRID),
        same_penalty=bool(np.isclose(found.alpha_, lam)), largest_difference=apart, seconds=round(ours, 2),
        scikit_learn_seconds=round(theirs, 2),
    )  # fmt: skip


def main() -> None:
    """Measure what was asked for."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--shape", choices=SHAPES, default="real")
    parse.add_argument("--device", default="cuda")
    parse.add_argument("--texts", default=None, help="a file of texts; those of the embedded pair without it")
    parse.add_argument("--most", type=int, default=10_000)
    parse.add_argument("--batch-size", type=int, help="texts read together; as explain does when left out")
    parse.add_argument("--batch-characters", type=int, help="characters of short ones that are; likewise")
    parse.add_argument("--ridgecv", action="store_true", help="only the comparison with scikit-learn")
    args = parse.parse_args()
    if args.ridgecv:
        beside_ridgecv(args.device, Record(RESULTS, machine_of(args.device, "real")))
        return
    texts = Texts.of(args.texts).all[: args.most]
    record = Record(RESULTS, machine_of(args.device, args.shape)) if args.shape == "real" else None
    kind = "cpu" if args.device == "cpu" else "gpu"
    timed(
        SHAPES[args.shape],
        args.device,
        texts,
        batch_size=args.batch_size or TEXTS[kind],
        characters=CHARACTERS[kind] if args.batch_characters is None else args.batch_characters,
        record=record,
    )


if __name__ == "__main__":
    main()
