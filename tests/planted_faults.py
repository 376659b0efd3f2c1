"""Faults that go wrong in silence, each planted in an otherwise clean subject, with the check that must catch it.

Subjects are tiny random checkpoints; their dictionaries are the principal directions of their own activations, which
carries the signal that random weights have: which block, which model. `FAULTS` is the list; `clean` makes subjects
without any.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from dragoman.core import Background, Explanation, Refusal, Site
from dragoman.dictionaries import Encoder
from dragoman.doctor import Subject
from dragoman.doctor.subject import SENTENCES
from dragoman.models.decode import Verbalizer
from dragoman.models.harvest import Reader
from dragoman.models.load import load_model
from dragoman.models.watch import stream_over
from dragoman.store import file_sha256
from tiny_checkpoints import (
    BLOCK,
    CHAT,
    model_of,
    save_adapter,
    save_checkpoint,
    sidecar_of,
    tokenizer_of,
    write_sidecar,
)


@dataclass(frozen=True)
class Fault:
    """``name`` as a person says it; ``check`` that must find it; ``plant``: a folder to a subject that has it."""

    name: str
    check: str
    plant: Callable[[Path], Subject]


# --- clean subjects ---------------------------------------------------------------------------------------------


def av_folder(root: Path, family: str, *, scale: float | None = None, model: Any = None) -> Path:
    """A whole verbalizer that names its own folder as base."""
    sidecar = sidecar_of(family) | {"base_checkpoint": str(root / "av")}
    if scale is not None:
        sidecar["extraction"] = {"injection_scale": scale}
    return save_checkpoint(root / "av", family, model=model, sidecar=sidecar)


def adapter_folder(root: Path, family: str) -> tuple[Path, Path]:
    """An adapter and its base."""
    base = save_checkpoint(root / "base", family)
    return save_adapter(root / "adapter", family, base), base


def reader_of(folder: Path, block: int) -> Reader:
    model, tokenizer = load_model(folder)
    return Reader(site=Site(str(folder), block), model=model, tokenizer=tokenizer)


def dictionary_of(reader: Reader, *, rank: int) -> Encoder:
    """ReLU dictionary of 2 x ``rank`` features: the principal directions of the stream at a site, both signs."""
    rows = stream_over(reader, SENTENCES, [reader.site.block]).rest[reader.site.block].astype(np.float64)
    mean = rows.mean(axis=0)
    directions = np.linalg.svd(rows - mean, full_matrices=False)[2][:rank]
    both = np.vstack([directions, -directions]).astype(np.float32)
    zeros = np.zeros(len(both), np.float32)
    return Encoder(W_enc=both.T.copy(), b_enc=zeros, b_dec=mean.astype(np.float32), W_dec=both, architecture="relu")


def clean(root: Path, family: str, *, adapter: bool = False) -> Subject:
    """Verbalizer, dictionary, source and background of one family, nothing wrong with any of them."""
    folder = adapter_folder(root, family)[0] if adapter else av_folder(root, family)
    verbalizer = Verbalizer(folder)
    reader = reader_of(root / "base" if adapter else folder, BLOCK)
    return Subject(
        by=str(folder),
        verbalizer=verbalizer,
        dictionary="sae",
        encoder=dictionary_of(reader, rank=16),
        source=reader,
    )


def with_dictionary(root: Path, *, stated: int = BLOCK, seed: int = 0, family: str = "qwen2") -> Subject:
    """A dictionary of block ``BLOCK``, said to live at block ``stated`` of the model of another ``seed``."""
    reader = reader_of(av_folder(root, family), BLOCK)
    encoder = dictionary_of(reader, rank=4 if seed else 16)  # 16 of 48 directions would explain a third of anything
    other = reader_of(av_folder(root / "other", family, model=model_of(family, seed=seed)), stated) if seed else reader
    return Subject(dictionary="sae", encoder=encoder, source=dataclasses.replace(other, site=Site("m", stated)))


# --- engines that do it wrong ---------------------------------------------------------------------------------------


class Meddled(Verbalizer):
    """A verbalizer whose prompt embeddings (n, T, d) are changed before they are fed."""

    meddle: Callable[[Verbalizer, torch.Tensor], torch.Tensor]

    def feed(self, vectors: Any) -> Any:
        fed = super().feed(vectors)
        return dataclasses.replace(fed, embeddings=self.meddle(fed.embeddings.clone()), shared=0)


def meddled(family: str, meddle: Callable[[Verbalizer, torch.Tensor], torch.Tensor]) -> Callable[[Path], Subject]:
    def plant(root: Path) -> Subject:
        kind = type("Meddling", (Meddled,), {"meddle": meddle})
        folder = av_folder(root, family)
        return Subject(by=str(folder), verbalizer=kind(folder))

    return plant


def others_times(factor: float) -> Callable[[Verbalizer, torch.Tensor], torch.Tensor]:
    def change(self: Verbalizer, rows: torch.Tensor) -> torch.Tensor:
        kept = rows[:, self.prompt.slot].clone()
        rows = rows * factor
        rows[:, self.prompt.slot] = kept
        return rows

    return change


def slot_times(factor: float) -> Callable[[Verbalizer, torch.Tensor], torch.Tensor]:
    def change(self: Verbalizer, rows: torch.Tensor) -> torch.Tensor:
        rows[:, self.prompt.slot] *= factor
        return rows

    return change


def shifted(self: Verbalizer, rows: torch.Tensor) -> torch.Tensor:
    slot = self.prompt.slot
    rows[:, slot + 1], rows[:, slot] = rows[:, slot].clone(), self._rows[slot]
    return rows


def dropped(self: Verbalizer, rows: torch.Tensor) -> torch.Tensor:
    return self._rows.expand(len(rows), -1, -1).clone()


def projected(self: Verbalizer, rows: torch.Tensor) -> torch.Tensor:
    """The vector's second half is lost, its norm made good: as a cast to a shorter buffer would."""
    slot, half = self.prompt.slot, rows.shape[-1] // 2
    norms = rows[:, slot].norm(dim=-1, keepdim=True)
    rows[:, slot, half:] = 0
    rows[:, slot] *= norms / rows[:, slot].norm(dim=-1, keepdim=True)
    return rows


