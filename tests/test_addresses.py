"""Addresses and sentences without passwords, signatures and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core import Refusal, public_address, without_secrets
from dragoman.dictionaries import DictionaryRef
from dragoman.exports.names import without_folders
from dragoman.models.resolve import folder_of
from dragoman.neuronpedia import Export, parse

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host/v1/a", "https://host/v1/a"),
        ("https://host:8443/v1?X-Amz-Signature=S&X-Amz-Credential=C", "https://host:8443/v1"),
        ("http://user:PASSWORD@host/v1", "http://host/v1"),
        ("http://user:PASS@WORD@host:80/v1#access_token=S", "http://host:80/v1"),
        ("http://user:PASS/WORD?@host/v1", "http://host/v1"),
        ("http://token@host", "http://host"),
        ("s3://key:S@bucket/a?versionId=S", "s3://bucket/a"),
        ("https://host/org/name@v2/file", "https://host/org/name@v2/file"),
        (f"https://host/{TOKEN}/x", "https://host/hf_***/x"),
        ("hf:org/name@v2/a#3,4", "hf:org/name@v2/a#3,4"),
        ("probes.npz#truth[3]", "probes.npz#truth[3]"),
        ("/data/what?/a@b", "/data/what?/a@b"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_opens_a_door(address: str, shown: str) -> None:
    assert public_address(address) == shown
    assert public_address(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'http://u:S@h/a?k=S': it cannot be read; check it.", "'http://h/a': it cannot be read; check it."),
        ("see https://h/a?k=S, http://u:S@h2/b.", "see https://h/a, http://h2/b."),
        (f"401 for token {TOKEN} given", "401 for token hf_*** given"),
        ("Authorization: Bearer abc.def-ghi123", "Authorization: Bearer *** given".removesuffix(" given")),
        ("what is it? a bearer of news", "what is it? a bearer of news"),
        ("hf_hub_url is a name", "hf_hub_url is a name"),
    ],
)
def test_a_sentence_is_shown_without_them(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@given(st.from_regex(r"[A-Za-z0-9_.!*+-]{1,30}", fullmatch=True), st.sampled_from(["/", "/a/b", ""]))
def test_no_password_and_no_signature_comes_through(secret: str, path: str) -> None:
    address = f"https://u:<<{secret}>>@example.org{path}?sig=<<{secret}>>#<<{secret}>>"
    assert public_address(address) == f"https://example.org{path}"
    assert "<<" not in str(Refusal(f"address '{address}'", f"no answer from {address}", f"try {address} later"))


SIGNED = f"https://user:PASSWORD@www.neuronpedia.org/api/x?sig=SIGNED&t={TOKEN}"


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Export.open(SIGNED),
        lambda: Export.open(SIGNED.replace("https", "ftp")),
        lambda: Export.open(SIGNED.replace("PASSWORD", "PASSWORD PASSWORD")),
        lambda: parse(SIGNED),
        lambda: parse(SIGNED.replace("neuronpedia", "elsewhere")),
        lambda: DictionaryRef.parse(SIGNED),
        lambda: folder_of(SIGNED),
        lambda: folder_of(SIGNED.replace("PASSWORD", "PASSWORD PASSWORD")),
    ],
)
def test_refusals_of_addresses_tell_none(refused) -> None:  # noqa: ANN001
    with pytest.raises(Refusal) as error:
        refused()
    said = f"{error.value} {error.value.what} {error.value.why} {error.value.instead}"
    assert not [secret for secret in ("PASSWORD", "SIGNED", TOKEN) if secret in said]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/models/av", "av"),
        ("/home/me/models/av/", "av"),
        ("~/av", "av"),
        ("../models/av:20", "av:20"),
        ("file:/home/me/probes.npz#truth[3]", "file:probes.npz#truth[3]"),
        ("C:\\models\\av", "av"),
        ("kitft/nla-gemma3-27b-L41-av", "kitft/nla-gemma3-27b-L41-av"),
        ("hf:org/repo@main/a/b", "hf:org/repo@main/a/b"),
        ("https://u:S@host/a?S", "https://host/a"),
    ],
)
def test_a_path_is_exported_by_its_last_name(text: str, shown: str) -> None:
    assert without_folders(text) == shown
