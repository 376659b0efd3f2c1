"""Activations read block by block, against transformers' own hidden states and against plain loops."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dragoman.core import Refusal, Site
from dragoman.models.harvest import (
    OUTLIER,
    Reader,
    TokenRows,
    pilot_texts,
    pool,
    reading,
    shared_ends,
    token_rows,
)
from dragoman.models.load import decoder_blocks, text_stack
from tiny_checkpoints import FAMILIES, model_of, tokenizer_of

TEXTS = [
    "The people of the city were given the right to vote in the first election of the new year.",
    "A short one.",
    "You are a helpful assistant, and the explanation of the concept is a short snippet.",
    "Say what it means.",
    "The vector stands between the tags of the text, and the model says what it means in two words.",
]
HAND_MADE = [
    "  two leading spaces, and a tail ",
    "a wave 👋🏽 and a family 👩‍👩‍👧 here",
    "cafe\u0301 and nai\u0308ve, e\u0301\u0302 twice",
    "漢字かな交じり文 and 한국어",
    "one line\r\nand another\r\n\r\nlast",
]


def opened(family: str) -> tuple[Any, Any]:
    tokenizer = tokenizer_of(family)
    tokenizer.padding_side = "right"
    return model_of(family), tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return opened(request.param)


def site(block: int = 1) -> Site:
    return Site("tiny", block)


def reader(model: Any, tokenizer: Any, block: int = 1) -> Reader:
    return Reader(site=site(block), model=model, tokenizer=tokenizer)


def joined(batches: list[TokenRows]) -> TokenRows:
    whole = {k: np.concatenate([getattr(b, k) for b in batches]) for k in ("x", "document", "end", "position")}
    return TokenRows(**whole, dropped=sum(b.dropped for b in batches))


def all_rows(model: Any, tokenizer: Any, texts: list[str], block: int = 1, **how: Any) -> TokenRows:
    return joined(list(token_rows(reader(model, tokenizer, block), texts, **how)))


def by_place(rows: TokenRows) -> dict[tuple[int, int], NDArray[np.float32]]:
    return {(int(d), int(p)): x for d, p, x in zip(rows.document, rows.position, rows.x, strict=True)}


@torch.inference_mode()
def hidden_states(model: Any, ids: list[int]) -> list[NDArray[np.float32]]:
    """Transformers' own hidden states of one unpadded document: embedding, then one (tokens, d) array a block."""
    out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [h[0].numpy() for h in out.hidden_states]


@torch.inference_mode()
def hooked(model: Any, ids: list[int], block: int) -> NDArray[np.float32]:
    with reading(model, block) as caught:
        text_stack(model)(input_ids=torch.tensor([ids]), use_cache=False)
    return caught[0][0].numpy()


# --- where the stream is read ------------------------------------------------------------------------------------


