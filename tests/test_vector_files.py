"""Directions of a person's own files: several by name, tables, control vectors; hostile ones refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dragoman import Refusal, open_dictionary
from dragoman.core import Directions, Site
from reading import read_directions

SITE = Site("m", 3)
RNG = np.random.default_rng(7)
ROWS = RNG.standard_normal((5, 8)).astype(np.float32)
NAMES = ("fear", "joy", "anger", "calm", 'é, "x"')


def rows_of(found: Directions) -> np.ndarray:
    return found.unit * found.norms[:, None]


def write_named(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Arrays by name, in the format that the suffix says."""
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        import torch

        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_several_names_in_one_file_are_all_read_and_kept(tmp_path: Path, suffix: str) -> None:
    path = write_named(tmp_path / f"v{suffix}", {"fear": ROWS[0], "joy": ROWS[1], "1": ROWS[2]})
    found = read_directions(path, site=SITE)
    assert found.ids == ("1", "fear", "joy")
    np.testing.assert_allclose(rows_of(found), ROWS[[2, 0, 1]], rtol=1e-6)
    some = read_directions(path, site=SITE, features=["joy", "fear"])
    assert some.ids == ("joy", "fear")
    np.testing.assert_allclose(rows_of(some), ROWS[[1, 0]], rtol=1e-6)
    alone = read_directions(path, site=SITE, key="joy")
    assert alone.ids == ("joy",) and np.allclose(rows_of(alone), ROWS[[1]])
    with pytest.raises(Refusal, match=r"feature 2 of file v.*: it holds 3 named vectors; name one of 1, fear, joy"):
        read_directions(path, site=SITE, features=["2"])
    with pytest.raises(Refusal, match="asked for twice"):
        read_directions(path, site=SITE, features=["joy", "joy"])


def test_one_of_several_that_has_no_direction_is_set_aside_by_its_name(tmp_path: Path) -> None:
    path = write_named(tmp_path / "v.npz", {"a": ROWS[0], "nothing": 0 * ROWS[0]})
    found = read_directions(path, site=SITE)
    assert found.ids == ("a",) and found.dead == ("nothing",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": ROWS[0], "b": ROWS[1, :5]}, r"it holds several arrays \(a, b\)"),
        ({"W_dec": ROWS, "W_enc": ROWS}, r"it holds several arrays \(W_dec, W_enc\)"),
        ({"a": ROWS[0], "b": ROWS[:1]}, "it holds several arrays"),
        ({"a": ROWS[0], "b": np.arange(8)}, "array b of vectors v.npz: its numbers are whole ones"),
        ({"a": np.float32(1), "b": np.float32(1)}, "it holds several arrays"),
    ],
)
def test_several_that_are_not_vectors_of_one_stream_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        read_directions(write_named(tmp_path / "v.npz", arrays), site=SITE)


def test_named_rows_are_the_vectors(tmp_path: Path) -> None:
    path = write_named(tmp_path / "v.npz", {"a": ROWS[0], "b": ROWS[1]})
    with pytest.raises(Refusal, match="its rows have names, so they are the vectors"):
        read_directions(path, site=SITE, orientation="columns")


