"""Labels of held-out latents by a small model that is shown where they fire: ``python training/label_contexts.py``.

In: ``windows-SITE.jsonl.gz`` of a reader's work folder, whose ``evidence`` is of half A, an instruct model. Out:
``spoken-from-contexts-0.jsonl.gz`` there, which ``bench/feature_verbalizer.py`` judges beside the readers. A label's
own words are quoted after it, three at most, since words are judged where a text quotes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pack
from corpus import WORD
from dragoman.models.labeller import BEGUN, Labeller
from dragoman.store import read_jsonl
from many_files import put, say
from word_means import listed

ARM = "from-contexts"
AT_ONCE = 8
SAID_ANYWAY = frozenset(w.lower() for w in WORD.findall(BEGUN)) | frozenset(
    {"about", "all", "and", "are", "for", "from", "related", "that", "the", "they", "used", "with", "word"}
)


def text_of(label: str) -> str:
    """A label, and a sentence that quotes its words."""
    words = [w.lower() for w in WORD.findall(label) if len(w) > 2 and w.lower() not in SAID_ANYWAY]
    words = list(dict.fromkeys(words))[:3]
    if len(words) == 1:  # a sentence of words has two at least
        return f'{label}\n\nFinal token "{words[0]}".'
    return f"{label}\n\n{listed(words)}" if words else label


def main() -> None:
    """Label the latents of the sites asked for."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--work", type=Path, required=True)
    parse.add_argument("--site", action="append", default=[], help="a site's name in files; tiny-smollm2-23 if none")
    parse.add_argument("--with", dest="model", default="tiny-smollm2", help="the instruct model that labels")
    parse.add_argument("--windows", type=int, default=4, help="windows of a latent that it is shown")
    parse.add_argument("--dtype", default="bfloat16")
    parse.add_argument("--device", default="cpu")
    args = parse.parse_args()
    labeller, spoken = Labeller(args.model, dtype=args.dtype, device=args.device), list[dict[str, object]]()
    for site in args.site or ["tiny-smollm2-23"]:
        rows = [r for r in read_jsonl(args.work / f"windows-{site}.jsonl.gz") if r["evidence"]]
        rows.sort(key=lambda r: sum(map(len, r["evidence"][: args.windows])))  # alike in length: little is padded
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            labels = labeller.label([r["evidence"][: args.windows] for r in some])
            spoken += [
                {"site": site, "who": "reader", "latent": r["latent"], "text": text_of(label)}
                for r, label in zip(some, labels, strict=True)
            ]
            if start % (8 * AT_ONCE) == 0:
                say(f"{site}: {start + len(some)} of {len(rows)}, for example {labels[0]!r}")
    put(args.work / f"spoken-{ARM}-0.jsonl.gz", lambda part: pack.write_rows(spoken, part))


if __name__ == "__main__":
    main()
