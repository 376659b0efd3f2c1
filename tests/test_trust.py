"""A run believed: evidence of every kind reaches the kit that reads it, and nothing that knows the answer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.confidence.evidence import Evidence, sample_agreement
from dragoman.confidence.fit import fit_confidence
from dragoman.confidence.model import Confidence, ConfidenceSet
from dragoman.core import Directions, Floats, Refusal, Site
from dragoman.stats.reconstruct import centred_cosines
from dragoman.stats.roc import auroc
from dragoman.store import RunFolder
from judging import believed, whole
from word_hash import HashEmbedder

SOURCE, TARGET = Site("a", 1), Site("b", 2)
N = 12
WORDS = ("bees", "chess", "rain", "wine", "trains", "opera", "glaciers", "bread", "whales", "law", "ferries", "maps")


class Spelling:
    """Makes a vector of a text by its words, at a site."""

    name, identity = "spelling", {"layout": "planted"}

    def __init__(self, site: Site) -> None:
        self.site = site
        self.asked: list[str] = []

    def reconstruct(self, texts: Any) -> Floats:
        self.asked += texts
        return 3 * HashEmbedder(24).encode(texts)


def read(*names: str) -> Confidence:
    """A confidence that reads these numbers, each alike; the largest the more right."""
    draw = np.random.default_rng(0)
    rows: list[Evidence] = [
        dict(zip(names, map(float, values), strict=True)) for values in draw.normal(size=(200, len(names)))
    ]
    right = np.array([sum(v for v in row.values() if v is not None) for row in rows]) + 0.3 * draw.normal(size=200) > 0
    return fit_confidence(rows, right).model_copy(update={"report": {"fitted_on": f"planted {names[0]}"}})


def built(path: Path, *, samples: int = 1, contexts: bool = False) -> RunFolder:
    conditions = [{"name": "native"}, {"name": "auto"}, {"name": "random"}]
    manifest = {"plan_digest": "x", "source": str(SOURCE), "target": str(TARGET), "conditions": conditions}
    run = RunFolder.create(path, {**manifest, "features": [str(k) for k in range(N)]})
    for condition in ("native", "auto", "random"):
        run.append([
            whole({
                "feature": f"random-{k}" if condition == "random" else str(k), "condition": condition, "sample": s,
                "text": f"about {word} and {word}" + " again" * s, "problems": [], "tokens": 9,
                "card": None if condition == "native" else {"margin": 0.1 * k - 0.5, "status": "ok"},
            })
            for k, word in enumerate(WORDS)
            for s in range(samples)
        ])  # fmt: skip
    if contexts:
        run.write_contexts({
            str(k): {"firing": [f"where {w} are {n}" for n in range(4)], "silent": [f"quiet {n} it" for n in range(4)]}
            for k, w in enumerate(WORDS[:6])
        })  # fmt: skip
    return run


def words(run: RunFolder, condition: str = "auto") -> list[str]:
    return [r["text"] for r in run.rows() if r["condition"] == condition and r["sample"] == 0]


def test_cards_alone_are_judged_by_the_kit_that_needs_no_more(tmp_path: Path) -> None:
    run, card = built(tmp_path / "run"), read("margin")
    kits = ConfidenceSet.holding(
        {"contexts": (("detection", "margin"), read("detection", "margin")), "card": (("margin",), card)}
    )
    found = believed(run, HashEmbedder(), kits)
    assert set(found["per_feature"]) == {"auto", "random"}  # natives have no card
    told = found["per_feature"]["auto"]
    assert [row["feature"] for row in told] == [str(k) for k in range(N)]
    by_hand = card.predict([{"margin": 0.1 * k - 0.5} for k in range(N)])
    assert [row["probability"] for row in told] == pytest.approx(by_hand)
    assert [row["answered"] for row in told] == [bool(p >= 0.5) for p in by_hand] and {r["member"] for r in told} == {
        "card"
    }
    assert told[0]["why"][0]["evidence"] == "margin" and told[0]["why"][0]["adds"] < 0 < told[-1]["why"][0]["adds"]
    assert list(found["members"]) == ["card"] and found["members"]["card"]["fitted_on"] == "planted margin"
    run.write_scores({"confidence": found})
    assert run.scores == {"confidence": found}


def test_contexts_give_detection_where_a_feature_has_them(tmp_path: Path) -> None:
    run, both = built(tmp_path / "run", contexts=True), read("detection", "margin")
    kits = ConfidenceSet.holding({"contexts": (("detection", "margin"), both), "card": (("margin",), read("margin"))})
    told = believed(run, HashEmbedder(), kits)["per_feature"]["auto"]
    assert [row["member"] for row in told] == ["contexts"] * 6 + ["card"] * 6
    embed = HashEmbedder().encode
    windows = (run.contexts or {})["2"]
    (said,) = embed(words(run)[2:3]).astype(float)
    value = auroc(embed(windows["firing"]) @ said, embed(windows["silent"]) @ said)
    (by_hand,) = both.predict([{"detection": value, "margin": -0.3}])
    assert told[2]["probability"] == pytest.approx(by_hand, abs=1e-6) and value > 0.9


def test_several_samples_give_their_agreement(tmp_path: Path) -> None:
    kits = ConfidenceSet.holding({"samples": (("sample_agreement",), read("sample_agreement"))})
    assert believed(built(tmp_path / "one"), HashEmbedder(), kits)["per_feature"] == {}
    told = believed(built(tmp_path / "three", samples=3), HashEmbedder(), kits)["per_feature"]["auto"]
    texts = [f"about bees and bees{' again' * s}" for s in range(3)]
    (by_hand,) = kits.members[0].confidence.predict(
        [{"sample_agreement": sample_agreement(HashEmbedder().encode(texts))}]
    )
    assert told[0]["probability"] == pytest.approx(by_hand)


@pytest.mark.parametrize(("site", "name"), [(TARGET, "reconstruction"), (SOURCE, "reconstruction_source")])
def test_what_a_reconstructor_finds_goes_by_the_name_of_its_place(tmp_path: Path, site: Site, name: str) -> None:
    run, reader = built(tmp_path / "run", samples=2), Spelling(site)
    sought = Directions.of(site, np.random.default_rng(1).normal(size=(N, 24)), [str(k) for k in range(N)])
    kits = ConfidenceSet.holding({"read back": ((name,), read(name))})
    found = believed(run, HashEmbedder(), kits, reconstructor=reader, directions={"auto": sought})
    assert set(found["per_feature"]) == {"auto"} and not any("again" in text for text in reader.asked)
    cosines = np.diag(centred_cosines(Spelling(site).reconstruct(words(run)), sought, site=site))
    by_hand = kits.members[0].confidence.predict([{name: float(c)} for c in cosines])
    assert [row["probability"] for row in found["per_feature"]["auto"]] == pytest.approx(by_hand, abs=1e-5)
    with pytest.raises(Refusal, match="directions at c:3: it is needed at"):
        other = Directions.of(Site("c", 3), sought.unit, sought.ids)
        believed(run, HashEmbedder(), kits, reconstructor=reader, directions=other)


def test_too_few_texts_cannot_be_centred_and_give_no_reconstruction(tmp_path: Path) -> None:
    whole = built(tmp_path / "whole")
    few = RunFolder.create(tmp_path / "few", {k: v for k, v in whole.manifest.items() if k != "format"})
    few.append([r for r in whole.rows() if r["condition"] == "auto"][:9])
    sought = Directions.of(TARGET, np.eye(24)[:9], [str(k) for k in range(9)])
    kits = ConfidenceSet.holding(
        {"read back": (("reconstruction",), read("reconstruction")), "card": ((), read("margin"))}
    )
    found = believed(few, HashEmbedder(), kits, reconstructor=Spelling(TARGET), directions=sought)
    assert {row["member"] for row in found["per_feature"]["auto"]} == {"card"}


def test_no_answer_is_among_the_evidence(tmp_path: Path) -> None:
    run = built(tmp_path / "run", contexts=True)
    kits = ConfidenceSet.holding({"card": (("margin",), read("margin"))})
    before = believed(run, HashEmbedder(), kits)["per_feature"]["auto"]
    other = RunFolder.create(
        tmp_path / "other",
        {k: v for k, v in run.manifest.items() if k != "format"}
        | {"feature_info": {"0": {"category": "bees"}}, "category_words": {"bees": ["bees"]}},
    )
    other.append([r | {"text": "something else"} if r["condition"] == "native" else r for r in run.rows()])
    other.write_contexts(run.contexts or {})
    assert believed(other, HashEmbedder(), kits)["per_feature"]["auto"] == before