def csv_of(rows: np.ndarray, names: Any = None, head: str = "", by: str = ",") -> str:
    lines = [head] if head else []
    for k, row in enumerate(rows):
        cells = [repr(float(x)) for x in row]
        name = None if names is None else str(names[k])
        quoted = None if name is None else '"' + name.replace('"', '""') + '"'
        lines.append(by.join([*([quoted] if quoted else []), *cells]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (csv_of(ROWS), ("0", "1", "2", "3", "4")),
        (csv_of(ROWS, by=";"), ("0", "1", "2", "3", "4")),
        (csv_of(ROWS, by="\t"), ("0", "1", "2", "3", "4")),
        (csv_of(ROWS, head="a,b,c,d,e,f,g,h"), ("0", "1", "2", "3", "4")),
        (csv_of(ROWS, head="0,1,2,3,4,5,6,7"), ("0", "1", "2", "3", "4")),
        (csv_of(ROWS, NAMES), NAMES),
        (csv_of(ROWS, NAMES, head="id,0,1,2,3,4,5,6,7"), NAMES),
        (csv_of(ROWS, range(10, 15), head=",0,1,2,3,4,5,6,7"), ("10", "11", "12", "13", "14")),  # as pandas writes
        ("\ufeff" + csv_of(ROWS, NAMES, head="Feature,0,1,2,3,4,5,6,7").replace("\n", "\r\n"), NAMES),
    ],
)
def test_a_csv_holds_a_vector_a_row_under_its_name(tmp_path: Path, text: str, ids: tuple[str, ...]) -> None:
    (tmp_path / "v.csv").write_bytes(text.encode())
    found = read_directions(tmp_path / "v.csv", site=SITE)
    assert found.ids == ids
    np.testing.assert_allclose(rows_of(found), ROWS, rtol=1e-6)
    picked = read_directions(tmp_path / "v.csv", site=SITE, features=[ids[3]])
    assert picked.ids == (ids[3],) and np.allclose(rows_of(picked), ROWS[[3]])


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame(ROWS, index=list(NAMES)).to_csv(tmp_path / "v.csv")
    found = read_directions(tmp_path / "v.csv", site=SITE)
    assert found.ids == NAMES and np.allclose(rows_of(found), ROWS, rtol=1e-6)
    pandas.DataFrame(ROWS).to_csv(tmp_path / "w.csv", index=False)
    assert np.allclose(rows_of(read_directions(tmp_path / "w.csv", site=SITE)), ROWS, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no vector in it"),
        ("a,b,c\n", "there is no vector in it"),
        (csv_of(ROWS, range(5)), "its first column counts the rows, so it may be their names or the first of their"),
        ("1,2,3\n1,2\n", "line 2: it holds 2 numbers, the first row 3"),
        ("1,2,3\n1,x,3\n", "line 2: 'x' is no number"),
        ("1,2,3\n1,1_0,3\n", "line 2: '1_0' is no number"),
        ("a,1,2\nb,1,2\na,3,4\n", "name 'a' of .*: it is there twice"),
        ("id,0,1\na,1,2\n,3,4\n", "vector 1: it has no name, and others do"),
        ("1,2,nan\n1,2,3\n", "feature 0 of v.csv: its row is not finite"),
        ("1,2,1e300\n1,2,3\n", "feature 0 of v.csv: its row is not finite"),
        ('"1,2,3\n', "it is no CSV"),
        ("1," + "9" * 20_000, "line 1: a cell of it holds 20000 characters"),
    ],
)
def test_a_csv_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(Refusal, match=message):
        read_directions(tmp_path / "v.csv", site=SITE, features=None if "twice" in message else [0])


def test_a_table_of_other_bytes_or_of_gigabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_bytes(b"\xff\xfe1,2")
    with pytest.raises(Refusal, match="it is not UTF-8 text"):
        read_directions(tmp_path / "v.csv", site=SITE)
    with (tmp_path / "w.csv").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(Refusal, match="it takes 8589934592 bytes, and a table is read whole"):
        read_directions(tmp_path / "w.csv", site=SITE)


@pytest.mark.parametrize("named", ["id", "name", None])
def test_json_lines_hold_a_vector_each(tmp_path: Path, named: str | None) -> None:
    entries = [{"vector": row.tolist()} | ({named: NAMES[k]} if named else {}) for k, row in enumerate(ROWS)]
    (tmp_path / "v.jsonl").write_text("\n".join(json.dumps(one) for one in entries))
    found = read_directions(tmp_path / "v.jsonl", site=SITE)
    assert found.ids == (NAMES if named else ("0", "1", "2", "3", "4"))
    np.testing.assert_allclose(rows_of(found), ROWS, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "line 1: it is not JSON"),
        ("[" * 100_000, "line 1: it is not JSON"),
        ("[1, 2]", 'line 1: it has no list of numbers "vector"'),
        ('{"vector": [1, true]}', "line 1: it has no list of numbers"),
        ('{"vector": []}', "line 1: there is no number in it"),
        ('{"vector": [1, 2]}\n{"vector": [1]}', "line 2: it holds 1 numbers, the first row 2"),
        ('{"vector": [1, 2], "id": "a"}\n{"vector": [1, 3]}', "vector 1: it has no name, and others do"),
        ('{"vector": [1, 2], "id": {}}', "line 1: its name is '{}', not text"),
        ('{"vector": [1' + "0" * 400 + "]}", "line 1: a number is beyond all measure"),
    ],
)
def test_json_lines_that_hold_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.jsonl").write_text(text)
    with pytest.raises(Refusal, match=message):
        read_directions(tmp_path / "v.jsonl", site=SITE)


