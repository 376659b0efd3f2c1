"""A run's explanations as a data set for the Hugging Face Hub: a folder to upload as it is.

In: entries, what the run's manifest tells. Out: a new folder: ``README.md``, whose head is the card's YAML, and
``data/explanations.jsonl``. Refuses runs without an explanation, and folders that are there already.

The head names the file of each configuration, as the Hub asks for (huggingface.co/docs/hub/datasets-manual-
configuration). It claims no licence unless one is named: a dictionary's, a verbalizer's and the texts' may all have a
say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from dragoman.core import Refusal
from dragoman.exports.entries import Entry
from dragoman.exports.names import without_folders
from dragoman.exports.tables import COLUMNS, as_jsonl
from dragoman.report.opened import ShownRun
from dragoman.report.words import DIAGNOSTICS
from dragoman.store.outputs import new_folder

FILE = "data/explanations.jsonl"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MEANING = {
    "feature": "the feature's number in its dictionary, a vector's name, or an activation's id",
    "label": "the label that came with it, which no verbalizer saw",
    "kind": "feature, or activation",
    "condition": "how it was read; see below",
    "reading": "fires: what the feature fires on; writes: what its row writes",
    "sample": "0 for the first explanation, which scores read",
    "text": "what the verbalizer said",
    "short": "a label made of the sentences that the evidence supports; empty where none is",
    "checked": "whether the sentences were checked against where the feature fires",
    "confidence": "calibrated probability that the text is right, where one was calibrated for these models",
    "answered": "whether that is enough to answer for it",
    "status": "of the crossing: ok, weak, unverified or differs",
    "why": "the reason of the status",
    "route": "how the direction reached the verbalizer's model",
    "problems": "flags on the text",
    "tokens": "how many tokens the verbalizer said",
    "lift": "how much nearer it is to its own feature's reference than to others', where that was judged",
    "log_probability": "mean over the tokens said, natural logarithm",
    "prompt": "of an activation: the prompt it was read in",
    "token": "of an activation: the token it was read at",
    "position": "of an activation: which token that is",
    "context_label": "what a language model said of texts in which the feature fires; no verbalizer's",
    "context_label_by": "that model",
    **{f"card_{name}": f"of the crossing: {meaning}" for name, (_, meaning) in DIAGNOSTICS.items()},
    "card_route_why": "why it came by that route",
}


def write_dataset(folder: Path, entries: Sequence[Entry], run: ShownRun, *, licence: str | None = None) -> list[Path]:
    """Write the folder; ``licence``: the Hub's word for one, such as ``cc-by-4.0``."""
    if not entries:
        raise Refusal("explanations", "there are none to write", "choose a condition that has some")
    with new_folder(folder) as made:
        (made / "data").mkdir()
        with (made / FILE).open("wb") as file:
            file.writelines(as_jsonl(entries))
        (made / "README.md").write_text(card(entries, run, licence), encoding="utf-8")
    return [folder / "README.md", folder / FILE]


def card(entries: Sequence[Entry], run: ShownRun, licence: str | None) -> str:
    """The card: YAML head and text."""
    manifest = run.manifest
    source, target = _shown(manifest.source), _shown(manifest.target)
    head = {
        **({"license": licence} if licence else {}),
        "pretty_name": f"Explanations of {source}",
        "language": ["en"],
        "tags": ["interpretability", "sparse-autoencoders", "explanations", "dragoman"],
        "size_categories": [next((word for most, word in _SIZES if len(entries) < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": FILE}]}],
    }
    counts = Counter(one.condition for one in entries)
    known = {one.name: one for one in run.conditions}
    conditions = "\n".join(
        f"| {_cell(name)} | {_cell(known[name].route)} | {_cell(known[name].washout)} | "
        f"{_cell(_shown(known[name].verbalizer))} | {count} |"
        for name, count in counts.items()
    )
    columns = "\n".join(f"| `{name}` | {_MEANING[name]} |" for name in COLUMNS)
    asked = [one for one in entries if one.sample == 0]
    answered = [one for one in asked if one.answered is not None]
    sure = (
        f"dragoman answers for {sum(bool(one.answered) for one in answered)} of {len(answered)} first explanations and "
        "abstains on the others."
        if answered
        else "No confidence was calibrated for these models: nothing here says which text to believe."
    )
    doubt = "".join(f"**{wrong}**\n\n" for wrong in (manifest.distrust, run.unfinished) if wrong)
    return f"""\
---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

# Explanations of {source}, in the words of a verbalizer of {target}

{doubt}{len(entries)} explanations of {len({one.feature for one in entries})} directions, written by dragoman
{manifest.dragoman or ""}: a verbalizer, a language model trained to say what a vector of its own residual stream means,
read them after they were carried from `{source}` to `{target}`. They are a model's words, not facts. {sure}

| condition | route | washout | verbalizer | explanations |
|---|---|---|---|---|
{conditions}

## Columns

| column | meaning |
|---|---|
{columns}

Plan `{manifest.plan_digest[:16]}`.
"""


def _shown(text: str) -> str:
    """A reference without the folders it lies in here."""
    return " ".join(without_folders(text).split()).replace("`", "'")


def _cell(text: str) -> str:
    """A cell of a table in Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
