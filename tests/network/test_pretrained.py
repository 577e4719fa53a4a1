"""transformers' ways to load and save: Auto classes, from_pretrained, save_pretrained, push_to_hub,
by folder and by hub id, without a network and without code from a checkpoint.

pytest tests/network/test_pretrained.py                               seconds
"""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import tiny
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from common.errors import InputError
from data.tokenizer import load_tokenizer
from llada_dit import LLaDADiT, LLaDAModelLM
from llada_utils import export_merged, load_flexmdm, load_llada, new_flexmdm, write_checkpoint
from network.checkpoint_folder import checkpoint_kind, named_base
from network.fast_blocks import fuse_projections
from network.lora import add_lora

WIDE = {"d_model": 64, "mlp_hidden_size": 128}  # bitsandbytes' CPU code needs rows of 64
LORA = {"r": 2, "lora_alpha": 3, "lora_dropout": 0.1}
KINDS = ["base", "adapter", "flexmdm", "lora", "exported", "exported adapter", "counting"]


def written(model, folder):
    folder.mkdir()
    write_checkpoint(model, folder, tiny.tokenizer(), card=f"# {folder.name} {random.random()}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each kind of checkpoint; no weight is zero, an adapter's neither."""
    work = tmp_path_factory.mktemp("made")
    base = tiny.write_llada(work / "base", **WIDE)
    written(
        tiny.flexmdm(tiny.llada_config(**WIDE), time_epsilon=random.uniform(0.01, 0.1)),
        work / "flexmdm",
    )
    model = new_flexmdm(base, lora=LORA, max_length=48)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    written(model, work / "lora")
    model = add_lora(load_llada(base), LORA)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    written(model, work / "adapter")
    export_merged(work / "lora", work / "exported", dtype=torch.bfloat16)
    export_merged(work / "adapter", work / "exported adapter", dtype=torch.bfloat16)
    written(tiny.flexmdm(length_distribution=70), work / "counting")
    return work


def copied(folder, work):
    shutil.copytree(folder, work / folder.name)
    return work / folder.name


def load_ours(folder, **settings):
    load = {"flexmdm": load_flexmdm, "llada": load_llada}[checkpoint_kind(folder)]
    return load(folder, **{"dtype": None, **settings})


def assert_same(one, other):
    """The same class, config and tensors, dtypes included."""
    assert type(one) is type(other) and not one.training
    assert one.config.to_json() == other.config.to_json()
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_automodel_and_from_pretrained_load_what_our_loader_loads(made, kind):
    expected = load_ours(made / kind)
    assert_same(AutoModel.from_pretrained(made / kind), expected)
    assert_same(type(expected).from_pretrained(str(made / kind)), expected)
    dtype = random.choice([torch.bfloat16, torch.float32])
    expected = load_ours(made / kind, dtype=dtype)
    assert_same(AutoModel.from_pretrained(made / kind, dtype=dtype), expected)
    name = str(dtype).removeprefix("torch.")
    assert_same(type(expected).from_pretrained(made / kind, dtype=name), expected)
    if not isinstance(expected, LLaDADiT):
        for auto in (AutoModelForMaskedLM, AutoModelForCausalLM):
            assert_same(auto.from_pretrained(made / kind, dtype=dtype), expected)


def test_an_exported_flexmdm_keeps_the_dtype_of_every_tensor(made):
    dtypes = {p.dtype for p in AutoModel.from_pretrained(made / "exported").parameters()}
    assert dtypes == {torch.bfloat16, torch.float32}


def test_a_lora_checkpoint_gets_its_base(made):
    """Of a FlexMDM and of a LLaDA: the base's own tensors, with the adapter beside them."""
    base = load_llada(made / "base").state_dict()
    for kind in ("lora", "adapter"):
        model = AutoModel.from_pretrained(made / kind, merge=False)
        loaded = getattr(model, "backbone", model).state_dict()
        for name, tensor in base.items():
            wrapped = f"{name.removesuffix('.weight')}.base_layer.weight"
            assert torch.equal(loaded[wrapped if wrapped in loaded else name], tensor), name
        assert any(".lora_B" in name for name in loaded)


@pytest.mark.full
def test_importing_the_network_is_enough(made):
    """In a fresh process, and with no module of ours but llada_dit imported by its user."""
    program = (
        "import sys, llada_dit; from transformers import AutoConfig, AutoModel\n"
        "for folder in sys.argv[1:]:\n"
        "    print(type(AutoConfig.from_pretrained(folder)).__name__,"
        " type(AutoModel.from_pretrained(folder)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, made / "base", made / "lora"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["LLaDAConfig LLaDAModelLM", "FlexMDMConfig LLaDADiT"]


@pytest.mark.parametrize("kind", ["base", "lora", "adapter"])
@pytest.mark.parametrize("what", ["missing", "unexpected"])
def test_a_missing_or_unexpected_tensor_is_an_error(made, tmp_path, kind, what):
    folder = copied(made / kind, tmp_path)
    file = next(folder.glob("*.safetensors"))
    state = load_file(file)
    name = random.choice(sorted(state))
    if what == "missing":
        del state[name]
    else:
        state[f"{name}_more"] = torch.zeros(2)
    save_file(state, file)
    with pytest.raises(InputError, match=f"does not fit the network: {what}"):
        AutoModel.from_pretrained(folder)


def test_configs_read_and_write_config_json(made, tmp_path):
    for kind in ("base", "lora"):
        config = AutoConfig.from_pretrained(made / kind)
        assert config.to_json() == json.loads((made / kind / "config.json").read_text())
        config.save_pretrained(tmp_path)
        assert (tmp_path / "config.json").read_text() == f"{config.to_json_string()}"
        assert type(config).from_pretrained(tmp_path).to_json() == config.to_json()
    content = json.loads((made / "lora" / "config.json").read_text())
    content["holds"] = {"trainable": "trainable"}[content.pop("saved_weights")]  # an older one
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert AutoConfig.from_pretrained(tmp_path).saved_weights == "trainable"
    tiny.edit_json(tmp_path / "config.json", time_epsilon=2)
    with pytest.raises(InputError, match="config.json of .*: time_epsilon is '2'"):
        AutoConfig.from_pretrained(tmp_path)


# ---- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_read_back_equal(made, tmp_path, kind, merge):
    model = AutoModel.from_pretrained(made / kind, merge=merge)
    before = model.config.to_json()
    model.save_pretrained(tmp_path / "saved")
    assert_same(AutoModel.from_pretrained(tmp_path / "saved", merge=merge), model)
    assert_same(load_ours(tmp_path / "saved", merge=merge), model)
    assert model.config.to_json() == before
    assert AutoModel.from_pretrained(tmp_path / "saved").card == model.card
    assert f"# {kind}" in model.card or kind in ("base", "exported", "exported adapter")
    text = " ".join(f"w{random.randrange(9, 58)}" for _ in range(5))
    tokenizers = [
        read(folder)(text)["input_ids"]
        for folder in (made / kind, tmp_path / "saved")
        for read in (load_tokenizer, AutoTokenizer.from_pretrained)
    ]
    assert tokenizers == tokenizers[:1] * 4


def test_a_trained_part_is_saved_without_its_base(made, tmp_path):
    """It names the base by the same name, and a merged one needs none."""
    for kind, name in (("lora", "config.json"), ("adapter", "adapter_config.json")):
        kept = AutoModel.from_pretrained(made / kind, merge=False)
        kept.save_pretrained(tmp_path / kind)
        old, new = (json.loads((f / name).read_text()) for f in (made / kind, tmp_path / kind))
        assert new["base_model_name_or_path"] == old["base_model_name_or_path"]
        file = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
        assert load_file(tmp_path / kind / file).keys() == load_file(made / kind / file).keys()
        AutoModel.from_pretrained(made / kind).save_pretrained(tmp_path / "merged")
        assert named_base(tmp_path / "merged") is None


def test_saving_replaces_an_earlier_checkpoint_and_nothing_else(made, tmp_path):
    """Whatever kind was there before, its own folder among them; a failure leaves it readable."""
    folder = tmp_path / "saved"
    for kind in random.sample(KINDS, len(KINDS)) + ["base"]:
        model = AutoModel.from_pretrained(made / kind, merge=False)
        model.save_pretrained(folder)
        (folder / "notes.txt").write_text(kind)
        assert_same(AutoModel.from_pretrained(folder, merge=False), model)
    loaded = AutoModel.from_pretrained(folder)
    loaded.save_pretrained(folder)
    assert_same(AutoModel.from_pretrained(folder), loaded)
    assert (folder / "notes.txt").read_text() == "base"
    names = sorted(file.name for file in folder.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="save_pretrained: cannot write .*file"):
        loaded.save_pretrained(tmp_path / "file")
    loaded.model.transformer.wte.weight = torch.nn.Parameter(torch.zeros(2).int(), False)
    with pytest.raises(InputError, match="4 bits"):
        loaded.save_pretrained(folder)
    assert sorted(file.name for file in folder.iterdir()) == names
    loaded.save_pretrained(tmp_path / "nothing", is_main_process=False)
    assert not (tmp_path / "nothing").exists()


def test_fused_matrices_are_saved_as_they_are(made, tmp_path):
    model = AutoModel.from_pretrained(made / "base")
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for block in model.model.transformer.blocks:
        fuse_projections(block)
    model.save_pretrained(tmp_path)
    saved = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


# ---- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    """A hub cache as huggingface_hub lays it out, of owner/KIND, and no network. The adapters name
    their base by its hub id.
    """
    for kind in ("base", "lora", "adapter", "exported"):
        repository = tmp_path / f"models--owner--{kind}"
        commit = "".join(random.choices("0123456789abcdef", k=40))
        snapshot = repository / "snapshots" / commit
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(made / kind, snapshot)
        for name in ("config.json", "adapter_config.json"):
            if (snapshot / name).exists() and "base_model" in (snapshot / name).read_text():
                tiny.edit_json(snapshot / name, base_model_name_or_path="owner/base")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("kind", ["base", "lora", "adapter", "exported"])
def test_a_hub_id_is_read_from_the_local_cache(made, cache, tmp_path, kind):
    expected = load_ours(made / kind)
    model = AutoModel.from_pretrained(f"owner/{kind}")
    assert model.name_or_path == f"owner/{kind}"
    model.config.base_model_name_or_path = getattr(expected.config, "base_model_name_or_path", None)
    assert_same(model, expected)
    assert model.card == expected.card
    again = type(expected).from_pretrained(f"owner/{kind}", revision="main", cache_dir=str(cache))
    assert_same(type(expected).from_pretrained(f"owner/{kind}"), again)
    kept = AutoModel.from_pretrained(f"owner/{kind}", merge=False)
    kept.save_pretrained(tmp_path / "kept")
    named = named_base(tmp_path / "kept")
    assert named == ("owner/base" if kind in ("lora", "adapter") else None)
    assert load_tokenizer(f"owner/{kind}")("w20")["input_ids"] == [20]


def test_what_is_not_in_the_cache_is_refused_in_one_line(cache):
    for name in ("owner/other", "owner"):
        with pytest.raises(InputError, match=f"from_pretrained: {name} is n") as refused:
            LLaDADiT.from_pretrained(name)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="owner/base is no local folder, and .*failed"):
        LLaDAModelLM.from_pretrained("owner/base", revision="0" * 40)


def test_push_to_hub_uploads_what_is_saved(made, tmp_path, monkeypatch):
    """Card, weights and tokenizer, to a repository that is created. The hub is a stand-in."""
    asked = {}

    def create_repo(self, repo_id, **arguments):
        asked["create"] = (repo_id, arguments)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, folder_path, **arguments):
        shutil.copytree(folder_path, tmp_path / "hub")
        asked["upload"] = arguments
        return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    model = AutoModel.from_pretrained(made / "lora")
    sent = model.push_to_hub("owner/name", private=True, commit_message="first")
    assert sent == "https://hub/commit"
    assert asked["create"] == ("owner/name", {"private": True, "exist_ok": True})
    assert asked["upload"]["repo_id"] == "owner/name"
    assert asked["upload"]["commit_message"] == "first"
    assert_same(AutoModel.from_pretrained(tmp_path / "hub"), model)
    card = huggingface_hub.ModelCard.load(tmp_path / "hub/README.md")
    assert card.data.tags == ["masked-diffusion", "flexmdm"] and model.card.startswith("---\n")
    assert "# lora" in card.text and (tmp_path / "hub/README.md").read_text() == model.card
    assert load_tokenizer(tmp_path / "hub")("w30")["input_ids"] == [30]
    assert not [file.name for file in (tmp_path / "hub").iterdir() if file.name.startswith(".")]


def test_push_to_hub_offline_gives_one_line(made, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = AutoModel.from_pretrained(made / "base")
    with pytest.raises(InputError, match="push_to_hub: cannot upload to owner/x: .*[Oo]ffline"):
        model.push_to_hub("owner/x")
    with pytest.raises(InputError, match="push_to_hub: cannot upload to a b: "):
        model.push_to_hub("a b")
    with pytest.raises(InputError, match="push_to_hub: tags is not supported"):
        model.push_to_hub("owner/x", tags=["a"])


# ---- arguments -----------------------------------------------------------------------------------


def test_a_model_goes_to_one_device(made):
    expected = load_ours(made / "lora")
    for device_map in ("auto", "cpu", {"": "cpu"}, torch.device("cpu"), None):
        if device_map != "auto" or not torch.cuda.is_available():
            assert_same(AutoModel.from_pretrained(made / "lora", device_map=device_map), expected)
    for device_map in ("balanced", "sequential", {"backbone": 0, "time_mlp": "cpu"}, {}):
        with pytest.raises(InputError, match="device_map .* splits the model"):
            LLaDADiT.from_pretrained(made / "lora", device_map=device_map)
    for device_map in ("cuda:99", 99, "tpu"):
        with pytest.raises(InputError, match="device"):
            LLaDADiT.from_pretrained(made / "lora", device_map=device_map)


FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def test_four_bits_without_bitsandbytes_are_refused(made):
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(InputError, match="needs the package bitsandbytes"):
        AutoModel.from_pretrained(made / "lora", quantization_config=FOUR_BITS)


@pytest.mark.parametrize("kind", ["base", "lora", "flexmdm", "adapter"])
def test_four_bits_replace_the_matrices_of_the_blocks(made, tmp_path, kind):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    exact = AutoModel.from_pretrained(made / kind, merge=False)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModel.from_pretrained(made / kind, quantization_config=config)
    packed = 0
    for name, matrix in exact.named_parameters():
        parameter = model.get_parameter(name)
        if ".blocks." not in name or ".lora_" in name or "norm" in name:
            assert torch.equal(parameter, matrix), name
        else:
            whole = bitsandbytes.functional.dequantize_4bit(parameter.data, parameter.quant_state)
            assert 1e-3 < (whole - matrix).norm() / matrix.norm() < 0.15, name
            packed += 1
    assert packed == 7 * 3
    if kind in ("lora", "adapter"):  # the adapter is not in 4 bits
        model.save_pretrained(tmp_path / "saved")
        assert_same(AutoModel.from_pretrained(tmp_path / "saved", merge=False), exact)
    else:
        with pytest.raises(InputError, match="4 bits"):
            model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(quantization_config={"load_in_8bit": True}), "only bitsandbytes' load_in_4bit"),
        (dict(dtype="int8"), "dtype 'int8' is no floating-point dtype"),
        (dict(dtype="float7"), "dtype 'float7' is no floating-point dtype"),
        (dict(attn_implementation="flash_attention_2"), "attn_implementation is not supported"),
        (dict(output_loading_info=True), "output_loading_info is not supported"),
        (dict(max_memory={0: "1GB"}), "max_memory is not supported"),
        (dict(state_dict={}), "state_dict is not supported"),
        (dict(max_length=7), "config has max_length 7, the checkpoint 48"),
        (dict(config=AutoConfig.for_model("bert")), "config is a BertConfig, not a FlexMDMConfig"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_refused_by_name(made, arguments, words):
    with pytest.raises(InputError, match=words):
        # AutoModel reads these arguments itself
        own = {"config", "state_dict", "dtype"} & arguments.keys()
        load = LLaDADiT if own else AutoModel
        load.from_pretrained(made / "lora", **arguments)


def test_a_network_of_the_other_kind_is_refused_by_name(made):
    with pytest.raises(InputError, match="base is no LLaDADiT; LLaDAModelLM loads it"):
        LLaDADiT.from_pretrained(made / "base")
    with pytest.raises(InputError, match="lora is no LLaDAModelLM; LLaDADiT loads it"):
        LLaDAModelLM.from_pretrained(made / "lora")


def test_an_adapter_stores_its_own_alpha(made):
    with pytest.raises(InputError, match="from_pretrained of a LLaDA: lora_alpha is not support"):
        AutoModel.from_pretrained(made / "adapter", lora_alpha=4.0)


def test_the_arguments_that_automodel_passes_have_no_effect(made):
    expected = load_ours(made / "lora")
    model = AutoModel.from_pretrained(
        made / "lora",
        trust_remote_code=False,
        low_cpu_mem_usage=True,
        use_safetensors=True,
        attn_implementation="sdpa",
        torch_dtype="auto",
        base=random.choice([None, str(made / "base")]),
    )
    assert_same(model, expected)