# Parquet


def test_a_parquet_holds_lists_or_columns(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 8)
    for column in (
        lists,
        pa.array(ROWS.tolist(), pa.list_(pa.float64())),
        pa.array(ROWS.tolist(), pa.large_list(pa.float32())),
    ):
        pq.write_table(pa.table({"name": list(NAMES), "vector": column, "note": ["x"] * 5}), tmp_path / "v.parquet")
        found = read_directions(tmp_path / "v.parquet", site=SITE)
        assert found.ids == NAMES
        np.testing.assert_allclose(rows_of(found), ROWS, rtol=1e-6)
    pq.write_table(pa.table({f"c{k}": ROWS[:, k] for k in range(8)}), tmp_path / "w.parquet")
    found = read_directions(tmp_path / "w.parquet", site=SITE)
    assert found.ids == ("0", "1", "2", "3", "4") and np.allclose(rows_of(found), ROWS)
    two = pa.table({"a": ROWS[:2].tolist(), "b": ROWS[2:4].tolist()})
    pq.write_table(two, tmp_path / "x.parquet")
    found = read_directions(tmp_path / "x.parquet", site=SITE, key="b")
    assert np.allclose(rows_of(found), ROWS[2:4])


def test_a_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "v.parquet"

    def refused(message: str) -> None:
        with pytest.raises(Refusal, match=message):
            read_directions(path, site=SITE)

    pq.write_table(pa.table({"vector": [[1.0, 2.0], [1.0]]}), path)
    refused("its vectors have 2 different widths")
    pq.write_table(pa.table({"vector": [[1.0, None], [1.0, 2.0]]}), path)
    refused("a vector or number in it is missing")
    pq.write_table(pa.table({"words": ["a"]}), path)
    refused("no column of it holds floats")
    pq.write_table(pa.table({"a": [1.0, None]}), path)
    refused("a number in it is missing")
    pq.write_table(pa.table({"vector": pa.array([], pa.list_(pa.float32()))}), path)
    refused("there is no vector in it")
    pq.write_table(pa.table({"id": ["a", "a"], "vector": [[1.0], [2.0]]}), path)
    refused("it is there twice")
    pq.write_table(pa.table({"vector": ROWS.tolist()}), path)
    whole = path.read_bytes()
    for keep in (0, 3, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:keep])
        refused("it is not a whole Parquet file")


# GGUF


def write_control(path: Path, directions: dict[str, np.ndarray], architecture: str = "controlvector") -> Path:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, array in directions.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_control_vector_lives_behind_the_block_of_its_name(tmp_path: Path) -> None:
    path = write_control(tmp_path / "v.gguf", {f"direction.{k}": ROWS[k] for k in (1, 2, 3)})
    for block in (1, 2, 3):
        found = read_directions(path, site=Site("m", block))
        assert found.ids == (f"direction.{block}",) and found.site == Site("m", block)
        np.testing.assert_allclose(rows_of(found), ROWS[[block]], rtol=1e-6)
    named = open_dictionary(f"file:{path}#direction.2", site=Site("m", 2))
    assert np.allclose(rows_of(named.rows()), ROWS[[2]])
    with pytest.raises(Refusal, match=r"it holds directions of several blocks \(1, 2, 3\), each a stream of its own"):
        open_dictionary(path)
    with pytest.raises(Refusal, match=r"it has no direction at block 7 \(but 1, 2, 3\)"):
        open_dictionary(path, site=Site("m", 7))
    with pytest.raises(Refusal, match="its name direction.2 says block 2; use it at :2"):
        open_dictionary(f"file:{path}#direction.2", site=Site("m", 3))
    alone = write_control(tmp_path / "one.gguf", {"direction.10": ROWS[0]})
    with pytest.raises(Refusal, match="says block 10"):
        read_directions(f"file:{alone}#direction.10", site=SITE)


