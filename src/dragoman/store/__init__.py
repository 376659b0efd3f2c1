"""Every byte dragoman keeps on disk: digests, whole-or-nothing files, arrays, texts, run folders, the cache.

In: values and paths. Out: files that are whole or not there, and the values read back from them. Refuses full disks,
folders without permission, torn and odd files, another run's folder and a second writer, each in one sentence.
"""

from dragoman.store.arrays import ArraysFile, Contents, read_arrays, write_arrays
from dragoman.store.cache import Cache, cache_root, fingerprint, fingerprint_of
from dragoman.store.files import (
    check_name,
    digest,
    file_sha256,
    held,
    of_each,
    opened,
    plain,
    read_bounded,
    read_json,
    read_text,
    refusing,
    replacing,
    stable_json,
    write_bytes,
    write_json,
    write_text,
)
from dragoman.store.runs import Rows, RunFolder
from dragoman.store.textfiles import read_texts
from dragoman.store.texts import document_name, form_of, listed_texts, read_jsonl, refuse_alike, refuse_halves

__all__ = [
    "ArraysFile",
    "Cache",
    "Contents",
    "Rows",
    "RunFolder",
    "cache_root",
    "check_name",
    "digest",
    "document_name",
    "file_sha256",
    "fingerprint",
    "fingerprint_of",
    "form_of",
    "held",
    "listed_texts",
    "of_each",
    "opened",
    "plain",
    "stable_json",
    "read_arrays",
    "read_bounded",
    "read_json",
    "read_jsonl",
    "read_text",
    "read_texts",
    "refuse_alike",
    "refuse_halves",
    "refusing",
    "replacing",
    "write_arrays",
    "write_bytes",
    "write_json",
    "write_text",
]
