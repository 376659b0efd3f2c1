"""Train an Activation Verbalizer: LoRA on a base model that learns to say in words what one activation holds.

In: activations (n, d) at one site, the three paragraphs for each. Out: a PEFT adapter folder with its kitft sidecar.
The vector replaces one prompt embedding at the median activation norm; the loss is cross-entropy on the answer alone.
"""

from __future__ import annotations

import os
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch.nn import functional as f
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

import settings as s
from corpus import Description
from dragoman.models.load import load_model, load_tokenizer, text_stack
from dragoman.verbalizers.prompt import Prompt, build_prompt
from dragoman.verbalizers.sidecar import read_sidecar
from targets import DECISION, NULL, STYLE

# The kitft contract's own prompt: published verbalizers were trained on exactly these words.
CANONICAL_PROMPT = """\
You are a meticulous AI researcher conducting an important investigation into activation vectors from \
a language model. Your overall task is to describe the semantic content of that activation vector.

We will pass the vector enclosed in <concept> tags into your context. You must then produce an explanation for \
the vector, enclosed within <explanation> tags. The explanation consists of 2-3 text snippets describing that vector.

Here is the vector:

<concept>{injection_char}</concept>

Please provide an explanation."""

# Gemma's base model has no chat template; its instruction-tuned siblings use these turns.
GEMMA_TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def marker(tokenizer: Any) -> str:
    """First single-token code point in U+3200-33FF, else in the geometric shapes (SmolLM2 has none of the former)."""
    for code in [*range(0x3200, 0x3400), *range(0x25A0, 0x2800)]:
        ids = tokenizer.encode(chr(code), add_special_tokens=False)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return chr(code)
    raise SystemExit("this tokenizer has no single-token marker")


