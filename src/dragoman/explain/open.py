"""From references to things: the dictionary's directions and labels, the verbalizers, the texts.

In: a ``Request``. Out: Directions with labels, open verbalizers, texts. Refuses references that lead nowhere, and
checkpoints whose contract nobody knows; and texts that are too few, or alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dragoman import tiny
from dragoman.confidence.sets import ConfidenceSet
from dragoman.core import Directions, Refusal, Site
from dragoman.dictionaries import Dictionary, Encoder, open_dictionary
from dragoman.explain.request import Request, Talk
from dragoman.maps.folds import FOLDS
from dragoman.maps.post import FEWEST
from dragoman.models.decode import Verbalizer
from dragoman.store import read_jsonl, read_texts, refuse_alike


def open_for(request: Request) -> Dictionary:
    """The dictionary that is asked for, with the labels that are asked for.

    Raises:
        Refusal: whatever `open_dictionary` refuses.
    """
    return open_dictionary(
        request.dictionary,
        site=request.source,
        labels=request.labels,
        resid_pre=request.resid_pre,
        key=request.key,
        orientation=request.orientation,
        d_model=request.d_model,
        k=request.k,
    )


def encoder_of(dictionary: Dictionary) -> Encoder:
    """The dictionary's encoder, whole.

    Raises:
        Refusal: it cannot be read or used; the sentence says how to do without it.
    """
    with _without():
        return dictionary.need_encoder()


def refuse_unusable_encoder(dictionary: Dictionary, request: Request) -> None:
    """Refuse, before any model is opened for it, an encoder that could not be used later; only headers are read.

    Raises:
        Refusal: as ``encoder_of``, and of plain vectors where the route needs an encoder.
    """
    with _without():
        dictionary.check_encoder(required=request.route not in ("map", "auto"))


def refuse_odd_beside(dictionary: Dictionary) -> None:
    """Refuse what lies beside a dictionary and is read last, before anything dear is done.

    Raises:
        Refusal: its planted truth or its confidence is no file of that kind.
    """
    _ = dictionary.truth
    if dictionary.confidence_path is not None:
        ConfidenceSet.load(dictionary.confidence_path)


@contextmanager
def _without() -> Iterator[None]:
    """Refusals of an encoder, with the way to carry the dictionary's rows that needs none."""
    try:
        yield
    except Refusal as refusal:
        instead = f"{refusal.instead}, or carry its rows without an encoder: --map post --route map"
        raise Refusal(refusal.what, refusal.why, instead) from refusal


def tell_dead(directions: Directions, talk: Talk) -> None:
    """Say how many features were set aside because they have no direction."""
    dead, first = len(directions.dead), ", ".join(directions.dead[:5])
    if dead:
        more = ", ..." if dead > 5 else ""
        talk.say(
            f"set aside {dead} of {dead + len(directions)} features whose rows are zero and have no direction"
            f" ({first}{more})"
        )


def tell_labels(dictionary: Dictionary, talk: Talk) -> None:
    """Say where nothing tells that an export's labels are this dictionary's own."""
    labels = dictionary.labelled
    if labels.source and not labels.told:
        talk.say(f"the labels are of {labels.source}, and nothing tells whether that is this dictionary")


def open_verbalizer(
    ref: str, request: Request, *, native: bool = False, told: Callable[[Site], None] | None = None
) -> Verbalizer:
    """A verbalizer, fed as its sidecar says, as the registry knows, or as the request says (which is for ``by``).

    ``told``: called with its site before its model is opened.
    """
    said = {"contract": request.contract, "settings": request.settings, "base": request.base}
    return Verbalizer.open(ref, **({} if native else said), dtype=request.dtype, device=request.device, told=told)


def refuse_few_texts(request: Request, source: Site | None = None, target: Site | None = None) -> None:
    """Refuse, before any model is opened, a file of texts that are too few or alike; with the sites by what they need.

    Raises:
        Refusal: as said, or whatever `read_texts` refuses.
    """
    if request.texts is None:
        return
    least, why = 2, "what is usual of a model is told by several"
    if source != target and request.map == "aligned":
        least, why = 2 * FOLDS, f"{FOLDS} folds of documents are judged on one another"
    elif source != target and (request.route != "direct" or request.native):
        least, why = FEWEST, "the map is judged on a fifth of them, two at least"
    refuse_alike(default_texts(request.texts), least, why, f"{request.texts}")


def default_texts(texts: str | None, split: str = "map") -> list[str]:
    """Texts of a file, or those that come with the embedded pair.

    ``split``: "map", a thousand sentences; "direct", nine thousand openings; "all", both.
    """
    if texts is not None:
        return read_texts(Path(texts))
    wanted = ("map", "direct") if split == "all" else (split,)
    rows = read_jsonl(tiny.data("tiny-documents"))
    return [row["text"] for name in wanted for row in rows if row["split"] == name]
