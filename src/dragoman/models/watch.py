"""What is measured on a model that is open: the stream over texts, and what a vector does to the prompt's passes.

In: a verbalizer, or a model with its tokenizer. Out: numpy arrays, float32. Measured by hooks: what the model was
really fed counts, not what was meant to be fed. Refuses texts of too few tokens; what is refused while a verbalizer is
watched is kept as ``refusal``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dragoman.core import Floats, Refusal
from dragoman.models.contracts.base import Hook
from dragoman.models.decode import Verbalizer
from dragoman.models.encode import encode_texts
from dragoman.models.harvest import Reader, reading
from dragoman.models.load import decoder_blocks, hidden_of, text_stack

DEPTH = 4  # how many blocks' inputs are kept, beside those behind blocks that a contract changes
TOKENS = 64  # per text: norms and reconstruction errors are settled long before
# Rows of a stream, at least: the spread about the mean of n rows is short by a share of 1/n, and one row has none.
FEWEST = 32

Opened = Verbalizer | Reader  # a model in this process with its tokenizer


def numbers(tensor: torch.Tensor) -> Floats:
    """A tensor of any dtype and device as float32."""
    return tensor.detach().to("cpu").float().numpy()


def table_shape(opened: Opened) -> tuple[int, int]:
    """Rows and width of the model's embedding table."""
    table: Any = opened.model.get_input_embeddings().weight
    return len(table), int(table.shape[1])


def dtype_of(opened: Opened) -> str:
    """The dtype a model runs in, in torch's words without the prefix."""
    return str(opened.model.dtype).removeprefix("torch.")


def weight_names(opened: Opened) -> list[str]:
    """Names of the model's weights."""
    return [name for name, _ in opened.model.named_parameters()]


def weight(opened: Opened, name: str) -> Floats:
    """One weight of the model."""
    return numbers(opened.model.get_parameter(name))


def neighbours(opened: Opened, block: int) -> list[int]:
    """A block and those just before and behind it, as far as the model has them."""
    count = len(decoder_blocks(opened.model))
    return [b for b in (block - 1, block, block + 1) if 0 <= b < count]


def _ids(opened: Opened, ids: Sequence[int]) -> torch.Tensor:
    """Token ids (1, T) where the model lives."""
    return torch.tensor([list(ids)], device=opened.model.device)


def _entering(args: Any, kwargs: Any) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _largest(peaks: Iterable[float]) -> float:
    """The largest, NaN where one is NaN."""
    met = list(peaks)
    return math.nan if any(math.isnan(p) for p in met) else max(met, default=0.0)


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
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


