"""Explanations in Neuronpedia's layout: what is written is what is read back, and the same twice."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core import Refusal
from dragoman.neuronpedia import Explained, Export, NeuronpediaRef, parse, short_label, write_explanations
from dragoman.neuronpedia.write import LONGEST

SOURCE = parse("np:qwen2.5-7b-it/20-matryoshka-65k")
HOW = {
    "type_name": "dragoman_foreign-av",
    "model_name": "kitft/nla-gemma3-27b-L41-av",
    "author": "clkht01d40000jv08hvalcvly",
}
# Columns of their table that have no default, and the notes.
FIELDS = {
    "id", "modelId", "layer", "index", "authorId", "description", "embedding", "typeName", "explanationModelName",
    "notes",
}  # fmt: skip
TEXTS = st.text(min_size=1, max_size=700).filter(lambda t: bool(short_label(t)))


def units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def raw_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 10**6).map(str), TEXTS, min_size=1, max_size=12),
    st.integers(1, 5),
    st.none() | st.floats(0, 1),
)
def test_what_is_written_is_read_back(texts: dict[str, str], batch: int, sure: float | None) -> None:
    explained = [
        Explained(index=i, text=t, confidence=sure, notes={"condition": "washed", "card": {"margin": 0.25}})
        for i, t in texts.items()
    ]
    with tempfile.TemporaryDirectory() as out:
        paths = write_explanations(Path(out), SOURCE, explained, batch_size=batch, **HOW)
        labels = Export.open(out, SOURCE).labels()
        rows = [row for path in paths for row in raw_rows(path)]
    assert len(paths) == -(-len(texts) // batch)
    assert labels == {i: short_label(t).replace("\\u0000", " ").strip() for i, t in texts.items()}
    assert len(rows) == len(texts)
    for row in rows:
        assert (row["typeName"], row["explanationModelName"]) == (HOW["type_name"], HOW["model_name"])
        text = re.sub(r"\x00|\\u0000", " ", texts[row["index"]])
        notes = {"text": text, "confidence": sure, "condition": "washed", "card": {"margin": 0.25}}
        assert json.loads(row["notes"]) == notes
        assert units(row["description"]) <= LONGEST


def test_the_layout_and_the_fields_are_theirs(tmp_path: Path) -> None:
    explained = [Explained(index=str(n), text=f"Number {n}.\n\nMore.", confidence=0.5) for n in (10, 9, 2000)]
    paths = write_explanations(tmp_path, SOURCE, explained, batch_size=2, **HOW | {"author": "me"})
    folder = tmp_path / "v1" / "qwen2.5-7b-it" / "20-matryoshka-65k" / "explanations"
    assert paths == [folder / "batch-0.jsonl.gz", folder / "batch-1.jsonl.gz"]
    rows = [row for path in paths for row in raw_rows(path)]
    assert [row["index"] for row in rows] == ["9", "10", "2000"]
    for row in rows:
        assert set(row) == FIELDS
        assert re.fullmatch(r"c[0-9a-z]{24}", row["id"])
        assert (row["modelId"], row["layer"], row["authorId"]) == ("qwen2.5-7b-it", "20-matryoshka-65k", "me")
        assert row["embedding"] is None and row["description"] == f"Number {row['index']}."
        assert json.loads(row["notes"])["text"].endswith("More.")


def test_the_same_explanations_give_the_same_bytes(tmp_path: Path) -> None:
    explained = [Explained(index=str(n), text=f"text {n}") for n in range(5)]
    one = write_explanations(tmp_path / "a", SOURCE, explained, **HOW)
    two = write_explanations(tmp_path / "b", SOURCE, explained[::-1], **HOW)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert one[0].read_bytes()[4:8] == b"\0\0\0\0"  # no time in the header
    before = one[0].stat().st_mtime_ns
    assert write_explanations(tmp_path / "a", SOURCE, explained, **HOW) == one
    assert one[0].stat().st_mtime_ns == before


def test_ids_tell_rows_apart(tmp_path: Path) -> None:
    explained = [Explained(index="1", text="a"), Explained(index="1", text="b"), Explained(index="2", text="a")]
    (path,) = write_explanations(tmp_path, SOURCE, explained, **HOW)
    assert len({row["id"] for row in raw_rows(path)}) == 3


@pytest.mark.parametrize(
    ("explained", "changes", "said"),
    [
        ([], {}, "there are none to write"),
        ([Explained(index="1", text=" \n\n<explanation></explanation>")], {}, "not a word in it"),
        ([Explained(index="1", text="a"), Explained(index="1", text="a")], {}, "given twice"),
        ([Explained(index="../1", text="a")], {}, "no feature index"),
        ([Explained(index="1", text="a")], {"author": ""}, "--author-id with the id of a row of its table"),
        ([Explained(index="1", text="a")], {"author": "me@there"}, "a row without one is rejected"),
        ([Explained(index="1", text="a")], {"type_name": ""}, "name of the method ''"),
        ([Explained(index="1", text="a")], {"model_name": "a\x00b"}, "a name is one line of 1 to 200 printed"),
        ([Explained(index=str(n), text="a") for n in range(1001)], {"batch_size": 1}, "lists at most 1000 batches"),
        ([Explained(index="1", text="a")], {"batch_size": 0}, "at least one row"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, explained: list[Explained], changes: dict, said: str
) -> None:
    with pytest.raises(Refusal, match=said):
        write_explanations(tmp_path / "out", SOURCE, explained, **{**HOW, **changes})
    assert not (tmp_path / "out").exists()


def test_other_explanations_are_neither_written_over_nor_mixed_with(tmp_path: Path) -> None:
    (first,) = write_explanations(tmp_path, SOURCE, [Explained(index="1", text="ours")], **HOW)
    before = first.read_bytes()
    with pytest.raises(Refusal, match="holds other explanations"):
        write_explanations(tmp_path, SOURCE, [Explained(index="1", text="theirs")], **HOW)
    assert first.read_bytes() == before
    (first.parent / "batch-7.jsonl").write_text("{}\n")  # a stale batch of a longer export
    with pytest.raises(Refusal, match="batch-7.jsonl.*holds other explanations"):
        write_explanations(tmp_path, SOURCE, [Explained(index="1", text="ours")], **HOW)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(Refusal, match="full disk"):
        write_explanations(tmp_path, SOURCE, [Explained(index="1", text="a")], **HOW)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@given(
    st.text(max_size=900)
    | st.lists(st.sampled_from(["word", "😀", "end.", "<", "explanation>", "\n\n", "\0"])).map(" ".join)
)
def test_a_label_fits_is_one_line_and_is_its_own_label(text: str) -> None:
    label = short_label(text)
    assert units(label) <= LONGEST
    assert label == " ".join(label.split())
    assert not any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in label)
    assert short_label(label) == label


@given(st.text(alphabet="ab. ", max_size=300), st.integers(8, 60))
def test_a_label_is_the_beginning_of_the_first_paragraph(text: str, most: int) -> None:
    label = short_label(text, most)
    assert units(label) <= most
    assert " ".join(text.split()).startswith(label.rstrip("…"))


@pytest.mark.parametrize(
    ("text", "most", "label"),
    [
        ("<explanation>\nA list of sights.\n\nFinal token.\n</explanation>", 512, "A list of sights."),
        ("\n\n  First   line\nsecond line \n\nnext", 512, "First line second line"),
        ("One sentence. And a second one that is long", 20, "One sentence."),
        ("no sentence ends here at all", 16, "no sentence…"),
        ("unbreakable", 6, "unbre…"),
        ("<|im<s>end|>tag in tag", 512, "tag in tag"),
        ("if a < b and c > d then <div> is HTML", 512, "if a < b and c > d then <div> is HTML"),
        ("ends<|im_end|>", 512, "ends"),
        ("😀😀😀😀", 5, "😀😀…"),
        ("", 512, ""),
    ],
)
def test_labels_are_cut_where_a_reader_would(text: str, most: int, label: str) -> None:
    assert short_label(text, most) == label


def test_a_reference_with_an_index_names_its_source(tmp_path: Path) -> None:
    feature = NeuronpediaRef(model="gpt2-small", source="8-res-jb__x", index="5")
    (path,) = write_explanations(tmp_path, feature, [Explained(index="7", text="a")], **HOW)
    assert path.parts[-4:] == ("gpt2-small", "8-res-jb__x", "explanations", "batch-0.jsonl.gz")
    assert Export.open(tmp_path, feature).labels() == {"7": "a"}