@pytest.mark.parametrize(
    ("directions", "architecture", "message"),
    [
        ({"direction.0": ROWS[0]}, "controlvector", "a direction is named by its layer, from 1 on"),
        ({"blk.1.attn": ROWS[0]}, "controlvector", "a direction is named by its layer"),
        ({"direction.-1": ROWS[0]}, "controlvector", "a direction is named by its layer"),
        ({"direction.1": ROWS[0], "direction.01": ROWS[1]}, "controlvector", "its layer is there twice"),
        ({"direction.1": ROWS[:2]}, "controlvector", "a direction is 1-D float32"),
        ({"direction.1": ROWS[0].astype(np.float16)}, "controlvector", "a direction is 1-D float32"),
        ({"direction.1": ROWS[0], "direction.2": ROWS[1, :4]}, "controlvector", "of different widths"),
        ({}, "controlvector", "there is no direction in it"),
        ({"token_embd.weight": ROWS}, "llama", "it holds a llama, not control vectors"),
    ],
)
def test_a_gguf_that_is_no_control_vector_is_refused(
    tmp_path: Path, directions: Any, architecture: str, message: str
) -> None:
    path = write_control(tmp_path / "v.gguf", directions, architecture)
    with pytest.raises(Refusal, match=message):
        read_directions(path, site=Site("m", 1))


def test_a_torn_or_hostile_gguf_is_one_sentence(tmp_path: Path) -> None:
    whole = write_control(tmp_path / "v.gguf", {"direction.1": ROWS[0], "direction.2": ROWS[1]}).read_bytes()
    odd = [whole[:keep] for keep in (0, 3, 20, 60, len(whole) // 2, len(whole) - 8)]
    odd += [
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2**63),
        b"\x80\x04]\x94.",
    ]
    odd.append(whole.replace(struct.pack("<Q", 8), struct.pack("<Q", 2**62)))
    for content in odd:
        (tmp_path / "w.gguf").write_bytes(content)
        with pytest.raises(Refusal, match=r"it is not a whole GGUF file|no direction|not control vectors") as error:
            read_directions(tmp_path / "w.gguf", site=Site("m", 1))
        assert "\n" not in str(error.value)
    with (tmp_path / "x.gguf").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Refusal, match="too many for control vectors"):
        read_directions(tmp_path / "x.gguf", site=Site("m", 1))


# Cross-layer transcoders


def test_a_cross_layer_transcoder_s_row_is_what_it_has_written_by_a_block(tmp_path: Path) -> None:
    rows = RNG.standard_normal((6, 4, 8)).astype(np.float32)  # of layer 2: it writes behind blocks 2 to 5
    save_file({"W_dec_2": rows}, tmp_path / "W_dec_2.safetensors")
    path = tmp_path / "W_dec_2.safetensors"
    for block in (2, 4, 5):
        found = read_directions(path, site=Site("m", block), features=[3, 0])
        assert found.ids == ("3", "0") and found.site == Site("m", block)
        want = rows[[3, 0], : block - 1].sum(axis=1)
        np.testing.assert_allclose(rows_of(found), want, rtol=1e-4, atol=1e-5)
    assert len(open_dictionary(path, site=Site("m", 3)).rows()) == 6
    with pytest.raises(Refusal, match="its features write behind blocks 2 to 5; say at which they are read"):
        open_dictionary(path)
    for block in (1, 6):
        with pytest.raises(Refusal, match=f"its features write behind blocks 2 to 5, not by block {block}"):
            open_dictionary(path, site=Site("m", block))
    (tmp_path / "config.yaml").write_text("feature_output_hook: hook_mlp_out\n")
    assert len(open_dictionary(path, site=Site("m", 3)).rows()) == 6
    (tmp_path / "config.yaml").write_text("feature_output_hook: hook_attn_out\n")
    with pytest.raises(Refusal, match="says that it writes hook_attn_out, and not what the MLP adds"):
        open_dictionary(path, site=Site("m", 3))
