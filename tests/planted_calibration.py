"""A small world in which it is known which sentences are right: latents that fire on one word each."""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from dragoman.calibration.draw import Truth
from dragoman.calibration.inputs import WatchedLatents, concept
from dragoman.calibration.sizes import Sizes
from dragoman.calibration.texts import FAKE, NULLS, CalibrationText
from dragoman.confidence.calibration import MADE, RunIdentity
from dragoman.measures.claims import Windows
from dragoman.records import Card, Row
from dragoman.scoring.sentences import TextInContext

LATENTS = 60
SIZES = Sizes(latents=LATENTS, nulls=12, known=3)
IDENTITY = RunIdentity(
    source="a:1", target="b:2", dictionary="d" * 40, verbalizer={"name": "av"}, map="aligned",
    routes=("direct", "map"), washout="on-shell", samples=1, temperature=0.0, max_new_tokens=60,
)  # fmt: skip


def word(k: int) -> str:
    """A word of letters alone, another for every number."""
    return "w" + "".join(chr(97 + int(c)) for c in str(k)) + "x"


def others(k: int, n: int, rng: np.random.Generator) -> list[str]:
    return [word(int(j)) for j in rng.choice([j for j in range(3 * LATENTS) if j != k], n, replace=False)]


def held_out(k: int, rng: np.random.Generator) -> dict:
    """Windows that hold the latent's word, others that do not, and its share of the activation."""
    lead = [" ".join(others(k, 3, rng)) for _ in range(12)]
    return {
        "firing": [f"{text} {word(k)}" for text in lead[:6]],
        "silent": [f"{text} {other}" for text, other in zip(lead[6:], others(k, 6, rng), strict=True)],
        "words": {word(k): 0.8},
    }


def text_of(k: int, of: int, rng: np.random.Generator, *, null: str = "", sure: float = 0.0) -> CalibrationText:
    """The text of latent k, which speaks of word ``of``."""
    theme = " and ".join(others(k, 2, rng))
    text = f'It is about {theme}. The final token is "{word(of)}".'
    row = Row(
        feature=str(k), label="", kind="feature", condition=null or "fires", sample=0, text=text, raw=text,
        problems=(), tokens=9, log_probability=sure + float(rng.normal()),
        card=Card(agreement=float(rng.normal()), margin=float(rng.normal())),
    )  # fmt: skip
    context = TextInContext(row=row, reading="fires", windows=Windows(**held_out(k, rng)))
    return CalibrationText(text=context, feature=str(k), condition=null or "fires", null=null)


def with_text(one: CalibrationText, text: str) -> CalibrationText:
    """The same but for what it says."""
    return replace(one, text=replace(one.text, row=one.text.row.model_copy(update={"text": text})))


def with_feature(one: CalibrationText, name: str) -> CalibrationText:
    """The same under another name."""
    row = one.text.row.model_copy(update={"feature": name})
    return replace(one, feature=name, text=replace(one.text, row=row))


def world(seed: int = 0, *, moved: int = 0, latents: int = LATENTS) -> tuple[list[CalibrationText], WatchedLatents]:
    """Texts of which two thirds name the word, nulls that name another, and what is known of the latents.

    ``moved``: of the held-out documents each latent has those of the one so many places on.
    """
    rng = np.random.default_rng(seed)
    texts = [text_of(k, k if k % 3 else latents + 40 + k % 40, rng, sure=2.0 if k % 3 else 0.0) for k in range(latents)]
    texts += [text_of(k, latents + 90 + k, rng, null=null) for null in NULLS for k in range(12)]
    watched = WatchedLatents(
        latents=tuple(str(k) for k in range(latents)), extra=(),
        truth={str(k): Truth(word=word(k)) for k in range(0, latents, 2)},
        fired=csr_array(np.eye(latents)), words=(),
        held_out={str(k): held_out((k + moved) % latents, rng) for k in range(latents)},
    )  # fmt: skip
    return texts, watched


def made_text(
    own: str,
    of: str,
    rng: np.random.Generator,
    *,
    at: float = 1.0,
    null: str = "",
    sure: float = 0.0,
    written: bool = True,
) -> CalibrationText:
    """The text of a direction made of a word, which speaks of word ``of``; what its row writes is known, no window.

    ``written``: whether the row writes its word.
    """
    name = f"{own} at {at:g}"
    one = text_of(0, 0, rng, null=null, sure=sure)
    text = f'It is about {" and ".join(others(0, 2, rng))}. The final token is "{of}".'
    row = one.text.row.model_copy(update={"text": text, "feature": name, "card": Card(rel=float(rng.normal()))})
    lens = ([own if written else of[::-1], *others(0, 2, rng)], [own, *others(0, 2, rng)])
    context = TextInContext(row=row, reading="writes", lens=lens)
    return CalibrationText(text=context, feature=name, condition=null or "writes", null=null, concept=concept(own))


def made_world(seed: int = 0, *, moved: int = 0) -> tuple[list[CalibrationText], WatchedLatents]:
    """Three directions of each word, two of which name it; nulls that name another; none of them has windows.

    How readily a text is said tells nothing here; what its row writes does, but for one word in ten.
    ``moved``: held-out documents say of each word what they say of the one so many places on.
    """
    rng, words = np.random.default_rng(seed), [word(k) for k in range(LATENTS)]
    texts = [
        made_text(own, own if at > 0.5 else word(100 + k), rng, at=at, sure=2.0 * (k % 2), written=k % 10 > 0)
        for k, own in enumerate(words)
        for at in (1.0, 0.7, 0.5)
    ]
    nulls = [null for null in NULLS if null != FAKE]
    texts += [
        made_text(words[k], word(100 + k), rng, null=null, sure=2.0 * (k % 2)) for null in nulls for k in range(12)
    ]
    keys = tuple(map(concept, words))
    watched = WatchedLatents(
        latents=keys, extra=(), truth={key: Truth(word=own) for key, own in zip(keys, words, strict=True)},
        fired=csr_array(np.eye(LATENTS)), words=(), on=MADE,
        held_out={key: held_out((k + moved) % LATENTS, rng) for k, key in enumerate(keys)},
    )  # fmt: skip
    return texts, watched


def another(identity: RunIdentity, **changes) -> RunIdentity:
    """The same but for something."""
    return identity.model_copy(update=changes)
