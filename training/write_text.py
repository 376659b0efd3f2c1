"""Write topical documents with the source model itself: text generated from a topic carries the topic as planted truth.

In: nothing but the model and the list of topics. Out: ``category, topic, prompt, text`` rows, gzipped JSON lines.
About 37,000 documents take two minutes on one H200 in batches of 4,096.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch

import settings as s
from dragoman.models.load import load_model
from topics import TOPICS

PROMPTS = (
    "Write a short story that involves {}.",
    "Write a personal diary entry that mentions {}.",
    "Write a short paragraph about {}.",
    "Give an opinion about {} in one paragraph.",
    "Describe a scene with {} in detail.",
    "Write an encyclopedia entry about {}.",
    "Give practical advice about {}.",
    "Write a news report about {}.",
    "Explain {} to a beginner in one paragraph.",
    "Write a conversation between two people about {}.",
)


@torch.inference_mode()
def write(out: Path, per_prompt: int, device: str, *, seed: int = s.SEED, batch: int = 4096, tokens: int = 110) -> None:
    """``per_prompt`` documents for each topic and prompt, temperature 0.9, top-p 0.95; short ones are dropped."""
    model, tokenizer = load_model("tiny-smollm2", dtype="bfloat16" if device != "cpu" else "float32", device=device)
    tok: Any = tokenizer
    tok.padding_side = "left"
    torch.manual_seed(seed)
    jobs = [(c, t, p.format(t)) for c, ts in TOPICS.items() for t in ts for p in PROMPTS for _ in range(per_prompt)]
    with gzip.open(out, "wt", encoding="utf-8") as file:
        for start in range(0, len(jobs), batch):
            piece = jobs[start : start + batch]
            chats = [
                tok.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
                for *_, p in piece
            ]
            encoded = tok(chats, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
            ids = model.generate(
                **encoded,
                max_new_tokens=tokens,
                do_sample=True,
                temperature=0.9,
                top_p=0.95,
                top_k=0,
                pad_token_id=tok.pad_token_id,
            )  # type: ignore[operator]
            texts = tok.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            for (category, topic, prompt), text in zip(piece, texts, strict=True):
                if len(text.strip()) > 120:
                    file.write(
                        json.dumps({"category": category, "topic": topic, "prompt": prompt, "text": text.strip()})
                        + "\n"
                    )
