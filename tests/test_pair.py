"""What ships in dragoman-tiny: sizes, sidecars, planted lists, dictionaries, reconstructors."""

from collections import Counter

import numpy as np
import pytest

from dragoman import tiny
from dragoman.core import Site
from dragoman.demo import listed
from dragoman.dictionaries.beside import read_truth
from dragoman.maps import DirectTable
from dragoman.models.harvest import Reader
from dragoman.models.reconstruct import Reconstructor
from dragoman.store import read_jsonl
from dragoman.store.arrays import load_background
from dragoman.verbalizers.sidecar import read_sidecar
from reading import read_directions, read_encoder

pytestmark = pytest.mark.usefixtures("pair_tokenizers")

THEME = 'A passage about {0}: {1}, written as a news report.\n\nWords such as "{1}", "{2}" and "{0}" stand out.'
OTHER = 'The theme is {0}; the subject is {1}, told as a diary entry.\n\nIt turns on "{2}", with "{1}" close by.'
SUBJECTS = {
    "medicine": ("diabetes treatment", "insulin"),
    "astronomy": ("comets", "telescope"),
    "cooking": ("baking bread", "dough"),
    "law": ("constitutional rights", "court"),
    "music": ("playing the violin", "strings"),
    "sports": ("basketball", "players"),
}
FOLDER = tiny.data("tiny-documents").parent
TRUTH = read_truth(tiny.data("tiny-truth"))


def test_no_shipped_file_is_over_16_mib_and_all_are_under_60_mb() -> None:
    sizes = [p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()]
    assert max(sizes) < 16 * 2**20
    assert sum(sizes) < 60e6


def test_the_sidecars_say_the_sites_the_pair_is_made_for() -> None:
    for name, site in (("tiny-smollm2-av", tiny.SOURCE), ("tiny-gemma-av", tiny.TARGET)):
        sidecar = read_sidecar(tiny.data(name))
        assert (sidecar.base, sidecar.block) == (site.model, site.block)
        assert "meticulous AI researcher" in sidecar.template


@pytest.mark.parametrize(("name", "site"), [("tiny-smollm2-ar", tiny.SOURCE), ("tiny-gemma-ar", tiny.TARGET)])
def test_a_reconstructor_reads_a_description_of_one_subject_as_that_subject(name: str, site: Site) -> None:
    reader = Reconstructor.open(name, dtype="bfloat16")
    assert (reader.site.model, reader.site.block) == (site.model, site.block)
    said = {c: THEME.format(c, *w) for c, w in SUBJECTS.items()}
    again = {c: OTHER.format(c, *w) for c, w in SUBJECTS.items()}
    first, second = (reader.reconstruct(list(texts.values())) for texts in (said, again))
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    first, second = (x - x.mean(axis=0) for x in (first, second))
    assert (np.argmax(first @ second.T, axis=1) == np.arange(len(SUBJECTS))).all()


@pytest.mark.parametrize(
    ("name", "site", "latents"),
    [("tiny-sae", tiny.SOURCE, "tiny-latents"), ("tiny-gemma-sae", tiny.TARGET, "tiny-gemma-latents")],
)
def test_a_dictionary_explains_most_of_its_own_site_and_its_latents_are_listed(
    name: str, site: Site, latents: str
) -> None:
    encoder = read_encoder(tiny.data(name))
    rows = [r for r in read_jsonl(tiny.data("tiny-documents")) if r["split"] == "test"][::90]
    reader = Reader.open(site, dtype="bfloat16")
    # What follows a token changes nothing of it, and what is far before it hardly anything; none is left out, so that
    # nobody has to know what length is usual.
    read = reader.rows([r["text"][max(0, r["end"] - 120) : r["end"]] for r in rows], np.inf)
    x = np.stack([read.x[read.document == number][-1] for number in range(len(rows))])
    unexplained = ((x - encoder.reconstruct(x)) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert unexplained < 0.3
    listed_ids = [int(r["id"]) for r in read_jsonl(tiny.data(latents))]
    assert len(set(listed_ids)) == len(listed_ids) > 0.95 * encoder.d_sae
    assert max(listed_ids) < encoder.d_sae


def test_five_features_of_each_of_45_categories_are_reported_and_none_is_used_for_development() -> None:
    rows = list(TRUTH.features.values())
    report = [f for f in rows if f["split"] == "report"]
    assert Counter(f["category"] for f in report) == dict.fromkeys(TRUTH.category_words, 5)
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
