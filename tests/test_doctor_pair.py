"""The embedded pair in bfloat16: the doctor raises no alarm, sees the off-by-one and the overflow; a real feature."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman import tiny
from dragoman.core import Site
from dragoman.dictionaries import open_dictionary
from dragoman.dictionaries.beside import read_truth
from dragoman.doctor import Finding, examine, open_subject, quick
from dragoman.doctor.stream import overflow, reconstruction, unexplained
from dragoman.models.decode import Verbalizer
from dragoman.models.watch import Stream
from dragoman.runs.explain import explain
from dragoman.stats.planted import names_category

pytestmark = pytest.mark.usefixtures("pair_tokenizers")


class Examined:
    """The pair, opened and examined once for all tests of this file."""

    def __init__(self) -> None:
        self.subject = open_subject(sae="tiny-sae", by="tiny-gemma-av", dtype="bfloat16")
        assert self.subject.background is not None  # it lies beside the dictionary
        self.findings = examine(self.subject)
        self.stream = self.subject.source_stream

    def moved(self, block: int) -> dict[str, Finding]:
        """Findings of the dictionary when it is said to live at another block."""
        assert self.subject.source is not None and self.stream is not None
        reader = dataclasses.replace(self.subject.source, site=Site(tiny.SOURCE.model, block))
        moved = dataclasses.replace(self.subject, source=reader)
        return {f.check: f for f in reconstruction(moved)}


@pytest.fixture(scope="module")
def pair() -> Examined:
    return Examined()


def test_no_alarm_on_the_embedded_pair(pair: Examined) -> None:
    assert not [f for f in pair.findings if f.status == "fault"]
    assert sum(f.status == "ok" for f in pair.findings) >= 25


def test_the_embedded_dictionary_leaves_least_at_its_own_block(pair: Examined) -> None:
    stream: Stream | None = pair.stream
    encoder = pair.subject.encoder
    assert stream is not None and encoder is not None
    left = {block: unexplained(encoder, rows) for block, rows in stream.rest.items()}
    assert min(left, key=lambda b: left[b]) == tiny.SOURCE.block and max(left.values()) < 0.9


def test_the_embedded_dictionary_one_block_off_is_caught(pair: Examined) -> None:
    found = pair.moved(tiny.SOURCE.block + 1)  # before and behind alike, on small models
    assert found["off-by-one"].status == "fault"
    assert f"output of block {tiny.SOURCE.block}:" in found["off-by-one"].do
    assert found["wrong-dictionary"].status == "ok"


def test_a_sink_is_seen_and_left_out(pair: Examined) -> None:
    (sink,) = (f for f in pair.findings if f.check == "sink")
    assert sink.status == "ok" and isinstance(sink.measured, float) and sink.measured > 20


def test_the_encoder_of_another_model_is_caught(pair: Examined) -> None:
    encoder, stream = pair.subject.encoder, pair.stream
    assert encoder is not None and stream is not None
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(encoder.d_in, encoder.d_in)))[0].astype(np.float32)
    rotated = {block: rows @ turned for block, rows in stream.rest.items()}
    subject = dataclasses.replace(pair.subject)
    subject.__dict__["source_stream"] = dataclasses.replace(stream, rest=rotated)
    found = {f.check: f for f in reconstruction(subject)}
    assert found["wrong-dictionary"].status == "fault" and found["off-by-one"].status == "ok"


def test_the_quick_form_raises_no_alarm_on_the_other_verbalizer(pair: Examined) -> None:
    assert len(quick([Verbalizer.open("tiny-smollm2-av", dtype="bfloat16")], encoder=pair.subject.encoder)) >= 18


def test_the_embedded_gemma_would_overflow_float16(pair: Examined) -> None:
    (found,) = (f for f in pair.findings if (f.check, f.subject) == ("overflow", "tiny-gemma-av"))
    assert found.status == "ok" and isinstance(found.measured, float) and found.measured > 65504
    assert overflow("m", "largest entry", found.measured, "float16").do == "use bfloat16 or float32"


def test_a_real_feature_is_named_in_the_real_target_s_words(
    pair: Examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The verbalizer is examined above; what rows write, and how texts are judged, is told of elsewhere. The subject is
    # in the first sentence, and a step costs a tenth of a second: texts are cut behind it.
    monkeypatch.setattr("dragoman.runs.speakers.quick", lambda *_a, **_k: None)
    for name in ("common.add_claims", "common.add_confidence", "written.lens_words"):
        monkeypatch.setattr(f"dragoman.runs.{name}", lambda *_a, **_k: None)
    truth = read_truth(tiny.data("tiny-truth"))
    info, words = truth.features, truth.category_words
    chosen = ("4497", "2511")  # comets, prime numbers
    verbalizer = pair.subject.verbalizer
    assert verbalizer is not None and verbalizer.name == "tiny-gemma-av"
    asked: dict[str, Any] = {"map": "post", "route": "direct", "max_new_tokens": 28}
    run = explain(open_dictionary("tiny-sae"), by=verbalizer, features=chosen, out=tmp_path / "run", **asked).folder
    for row in run.rows():
        own = info[row["feature"]]["category"]
        assert names_category(row["text"], words[own]), row["text"]
        assert row["problems"] == ["no closing tag"]
    said = [r["text"] for r in run.rows()]
    assert not names_category(said[0], words[info[chosen[1]]["category"]])
    assert np.allclose(np.linalg.norm(run.vectors()[0]["direct"], axis=1), 1, atol=1e-5)
