"""Checkpoint folders from anywhere: a value, a file or a tensor that cannot be is refused in one
line that names it, and nothing outside of the folder is read.

pytest tests/network/test_checkpoint_files.py                         seconds
"""

import json
import os
import random
import shutil

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from common import config_values
from common.errors import InputError
from data.tokenizer import load_tokenizer
from llada_utils import export_merged, load_flexmdm, load_llada, new_flexmdm, write_checkpoint
from network.checkpoint_folder import base_of_checkpoint, checkpoint_kind, named_base
from network.config import FlexMDMConfig, LLaDAConfig
from network.lora import add_lora

LORA = {"r": 2, "lora_alpha": 2, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One folder of each kind; tests change copies."""
    work = tmp_path_factory.mktemp("made")
    base = tiny.write_llada(work / "llada")
    flexmdm = work / "flexmdm"
    flexmdm.mkdir()
    model = new_flexmdm(str(base), lora=LORA, insertion_schedule={"name": "linear"})
    write_checkpoint(model, flexmdm, tiny.tokenizer())
    model = load_llada(base)
    model.name_or_path = str(base)
    adapter = work / "adapter"
    adapter.mkdir()
    write_checkpoint(add_lora(model, LORA), adapter, tiny.tokenizer())
    return work


LOADERS = {"llada": load_llada, "flexmdm": load_flexmdm, "adapter": load_llada}
JSON = {"llada": "config.json", "flexmdm": "config.json", "adapter": "adapter_config.json"}


def copy(made, kind, tmp_path):
    folder = tmp_path / kind
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made / kind, folder)
    return folder


def load(kind, folder):
    checkpoint_kind(folder)
    return LOADERS[kind](folder)


@pytest.mark.parametrize("kind", LOADERS)
def test_intact_checkpoint_folders_load(made, tmp_path, kind):
    load(kind, copy(made, kind, tmp_path))


# ---- values --------------------------------------------------------------------------------------

RULES = {
    "llada": {**config_values.LLADA, **dict.fromkeys(config_values.SPECIAL_IDS)},
    "flexmdm": {**config_values.FLEXMDM, "lora": None, "backbone": None, "mask_token_id": None},
    "adapter": {**config_values.LORA, "peft_type": None},
}
# of any kind: no key takes one of these, but for those that may be null or text
ODD = st.one_of(
    st.sampled_from(["5", "nan", [], {}, [1], {"r": 1}, -1, -0.5, 10**10, 10**400, 1.5, True]),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.text(max_size=3),
)
TAKEN = {  # what is odd elsewhere and fine here
    "time_scale": lambda v: v in (1.5, 10**10),
    "rope_theta": lambda v: v in (1.5, 10**10),
    "init_std": lambda v: v in (1.5, 10**10),
    "lora_alpha": lambda v: v in (1.5, 10**10),
    "attend_to_padding": lambda v: v is True,
    "length_distribution_at_start": lambda v: v is True,
    "lora": lambda v: v in ({}, ""),
    "base_model_name_or_path": lambda v: isinstance(v, str) and v != "",
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_impossible_config_value_is_refused_by_its_key(made, tmp_path_factory, data):
    kind = data.draw(st.sampled_from(sorted(RULES)))
    key = data.draw(st.sampled_from(sorted(RULES[kind])))
    value = data.draw(ODD)
    if TAKEN.get(key, lambda v: False)(value):
        return
    folder = copy(made, kind, tmp_path_factory.getbasetemp() / "values")
    tiny.edit_json(folder / JSON[kind], **{key: value})
    with pytest.raises(InputError, match=f"{JSON[kind]}.*(: {key}|JSON object)|backbone of"):
        load(kind, folder)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_config_classes_refuse_it_themselves(data):
    """However a config comes to them: the classes read no dict unchecked."""
    backbone = tiny.llada_config().to_json()
    flexmdm = {"model_type": "flexmdm", "backbone": backbone}
    flexmdm |= {"mask_token_id": tiny.MASK, "pad_token_id": tiny.PAD}
    assert FlexMDMConfig.from_json(flexmdm).backbone == backbone
    kind = data.draw(st.sampled_from(["llada", "flexmdm"]))
    key = data.draw(st.sampled_from(sorted(RULES[kind])))
    value = data.draw(ODD)
    if TAKEN.get(key, lambda v: False)(value):
        return
    if kind == "llada":
        with pytest.raises(InputError, match=f"^given: {key}"):
            LLaDAConfig.from_json({**backbone, key: value}, "given")
        with pytest.raises(InputError, match=f"^given: backbone: {key}"):
            changed = {**backbone, key: value}
            FlexMDMConfig.from_json({**flexmdm, "backbone": changed}, "given")
    else:
        # ValueError: a base's config that lacks keys, as LLaDAConfig has it
        with pytest.raises((InputError, ValueError), match=f"^given: ({key}|.*JSON object)"):
            FlexMDMConfig.from_json({**flexmdm, key: value}, "given")
        with pytest.raises(ValueError, match="^given: backbone: "):
            FlexMDMConfig.from_json({**flexmdm, "backbone": {}}, "given")
    with pytest.raises(InputError, match="^given does not hold one JSON object"):
        data.draw(st.sampled_from([LLaDAConfig, FlexMDMConfig])).from_json([value], "given")


@pytest.mark.parametrize("old, now", [("trainable", "trainable"), ("everything", "full")])
def test_a_config_with_the_older_key_holds_is_read(old, now):
    """The rest of its values drawn anew; both keys at once, or a value of the new key, are not."""
    content = {
        "model_type": "flexmdm",
        "backbone": tiny.llada_config().to_json(),
        "base_model_name_or_path": f"base{random.randrange(10**6)}",
        "time_epsilon": random.uniform(0.001, 0.4),
        "max_length": random.randrange(1, 10**6),
        "mask_token_id": tiny.MASK,
        "pad_token_id": tiny.PAD,
        "lora": {"r": random.randrange(1, 64), "lora_alpha": 8, "lora_dropout": 0.0},
    }
    read = FlexMDMConfig.from_json({**content, "holds": old})
    fields = read.own_fields()
    assert fields["saved_weights"] == now and "holds" not in fields
    assert fields == FlexMDMConfig.from_json({**content, "saved_weights": now}).own_fields()
    assert all(fields[key] == value for key, value in content.items() if key != "model_type")
    with pytest.raises(InputError, match="^given: has both saved_weights and holds"):
        FlexMDMConfig.from_json({**content, "holds": old, "saved_weights": now}, "given")
    for value in ("full", 3, None, [old]):
        with pytest.raises(InputError, match="^given: holds is .*, not one of 'trainable', 'every"):
            FlexMDMConfig.from_json({**content, "holds": value}, "given")
    nameless = {**content, "base_model_name_or_path": None, "holds": "trainable"}
    with pytest.raises(InputError, match="^given: saved_weights is 'trainable', but base_model"):
        FlexMDMConfig.from_json(nameless, "given")


def test_an_older_checkpoint_loads_and_is_written_with_the_new_key(made, tmp_path):
    folder = copy(made, "flexmdm", tmp_path)
    content = json.loads((folder / "config.json").read_text())
    content["holds"] = content.pop("saved_weights")
    assert content["holds"] == "trainable"
    (folder / "config.json").write_text(json.dumps(content))
    export_merged(folder, tmp_path / "merged")
    content = json.loads((tmp_path / "merged/config.json").read_text())
    assert content["saved_weights"] == "full" and "holds" not in content
    load_flexmdm(tmp_path / "merged")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "content", ["[]", "3", "null", "{}", '{"model_type": 3}', "{", "[" * 9**5, b"\xff"]
)
def test_a_malformed_config_is_refused(made, tmp_path, kind, content):
    folder = copy(made, kind, tmp_path)
    content = content if isinstance(content, bytes) else content.encode()
    (folder / JSON[kind]).write_bytes(content)
    with pytest.raises(InputError, match=f"config.json|{kind}"):
        load(kind, folder)


@pytest.mark.parametrize("schedule", [3, "linear", [], {"name": "power", "p": "2"}, {"name": 3}])
def test_an_invalid_schedule_is_refused(made, tmp_path, schedule):
    folder = copy(made, "flexmdm", tmp_path)
    tiny.edit_json(folder / "config.json", insertion_schedule=schedule)
    if schedule == []:  # as if it were not there: linear
        return
    with pytest.raises(InputError, match="config.json"):
        load("flexmdm", folder)


@pytest.mark.parametrize("peft_type", ["LOKR", "PROMPT_TUNING", None])
def test_another_kind_of_adapter_is_refused(made, tmp_path, peft_type):
    folder = copy(made, "adapter", tmp_path)
    tiny.edit_json(folder / "adapter_config.json", peft_type=peft_type)
    with pytest.raises(InputError, match="peft_type"):
        load("adapter", folder)


@pytest.mark.parametrize("value", [-1, 60, 10**9, "58", 5.0, True])
@pytest.mark.parametrize("name", ["mask_token_id", "pad_token_id"])
def test_a_special_id_outside_the_tokenizer_is_refused(made, tmp_path, name, value):
    folder = copy(made, "llada", tmp_path)
    tiny.edit_json(folder / "config.json", **{name: value})
    with pytest.raises(InputError, match=f"config.json: {name}"):
        load_tokenizer(folder)


# ---- files ---------------------------------------------------------------------------------------


def split(folder, place):
    """The weights as a shard of that name, and the index that names it."""
    os.rename(folder / "model.safetensors", folder / "shard.safetensors")
    names = load_file(folder / "shard.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))
    return index


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["../{}", "../llada/{}", "/tmp/{}", "./{}", "a/../{}", "{}/", "..", "", "."])
    | st.lists(st.sampled_from(["..", "a", "."]), min_size=1, max_size=3).map(
        lambda parts: "/".join([*parts, "{}"])
    )
    | st.integers()
    | st.none()
)
def test_an_index_names_files_of_its_own_folder_only(made, tmp_path_factory, place):
    folder = copy(made, "llada", tmp_path_factory.getbasetemp() / "index")
    name = place.format("shard.safetensors") if isinstance(place, str) else place
    index = split(folder, name)
    with pytest.raises(InputError, match="index.json: .* is no file name within"):
        load("llada", folder)
    names = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "shard.safetensors")}))
    load("llada", folder)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', "3"])
def test_an_index_without_a_map_is_refused(made, tmp_path, content):
    folder = copy(made, "llada", tmp_path)
    split(folder, "x").write_text(content)
    with pytest.raises(InputError, match="index.json has no weight_map"):
        load("llada", folder)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("what", ["config", "weights", "tokenizer"])
def test_a_named_pipe_instead_of_a_file_is_refused_at_once(made, tmp_path, kind, what):
    folder = copy(made, kind, tmp_path)
    weights = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    name = {"config": JSON[kind], "weights": weights, "tokenizer": "tokenizer.json"}[what]
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError):
        load_tokenizer(folder) if what == "tokenizer" else load(kind, folder)


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("kind", LOADERS)
def test_tensors_that_are_no_real_numbers_are_refused_by_name(made, tmp_path, kind, dtype):
    folder = copy(made, kind, tmp_path)
    file = next(folder.glob("*.safetensors"))
    state = load_file(file)
    name = sorted(state)[torch.randint(len(state), ()).item()]
    state[name] = state[name].to(dtype)
    save_file(state, file)
    with pytest.raises(InputError, match=r"no floating-point numbers .*\("):
        load(kind, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", LOADERS)
def test_weights_that_are_not_finite_are_refused_by_name(made, tmp_path, kind, value):
    folder = copy(made, kind, tmp_path)
    file = next(folder.glob("*.safetensors"))
    state = load_file(file)
    name = sorted(state)[torch.randint(len(state), ()).item()]
    flat = state[name].view(-1)
    flat[torch.randint(len(flat), ())] = value
    save_file(state, file)
    with pytest.raises(InputError, match="not finite .*weight|not finite .*bias"):
        load(kind, folder)


# ---- the base ------------------------------------------------------------------------------------


def test_a_base_is_found_from_every_folder(made, tmp_path, monkeypatch):
    """Trained as `--model_name_or_path llada` in one folder, read in another."""
    base = copy(made, "llada", tmp_path / "there")
    monkeypatch.chdir(base.parent)
    (tmp_path / "flexmdm").mkdir()
    model = new_flexmdm("llada", lora=LORA, insertion_schedule={"name": "linear"})
    write_checkpoint(model, tmp_path / "flexmdm", tiny.tokenizer())
    (tmp_path / "adapter").mkdir()
    model = load_llada("llada")
    model.name_or_path = "llada"
    write_checkpoint(add_lora(model, LORA), tmp_path / "adapter", tiny.tokenizer())
    monkeypatch.chdir(tmp_path)
    load_flexmdm("flexmdm")
    load_llada("adapter")


@pytest.mark.parametrize("kind", ["flexmdm", "adapter"])
def test_a_missing_base_is_named_with_its_flag(made, tmp_path, kind):
    folder = copy(made, kind, tmp_path)
    tiny.edit_json(folder / JSON[kind], base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(InputError, match="--base_model is not given, .*gone"):
        load(kind, folder)
    with pytest.raises(InputError, match="--base_model: .*elsewhere"):
        LOADERS[kind](folder, base=str(tmp_path / "elsewhere"))
    LOADERS[kind](folder, base=str(made / "llada"))
    tiny.edit_json(folder / JSON[kind], base_model_name_or_path=None)
    with pytest.raises(InputError, match="names no base|base_model_name_or_path"):
        load(kind, folder)
    tiny.edit_json(folder / JSON[kind], base_model_name_or_path=3)
    with pytest.raises(InputError, match="names no base|base_model_name_or_path"):
        base_of_checkpoint(folder, None)


def test_the_base_that_a_folder_names_and_needs(made, tmp_path):
    """An export still says where it comes from, and needs it no more."""
    base = str(made / "llada")
    assert [named_base(made / kind) for kind in LOADERS] == [None, base, base]
    for kind in ("flexmdm", "adapter"):
        export_merged(made / kind, tmp_path / kind)
        assert named_base(tmp_path / kind) is None
    older = copy(made, "flexmdm", tmp_path / "older")
    content = json.loads((older / "config.json").read_text())
    content["holds"] = content.pop("saved_weights")
    (older / "config.json").write_text(json.dumps(content))
    assert named_base(older) == base
    tiny.edit_json(older / "config.json", holds="everything")
    assert named_base(older) is None
    assert named_base(tmp_path) is None
