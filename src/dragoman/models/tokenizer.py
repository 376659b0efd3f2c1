"""Open a tokenizer, once it is known that it stays within bounds.

In: a reference or folder. Out: a fast tokenizer. Refuses folders without tokenizer.json, files that cannot be opened,
tokenizers that grow texts, take for ever or draw at random, and the embedded ones where they split a known sentence
otherwise. A tokenizer.json is tried in a process of its own first (`tokenizer_child`), because what it does to a text
is Rust's business and cannot be stopped from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dragoman import tiny
from dragoman.core import Refusal
from dragoman.models.bounds import quietly, read_config, refuse_counts
from dragoman.models.convert import check_tokens
from dragoman.models.folder import CONFIG, TOKENIZER, check_folder
from dragoman.models.resolve import folder_of
from dragoman.store import file_sha256
from dragoman.store.boundary import Limits, ask, opening
from dragoman.verbalizers.prompt import PLAIN_ENGLISH

# Gemma's, of 33 MB and a quarter of a million words, takes 2 seconds and 600 MB.
LIMITS = Limits(seconds=30, megabytes=4000)
_CHILD = Path(__file__).with_name("tokenizer_child.py")
INSTEAD = "copy the original tokenizer.json of the base model into the folder"
_TEXTS = (
    PLAIN_ENGLISH,
    "".join(map(chr, range(32, 127))) * 4,
    "a" * 200 + "!\n\t  Zäöß € 東京 \U0001f600 ﷺ",
    " " * 200,
)

_tried: set[str] = set()  # digests of those that held


def load_tokenizer(ref: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in a folder; the embedded ones are checked against a known tokenisation."""
    folder, packaged = folder_of(ref), str(ref) in tiny.MODELS
    check_folder(folder, f"tokenizer {ref}")
    path = folder / TOKENIZER
    if not path.is_file():
        raise Refusal(
            f"{ref}", "it holds no tokenizer.json, and offsets need a fast tokenizer", "save the fast tokenizer there"
        )
    if (folder / CONFIG).is_file():  # transformers reads it to choose a class
        refuse_counts(folder, read_config(folder), None)
    if not packaged:
        refuse_unbounded(path)
    with quietly(), opening(path, "transformers cannot open the tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise Refusal(f"{ref}", f"its tokenizer is a {type(tokenizer).__name__}, not a fast one", INSTEAD)
    if packaged:
        check_tokens(tiny.MODELS[str(ref)], tokenizer.tokenize(tiny.MODELS[str(ref)].sentence))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def refuse_unbounded(path: Path) -> None:
    """Try a tokenizer.json in a process of its own, the same bytes once; refuse one that does not stay in bounds."""
    content = file_sha256(path)
    if content not in _tried:
        ask(_CHILD, {"path": str(path), "texts": list(_TEXTS)}, LIMITS, f"{path}", INSTEAD)
        _tried.add(content)
