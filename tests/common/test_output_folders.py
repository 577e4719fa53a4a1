"""Commands replace what they wrote themselves and nothing else.

pytest tests/common/test_output_folders.py                           seconds
"""

import json
import os
import random
import sys
from types import SimpleNamespace
from unittest import mock

import new_base
import pytest
import tiny
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import llada_utils
from common.errors import InputError
from common.files import MARKER, complete_folder, is_finished, write_reason

NAMES = st.sampled_from(["info.json", "config.json", "a", "b.txt", "é", ".hidden", MARKER])
# relative path (one or two deep): content
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=2).map("/".join), st.text("{}[]1", max_size=4), max_size=5
).filter(lambda tree: not any(name.split("/")[0] in tree for name in tree if "/" in name))


def write(folder, tree):
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def read(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make(folder, tree, kind="data set"):
    with complete_folder(folder, kind) as staging:
        write(staging, tree)


@settings(max_examples=60, deadline=None)
@given(old=TREES, new=TREES, ours=st.booleans(), added=TREES, kind=st.sampled_from("ab"))
def test_only_our_own_output_folders_are_replaced(tmp_path_factory, old, new, ours, added, kind):
    """Ours: written by complete_folder as the same kind, with no file in it that it did not
    write.
    """
    root = tmp_path_factory.mktemp("out")
    folder = root / "out"
    old, new = ({n: t for n, t in tree.items() if not n.startswith(MARKER)} for tree in (old, new))
    folder.mkdir()
    if ours:
        make(folder, old, "a")
    else:
        write(folder, old)
    if ours:  # beside ours, and within a folder of ours where there is one
        within = next((name.split("/")[0] + "/mine" for name in old if "/" in name), "mine")
        added = {f"{within}/{name}": text for name, text in added.items()}
        write(folder, added)
    else:
        added = {}
    before = read(folder)
    if not before or ours and not added and kind == "a":
        make(folder, new, kind)
        assert read(folder).keys() == {*new, MARKER}
    else:
        with pytest.raises(InputError, match="--output_dir: .* (name another|would be lost)"):
            make(folder, new, kind)
        assert read(folder) == before
    assert os.listdir(root) == ["out"]  # nothing is left beside it


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", '{"kind": "data set"}', '{"kind": "data set", "files": "a"}', "{"]
)
def test_a_folder_with_a_damaged_marker_is_not_replaced(tmp_path, content):
    write(tmp_path / "out", {"a": "1", MARKER: content})
    with pytest.raises(InputError, match=MARKER if content == "{" else "name another"):
        make(tmp_path / "out", {"b": "2"})
    assert read(tmp_path / "out") == {"a": "1", MARKER: content}


def test_files_added_while_a_folder_is_being_written_are_not_lost(tmp_path):
    make(tmp_path / "out", {"a": "1"})
    with pytest.raises(InputError, match="holds notes, which would be lost"):
        with complete_folder(tmp_path / "out", "data set") as staging:
            write(staging, {"a": "2"})
            write(tmp_path / "out", {"notes": "mine"})
    assert read(tmp_path / "out")["notes"] == "mine" and os.listdir(tmp_path) == ["out"]


def test_unsuitable_output_paths_are_refused_and_links_are_followed(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.chdir(work)
    for place in (".", "..", "/", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="--output_dir: "):
            make(place, {"a": "1"})
    make(tmp_path / "link", {"a": "1"})  # a link is followed, as on clusters
    assert read(tmp_path / "target")["a"] == "1" and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "target", "work"]


@pytest.mark.parametrize("info", ["{}", "[]", '{"settings": 3}', '{"settings": {}}', "null"])
def test_an_info_json_alone_does_not_make_a_data_set(tmp_path, info):
    write(tmp_path / "out", {"info.json": info, "thesis.tex": "x"})
    for overwrite in (False, True):
        with pytest.raises(InputError, match="--output_dir: .*name another"):
            is_finished(tmp_path / "out", {"script": "preprocess_math.py"}, overwrite)


# ---- the commands --------------------------------------------------------------------------------


def random_tree(folder):
    names = ["config.json", "model.safetensors", "results/one.json", "x"]
    write(folder, dict.fromkeys(random.sample(names, random.randint(1, 4)), "theirs"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_llada(tmp_path_factory.mktemp("base") / "base")


def call(module, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    module.main()


def commands(base, output):
    yield llada_utils, ("export", "--checkpoint_path", base, "--output_dir", output)
    sizes = ("--d_model", 16, "--n_layers", 1, "--n_heads", 2, "--vocab_size", 1100)
    tokenizer = ("--tokenizer", ROOT / "LLaDA-tiny-Base")
    yield new_base, ("random", *tokenizer, *sizes, "--output_dir", output)


@pytest.mark.parametrize("which", [0, 1])
def test_commands_replace_their_own_output_and_no_other(base, tmp_path, monkeypatch, which):
    module, words = list(commands(base, tmp_path / "out"))[which]
    random_tree(tmp_path / "out")
    before = read(tmp_path / "out")
    with monkeypatch.context() as patch:  # refused before a model is read
        patch.setattr("llada_utils.checkpoint_kind", lambda *_: pytest.fail("a model was read"))
        patch.setattr("new_base.load_tokenizer", lambda *_: pytest.fail("a tokenizer was read"))
        with pytest.raises(InputError, match="--output_dir"):
            call(module, monkeypatch, *words)
    assert read(tmp_path / "out") == before
    words = [tmp_path / "ours" if word == tmp_path / "out" else word for word in words]
    for _ in range(2):
        call(module, monkeypatch, *words)
    assert json.loads((tmp_path / "ours" / MARKER).read_text())["files"]
    module, words = list(commands(base, tmp_path / "ours"))[1 - which]
    with pytest.raises(InputError, match="--output_dir: .*name another"):  # another command's
        call(module, monkeypatch, *words)


def test_an_export_never_takes_the_place_of_its_source(base, tmp_path, monkeypatch):
    source = tmp_path / "ours" / "source"
    call(llada_utils, monkeypatch, "export", "--checkpoint_path", base, "--output_dir", source)
    before = (source / "model.safetensors").read_bytes()
    words = ["export", "--checkpoint_path", source, "--output_dir", tmp_path / "ours"]
    with pytest.raises(InputError, match="--output_dir"):
        call(llada_utils, monkeypatch, *words)
    assert (source / "model.safetensors").read_bytes() == before


def full(library):
    """Write to a device that is always full, as a checkpoint's parts are written."""
    if library == "open":
        with open("/dev/full", "w") as file:
            file.write("x")
    elif library == "tokenizers":
        tiny.tokenizer().backend_tokenizer.save("/dev/full")
    elif library == "torch":
        torch.save({"x": torch.zeros(10**6)}, "/dev/full")


@pytest.mark.parametrize("library", ["open", "tokenizers", "torch"])
def test_a_full_disk_is_one_line_whichever_library_meets_it(tmp_path, library):
    with pytest.raises(InputError, match=f"--output_dir: cannot write {tmp_path / 'out'}: ."):
        with complete_folder(tmp_path / "out", "test"):
            full(library)
    assert not list(tmp_path.iterdir())


def test_what_is_not_of_the_disk_is_not_called_so(tmp_path):
    for error in (ValueError("x"), RuntimeError("shapes"), Exception("x"), KeyError("x")):
        with pytest.raises(type(error)) as caught:
            with complete_folder(tmp_path / "out", "test"):
                raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())
    lost = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    with mock.patch("shutil.disk_usage", return_value=SimpleNamespace(free=5)):
        assert write_reason(lost, tmp_path / "a/b") == "No space left on device"
    assert "unexpected pos" in write_reason(lost, tmp_path)
