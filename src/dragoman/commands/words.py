"""Options that several commands share, and their words as values; cheap checks, before anything is loaded.

In: what was written on the command line. Out: paths, names, ids, a contract's settings. Refuses ``NAME=VALUE`` words
of another form, empty ids, what is given twice, names that nothing can have, unknown dtypes and words that are no
device.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dragoman.core import MOST_SEED, Refusal
from dragoman.store import check_name
from dragoman.store.outputs import check_file, check_folder, check_run
from dragoman.store.runs import RUNS
from dragoman.store.spans import meant, shown

if TYPE_CHECKING:
    from dragoman.dictionaries import Asked

DTYPES = ("float32", "bfloat16", "float16")  # as models.load knows them, which would load torch
# Headings of the help, in the order in which a person decides.
EXPLAINED, CROSSES, VERBALIZER = "What is explained", "How it crosses", "The verbalizer"
SAYS, MACHINE = "What it says", "Output and machine"
_DEVICE = re.compile(r"[a-z]+(?::[0-9]{1,3})?")


def named(param: typer.CallbackParam, value: str | None) -> str | None:
    """A word that names a file, a folder or a repository; nothing is looked for."""
    return value if value is None else check_name(value, _called(param))


def each_named(param: typer.CallbackParam, values: list[str] | None) -> list[str] | None:
    """Such words, several."""
    return values and [check_name(value, _called(param)) for value in values]


def folder_path(value: str | Path) -> Path:
    """A path to read or write, which may be a folder."""
    return Path(check_name(str(value), "path"))


def file_path(value: str | Path) -> Path:
    """The path of a file to read; refuses folders."""
    path = folder_path(value)
    if not path.name or path.is_dir():
        raise Refusal(f"path '{value}'", "it is a folder, and a file is read", "name a file")
    return path


def out_run(value: str | Path) -> Path:
    """The folder of a run to write or to go on with; refuses what could not be written, before anything is opened."""
    return check_run(folder_path(value))


def out_run_or_runs(value: str | Path) -> Path:
    """The folder of a run, or of several, to write or to go on with; refused as above."""
    path = folder_path(value)
    if not os.path.exists(path / RUNS):  # noqa: PTH110 (a folder that cannot be looked into is refused by its own check)
        return check_run(path)
    from dragoman.store.runsets import RunSet  # loads what help does without

    return check_folder(path) if RunSet.at(path) is not None else check_run(path)


def out_folder(value: str | Path) -> Path:
    """A folder to write into; refused as above."""
    return check_folder(folder_path(value))


def out_file(value: str | Path) -> Path:
    """The path of a file to write; refused as above, and where a folder is."""
    return check_file(folder_path(value))


def known_dtype(value: str) -> str:
    """A dtype by its word."""
    if value not in DTYPES:
        raise Refusal(
            f"dtype '{value[:40]}'", f"known are {', '.join(DTYPES)}", meant(value, DTYPES, "use one of these")
        )
    return value


def device_word(value: str) -> str:
    """A device's word; whether it is here, ``models.load`` knows."""
    if not _DEVICE.fullmatch(value):
        raise Refusal(f"device '{value[:40]}'", "it is no device", "write cpu, cuda, mps or cuda:1")
    return value


def finite(param: typer.CallbackParam, value: float | None) -> float | None:
    """A number; NaN and infinity are none."""
    if value is not None and not math.isfinite(value):
        raise Refusal(f"{_called(param)} {value}", "it is no finite number", "write one")
    return value


def small_enough(value: int) -> int:
    """A seed; larger ones are refused here, so that the help need not name the largest."""
    if value > MOST_SEED:
        raise typer.BadParameter(f"{shown(value)} is not below 2**63.")
    return value


def _called(param: typer.CallbackParam) -> str:
    """The option or argument as it is written."""
    longest = max(param.opts, key=len) if param.opts else str(param.name)
    return longest if longest.startswith("-") else str(param.name)