def stream_over(opened: Opened, texts: Sequence[str], blocks: Sequence[int]) -> Stream:
    """Run texts one by one up to the last of ``blocks`` and keep what these blocks put out.

    Refuses texts of fewer than 32 tokens in all, the first of each left out.
    """
    stack, all_blocks = text_stack(opened.model), decoder_blocks(opened.model)
    caught: dict[int, list[Floats]] = {b: [] for b in blocks}
    entered: list[Floats] = []
    peaks: list[float] = []

    def note(block: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            hidden = hidden_of(output)
            peaks.append(float(hidden.abs().max()))
            if block in caught:
                caught[block].append(numbers(hidden)[0])

        return hook

    def enter(_module: Any, args: Any, kwargs: dict[str, object]) -> None:
        entered.append(numbers(_entering(args, kwargs))[0])

    whole = [ids for ids in encode_texts(opened.tokenizer, texts, TOKENS).ids if len(ids) > 1]
    count = sum(len(ids) - 1 for ids in whole)
    if count < FEWEST:
        why = f"they have {count} tokens after the first of each, and a stream is judged by {FEWEST} at least"
        raise Refusal("texts", why, "give more of them, or longer ones")
    handles = [module.register_forward_hook(note(b)) for b, module in enumerate(all_blocks[: max(blocks) + 1])]
    handles.append(all_blocks[0].register_forward_pre_hook(enter, with_kwargs=True))
    with _hooked(handles), reading(opened.model, max(blocks)):
        for ids in whole:
            stack(input_ids=_ids(opened, ids), use_cache=False)
    return Stream(
        first={b: np.stack([x[0] for x in rows]) for b, rows in caught.items()},
        rest={b: np.concatenate([x[1:] for x in rows]) for b, rows in caught.items()},
        embedded=np.concatenate([x[1:] for x in entered]),
        ids=np.concatenate([np.array(ids[1:], np.int64) for ids in whole]),
        peak=_largest(peaks),
        leading=tuple(tuple(ids[:2]) for ids in whole),
    )


def embedding_factors(opened: Opened, entered: Floats, ids: Sequence[int]) -> tuple[float, float, str]:
    """By how much rows of the embedding table were multiplied before block 0: measured, expected, and who says so.

    ``entered``: (n, d) what entered block 0 for the tokens ``ids``. Measured: the median over rows. Expected: by the
    model's own configuration.
    """
    table: Any = opened.model.get_input_embeddings().weight
    raw = numbers(table[_ids(opened, ids)[0]]).astype(np.float64)
    length = np.sum(raw * raw, axis=1)
    kept = length > 0
    measured = float(np.median(np.sum(entered.astype(np.float64) * raw, axis=1)[kept] / length[kept]))
    return measured, *_expected_factor(opened.model.config.get_text_config())


def _expected_factor(config: Any) -> tuple[float, str]:
    if str(config.model_type).startswith("gemma"):
        return math.sqrt(config.hidden_size), f"sqrt of width {config.hidden_size}, as Gemma models do"
    for name in ("embedding_multiplier", "scale_emb"):
        if getattr(config, name, None):
            return float(getattr(config, name)), f"{name} of config.json"
    return 1.0, f"models of type {config.model_type} do not scale their embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """What the model met while a verbalizer read vectors (n, d), one token each.

    ``entering``: block -> (n, T, d) its input over the whole prompt; empty when the passes could not be put together.
    ``logits``: (n, vocabulary) behind the prompt, None when no pass was made. ``peak``: largest entry of the stream.
    ``refusal``: what stopped it.
    """

    entering: dict[int, Floats] = field(default_factory=dict)
    logits: Floats | None = None
    peak: float = 0.0
    refusal: Refusal | None = None


def fed(verbalizer: Verbalizer, vectors: Floats) -> Fed:
    """Watch a verbalizer read ``vectors`` (n, d)."""
    blocks = decoder_blocks(verbalizer.model)
    behind = {hook.block + 1 for hook in _hooks_of(verbalizer, vectors)}
    caught: dict[int, list[Floats]] = {b: [] for b in range(len(blocks)) if b < DEPTH or b in behind}
    logits: list[Floats] = []
    peaks: list[float] = []

    def enter(block: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, object]) -> None:
            caught[block].append(numbers(_entering(args, kwargs)))

        return hook

    def leave(_module: Any, _args: Any, output: Any) -> None:
        peaks.append(float(hidden_of(output).abs().max()))

    def end(_module: Any, _args: Any, output: Any) -> None:
        logits.append(numbers(output.logits[:, -1]))

    handles = [blocks[b].register_forward_pre_hook(enter(b), with_kwargs=True) for b in caught]
    handles += [block.register_forward_hook(leave) for block in blocks]
    handles.append(verbalizer.model.register_forward_hook(end))
    refusal = None
    with _hooked(handles), verbalizer.looped():
        try:
            verbalizer.verbalize(vectors, max_new_tokens=1)
        except Refusal as stopped:
            refusal = stopped
    whole = {b: _joined(pieces, len(vectors), len(verbalizer.prompt.ids)) for b, pieces in caught.items()}
    return Fed(
        entering={b: rows for b, rows in whole.items() if rows is not None},
        logits=logits[-1] if logits and len(logits[-1]) == len(vectors) else None,
        peak=_largest(peaks),
        refusal=refusal,
    )


def _hooks_of(verbalizer: Verbalizer, vectors: Floats) -> tuple[Hook, ...]:
    """The hooks a verbalizer's contract feeds; none where it refuses, which is met again when it decodes."""
    try:
        return verbalizer.feed(vectors).hooks
    except Refusal:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a contract means a vector to bring: ``carried`` (d,) in place of an embedding, beside ``resting`` (d,).

    ``added``: norm of what is added to the stream at the first place, None where nothing is.
    """

    carried: Floats
    resting: Floats
    added: float | None


def expected_of(verbalizer: Verbalizer, vector: Floats, stream: Floats) -> Expected:
    """What a vector (d,) is meant to bring where the stream is ``stream`` (k, d), at the k places of it."""
    contract, row = verbalizer.contract, torch.tensor(vector)[None]
    adds = bool(_hooks_of(verbalizer, vector[None]))
    at_home = verbalizer.width == contract.stream
    carried = contract.carried(row)[0] if at_home and not adds else row[0]
    resting = contract.resting()
    return Expected(
        carried=numbers(carried),
        resting=np.zeros_like(numbers(carried)) if resting is None else numbers(resting),
        added=float(contract.added(torch.tensor(stream))[0]) if adds else None,
    )


def _joined(pieces: list[Floats], count: int, length: int) -> Floats | None:
    """Passes of an engine that shares what stands before the slot, as one array (count, length, d)."""
    fits = [np.broadcast_to(p, (count, *p.shape[1:])) for p in pieces if len(p) in (1, count)]
    if not fits or len(fits) != len(pieces):
        return None
    rows = np.concatenate(fits, axis=1)
    return rows if rows.shape[1] == length else None


def bare_logits(verbalizer: Verbalizer) -> Floats:
    """Logits (vocabulary,) behind the prompt with the marker's own embedding in the slot: nothing injected."""
    ids = _ids(verbalizer, verbalizer.prompt.ids)
    return numbers(verbalizer.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1])


def bare_text(verbalizer: Verbalizer, tokens: int) -> str:
    """What the model says to its prompt when nothing is injected, greedily."""
    prompt, tokenizer = _ids(verbalizer, verbalizer.prompt.ids), verbalizer.tokenizer
    plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    said = verbalizer.model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, pad_token_id=pad, **plain
    )
    return str(tokenizer.decode(said[0, prompt.shape[1] :].tolist(), skip_special_tokens=True))
