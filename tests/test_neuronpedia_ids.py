"""Neuronpedia's names: every form of a feature's name is one value, and what is not one is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal, Site
from dragoman.neuronpedia import NeuronpediaRef, is_reference, parse
from dragoman.neuronpedia.ids import hub_model

FEATURE = NeuronpediaRef(model="gemma-2-2b", source="20-gemmascope-res-16k", index="123")
ALNUM = st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789")
WORD = st.text(ALNUM, min_size=1, max_size=8)
PARTS = st.lists(WORD, min_size=1, max_size=4)
MODELS = PARTS.map("-".join)
SETS = st.tuples(PARTS, st.sampled_from("-._")).map(lambda x: x[1].join(x[0]))
SUFFIX = st.none() | PARTS.map("-".join)


@st.composite
def refs(draw: st.DrawFn) -> NeuronpediaRef:
    suffix = draw(SUFFIX)
    source = f"{draw(st.integers(0, 99))}-{draw(SETS)}" + (f"__{suffix}" if suffix else "")
    index = draw(st.none() | st.integers(0, 10**6).map(str))
    return NeuronpediaRef(model=draw(MODELS), source=source, index=index)


@given(refs())
def test_a_reference_survives_every_form_it_is_written_in(ref: NeuronpediaRef) -> None:
    url = f"https://www.neuronpedia.org/{ref.path}"
    assert parse(str(ref)) == parse(ref.path) == parse(url) == ref
    assert parse(url.replace("https://www.", "") + "?embed=true#top") == ref
    assert is_reference(str(ref)) and is_reference(url)
    if ref.index is not None:
        assert parse(f"https://neuronpedia.org/api/feature/{ref.path}") == ref
        assert parse(f"{ref.model.upper()}@{ref.source.upper()}:{ref.index}") == ref
        assert is_reference(ref.path)


@given(refs())
def test_a_source_begins_with_its_layer(ref: NeuronpediaRef) -> None:
    assert ref.source.startswith(f"{ref.layer}-")
    assert ref.at(None).index is None and ref.at(7).index == "7"


@pytest.mark.parametrize(
    "text",
    [
        "gemma-2-2b/20-gemmascope-res-16k/123",
        " np:gemma-2-2b/20-gemmascope-res-16k/123 ",
        "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/123",
        "http://neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/123/",
        "www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/123",
        "https://neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/123?embed=true&embedexplanation=false",
        "https://www.neuronpedia.org/api/feature/gemma-2-2b/20-gemmascope-res-16k/123",
        "GEMMA-2-2B@20-GEMMASCOPE-RES-16K:123",
    ],
)
def test_the_forms_people_paste(text: str) -> None:
    assert parse(text) == FEATURE
    assert str(parse(text)) == "np:gemma-2-2b/20-gemmascope-res-16k/123"


def test_a_source_alone_is_a_reference_too() -> None:
    assert parse("np:llama3.3-70b-it/50-resid-post-gf").index is None
    assert parse("https://www.neuronpedia.org/llama3.3-70b-it/50-resid-post-gf").layer == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://example.org/gemma-2-2b/20-res/1", "not on neuronpedia.org"),
        ("https://neuronpedia.org.example.org/gemma-2-2b/20-res/1", "not on neuronpedia.org"),
        ("ftp://neuronpedia.org/gemma-2-2b/20-res/1", "not on neuronpedia.org"),
        ("https://neuronpedia.org@example.org/gemma-2-2b/20-res/1", "not on neuronpedia.org"),
        ("https://www.neuronpedia.org/api/graph/gemma-2-2b/x", "names no feature"),
        ("https://www.neuronpedia.org/gemma-scope", "names no feature and no source"),
        ("https://www.neuronpedia.org/", "names no feature and no source"),
        ("np:gemma-2-2b/res-16k/1", "begins with the layer"),
        ("np:gemma-2-2b/20-/1", "begins with the layer"),
        ("np:gemma-2-2b/20-a__/1", "begins with the layer"),
        ("np:../20-res/1", "no model id"),
        ("np:gemma-2-2b/20-res/../../etc", "names no feature"),
        ("np:gemma-2-2b/20-res/..", "no feature index"),
        ("np:gemma-2-2b/20-res/1 2", "no feature index"),
        ("np:a/20-%2e%2e%2f/1", "begins with the layer"),
        ("https://www.neuronpedia.org/a/20-res/..%2f..", "no feature index"),
        ("https://[neuronpedia.org/a/1-b/2", "not on neuronpedia.org"),
    ],
)
def test_what_is_not_a_feature_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        parse(text)


@pytest.mark.parametrize(
    "text", ["kitft/nla-qwen2.5-7b-L20-av", "google/gemma-2-2b", "./a/20-res/1", "tiny-sae", "a/b/c", ""]
)
def test_other_peoples_names_are_left_alone(text: str) -> None:
    assert not is_reference(text)


@given(st.text(max_size=40) | st.text(alphabet="np:/@-_.a1Z?#%[]", max_size=20))
def test_anything_is_parsed_or_refused(text: str) -> None:
    claimed = is_reference(text)
    try:
        ref = parse(text)
    except Refusal:
        return
    assert parse(str(ref)) == ref
    assert claimed or "/" in text or "@" in text


def test_the_site_is_the_tables_model_and_the_leading_number() -> None:
    assert parse("np:qwen2.5-7b-it/20-matryoshka-65k/982").site == Site("Qwen/Qwen2.5-7B-Instruct", 20)


def test_a_model_outside_the_table_is_refused() -> None:
    with pytest.raises(Refusal, match="not in dragoman's table"):
        hub_model("gpt-5")