def test_the_output_of_block_k_is_hidden_state_k_plus_one_below_the_last_block(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    ids = tokenizer(TEXTS[0])["input_ids"]
    states = hidden_states(model, ids)
    count = len(decoder_blocks(model))
    assert len(states) == count + 1
    for block in range(count - 1):
        found = hooked(model, ids, block)
        np.testing.assert_allclose(found, states[site(block).block + 1], rtol=1e-5, atol=1e-5)
        # The neighbours are other numbers, so that being off by one would be seen.
        assert not np.allclose(found, states[block], atol=1e-2)
        assert not np.allclose(found, states[block + 2], atol=1e-2)


def test_the_last_hidden_state_is_normed_and_the_last_blocks_output_is_not(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    ids = tokenizer(TEXTS[0])["input_ids"]
    last = len(decoder_blocks(model)) - 1
    found, normed = hooked(model, ids, last), hidden_states(model, ids)[-1]
    assert not np.allclose(found, normed, atol=1e-2)
    with torch.inference_mode():
        np.testing.assert_allclose(text_stack(model).norm(torch.tensor(found)), normed, rtol=1e-4, atol=1e-4)


def test_reading_restores_the_models_layers_also_after_a_failure(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    ids = tokenizer(TEXTS[2])["input_ids"]
    before, blocks = hidden_states(model, ids), list(decoder_blocks(model))
    hooks = [len(block._forward_hooks) for block in blocks]  # transformers keeps some of its own
    with reading(model, 0):
        assert len(decoder_blocks(model)) == 1
    with pytest.raises(KeyError), reading(model, 1):
        raise KeyError
    assert list(decoder_blocks(model)) == blocks
    assert [len(block._forward_hooks) for block in blocks] == hooks
    for old, new in zip(before, hidden_states(model, ids), strict=True):
        np.testing.assert_array_equal(old, new)


# --- which rows --------------------------------------------------------------------------------------------------


def test_each_row_is_the_activation_of_its_own_token(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    rows = all_rows(model, tokenizer, TEXTS, batch_size=3)
    for document, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        truth = hidden_states(model, ids)[2]
        spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        mine = rows.document == document
        assert rows.position[mine].tolist() == list(range(1, len(ids)))
        assert rows.end[mine].tolist() == [end for _, end in spans[1:]]
        np.testing.assert_allclose(rows.x[mine], truth[1:], rtol=1e-4, atol=1e-4)


def test_padding_does_not_change_a_documents_rows(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    lengths = {len(ids) for ids in tokenizer(TEXTS)["input_ids"]}
    assert len(lengths) == len(TEXTS), "documents of one length need no padding"
    single = by_place(all_rows(model, tokenizer, TEXTS, batch_size=1))
    batched = by_place(all_rows(model, tokenizer, TEXTS, batch_size=len(TEXTS)))
    assert single.keys() == batched.keys()
    for place, row in single.items():
        np.testing.assert_allclose(batched[place], row, rtol=1e-4, atol=1e-5)


def test_a_text_does_not_see_its_neighbours(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    one = all_rows(model, tokenizer, [TEXTS[0], TEXTS[1]])
    other = all_rows(model, tokenizer, [TEXTS[0], TEXTS[4]])
    np.testing.assert_allclose(one.x[one.document == 0], other.x[other.document == 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_position_0_and_special_tokens_are_left_out(family: str) -> None:
    model, tokenizer = opened(family)
    end = tokenizer.eos_token
    texts = [f"The right to vote.{end}", "A short one of the city."]
    rows = all_rows(model, tokenizer, texts)
    assert 0 not in rows.position
    spans = tokenizer(texts, return_offsets_mapping=True, split_special_tokens=True)["offset_mapping"]
    # An end-of-turn written out in the text is read as the characters it is written with; BOS has none.
    assert len(rows.x) == sum(1 for s in spans for k, (a, b) in enumerate(s) if k and b > a)
    if tokenizer.bos_token:
        assert spans[0][0] == (0, 0)


def test_a_token_without_characters_is_left_out_wherever_it_stands() -> None:
    from tokenizers import processors

    model, tokenizer = opened("llama")
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in (bos, eos)],
    )
    ids = tokenizer(TEXTS[:2])["input_ids"]
    assert all(i[-1] == tokenizer.eos_token_id for i in ids)
    rows = all_rows(model, tokenizer, TEXTS[:2])
    assert len(rows.x) == sum(len(i) - 2 for i in ids)
    assert all(rows.position[rows.document == k].max() == len(ids[k]) - 2 for k in (0, 1))


def test_norm_outliers_are_left_out_and_counted() -> None:
    model, tokenizer = opened("qwen2")
    sink = tokenizer("?", add_special_tokens=False)["input_ids"]
    assert len(sink) == 1
    texts = ["The right? to vote? in the city", "The first election of the new year", "? is first here"]
    before = all_rows(model, tokenizer, texts)
    assert before.dropped == 0
    with torch.no_grad():
        model.get_input_embeddings().weight[sink[0]] *= 1e4
    rows = all_rows(model, tokenizer, texts)
    ids = tokenizer(texts)["input_ids"]
    sinks = {(d, p) for d, i in enumerate(ids) for p, token in enumerate(i) if p and token == sink[0]}
    assert len(sinks) == 2 and rows.dropped == 2
    assert set(by_place(before)) - set(by_place(rows)) == sinks
    norms = np.linalg.norm(rows.x, axis=1)
    assert norms.max() <= OUTLIER * np.median(norms)


def with_quiet_and_loud_tokens() -> tuple[Any, Any, list[str]]:
    """A short text of quiet tokens, ordinary ones, and one with sinks: a first batch would take the quiet for usual."""
    model, tokenizer = opened("qwen2")
    quiet, loud = (tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in ("!", "?"))
    with torch.no_grad():
        model.get_input_embeddings().weight[quiet] *= 1e-3
        model.get_input_embeddings().weight[loud] *= 1e4
        for block in decoder_blocks(model)[:2]:  # leave the stream what the embedding makes it
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    texts = ["!!!", "!!!!", *TEXTS, "The right? to vote? in the city of the new year and the people of it"]
    return model, tokenizer, texts


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_what_is_an_outlier_does_not_depend_on_batches_or_order(batch_size: int, turn: int) -> None:
    model, tokenizer, texts = with_quiet_and_loud_tokens()
    read = texts[::turn]
    rows = all_rows(model, tokenizer, read, batch_size=batch_size)
    kept = {(read[d], p) for d, p in by_place(rows)}
    spans = {t: tokenizer(t, return_offsets_mapping=True)["offset_mapping"] for t in texts}
    ordinary = {(t, p) for t, own in spans.items() for p, (b, e) in enumerate(own) if p and t[b:e] != "?"}
    assert kept == ordinary and rows.dropped == 2
    assert {(t, p) for t, p in kept if set(t) == {"!"}}  # quiet is no outlier either


def test_the_median_norm_is_taken_over_the_texts_of_smallest_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    from dragoman.models import harvest

    assert harvest.PILOT == 32
    monkeypatch.setattr(harvest, "PILOT", 2)
    model, tokenizer = opened("qwen2")
    chosen = sorted(TEXTS, key=lambda t: hashlib.sha256(t.encode()).digest())[:2]
    assert [TEXTS[i] for i in pilot_texts(TEXTS, 2)] == chosen
    assert [[*TEXTS, *TEXTS][i] for i in pilot_texts([*TEXTS, *TEXTS], 2)] == chosen  # copies do not count
    norms = [
        np.linalg.norm(hidden_states(model, tokenizer(t)["input_ids"])[2][1:].astype(float), axis=1) for t in chosen
    ]
    found = reader(model, tokenizer).typical(TEXTS[::-1])
    assert found == pytest.approx(np.median(np.concatenate(norms)), rel=1e-5)
    assert reader(model, tokenizer).typical([]) == np.inf
    assert reader(model, tokenizer).typical(["a"]) == np.inf


def test_a_median_that_is_given_is_the_one_used() -> None:
    model, tokenizer = opened("qwen2")
    whole = all_rows(model, tokenizer, TEXTS, typical=np.inf)
    norms = np.linalg.norm(whole.x, axis=1)
    limit = float(np.quantile(norms, 0.5))
    some = all_rows(model, tokenizer, TEXTS, typical=limit / OUTLIER)
    assert some.dropped == len(whole.x) - len(some.x) == int((norms > limit).sum()) > 0


def test_every_token_is_a_row_or_counted() -> None:
    for family in FAMILIES:
        model, tokenizer = opened(family)
        rows = all_rows(model, tokenizer, TEXTS)
        special = sum(b.special for b in token_rows(reader(model, tokenizer), TEXTS, batch_size=2))
        first = sum(b.first for b in token_rows(reader(model, tokenizer), TEXTS, batch_size=2))
        assert len(rows.x) + special + first == sum(map(len, tokenizer(TEXTS)["input_ids"]))
        assert (special, first) == ((5, 0) if tokenizer.bos_token else (0, 5))


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_a_text_cut_inside_a_character_has_no_row_that_ends_with_it(family: str) -> None:
    model, tokenizer = opened(family)
    text = "The people 👩‍👩‍👧 of the city"
    for length in range(3, len(tokenizer(text)["input_ids"]) + 1):
        rows = all_rows(model, tokenizer, [text, "The right to vote"], max_tokens=length)
        mine = rows.document == 0
        for end in np.unique(rows.end[mine]):  # the last piece that ends there is the one that is paired
            ids = tokenizer(text)["input_ids"][: rows.position[mine & (rows.end == end)].max() + 1]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text[:end], (length, end)


def test_direct_statistics_leave_out_the_same_rows_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from dragoman.dictionaries import Encoder
    from dragoman.models import paired

    model, tokenizer, texts = with_quiet_and_loud_tokens()
    whole = reader(model, tokenizer)
    w = np.random.default_rng(0).standard_normal((6, 48)).astype(np.float32)
    zeros = (np.zeros(6, np.float32), np.zeros(48, np.float32))
    encoder = Encoder(W_enc=w.T.copy(), b_enc=zeros[0], b_dec=zeros[1], W_dec=w, architecture="relu")
    counts = []
    for chunk in (1, 3, 128):
        monkeypatch.setattr(paired, "CHUNK", chunk)
        counts.append(paired.direct_statistics(whole, whole, encoder, texts)[0].count)
    rows = all_rows(model, tokenizer, texts)
    assert counts == [len(rows.x)] * 3 and rows.dropped == 2


def test_max_tokens_cuts_a_text_there() -> None:
    model, tokenizer = opened("qwen2")
    rows = all_rows(model, tokenizer, TEXTS, max_tokens=6)
    assert rows.position.max() == 5
    whole = by_place(all_rows(model, tokenizer, TEXTS))
    for place, row in by_place(rows).items():
        np.testing.assert_allclose(row, whole[place], rtol=1e-4, atol=1e-5)


def test_progress_counts_documents_to_the_last() -> None:
    model, tokenizer = opened("qwen2")
    seen: list[tuple[int, int]] = []
    all_rows(model, tokenizer, TEXTS, batch_size=2, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_pooled_text_is_the_mean_of_its_rows(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    found = pool(reader(model, tokenizer, 2), TEXTS, batch_size=2)
    kept = [hidden_states(model, tokenizer(text)["input_ids"])[3][1:].astype(np.float64) for text in TEXTS]
    assert found.rows.dtype == np.float32 and found.dropped == 0
    np.testing.assert_allclose(found.rows, [x.mean(0) for x in kept], rtol=1e-4, atol=1e-4)
    every = np.concatenate(kept)
    assert found.tokens == len(every)
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    np.testing.assert_allclose(found.unit_mean, unit.mean(0), rtol=1e-4, atol=1e-5)


def test_norm_outliers_go_into_no_pooled_row_and_are_counted() -> None:
    model, tokenizer = opened("qwen2")
    (sink,) = tokenizer("?", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[sink] *= 1e4
    texts = ["The city of the people?", "The first election of the new year"]
    found = pool(reader(model, tokenizer), texts)
    ids = tokenizer(texts)["input_ids"]
    assert ids[0][-1] == sink and found.dropped == 1 and found.tokens == len(ids[0]) - 2 + len(ids[1]) - 1
    np.testing.assert_allclose(found.rows[0], hidden_states(model, ids[0])[2][1:-1].mean(0), rtol=1e-4, atol=1e-4)


# --- two tokenizers ----------------------------------------------------------------------------------------------


def ends_only(tokenizer: Any, texts: list[str]) -> TokenRows:
    """Token ends as harvesting keeps them, without a model; ``x`` holds the token's number in its document."""
    spans = tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
    kept = [(d, e, p) for d, s in enumerate(spans) for p, (b, e) in enumerate(s) if p > 0 and e > b]
    document, end, position = np.array(kept, dtype=np.int64).T
    return TokenRows(x=position[:, None].astype(np.float32), document=document, end=end, position=position, dropped=0)


@pytest.mark.parametrize("other", ["llama", "gemma3"])
@pytest.mark.parametrize("text", HAND_MADE)
def test_shared_ends_pair_tokens_that_read_the_same_characters(text: str, other: str) -> None:
    texts = [TEXTS[0], text, text[::-1]]
    left, right = (ends_only(tokenizer_of(name), texts) for name in ("qwen2", other))
    a, b = shared_ends(left, right)
    assert np.unique(left.document[a]).tolist() == [0, 1, 2]
    for i, j in zip(a, b, strict=True):
        assert left.document[i] == right.document[j]
        whole = texts[left.document[i]]
        assert whole[: left.end[i]] == whole[: right.end[j]]
    # Every shared end is found, once, by the plain definition.
    truth = {(int(d), int(e)) for d, e in zip(left.document, left.end, strict=True)}
    truth &= {(int(d), int(e)) for d, e in zip(right.document, right.end, strict=True)}
    found = [(int(left.document[i]), int(left.end[i])) for i in a]
    assert len(found) == len(set(found)) and set(found) == truth


def test_of_pieces_of_one_character_the_last_is_paired() -> None:
    tokenizer = tokenizer_of("qwen2")
    text = "a wave 👋 here"
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = [e for _, e in spans]
    end = text.index("👋") + 1
    assert ends.count(end) > 1, "the character is not cut into pieces"
    rows = ends_only(tokenizer, [text, text])
    a, b = shared_ends(rows, ends_only(tokenizer_of("gemma3"), [text, text]))
    picked = rows.position[a][rows.end[a] == end]
    assert picked.tolist() == [max(k for k, e in enumerate(ends) if e == end)] * 2
    assert len(a) == len(b)


def test_equal_ends_in_different_documents_are_not_paired() -> None:
    tokenizer = tokenizer_of("qwen2")
    rows = ends_only(tokenizer, ["The city here", "The city here"])
    first, second = (
        TokenRows(**{k: getattr(rows, k)[rows.document == d] for k in ("x", "document", "end", "position")}, dropped=0)
        for d in (0, 1)
    )
    assert len(shared_ends(first, first)[0]) == len(first.x)
    assert len(shared_ends(first, second)[0]) == 0


def test_pairs_of_two_models_are_the_activations_at_the_same_character() -> None:
    texts = [*TEXTS, *HAND_MADE]
    sides = [(*opened(name), name) for name in ("qwen2", "llama")]
    left, right = (all_rows(model, tokenizer, texts, batch_size=4) for model, tokenizer, _ in sides)
    a, b = shared_ends(left, right)
    assert len(a) > 50
    for rows, picks, (model, tokenizer, _) in ((left, a, sides[0]), (right, b, sides[1])):
        for i in picks[::7]:
            # The prefix alone, cut after that token, ends in the same activation: nothing later was seen.
            ids = tokenizer(texts[rows.document[i]])["input_ids"][: rows.position[i] + 1]
            np.testing.assert_allclose(hidden_states(model, ids)[2][-1], rows.x[i], rtol=1e-3, atol=1e-4)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_one_text_is_refused() -> None:
    model, tokenizer = opened("qwen2")
    with pytest.raises(Refusal, match=r"^1 text: a map is fitted over several documents; give at least 2"):
        pool(reader(model, tokenizer), TEXTS[:1])


def test_a_site_beyond_the_last_block_is_refused() -> None:
    model, tokenizer = opened("qwen2")
    with pytest.raises(Refusal, match=r"^site tiny:4: the model has blocks 0 to 3; name one of these"):
        next(token_rows(reader(model, tokenizer, 4), TEXTS))
    assert len(next(token_rows(reader(model, tokenizer, 3), TEXTS)).x)


@pytest.mark.parametrize("texts", [["The city of the people", "a", "The vote"], ["a", "b"]])
def test_a_text_of_one_token_is_refused(texts: list[str]) -> None:
    model, tokenizer = opened("qwen2")
    short = texts.index("a")
    with pytest.raises(Refusal, match=rf"^text {short}: it has no token after the first; leave empty or one-word"):
        pool(reader(model, tokenizer), texts)
