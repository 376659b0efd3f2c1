"""What ships in dragoman-tiny: sizes, sidecars, planted lists; and one real feature, end to end on the real target."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dragoman import tiny
from dragoman.demo import listed
from dragoman.directions import read_directions, read_encoder
from dragoman.explain import Request, category_words, explain, load_background
from dragoman.routes import DirectTable
from dragoman.score import names_category
from dragoman.store import read_json, read_jsonl
from dragoman.verbalize.sidecar import read_sidecar

FOLDER = tiny.data("tiny-features").parent


def test_no_shipped_file_is_over_16_mib_and_all_are_under_60_mb() -> None:
    sizes = [p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()]
    assert max(sizes) < 16 * 2**20
    assert sum(sizes) < 60e6


def test_the_sidecars_say_the_sites_the_pair_is_made_for() -> None:
    for name, site in (("tiny-smollm2-av", tiny.SOURCE), ("tiny-gemma-av", tiny.TARGET)):
        sidecar = read_sidecar(tiny.data(name))
        assert (sidecar.base, sidecar.block) == (site.model, site.block)
        assert "meticulous AI researcher" in sidecar.template


def test_five_features_of_each_of_45_categories_are_reported_and_none_is_used_for_development() -> None:
    rows = read_json(tiny.data("tiny-features"))
    report = [f for f in rows if f["split"] == "report"]
    assert Counter(f["category"] for f in report) == dict.fromkeys(category_words(), 5)
    assert len({f["id"] for f in rows}) == len(rows) == 450
    assert len(listed()) == 45 and set(listed()) <= set(listed(ranks=5))
    assert not set(listed("develop", 5)) & set(listed(ranks=5))


def test_the_dictionary_the_table_and_the_background_belong_together() -> None:
    encoder = read_encoder(tiny.data("tiny-sae"))
    directions = read_directions(tiny.data("tiny-sae"), site=tiny.SOURCE, features=[0, encoder.d_sae - 1])
    table, background = DirectTable.load(tiny.data("tiny-direct")), load_background(tiny.data("tiny-background"))
    assert directions.d_model == encoder.d_in and len(table.ids) == encoder.d_sae
    assert table.site == background.site == tiny.TARGET
    assert table.beta.shape[1] == len(background.mean) and 0.1 < background.spread < 0.2


def test_every_text_has_its_planted_truth_and_27_topics_were_held_out() -> None:
    rows = read_jsonl(tiny.data("tiny-documents"))
    splits = Counter(r["split"] for r in rows)
    assert splits["map"] == 1000 and min(splits.values()) > 100
    heldout = {(r["category"], r["topic"]) for r in rows if r["split"] == "heldout"}
    assert len(heldout) == 27 and len({c for c, _ in heldout}) == 27
    assert not heldout & {(r["category"], r["topic"]) for r in rows if r["split"] == "test"}
    ends = [(r["text"][r["end"] - 1], r["text"][r["end"]]) for r in rows if r["split"] in ("test", "heldout")]
    assert not any(last.isspace() or after.isalpha() for last, after in ends)


@pytest.mark.parametrize("route", ["direct"])
def test_a_real_feature_is_named_in_the_real_target_s_words(tmp_path: Path, route: str) -> None:
    info = {f["id"]: f for f in read_json(tiny.data("tiny-features"))}
    chosen = ("4497", "2511")  # comets, prime numbers
    run = explain(Request(dictionary="tiny-sae", features=chosen, by="tiny-gemma-av", route=route), tmp_path / "run")  # type: ignore[arg-type]
    words = category_words()
    for row in run.rows():
        own = info[row["feature"]]["category"]
        assert names_category(row["text"], words[own]), row["text"]
        assert not row["problems"]
        assert len(row["text"].split("\n\n")) == 3
    said = [r["text"] for r in run.rows()]
    assert not names_category(said[0], words[info[chosen[1]]["category"]])
    assert np.allclose(np.linalg.norm(run.vectors()[0]["direct"], axis=1), 1, atol=1e-5)