class PrefixCached:
    """A server that keys what it has read by token ids: every vector gets the first one's answer."""

    def __init__(self, inner: Verbalizer, *, within: bool) -> None:
        self.inner, self.within, self.width = inner, within, inner.sidecar.d_model
        self.site, self.name, self.identity = inner.site, "server", {"name": "server"}
        self.answers: list[Explanation] = []

    def verbalize(self, vectors: Any, **how: Any) -> list[Explanation]:
        if not self.answers:
            self.answers = self.inner.verbalize(vectors, **how)
        return [self.answers[0 if self.within else k % len(self.answers)] for k in range(len(vectors))]


class KeptPrefill(Verbalizer):
    """An engine in this process that keeps the whole prompt's keys and values from its first call."""

    def _prefill(self, feed: Any, cache: Any) -> torch.Tensor:
        first = self.__dict__.setdefault("first", feed.embeddings[:1].clone())
        same = first.expand(len(feed.embeddings), -1, -1)
        return super()._prefill(dataclasses.replace(feed, embeddings=same), cache)


class Shifted(Verbalizer):
    """Believes its slot is one further than it is."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.prompt = dataclasses.replace(self.prompt, slot=self.prompt.slot + 1)


class TwiceBegun(Verbalizer):
    """Encodes the rendered prompt with special tokens: a second BOS before the template's own."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        ids = (self.tokenizer.bos_token_id, *self.prompt.ids)
        self.prompt = dataclasses.replace(self.prompt, ids=ids, slot=self.prompt.slot + 1)
        self._rows = self.model.get_input_embeddings()(torch.tensor(ids))


# --- the faults -----------------------------------------------------------------------------------------------------


def opening(folder: Path, **how: Any) -> Subject:
    """As the command opens it: a refusal is kept."""
    try:
        return Subject(by=str(folder), verbalizer=Verbalizer(folder, **how))
    except Refusal as refusal:
        return Subject(by=str(folder), refusals={str(folder): refusal})


def template_written(family: str, template: str) -> Callable[[Path], Subject]:
    def plant(root: Path) -> Subject:
        folder = av_folder(root, family)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return opening(folder)

    return plant


def transposed(root: Path) -> Subject:
    reader = reader_of(av_folder(root, "llama"), BLOCK)
    encoder = dictionary_of(reader, rank=16)  # 32 features of width 32: every shape is right
    return Subject(dictionary="sae", encoder=dataclasses.replace(encoder, W_dec=encoder.W_dec.T.copy()), source=reader)


def too_wide(root: Path) -> Subject:
    narrow = reader_of(av_folder(root, "llama"), BLOCK)
    wide = reader_of(av_folder(root / "wide", "qwen2"), BLOCK)
    return Subject(dictionary="sae", encoder=dictionary_of(narrow, rank=8), source=wide)


