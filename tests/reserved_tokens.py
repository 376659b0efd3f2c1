"""Reserved tokens for the tiny families: published vocabularies have them, the tiny ones spare rare words for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tiny_checkpoints import tokenizer_file, tokenizer_of


def reserving(family: str, *words: str) -> Any:
    """The family's tokenizer in which each of ``words`` is one special token; ids and table keep their size."""
    tokenizer, content = tokenizer_of(family), json.loads(tokenizer_file(family))
    vocab = content["model"]["vocab"]
    # Words that no prompt of the tests needs whole, the last to be merged first.
    spare = sorted((t for t in vocab if t.isalpha() and t.isascii() and len(t) > 3), key=lambda t: -vocab[t])
    like = next(t for t in content["added_tokens"] if t["special"])
    for old, new in zip(spare, words, strict=False):
        vocab[new] = vocab.pop(old)
        # What was merged from it, or into it, is no longer.
        content["model"]["merges"] = [m for m in content["model"]["merges"] if old not in ("".join(m), *m)]
        content["added_tokens"].append({**like, "id": vocab[new], "content": new})
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Any) -> Path:
    """Put a tokenizer into a checkpoint's folder; its sidecar goes, as none of these are published with one."""
    tokenizer.save_pretrained(folder)
    (folder / "nla_meta.yaml").unlink(missing_ok=True)
    return folder
