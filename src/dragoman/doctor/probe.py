"""What is measured on a model that is open: the stream over texts, and what a vector does to the prompt's passes.

In: a verbalizer or a model with its tokenizer. Out: numpy arrays, float32. The only module of the doctor that touches
modules and tensors, by hooks: what the model was really fed counts, not what was meant to be fed. Refuses nothing;
what a room below refuses while it is being watched is kept as ``refusal``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.models.encode import encode_texts
from dragoman.models.harvest import reading
from dragoman.models.load import decoder_blocks, text_stack
from dragoman.verbalizers.protocol import Verbalizer

DEPTH = 4  # how many blocks' inputs are kept: contracts inject before block 0 or behind block 1
TOKENS = 64  # per text: norms and reconstruction errors are settled long before


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model in this process with its tokenizer."""

    net: Any
    tokenizer: Any


def opened(verbalizer: Verbalizer | None) -> Opened | None:
    """The model behind a verbalizer, if it runs in this process."""
    net, tokenizer = getattr(verbalizer, "_net", None), getattr(verbalizer, "_tokenizer", None)
    return Opened(net=net, tokenizer=tokenizer) if net is not None and tokenizer is not None else None


def numbers(tensor: Any) -> Floats:
    """A tensor of any dtype and device as float32."""
    return tensor.detach().to("cpu").float().numpy()


def id_tensor(net: Any, ids: Sequence[int]) -> Any:
    """Token ids (1, T) where the model lives."""
    table = net.get_input_embeddings().weight
    # Through float64, which holds every id: bfloat16 would round them.
    return table.new_zeros(1).double().new_tensor([list(ids)]).long()


def first_of(output: Any) -> Any:
    """A block's hidden states, whatever it returns them in."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Take the hooks off again."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Activations over a few texts.

    ``first``: block -> (texts, d) at position 0; ``rest``: block -> (m, d) at all later positions; ``embedded``: (m, d)
    what entered block 0 there and ``ids``: (m,) which tokens these were; ``peak``: largest entry met in any block.
    ``leading``: the ids each text began with (two).
    """

    first: dict[int, Floats]
    rest: dict[int, Floats]
    embedded: Floats
    ids: NDArray[np.int64]
    peak: float
    leading: tuple[tuple[int, ...], ...]


