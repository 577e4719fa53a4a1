"""Text corpora as other programs save them: all documents are found, or the file is refused by
name.

pytest tests/data/test_corpus_files.py                             seconds
"""

import codecs
import gzip
import json

import pyarrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.rows import read_rows
from data.corpora import documents, local_files

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=12)
PIECES = st.lists(st.integers(0, 400), max_size=4)


def zst(content):
    """One zstd frame."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def read(path):
    return [row["text"] for row in documents(local_files(path), "text", None, None)]


@settings(max_examples=60, deadline=None)
@given(
    TEXTS, st.sampled_from(["", ".gz", ".zst"]), st.booleans(), st.booleans(), PIECES, st.booleans()
)
def test_jsonl_holds_the_same_documents_however_it_was_saved(
    tmp_path_factory, texts, compression, mark, blank, pieces, skippable
):
    """A byte order mark, blank lines, several compressed members or frames, frames without
    content, frames to be skipped (pzstd writes them)."""
    lines = (
        ["", "  "] * blank
        + [json.dumps({"text": text}, ensure_ascii=False) + "\n" * blank for text in texts]
        + [""]
    )
    content = codecs.BOM_UTF8 * mark + "\n".join(lines).encode()
    edges = [0, *sorted(min(edge, len(content)) for edge in pieces), len(content)]
    parts = [content[start:end] for start, end in zip(edges, edges[1:])]
    skip = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" if skippable else b""
    saved = {
        "": lambda: content,
        ".gz": lambda: b"".join(map(gzip.compress, parts)),
        ".zst": lambda: skip + b"".join(map(zst, parts)),
    }[compression]()
    path = tmp_path_factory.mktemp("saved") / f"x.jsonl{compression}"
    path.write_bytes(saved)
    assert read(path) == texts
    assert [row["text"] for row in read_rows(path, fields=["text"], flag="--x")] == texts


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.sampled_from([".gz", ".zst"]), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_compressed_file_cut_short_is_refused_by_name(
    tmp_path_factory, texts, compression, share, second
):
    """At any byte, in the first frame or in a second one."""
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    saved = {".gz": gzip.compress, ".zst": zst}[compression](content)
    path = tmp_path_factory.mktemp("cut") / f"shard-7.jsonl{compression}"
    path.write_bytes(saved * second + saved[: 1 + int(share * (len(saved) - 1))])
    with pytest.raises(InputError, match="--data_path: cannot read .*shard-7"):
        read(path)


@pytest.mark.parametrize("damage", ["flipped", "no zstd"])
def test_a_damaged_zst_is_refused_by_name(tmp_path, damage):
    saved = zst(b'{"text": "abc"}\n')
    (tmp_path / "x.jsonl.zst").write_bytes(
        bytes([saved[0] ^ 1]) + saved[1:] if damage == "flipped" else b'{"text": "abc"}\n'
    )
    with pytest.raises(InputError, match="cannot read .*x.jsonl.zst"):
        read(tmp_path)


def test_a_line_of_a_zst_that_is_not_json_is_refused_by_its_number(tmp_path):
    (tmp_path / "x.jsonl.zst").write_bytes(zst(b'{"text": "abc"}\n\n{"text": "ab'))
    with pytest.raises(InputError, match="x.jsonl.zst, line 3 is not JSON"):
        read(tmp_path)


def empty_files():
    yield "b.jsonl", b""
    yield "b.jsonl", b"\n \n"
    yield "b.jsonl", codecs.BOM_UTF8
    yield "b.jsonl.gz", gzip.compress(b"\n")
    yield "b.jsonl.zst", zst(b"")
    yield "b.json", b"[]"
    yield "b.txt", b""
    yield "b.raw", codecs.BOM_UTF8
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), sink)
    yield "b.parquet", sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name, content", list(empty_files()))
def test_a_file_without_documents_is_refused_by_name_also_among_others(tmp_path, name, content):
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n')
    assert read(tmp_path) == ["abc"]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"--data_path: .*{name}"):
        read(tmp_path)
    if not name.endswith((".txt", ".raw")):  # these are no rows
        with pytest.raises(InputError, match=f"--x: .*{name} is empty"):
            read_rows(tmp_path, fields=["text"], flag="--x")


def test_a_parquet_damaged_inside_is_refused_by_name(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"text": [f"{n} " * 50 for n in range(3000)]}), path)
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)  # the footer stays whole
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read .*x.parquet"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot read .*x.parquet"):
        read_rows(path, fields=["text"], flag="--x")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.text("abc é=", min_size=1, max_size=20), min_size=2, max_size=6),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([".txt", ".raw"]),
)
def test_a_wikitext_file_is_the_same_articles_with_and_without_a_byte_order_mark(
    tmp_path_factory, bodies, leading_blank, end, ending
):
    articles = [f" = Title {n} = \n \n {body} \n \n" for n, body in enumerate(bodies)]
    text = " \n" * leading_blank + "".join(articles)
    path = tmp_path_factory.mktemp("wiki") / f"wiki{ending}"
    path.write_bytes(codecs.BOM_UTF8 + text.replace("\n", end).encode())
    found = read(path)
    path.write_bytes(text.encode())
    assert found == read(path) and "".join(found) == text
    assert len(found) == len(articles) + leading_blank


def test_text_with_a_utf_16_byte_order_mark_is_refused_as_utf_16(tmp_path):
    (tmp_path / "x.txt").write_text("= a =", encoding="utf-16")
    with pytest.raises(InputError, match="x.txt: it is UTF-16; save it as UTF-8"):
        read(tmp_path)