def write_sidecar(folder: Path, base: str, tokenizer: Any, block: int, scale: float, d_model: int) -> None:
    """``nla_meta.yaml`` in the kitft schema, kind nla_model, and the chat template where the base model has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = GEMMA_TURNS
        (folder / "chat_template.jinja").write_text(GEMMA_TURNS)
    char = marker(tokenizer)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": CANONICAL_PROMPT.format(injection_char=char)}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer.encode(text, add_special_tokens=False)
    token = tokenizer.encode(char, add_special_tokens=False)[0]
    slot = ids.index(token)
    meta = {
        "kind": "nla_model",
        "schema_version": 2,
        "role": "av",
        "stage": "sft",
        "base_checkpoint": base,
        "d_model": d_model,
        "extraction_layer_index": block,
        "extraction": {"injection_scale": scale, "mse_scale": float(np.sqrt(d_model))},
        "tokens": {
            "injection_char": char,
            "injection_token_id": token,
            "injection_left_neighbor_id": ids[slot - 1],
            "injection_right_neighbor_id": ids[slot + 1],
        },
        "prompt_templates": {"av": CANONICAL_PROMPT},
        "created_by": "dragoman training/av.py",
    }
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(meta, allow_unicode=True, sort_keys=False))


OPENED = "<explanation>\n"  # how every answer begins


def answers(
    tokenizer: Any, descriptions: Sequence[Description], heads: Sequence[str] | None = None
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of ``<explanation>…</explanation>`` with EOS, and each token's weight in the loss.

    ``heads``: words before each, given and not to be learnt (where a vector was read).
    """
    head, tail = OPENED, "\n</explanation>"
    end = eos_id(tokenizer)
    encoded = tokenizer(
        [head + d.text + tail for d in descriptions], add_special_tokens=False, return_offsets_mapping=True
    )
    ids = [[*tokens, end] for tokens in encoded["input_ids"]]
    # The tags around a text are learnt in no time: they weigh what its style weighs.
    weights = [
        [*(d.weight(a - len(head), b - len(head), STYLE) for a, b in spans), 1.0]
        for d, spans in zip(descriptions, encoded["offset_mapping"], strict=True)
    ]
    for row, spans in zip(weights, encoded["offset_mapping"], strict=True):
        row[next(k for k, (_, b) in enumerate(spans) if b > len(head))] = DECISION
    if heads is not None:
        given = {h: tokenizer.encode(h, add_special_tokens=False) if h else [] for h in set(heads)}
        ids = [given[h] + i for h, i in zip(heads, ids, strict=True)]
        weights = [[0.0] * len(given[h]) + w for h, w in zip(heads, weights, strict=True)]
    return ids, weights


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` started, each on a device of its own, which is given; alone: ``device``."""
    if "RANK" not in os.environ:
        yield device
        return
    cuda = device.startswith("cuda")
    dist.init_process_group("nccl" if cuda else "gloo")
    own = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else device
    if cuda:
        torch.cuda.set_device(own)
    try:
        yield own
    finally:
        dist.destroy_process_group()


def first() -> bool:
    """Whether this process is alone, or the first of those that are joined: the one that writes files and speaks."""
    return not dist.is_initialized() or dist.get_rank() == 0


def eos_id(tokenizer: Any) -> int:
    """The token that ends the model's turn: Gemma's <end_of_turn>, else EOS."""
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    return turn if turn is not None and turn != tokenizer.unk_token_id else tokenizer.eos_token_id


class Trainer:
    """One AV in training: the adapter model, its prompt, and the loss of a batch."""

    def __init__(
        self,
        folder: Path,
        base: str,
        block: int,
        scale: float,
        device: str,
        start: Path | None = None,
        *,
        seed: int = s.SEED,
        affine: bool = False,
    ) -> None:
        """Load the base model, write the sidecar, wrap it with LoRA.

        ``start``: an adapter to go on from. ``affine``: the model stays as it is, and a scale and a bias of the vector
        are learnt instead (Pepper et al.).
        """
        torch.manual_seed(seed)
        model, _ = load_model(base, dtype="bfloat16", device=device)
        self.tokenizer = load_tokenizer(base)
        d_model = int(model.get_input_embeddings().weight.shape[1])
        write_sidecar(folder, base, self.tokenizer, block, scale, d_model)
        self.prompt: Prompt = build_prompt(read_sidecar(folder), self.tokenizer)
        config = LoraConfig(r=s.LORA_RANK, lora_alpha=s.LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        # bfloat16 adapters under float32 masters (see train): half the traffic of casting every input up and down.
        self.model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
        if start is not None:
            set_peft_model_state_dict(self.model, load_file(start / "adapter_model.safetensors"))
        fuse(self.model)
        self.model.train()
        self.scale, self.device, self.folder, self.base = scale, device, folder, base
        ids = torch.tensor(self.prompt.ids, device=device)
        with torch.no_grad():
            self.embedded = model.get_input_embeddings()(ids)
        self.affine: tuple[torch.nn.Parameter, ...] = ()
        if affine:
            for parameter in self.model.parameters():
                parameter.requires_grad_(False)
            shift = torch.zeros(d_model, device=device)
            self.affine = (torch.nn.Parameter(torch.ones(1, device=device)), torch.nn.Parameter(shift))

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is learnt."""
        return [*self.affine] or [p for p in self.model.parameters() if p.requires_grad]

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        """Rows at the injection norm, in the model's dtype."""
        x = x.float()
        x = x * (self.scale / x.norm(dim=1, keepdim=True))
        if self.affine:
            x = x * self.affine[0] + self.affine[1] * self.scale
        return x.to(self.embedded.dtype)

    def loss(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, per_row: float) -> torch.Tensor:
        """Weighted cross-entropy of the answers (b, t) given one vector each (b, d), by ``per_row`` weights a row.

        ``per_row`` is the same for every batch: by its own weights, a batch of short answers would count as much as
        one of long ones, and a few "nothing in particular" would be all that is learnt.
        """
        slot, count = self.prompt.slot, len(x)
        stack, lm = text_stack(self.model), self.model.get_base_model()
        cache = DynamicCache(config=lm.config)
        # Tokens before the vector are the same for every row: run them once and share their keys and values.
        stack(inputs_embeds=self.embedded[None, :slot], past_key_values=cache, use_cache=True)
        for layer in cache.layers:
            layer.keys = layer.keys.expand(count, -1, -1, -1)
            layer.values = layer.values.expand(count, -1, -1, -1)
        after = self.embedded[slot + 1 :].expand(count, -1, -1)
        answer = lm.get_input_embeddings()(ids[:, :-1].clamp_min(0))
        embedded = torch.cat([self.vectors(x)[:, None], after, answer], dim=1)
        hidden = stack(inputs_embeds=embedded, past_key_values=cache, use_cache=True).last_hidden_state
        hidden = hidden[:, after.shape[1] :]
        keep = ids >= 0
        return chunked_loss(lm.lm_head, hidden[keep], ids[keep], weights[keep]) / (count * per_row)

    def save(self, figures: dict[str, Any]) -> None:
        """Adapter in float16 (each file under 16 MiB) beside its sidecar."""
        self.model.to(torch.float16)
        self.model.peft_config["default"].base_model_name_or_path = self.base
        self.model.save_pretrained(self.folder)
        (self.folder / "README.md").unlink(missing_ok=True)
        (self.folder / "training.yaml").write_text(yaml.safe_dump(figures))


def fuse(model: torch.nn.Module) -> None:
    """Let every LoRA layer run in three products, nothing else: on small models launching kernels is what costs."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        low = f.linear(x, self.lora_A["default"].weight)
        base = f.linear(x, self.base_layer.weight, self.base_layer.bias)
        flat, thin = base.flatten(0, -2), low.flatten(0, -2)
        up = self.lora_B["default"].weight
        return torch.addmm(flat, thin, up.T, alpha=self.scaling["default"]).view(base.shape)

    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.forward = types.MethodType(forward, module)


def chunked_loss(head: torch.nn.Module, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Summed weighted cross-entropy without ever holding all logits (Gemma's vocabulary has 262,144 words)."""

    def part(h: torch.Tensor, i: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (f.cross_entropy(head(h).float(), i, reduction="none") * w).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(ids), 4096):
        piece = slice(start, start + 4096)
        total = total + checkpoint(part, hidden[piece], ids[piece], weights[piece], use_reentrant=False)
    return total


def batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of similar length together, batches in random order, padding small.

    Rows of less than half the median length ("nothing in particular") go among all others, not into batches of theirs.
    """
    short = lengths < np.median(lengths) / 2
    lengths = np.where(short, rng.choice(lengths, len(lengths)), lengths)
    order = rng.permutation(len(lengths))
    pools = [order[i : i + size * 16] for i in range(0, len(order), size * 16)]
    out = []
    for pool in pools:
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        out += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [out[i] for i in rng.permutation(len(out)) if len(out[i]) == size]


class Table:
    """Answers padded once and kept on the device: a batch is an index, not a loop. Padding has id -1, weight 0."""

    def __init__(self, ids: list[list[int]], weights: list[list[float]], device: str) -> None:
        """Copy the rows over."""
        self.lengths = np.array([len(i) for i in ids])
        shape = (len(ids), int(self.lengths.max()))
        tokens, weight = np.full(shape, -1, np.int32), np.zeros(shape, np.float16)
        for k, (i, w) in enumerate(zip(ids, weights, strict=True)):
            tokens[k, : len(i)], weight[k, : len(i)] = i, w
        self.tokens, self.weight = torch.from_numpy(tokens).to(device), torch.from_numpy(weight).to(device)
        self.per_row = float(weight.sum(axis=1, dtype=np.float64).mean())

    def rows(self, rows: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (b, width) and weights of some rows."""
        return self.tokens[rows, :width].long(), self.weight[rows, :width].float()


def endless(lengths: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches, pass after pass."""
    if len(lengths) < size:
        raise SystemExit(f"{len(lengths)} rows do not make one batch of {size}")
    rng = np.random.default_rng(seed)
    while True:
        yield from batches(lengths, size, rng)


def take_gradients(masters: Sequence[torch.Tensor], params: Sequence[torch.nn.Parameter]) -> None:
    """Move the parameters' gradients to their masters, averaged over the processes that are joined."""
    for master, p in zip(masters, params, strict=True):
        master.grad = None if p.grad is None else p.grad.float()
        p.grad = None
        if dist.is_initialized():
            master.grad = torch.zeros_like(master) if master.grad is None else master.grad
            dist.all_reduce(master.grad)
            master.grad /= dist.get_world_size()


def descend(
    params: Sequence[torch.nn.Parameter],
    losses_of: Callable[[int], Iterable[torch.Tensor]],
    *,
    rate: float,
    steps: int | None,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """AdamW in float32 masters of bfloat16 parameters, warm-up, cosine to a twentieth.

    ``losses_of`` a step: parts whose sum is the loss, each left behind before the next is computed. Where processes are
    joined (``joined``) each has a share of every batch, and gradients are averaged over them.
    ``steps`` None: some of the first 30 steps, all of them warm-up, are timed and as many are made as fit ``seconds``.
    The number is in the figures returned, and giving it as ``steps`` makes the same run again.
    """
    masters = [p.detach().float().requires_grad_() for p in params]
    optimiser = torch.optim.AdamW(masters, lr=rate, weight_decay=0.0, fused=params[0].is_cuda)
    start, loss, step, total = time.time(), torch.zeros(()), 0, steps or 1_000_000
    if steps is None and dist.is_initialized():
        raise SystemExit("processes that are joined do not time themselves: give --steps")
    began = start

    def clock() -> float:
        if params[0].is_cuda:
            torch.cuda.synchronize(params[0].device)
        return time.time()

    while step < total:
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 0.05 + 0.475 * (1 + np.cos(np.pi * step / total)))
        loss = torch.zeros((), device=params[0].device)
        for part in losses_of(step):
            part.backward()
            loss += part.detach()
        take_gradients(masters, params)
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(params), masters)
        step += 1
        if step == 10:
            began = clock()
        if step == 30 and steps is None:
            total = int(30 + seconds / ((clock() - began) / 20))
        if step % 50 == 0:
            say(f"step {step}/{total} loss {float(loss.detach()):.3f} {time.time() - start:.0f}s")
    return {"steps": total, "rate": rate, "loss": float(loss.detach()), "seconds": round(time.time() - start)}


def train(
    trainer: Trainer,
    x: torch.Tensor,
    descriptions: Sequence[Description],
    *,
    rate: float,
    steps: int | None,
    seconds: float,
    batch: int,
    seed: int,
    say: Callable[[str], None],
    heads: Sequence[str] | None = None,
    pieces: int = 1,
) -> dict[str, Any]:
    """Train the adapter on rows of x (n, d) and their descriptions; returns figures for the record.

    ``batch``: rows of a step, over all processes that are joined; ``pieces``: parts of a process's share, computed one
    after the other, where it does not fit into memory at once.
    """
    table = Table(*answers(trainer.tokenizer, descriptions, heads), trainer.device)
    plan = endless(table.lengths, batch, seed)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if batch % (world * pieces):
        raise SystemExit(f"a batch of {batch} is not {world * pieces} equal parts: give another --av-batch or --pieces")

    def losses_of(_step: int) -> Iterator[torch.Tensor]:
        mine = next(plan)[rank::world]
        for k in range(pieces):
            rows = mine[k::pieces]
            at = torch.as_tensor(rows, device=trainer.device)
            yield trainer.loss(x[at], *table.rows(at, int(table.lengths[rows].max())), table.per_row) / pieces

    params = trainer.parameters()
    return descend(params, losses_of, rate=rate, steps=steps, seconds=seconds, say=say) | {
        "batch": batch,
        "rows": len(descriptions),
    }


@torch.no_grad()
def nothing_margin(
    trainer: Trainer, x: torch.Tensor, batch: int = 2048, heads: Sequence[str] | None = None
) -> list[float]:
    """By how much the first word of "nothing in particular" is likelier than any other, in nats, for rows of x."""
    encode = lambda text: trainer.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    first = encode(OPENED + NULL)[len(encode(OPENED))]
    trainer.model.eval()
    out = list[float]()
    for start in range(0, len(x), batch):
        some = slice(start, start + batch)
        embedded, mask = prompts(trainer, x[some], heads and heads[some], OPENED)
        at = (mask.cumsum(1) - 1).clamp_min(0)
        given = {"inputs_embeds": embedded, "attention_mask": mask, "position_ids": at}
        logits = trainer.model(**given, logits_to_keep=1).logits[:, -1].float()
        own = logits[:, first].clone()
        logits[:, first] = -torch.inf
        out += (own - logits.max(dim=1).values).tolist()
    trainer.model.train()
    return out


def prompts(
    trainer: Trainer, x: torch.Tensor, heads: Sequence[str] | None, opened: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedded prompts (b, t, d), each with its row of x (b, d), its head and ``opened`` behind it; and their mask.

    Shorter ones are padded on the left, so that all end where the answer goes on.
    """
    encoded = {h: trainer.tokenizer.encode(h, add_special_tokens=False) for h in {"", opened, *(heads or ())}}
    rows = [[*trainer.prompt.ids, *encoded[h], *encoded[opened]] for h in heads or [""] * len(x)]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows], device=trainer.device)
    starts = torch.tensor([longest - len(r) for r in rows], device=trainer.device)
    embedded = trainer.model.get_input_embeddings()(ids).to(trainer.embedded.dtype)
    at = torch.arange(len(rows), device=trainer.device)
    embedded[at, starts + trainer.prompt.slot] = trainer.vectors(x.to(trainer.device))
    mask = torch.arange(longest, device=trainer.device)[None] >= starts[:, None]
    return embedded, mask.long()


@torch.no_grad()
def speak(
    trainer: Trainer, x: torch.Tensor, batch: int = 1024, tokens: int = 110, heads: Sequence[str] | None = None
) -> list[str]:
    """Greedy answers for rows of x with transformers' own generate (checks only); ``heads``: words before each."""
    trainer.model.eval()
    out = []
    for start in range(0, len(x), batch):
        some = slice(start, start + batch)
        embedded, mask = prompts(trainer, x[some], heads and heads[some])
        ids = trainer.model.generate(
            inputs_embeds=embedded, attention_mask=mask, max_new_tokens=tokens, do_sample=False,
            eos_token_id=eos_id(trainer.tokenizer), pad_token_id=trainer.tokenizer.pad_token_id,
        )  # fmt: skip
        out += trainer.tokenizer.batch_decode(ids, skip_special_tokens=True)
    trainer.model.train()
    return out
