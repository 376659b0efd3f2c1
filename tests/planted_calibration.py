"""A small world in which it is known which sentences are right: latents that fire on one word each."""

import hashlib

import numpy as np
from scipy.sparse import csr_array

from dragoman.calibration.cast import NULLS, Said
from dragoman.calibration.draw import Truth
from dragoman.calibration.ground import Facts
from dragoman.calibration.sizes import Sizes
from dragoman.confidence.calibration import Made
from dragoman.measures.claims import Windows
from dragoman.measures.firing import spoken_of
from dragoman.records import Card, Row
from dragoman.scoring.sentences import Told

LATENTS = 60
SIZES = Sizes(latents=LATENTS, nulls=12, known=3)
MADE = Made(
    source="a:1", target="b:2", dictionary="d" * 40, verbalizer={"name": "av"}, map="aligned",
    routes=("direct", "map"), washout="on-shell", samples=1, temperature=0.0, max_new_tokens=60,
)  # fmt: skip


def word(k: int) -> str:
    """A word of letters alone, another for every number."""
    return "w" + "".join(chr(97 + int(c)) for c in str(k)) + "x"


def others(k: int, n: int, rng: np.random.Generator) -> list[str]:
    return [word(int(j)) for j in rng.choice([j for j in range(3 * LATENTS) if j != k], n, replace=False)]


def windows(k: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """Windows that end at the latent's word, and at others."""
    lead = [" ".join(others(k, 3, rng)) for _ in range(16)]
    firing = [f"{text} {word(k)}" for text in lead[:6]]
    silent = [f"{text} {other}" for text, other in zip(lead[6:12], others(k, 6, rng), strict=True)]
    return {
        "firing": firing,
        "silent": silent,
        "hard": [f"{t} {o}" for t, o in zip(lead[12:], others(k, 4, rng), strict=True)],
    }


def said(k: int, of: int, rng: np.random.Generator, *, null: str = "", sure: float = 0.0) -> Said:
    """The text of latent k, which speaks of word ``of``."""
    theme = " and ".join(others(k, 2, rng))
    text = f'It is about {theme}. The final token is "{word(of)}".'
    known = windows(k, rng)
    row = Row(
        feature=str(k), label="", kind="feature", condition=null or "fires", sample=0, text=text, raw=text,
        problems=(), tokens=9, log_probability=sure + float(rng.normal()),
        card=Card(agreement=float(rng.normal()), margin=float(rng.normal())),
    )  # fmt: skip
    told = Told(
        row=row, reading="fires", windows=Windows(firing=known["firing"], silent=known["silent"], words={word(k): 0.8})
    )
    return Said(told=told, feature=str(k), condition=null or "fires", null=null)


def world(seed: int = 0) -> tuple[list[Said], Facts]:
    """Texts of which two thirds name the word, nulls that name another, and what is known of the latents."""
    rng = np.random.default_rng(seed)
    texts = [said(k, k if k % 3 else 100 + k % 40, rng, sure=2.0 if k % 3 else 0.0) for k in range(LATENTS)]
    texts += [said(k, 150 + k, rng, null=null) for null in NULLS for k in range(12)]
    facts = Facts(
        latents=tuple(str(k) for k in range(LATENTS)), extra=(),
        truth={str(k): Truth(word=word(k)) for k in range(0, LATENTS, 2)},
        fired=csr_array(np.eye(LATENTS)), windows={str(k): windows(k, rng) for k in range(LATENTS)}, words={},
    )  # fmt: skip
    return texts, facts


def knowing(sentences, windows_of):
    """A judge that raises the last word's probability where the sentence quotes that word."""
    return [
        [float(f'"{w.split()[-1]}"' in spoken_of(s)) + 1e-3 * (hash_of(s + w) % 100) for w in some]
        for s, some in zip(sentences, windows_of, strict=True)
    ]


def ignorant(sentences, windows_of):
    """A judge whose verdicts have nothing to do with the sentence."""
    return [[float(hash_of(s + w) % 1000) for w in some] for s, some in zip(sentences, windows_of, strict=True)]


def hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def another(made: Made, **changes) -> Made:
    """The same but for something."""
    return made.model_copy(update=changes)
