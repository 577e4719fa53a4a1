"""Text files as other systems and programs write them: read the same, or refused by one line that
names the row.

pytest tests/common/test_given_files.py                              seconds
"""

import codecs
import gzip
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from common.command_line import ArgumentParser
from common.errors import InputError
from common.files import (
    open_text,
    parse_json,
    require_writable,
    require_writable_file,
    write_text,
)
from common.rows import read_file, read_finished, read_rows

ROWS = st.lists(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.text(st.characters(codec="utf-8"), max_size=8) | st.integers() | st.none(),
        max_size=3,
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    ROWS,
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_jsonl_is_the_same_rows_however_it_was_saved(
    tmp_path_factory, rows, mark, end, blank, last_end, zipped, ascii_only
):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = (end + (end + "  " + end if blank else "")).join(lines) + (end if last_end else "")
    content = (codecs.BOM_UTF8 if mark else b"") + text.encode()
    path = tmp_path_factory.mktemp("rows") / ("rows.jsonl" + ".gz" * zipped)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert read_file(path, "--x") == rows
    whole = path.with_name("rows.json")
    whole.write_bytes((codecs.BOM_UTF8 if mark else b"") + json.dumps(rows).encode())
    assert read_file(whole, "--x") == rows


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-cut"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".jsonl.gz"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding, ending):
    text = json.dumps([{"a": "é"}] if ending == ".json" else {"a": "é"}, ensure_ascii=False)
    content = {
        "utf-16-be": codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        "utf-8-cut": text.encode("latin-1"),
    }.get(encoding)
    content = text.encode(encoding) if content is None else content
    path = tmp_path / f"x{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(
        InputError,
        match="--flag: cannot read .*"
        + (encoding[:6].upper() if encoding != "utf-8-cut" else "utf-8"),
    ):
        read_file(path, "--flag")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": "\\ud83d"}', "half of a character"),
        ('{"a": "\\uDE00 x"}', "half of a"),
        ('{"a": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ('{"a": 1', "line 2 is not JSON"),
    ],
)
def test_rows_that_cannot_be_kept_are_refused_by_line(tmp_path, text, words):
    path = tmp_path / "generations-000.jsonl"
    path.write_text('{"a": 0}\n' + text + "\n")
    for read in (lambda: read_file(path, "--x"), lambda: read_finished(path)):
        with pytest.raises(InputError, match=words):
            read()
    assert parse_json('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}  # both halves


@pytest.mark.parametrize("cut", [4, 30, -1])
def test_a_gzip_cut_short_is_refused(tmp_path, cut):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n{"a": 22222}\n' * 20)[:cut])
    with pytest.raises(InputError, match="cannot read"):
        read_rows(tmp_path / "x.jsonl.gz", fields=("a",), flag="--x")


def test_open_text_ignores_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + "= é =\r\nb".encode())
    with open_text(tmp_path / "a.txt") as file:
        assert file.read() == "= é =\nb"


def test_an_unwritable_folder_is_refused_and_a_writable_one_is_left_unchanged(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="--output_dir: cannot write"):
            require_writable(folder, "--output_dir")
        with pytest.raises(InputError, match="cannot write"):
            write_text(folder / "results.json", "x")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot write"):
        require_writable(tmp_path / "link" / "sub", "--output_dir")
    require_writable(tmp_path / "new" / "deep", "--output_dir")
    require_writable(tmp_path, "--output_dir")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_processes_that_try_one_folder_at_once_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            folder = tmp_path / str(number) / "out"
            list(pool.map(lambda _: require_writable(folder, "--output_dir"), range(8)))
    assert not list(tmp_path.iterdir())


def test_a_command_line_that_is_not_utf_8_is_refused():
    with pytest.raises(InputError, match="not UTF-8"):
        ArgumentParser().parse_args([b"--prompt=\xff".decode("utf-8", "surrogateescape")])


def test_a_file_to_write_is_no_folder(tmp_path):
    """Asked before the work is done whose result it is to hold."""
    (tmp_path / "made.json").mkdir()
    with pytest.raises(InputError, match="^--output: .*made.json is a folder; name a file$"):
        require_writable_file(tmp_path / "made.json", "--output")
    (tmp_path / "text").write_text("x")
    with pytest.raises(InputError, match="^--output: cannot write "):
        require_writable_file(tmp_path / "text" / "made.json", "--output")
    require_writable_file(tmp_path / "text", "--output")  # it is replaced
    require_writable_file(tmp_path / "new" / "made.json", "--output")
    assert (tmp_path / "text").read_text() == "x" and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "script, words",
    [
        ("length_drift", "--checkpoint_path x --task math --train_data x --output"),
        ("length_study", "free --flexmdm x --llada x --text x --output"),
        ("flexmdm_inference", "--checkpoint_path {} --prompt w7 --trace"),
        ("llada_inference", "--checkpoint_path {} --prompt w7 --trace"),
    ],
)
def test_commands_look_at_their_output_first(script, words, tmp_path, monkeypatch):
    folder = tmp_path / "made.html"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [script, *words.format(tmp_path).split(), str(folder)])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    with pytest.raises(InputError, match="made.html is a folder; name a file$"):
        importlib.import_module(script).main()
