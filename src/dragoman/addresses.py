"""Addresses and messages as they may be kept and shown: without passwords, signatures and tokens.

In: an address, or a sentence that may hold some. Out: the same without user, password, query and fragment, and with
access tokens blotted out. Text that is no address comes back as it was.
"""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_CLOSING = re.compile(r"[;:,.)\]}'\"…]*$")  # what ends a sentence or a quotation, not the address
_PORT = re.compile(r"[^@]*:(?!\d*$)[^@]*")  # a "host:port" whose port is no number is the start of "user:password"
_TOKEN = re.compile(r"\b(hf_|hf_oauth_|api_org_)[A-Za-z0-9]{16,}")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


def public_address(address: str) -> str:
    """An address without user, password, query and fragment; other text (a path, a hub reference) unchanged.

    What stands behind the question mark may be a signature, and what stands before the host's ``@`` a password.
    """
    scheme, there, rest = address.partition("://")
    if not there or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme.strip()):
        return _blotted(address)
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        rest = authority.rpartition("@")[2] + rest[len(authority) :]
    elif "@" in rest and _PORT.fullmatch(authority):  # a password with a slash or a question mark in it
        rest = rest.rpartition("@")[2]
    return _blotted(f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0]}")


def without_secrets(text: str) -> str:
    """A sentence whose addresses are public ones, and whose access tokens are blotted out."""
    if "://" in text:
        text = _ADDRESS.sub(_public, text)
    return _blotted(text)


def _public(found: re.Match[str]) -> str:
    said = found[0]
    closing = _CLOSING.search(said)
    end = closing[0] if closing else ""
    return public_address(said[: len(said) - len(end)]) + end


def _blotted(text: str) -> str:
    return _BEARER.sub(r"\1 ***", _TOKEN.sub(r"\1***", text))
