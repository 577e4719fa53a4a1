"""--dtype float8: the blocks' matrices in 8 bits, everything else as in bf16; what is refused.

pytest tests/network/test_float8.py          without torchao most of it is skipped
"""

import json
import random
import sys

import pytest
import tiny
import torch

import eval_gsm8k
import flexmdm_inference
from common.errors import InputError
from common.rows import write_rows
from data.word_problems import math_rows
from llada_dit import LLaDADiT
from llada_utils import load_flexmdm, load_llada, new_flexmdm, write_checkpoint
from network.devices import pick_dtype
from network.float8 import is_float8
from network.lora import add_lora

FLOAT8 = torch.float8_e4m3fn
LORA = {"r": 2, "lora_alpha": 3, "lora_dropout": 0.1}


@pytest.fixture
def torchao():
    return pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each kind of checkpoint; no weight is zero, an adapter's neither."""
    work = tmp_path_factory.mktemp("made")
    base = tiny.write_llada(work / "base")
    for name, model in {
        "adapter": tiny.stir(add_lora(load_llada(base), LORA)),
        "flexmdm": tiny.flexmdm(length_distribution=9),
        "lora": tiny.stir(new_flexmdm(base, lora=LORA)),
    }.items():
        (work / name).mkdir()
        write_checkpoint(model, work / name, tiny.tokenizer(), card="# test\n")
    return work


def load(folder, *arguments, **settings):
    kind = load_flexmdm if folder.name in ("flexmdm", "lora") else load_llada
    return kind(folder, *arguments, **settings)


def rounded(weight):
    """bf16 weights (rows, columns) rounded by hand, in float64, to e4m3 with a scale per row."""
    scale = (weight.abs().amax(1, keepdim=True) / 448).double()  # in bf16, as the weights are
    scaled = (weight.double() / scale).clamp(-448, 448)
    # three bits after the leading one, which is worth at least 2^-6
    step = torch.exp2(scaled.abs().clamp(min=2**-6).log2().floor() - 3)
    return ((scaled / step).round() * step * scale).to(weight.dtype)  # ties go to even


def outputs(model, ids, t):
    """Logits of a model of either kind, and a FlexMDM's log_length."""
    with torch.no_grad():
        if isinstance(model, LLaDADiT):
            output = model(ids, t)
            return [output["logits"], output["log_length"]]
        return [model(ids).logits]


@pytest.mark.parametrize("kind", ["base", "adapter", "flexmdm", "lora"])
def test_the_matrices_of_the_blocks_are_rounded_and_nothing_else(torchao, made, kind):
    exact, by_hand = load(made / kind), load(made / kind, dtype=torch.bfloat16)
    model, converted = load(made / kind, dtype=FLOAT8), 0
    for name, weight in by_hand.named_parameters():
        found = model.get_parameter(name)
        if ".blocks." in name and "norm" not in name:
            assert found.qdata.dtype == FLOAT8 and found.scale.shape == (len(weight), 1), name
            assert not torch.equal(rounded(weight.detach()), weight), name
            weight.data = rounded(weight.detach())
            assert torch.equal(found.dequantize(), weight), name
            converted += 1
        else:
            assert found.dtype == weight.dtype and torch.equal(found, weight), name
    assert converted == 7 * 3
    ids, t = torch.randint(0, 50, (3, 12)), torch.rand(3)
    errors = []
    for ours, hand, whole in zip(
        *(outputs(each, ids, t) for each in (model, by_hand, exact)), strict=True
    ):
        assert torch.equal(ours, hand)
        errors.append(float((ours.float() - whole).norm() / whole.norm()))
    assert errors[0] < 0.2, errors  # rounding is up to 1/16 of a weight


def test_a_matrix_with_a_row_of_zeros_stays_as_it_is(torchao, tmp_path):
    model = tiny.llada()
    matrix = model.model.transformer.blocks[1].up_proj.weight
    matrix.data[random.randrange(len(matrix))] = 0
    tmp_path = tmp_path / "base"
    tmp_path.mkdir()
    write_checkpoint(model, tmp_path, tiny.tokenizer(), card="# test\n")
    loaded = load(tmp_path, dtype=FLOAT8)
    kept = [name for name, weight in loaded.named_parameters() if not is_float8(weight)]
    assert "model.transformer.blocks.1.up_proj.weight" in kept
    assert sum(map(is_float8, loaded.parameters())) == 7 * 3 - 1
    assert outputs(loaded, torch.randint(0, 50, (2, 9)), None)[0].isfinite().all()


def run(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
    script.main()


def test_a_command_samples(torchao, made, monkeypatch, capsys):
    run(
        monkeypatch,
        flexmdm_inference,
        *("--checkpoint_path", made / "lora", "--prefix", "a b", "--suffix", "c"),
        *("--dtype", "float8", "--device", "cpu", "--sampler", "event_driven"),
        *("--diffusion_steps", 8, "--max_length", 30),
    )
    assert "sample 1:" in capsys.readouterr().err


def test_an_evaluation_records_it_and_resumes_with_no_other(
    torchao, made, tmp_path, monkeypatch, capsys
):
    write_rows(tmp_path / "math.jsonl", math_rows("test", 3, 1))
    words = ["--checkpoint_path", made / "flexmdm", "--data_path", tmp_path / "math.jsonl"]
    words += ["--device", "cpu", "--diffusion_steps", 4, "--output_dir", tmp_path / "results"]
    run(monkeypatch, eval_gsm8k, *words, "--dtype", "float8")
    result = json.loads((tmp_path / "results/results.json").read_text())
    assert result["settings"]["dtype"] == "float8_e4m3fn" and result["rows"] == 3
    with pytest.raises(InputError, match="dtype"):
        run(monkeypatch, eval_gsm8k, *words, "--dtype", "bfloat16")


def test_what_float8_cannot_do_is_refused(torchao, made, tmp_path):
    for kind in ("adapter", "lora"):
        with pytest.raises(InputError, match="LoRA merged"):
            load(made / kind, dtype=FLOAT8, merge=False)
    with pytest.raises(InputError, match="LoRA merged"):
        new_flexmdm(made / "base", FLOAT8, lora=LORA)
    with pytest.raises(InputError, match="float8 .* not saved"):
        load(made / "flexmdm", dtype=FLOAT8).save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").iterdir())


def test_without_torchao_it_is_refused_before_weights_are_read(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setattr("llada_utils.read_tensors", None)
    for refused in (
        lambda: pick_dtype("float8", "cpu"),
        lambda: load(made / "flexmdm", dtype=FLOAT8),
        lambda: load(made / "base", dtype=FLOAT8),
        lambda: new_flexmdm(made / "base", FLOAT8),
    ):
        with pytest.raises(InputError, match=r"needs the package torchao \(pip install"):
            refused()


@pytest.mark.parametrize("capability, fits", [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_the_gpus_that_can(monkeypatch, capability, fits):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr("network.float8.torchao", lambda: None)
    if fits:
        assert pick_dtype("float8", "cuda") == FLOAT8
    else:
        with pytest.raises(InputError, match="Ada, Hopper or later GPU, not card"):
            pick_dtype("float8", "cuda")
    with pytest.raises(InputError, match="not on --device mps"):
        pick_dtype("float8", "mps")