def stream_over(model: Opened, texts: Sequence[str], blocks: Sequence[int]) -> Stream:
    """Run texts one by one up to the last of ``blocks`` and keep what these blocks put out."""
    stack, all_blocks = text_stack(model.net), decoder_blocks(model.net)
    caught: dict[int, list[Floats]] = {b: [] for b in blocks}
    entered: list[Floats] = []
    peaks: list[float] = [0.0]

    def note(block: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = first_of(output)
            peaks.append(float(hidden.abs().max()))
            if block in caught:
                caught[block].append(numbers(hidden)[0])

        return hook

    def enter(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        entered.append(numbers(args[0] if args else kwargs["hidden_states"])[0])

    handles = [module.register_forward_hook(note(b)) for b, module in enumerate(all_blocks[: max(blocks) + 1])]
    handles.append(all_blocks[0].register_forward_pre_hook(enter, with_kwargs=True))
    said: list[list[int]] = []
    with hooked(handles), reading(model.net, max(blocks)):
        for ids in encode_texts(model.tokenizer, texts, TOKENS).ids:
            if len(ids) > 1:
                stack(input_ids=id_tensor(model.net, ids), use_cache=False)
                said.append(ids)
    worst = math.nan if any(math.isnan(p) for p in peaks) else max(peaks)
    return Stream(
        first={b: np.stack([x[0] for x in rows]) for b, rows in caught.items()},
        rest={b: np.concatenate([x[1:] for x in rows]) for b, rows in caught.items()},
        embedded=np.concatenate([x[1:] for x in entered]),
        ids=np.concatenate([np.array(ids[1:], np.int64) for ids in said]),
        peak=worst,
        leading=tuple(tuple(ids[:2]) for ids in said),
    )


def table_rows(net: Any, ids: Sequence[int]) -> Floats:
    """Rows of the raw embedding table, without anything a module multiplies in."""
    return numbers(net.get_input_embeddings().weight[id_tensor(net, ids)[0]])


def embedding_factor(net: Any) -> tuple[float, str]:
    """What the table's rows must be multiplied by before block 0, by the model's own configuration."""
    config = net.config.get_text_config()
    if str(config.model_type).startswith("gemma"):
        return math.sqrt(config.hidden_size), f"sqrt of width {config.hidden_size}, as Gemma models do"
    for name in ("embedding_multiplier", "scale_emb"):
        if getattr(config, name, None):
            return float(getattr(config, name)), f"{name} of config.json"
    return 1.0, f"models of type {config.model_type} do not scale their embeddings"


def measured_factor(entered: Floats, rows: Floats) -> float:
    """By how much rows (n, d) of the table were multiplied before they entered block 0: median over rows."""
    wide, raw = entered.astype(np.float64), rows.astype(np.float64)
    length = np.sum(raw * raw, axis=1)
    kept = length > 0
    return float(np.median(np.sum(wide * raw, axis=1)[kept] / length[kept]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """What the model met while a verbalizer read vectors (n, d), one token each.

    ``entering``: block -> (n, T, d) its input over the whole prompt; empty when the passes could not be put together.
    ``logits``: (n, vocabulary) behind the prompt, None when no pass was made. ``peak``: largest entry of the stream.
    ``refusal``: what stopped it.
    """

    entering: dict[int, Floats]
    logits: Floats | None
    peak: float
    refusal: Refusal | None


def fed(verbalizer: Verbalizer, vectors: Floats, length: int) -> Fed:
    """Watch a verbalizer read ``vectors`` with a prompt of ``length`` tokens."""
    model = opened(verbalizer)
    if model is None:
        return Fed(entering={}, logits=None, peak=0.0, refusal=None)
    blocks = decoder_blocks(model.net)
    caught: dict[int, list[Floats]] = {b: [] for b in range(min(DEPTH, len(blocks)))}
    logits: list[Floats] = []
    peaks: list[float] = [0.0]

    def enter(block: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught[block].append(numbers(args[0] if args else kwargs["hidden_states"]))

        return hook

    def leave(_module: Any, _args: Any, output: Any) -> None:
        peaks.append(float(first_of(output).abs().max()))

    def end(_module: Any, _args: Any, output: Any) -> None:
        logits.append(numbers(output.logits[:, -1]))

    handles = [blocks[b].register_forward_pre_hook(enter(b), with_kwargs=True) for b in caught]
    handles += [block.register_forward_hook(leave) for block in blocks]
    handles.append(model.net.register_forward_hook(end))
    refusal = None
    with hooked(handles):
        try:
            verbalizer.verbalize(vectors, max_new_tokens=1)
        except Refusal as stopped:
            refusal = stopped
    whole = {b: _joined(pieces, len(vectors), length) for b, pieces in caught.items()}
    return Fed(
        entering={b: rows for b, rows in whole.items() if rows is not None},
        logits=logits[-1] if logits and len(logits[-1]) == len(vectors) else None,
        peak=math.nan if any(math.isnan(p) for p in peaks) else max(peaks),
        refusal=refusal,
    )


def _joined(pieces: list[Floats], count: int, length: int) -> Floats | None:
    """Passes of an engine that shares what stands before the slot, as one array (count, length, d)."""
    fits = [np.broadcast_to(p, (count, *p.shape[1:])) for p in pieces if len(p) in (1, count)]
    if not fits or len(fits) != len(pieces):
        return None
    rows = np.concatenate(fits, axis=1)
    return rows if rows.shape[1] == length else None


def bare_logits(model: Opened, ids: Sequence[int]) -> Floats:
    """Logits (vocabulary,) behind the prompt with the marker's own embedding in the slot: nothing injected."""
    return numbers(model.net(input_ids=id_tensor(model.net, ids), use_cache=False, logits_to_keep=1).logits[0, -1])


def bare_text(model: Opened, ids: Sequence[int], tokens: int) -> str:
    """What the model says to its prompt when nothing is injected, greedily."""
    prompt = id_tensor(model.net, ids)
    plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    pad = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else 0
    said = model.net.generate(
        input_ids=prompt, attention_mask=prompt * 0 + 1, max_new_tokens=tokens, pad_token_id=pad, **plain
    )
    return str(model.tokenizer.decode(said[0, len(ids) :].tolist(), skip_special_tokens=True))