def unmerged(root: Path) -> Subject:
    folder = av_folder(root, "qwen2")
    tokenizer_of("qwen2", merges=False).save_pretrained(folder)
    return opening(folder)


def unmerged_source(root: Path) -> Subject:
    reader = reader_of(av_folder(root, "qwen2"), BLOCK)
    broken: Any = tokenizer_of("qwen2", merges=False)
    return Subject(source=dataclasses.replace(reader, tokenizer=broken))


def twice_begun_source(root: Path) -> Subject:
    reader = reader_of(av_folder(root, "llama"), BLOCK)
    bos, tokenizer = reader.tokenizer.bos_token, reader.tokenizer.backend_tokenizer
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} {bos} $A", special_tokens=[(bos, reader.tokenizer.bos_token_id)]
    )
    return Subject(source=reader, texts=tuple(SENTENCES))


def texts_that_name_bos(root: Path) -> Subject:
    """No fault: markup in texts is read as the characters it is written with."""
    reader = reader_of(av_folder(root, "llama"), BLOCK)
    return Subject(source=reader, texts=tuple(f"{reader.tokenizer.bos_token}{text}" for text in SENTENCES))


def misnamed_base(root: Path) -> Subject:
    adapter, _ = adapter_folder(root, "llama")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "org/Another-7B-Instruct"})
    )
    return opening(adapter)


def other_width_base(root: Path) -> Subject:
    adapter, _ = adapter_folder(root, "llama")
    other = save_checkpoint(root / "elsewhere" / "base", "qwen2")
    write_sidecar(adapter, sidecar_of("llama") | {"base_checkpoint": str(other)})
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    return opening(adapter)


def changed_base(root: Path) -> Subject:
    adapter, base = adapter_folder(root, "qwen2")
    recorded = {"model.safetensors": file_sha256(base / "model.safetensors")}
    write_sidecar(adapter, sidecar_of("qwen2") | {"base_checkpoint": str(base), "base_weights": recorded})
    model_of("qwen2", seed=9).save_pretrained(base)
    return opening(adapter)


def untrained(root: Path) -> Subject:
    adapter, _ = adapter_folder(root, "qwen2")
    weights = load_file(adapter / "adapter_model.safetensors")
    zeroed = {k: torch.zeros_like(v) if ".lora_B." in k else v for k, v in weights.items()}
    save_file(zeroed, adapter / "adapter_model.safetensors")
    return opening(adapter)


def merged_times(times: int) -> Callable[[Path], Subject]:
    def plant(root: Path) -> Subject:
        adapter, base = adapter_folder(root, "qwen2")
        verbalizer = Verbalizer(adapter)
        first = load_file(base / "model.safetensors")
        with torch.no_grad():
            for name, weight in verbalizer.model.named_parameters():
                if name in first:
                    weight.copy_(first[name] + times * (weight - first[name]))
        return Subject(by=str(adapter), verbalizer=verbalizer)

    return plant


def overflowing(root: Path) -> Subject:
    net = model_of("qwen2")
    with torch.no_grad():
        net.model.layers[2].mlp.down_proj.weight *= 3e4  # fine in float32: the next norm brings it back
    return opening(av_folder(root, "qwen2", model=net), dtype="float16")


def reconstructor_as_verbalizer(root: Path) -> Subject:
    sidecar = sidecar_of("qwen2") | {"role": "ar", "extraction": {"injection_scale": None}}
    folder = save_checkpoint(root / "ar", "qwen2", sidecar=sidecar)
    save_file({"weight": torch.eye(48)}, folder / "value_head.safetensors")
    return opening(folder)


def verbalizer_as_reconstructor(root: Path) -> Subject:
    return Subject(ar=str(av_folder(root, "qwen2")))


def cached(within: bool) -> Callable[[Path], Subject]:
    def plant(root: Path) -> Subject:
        served: Any = PrefixCached(Verbalizer(av_folder(root, "qwen2")), within=within)
        return Subject(verbalizer=served)

    return plant


def engine(kind: type[Verbalizer], family: str) -> Callable[[Path], Subject]:
    def plant(root: Path) -> Subject:
        folder = av_folder(root, family)
        return Subject(by=str(folder), verbalizer=kind(folder))

    return plant


def scaled(family: str, scale: float) -> Callable[[Path], Subject]:
    return lambda root: opening(av_folder(root, family, scale=scale))