ContractName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=VERBALIZER,
        help="How the verbalizer is fed: kitft, karvonen, oracle, universal, selfie, continuous or span-add; needed "
        "where neither its own files nor dragoman's registry say.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        rich_help_panel=VERBALIZER,
        help="What the contract leaves open (block=20, norm=150, 'question=...'); may be repeated.",
    ),
]
ConfidenceFile = Annotated[
    Path | None,
    typer.Option(
        "--confidence",
        parser=folder_path,
        metavar="FILE",
        rich_help_panel=SAYS,
        help="How likely texts are right: a file of fitted confidences, or what dragoman calibrate wrote; default: "
        "the confidences beside the dictionary.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        parser=out_run,
        metavar="FOLDER",
        rich_help_panel=MACHINE,
        help="Folder to write; the same command goes on where it stopped.",
    ),
]
OutRuns = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        parser=out_run_or_runs,
        metavar="FOLDER",
        rich_help_panel=MACHINE,
        help="Folder to write. Of several dictionaries a folder of runs; the same command goes on where it stopped.",
    ),
]
OutCrossing = Annotated[
    Path,
    typer.Option(
        "-o", "--out", parser=out_folder, metavar="CROSSING", rich_help_panel=MACHINE, help="New folder to write."
    ),
]
OutJson = Annotated[
    Path,
    typer.Option("-o", "--out", parser=out_file, metavar="FILE", rich_help_panel=MACHINE, help="File to write (JSON)."),
]
_SAE = (
    "SAE or vectors: tiny-sae, a folder, a file (probes.npz#KEY), sae:RELEASE/SAE_ID, hf:ORG/REPO/PATH, or a "
    "Neuronpedia id or address (then with --labels)."
)
_WHERE = "With --prompt it only tells where activations are read."
Sae = Annotated[str, typer.Argument(metavar="SAE", callback=named, help=_SAE)]
SaesUnlessPrompt = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SAE",
        callback=each_named,
        help=f"{_SAE} Several, a folder of them, or a pattern (sae:RELEASE/layer_*/width_16k/canonical) give a run "
        f"each. {_WHERE}",
    ),
]
PromptTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        rich_help_panel=EXPLAINED,
        help="Explain activations at tokens of this text, in place of features; may be repeated.",
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        parser=file_path,
        metavar="FILE",
        rich_help_panel=EXPLAINED,
        help='The same of a file: a prompt a line (.txt), or JSON lines with "text" and perhaps "at" (.jsonl).',
    ),
]
AtToken = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TOKEN",
        rich_help_panel=EXPLAINED,
        help="Which token of a prompt: last (the default), all, what is written there (mango; mango#2 for the second), "
        "or its position (#7).",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        callback=named,
        metavar="MODEL:BLOCK",
        rich_help_panel=EXPLAINED,
        help="Where the directions live, if the dictionary does not say. Of several dictionaries their MODEL alone.",
    ),
]
MapKind = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="NAME",
        rich_help_panel=CROSSES,
        help="aligned, the default: fitted token by token; post: on pooled texts, the post's recipe. Use post only to "
        "repeat the post, or for a few rows of a dictionary too large to read whole (it gives writes alone).",
    ),
]
ReadingOf = Annotated[
    str | None,
    typer.Option(
        "--reading",
        metavar="NAME",
        rich_help_panel=CROSSES,
        help="fires (what a feature fires on), writes (what its row writes) or both. The first is read off the target "
        "where it fires, the second is carried by the map; both, the default where the dictionary has an encoder, "
        "stand side by side.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        callback=named,
        metavar="MODEL",
        rich_help_panel=VERBALIZER,
        help="Model the verbalizer's adapter sits on, if it names none.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        callback=named,
        metavar="EXPORT",
        rich_help_panel=EXPLAINED,
        help="Folder or address of a Neuronpedia export with the dictionary's labels.",
    ),
]
ResidPre = Annotated[
    bool,
    typer.Option(
        "--resid-pre",
        rich_help_panel=EXPLAINED,
        help="That export's source counts the block it enters, one above its own.",
    ),
]
Ar = Annotated[
    str | None,
    typer.Option(
        "--ar",
        callback=named,
        metavar="AR",
        rich_help_panel=SAYS,
        help="A reconstructor (text back to vector) of source or target: tiny-smollm2-ar, a folder, a hub id.",
    ),
]
ArLayout = Annotated[
    str | None,
    typer.Option(
        "--ar-layout",
        metavar="NAME",
        rich_help_panel=SAYS,
        help="How it is laid out: kitft or easynla; needed where the registry does not say.",
    ),
]
Run = Annotated[Path, typer.Argument(parser=folder_path, metavar="RUN", help="A run folder.")]
RunOrRuns = Annotated[
    Path,
    typer.Argument(
        parser=folder_path, metavar="RUN", help="A run folder, or a folder of runs of several dictionaries."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(callback=known_dtype, metavar="NAME", rich_help_panel=MACHINE, help="float32, bfloat16 or float16."),
]
Device = Annotated[
    str,
    typer.Option(callback=device_word, metavar="NAME", rich_help_panel=MACHINE, help="cpu, cuda, mps, cuda:1, ..."),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MACHINE,
        help="What says the words: loop (all rows together, step by step), captured (many rows in slots), vllm (needs "
        "vLLM), vllm:ADDRESS (a vLLM server that runs, say vllm:http://127.0.0.1:8000) or auto (captured on CUDA, else "
        "loop).",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        rich_help_panel=MACHINE,
        help="Compile the captured engine's step; pays after some thousands of explanations.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        rich_help_panel=MACHINE,
        help="Deal what is read token by token and what is said to workers, which need Ray: ray (this machine's GPUs) "
        "or ray://HOST:PORT (a cluster).",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        rich_help_panel=MACHINE,
        help="How many; default: one a GPU, or one a machine without --device cuda.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        callback=small_enough, metavar="N", min=0, rich_help_panel=MACHINE, help="All randomness starts here."
    ),
]
Texts = Annotated[
    str | None,
    typer.Option(
        callback=named,
        metavar="TEXTS",
        rich_help_panel=CROSSES,
        help="Texts for both models: a file, a folder, or a data set of the hub. Files are .txt, .jsonl, .csv or "
        ".parquet, data sets hf:ORG/NAME or hf:ORG/NAME@REVISION:SPLIT:COLUMN; 2,500 paragraphs are enough. Default: "
        "sentences that come with the embedded pair.",
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        metavar="NAME",
        rich_help_panel=CROSSES,
        help="Which column, or field, of those files holds the text; default: text.",
    ),
]
MaxTexts = Annotated[
    int | None,
    typer.Option(
        "--max-texts",
        metavar="N",
        min=1,
        rich_help_panel=CROSSES,
        help="How many of them are read, from the first; default: all of a file, 5,000 of a data set.",
    ),
]
ArrayKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="NAME",
        rich_help_panel=EXPLAINED,
        help="Which array of a file of vectors that holds several; default: all, if they are single vectors.",
    ),
]
Lying = Annotated[
    Literal["rows", "columns"] | None,
    typer.Option(
        "--orientation",
        rich_help_panel=EXPLAINED,
        help="Which way the dictionary's features lie in its decoder, where its files do not show it.",
    ),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--d-model",
        metavar="N",
        min=1,
        rich_help_panel=EXPLAINED,
        help="Width of the stream, where a file of vectors does not show it.",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--k",
        metavar="N",
        min=1,
        rich_help_panel=EXPLAINED,
        help="Features a TopK keeps, where its files do not say.",
    ),
]


def features_from(words: str | None) -> Asked | None:
    """What is asked for, as ``dragoman.dictionaries.asked`` has it; None where nothing was said.

    Raises:
        Refusal: as there, as far as words alone tell it.
    """
    from dragoman.dictionaries import Asked

    return None if words is None else Asked.parse(words)


def settings_from(words: list[str]) -> dict[str, object]:
    """``NAME=VALUE`` as a dictionary; values are JSON where they can be, else text.

    Raises:
        Refusal: a word is not of that form, or a name stands there twice.
    """
    out: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise Refusal(f"setting '{word}'", "it is not NAME=VALUE", "write for example --setting norm=150")
        if name in out:
            raise Refusal(f"setting '{word}'", f"{name} is given twice", "give it once")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out