def loud(root: Path) -> Subject:
    net = model_of("qwen2")
    with torch.no_grad():
        net.model.embed_tokens.weight[tokenizer_of("qwen2").encode(" the") + tokenizer_of("qwen2").encode("e")] *= 500
    return Subject(source=reader_of(av_folder(root, "qwen2", model=net), BLOCK))


def foreign_background(root: Path) -> Subject:
    folder = av_folder(root, "gemma3")
    mean = np.random.default_rng(0).normal(size=40)
    background = Background(Site(str(folder), BLOCK), (0.9 * mean / np.linalg.norm(mean)).astype(np.float32), 100)
    return Subject(by=str(folder), verbalizer=Verbalizer(folder), background=background)


def longer_vocabulary(root: Path) -> Subject:
    folder = av_folder(root, "qwen2")
    verbalizer = Verbalizer(folder)
    verbalizer.tokenizer.add_tokens([f"<new{k}>" for k in range(8)])
    return Subject(by=str(folder), verbalizer=verbalizer)


ROOT_D = math.sqrt(40)
NO_BOS = CHAT["gemma3"].replace("{{ bos_token }}", "")
TWO_BOS = CHAT["llama"].replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")

FAULTS = (
    Fault("off by one, too early", "off-by-one", lambda root: with_dictionary(root, stated=BLOCK - 1)),
    Fault("off by one, too late", "off-by-one", lambda root: with_dictionary(root, stated=BLOCK + 1)),
    Fault("transposed decoder", "decoder-orientation", transposed),
    Fault("missing square root of d", "embedding-scale", meddled("gemma3", others_times(1 / ROOT_D))),
    Fault("doubled square root of d", "embedding-scale", meddled("gemma3", others_times(ROOT_D))),
    Fault("double BOS, by encoding with special tokens", "bos", engine(TwiceBegun, "llama")),
    Fault("double BOS, in the chat template", "bos", template_written("llama", TWO_BOS)),
    Fault("double BOS, in the source's tokenizer", "bos", twice_begun_source),
    Fault("no BOS", "bos", template_written("gemma3", NO_BOS)),
    Fault("wrong scale, 500 times, in the sidecar", "scale-at-site", scaled("qwen2", 500 * 40.0)),
    Fault("wrong scale, a 500th, in the sidecar", "scale-at-site", scaled("gemma3", 16.0 / 500)),
    Fault("wrong scale, 500 times, in the engine", "scale", meddled("qwen2", slot_times(500.0))),
    Fault("shifted slot, in the engine", "slot", meddled("qwen2", shifted)),
    Fault("shifted slot, in the prompt", "slot-in-prompt", engine(Shifted, "llama")),
    Fault("unmerged tokenizer", "tokenizer", unmerged),
    Fault("unmerged tokenizer of the source", "tokenizer", unmerged_source),
    Fault("cache on, within a call", "canary", cached(within=True)),
    Fault("cache on, across calls", "canary", cached(within=False)),
    Fault("cache on, in this process", "cache", engine(KeptPrefill, "qwen2")),
    Fault("sign flipped", "sign", meddled("llama", slot_times(-1.0))),
    Fault("wrong base model of the dictionary", "wrong-dictionary", lambda root: with_dictionary(root, seed=5)),
    Fault("wrong base model of the adapter, by name", "base", misnamed_base),
    Fault("wrong base model of the adapter, by shape", "adapter-fits", other_width_base),
    Fault("stale adapter, its base has changed", "stale-adapter", changed_base),
    Fault("stale adapter, never trained", "adapter-trained", untrained),
    Fault("stale adapter, not applied", "adapter-applied", merged_times(0)),
    Fault("stale adapter, applied twice", "adapter-applied", merged_times(2)),
    Fault("half-precision overflow", "overflow", overflowing),
    Fault("swapped: reconstructor as verbalizer", "role", reconstructor_as_verbalizer),
    Fault("swapped: verbalizer as reconstructor", "role", verbalizer_as_reconstructor),
    Fault("wrong template, of another family", "template", template_written("gemma3", CHAT["llama"])),
    Fault("wrong template, without any mark", "template", template_written("qwen2", "{{ messages[0]['content'] }}")),
    Fault("embeddings dropped by the engine", "marker-read", meddled("qwen2", dropped)),
    Fault("half of the vector lost", "sign", meddled("qwen2", projected)),
    Fault("loud rows", "loud-rows", loud),
    Fault("background of another model", "background", foreign_background),
    Fault("tokenizer of another checkpoint", "vocabulary", longer_vocabulary),
    Fault("dictionary of another width", "dictionary-width", too_wide),
)
