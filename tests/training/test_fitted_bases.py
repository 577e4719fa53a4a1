"""Training from a LLaDA that has a fitted length distribution: the head, which no loss trains, does
not come along, and every parameter that is trained gets a gradient, as DDP asks for.

Run: pytest tests/training/test_fitted_bases.py        (seconds)
"""

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from training_helpers import assert_same_weights, weights

from common.files import read_json, write_json
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses
from llada_trainer import LLaDACollator, llada_losses
from llada_utils import load_flexmdm, load_llada, write_checkpoint
from network.lora import add_lora
from training.arguments import RunArguments
from training.models import build_model

KINDS = {
    f"{kind}, {which}": {"variable_length": kind == "FlexMDM", "all_parameters": which == "all"}
    for kind in ("LLaDA", "FlexMDM")
    for which in ("all", "LoRA")
} | {"LLaDA, from scratch": {"all_parameters": True, "from_scratch": True}}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return tiny.write_llada(tmp_path_factory.mktemp("fitted") / "base", length_distribution=23)


def built(source, **settings):
    args = RunArguments(
        model_name_or_path=str(source), train_data="d", use_cpu=True, lora_r=3, **settings
    )
    return build_model(args)[0]


def losses_of(model):
    items = [
        {
            "input_ids": torch.randint(0, 50, (n,)).numpy(),
            "prompt_length": 0,
            "time_uniform": 0.5,
            "random": np.random.default_rng(),
        }
        for n in (9, 14, 20)
    ]
    if not hasattr(model, "backbone"):
        return llada_losses(model, LLaDACollator(tiny.MASK, tiny.PAD, None)(items))
    collator = FlexMDMCollator(model.config)
    losses = flexmdm_losses(model, collator(items), collator.interpolant)
    return losses["unmask"] + losses["insertion"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_gets_a_gradient(kind, fitted, capsys):
    model = built(fitted, **KINDS[kind]).train()
    assert ("length distribution" in capsys.readouterr().out) == kind.startswith("LLaDA")
    losses_of(model).sum().backward()
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    without = {name for name in names if model.get_parameter(name).grad is None}
    assert names and not without


@pytest.mark.parametrize("kind", ["LLaDA, all", "FlexMDM, all", "FlexMDM, LoRA"])
def test_what_is_trained_is_written_and_read_without_the_head(kind, fitted, tmp_path):
    model = built(fitted, **KINDS[kind])
    write_checkpoint(model, tmp_path, tiny.tokenizer(), card="# test\n")
    assert not any("length_distribution" in name for name in weights(tmp_path))
    load = load_flexmdm if kind.startswith("FlexMDM") else load_llada
    again = load(tmp_path, merge=False)
    assert not again.config.length_distribution and again.length_distribution is None
    (tmp_path / "again").mkdir()
    write_checkpoint(again, tmp_path / "again", None, card="# test\n")
    assert_same_weights(tmp_path, tmp_path / "again")


def test_a_flexmdm_that_an_older_version_wrote_with_the_head_is_read_without(fitted, tmp_path):
    write_checkpoint(built(fitted, **KINDS["FlexMDM, all"]), tmp_path, None, card="# test\n")
    now, head = weights(tmp_path), load_llada(fitted).length_distribution.state_dict()
    older = now | {f"backbone.length_distribution.{name}": head[name] for name in head}
    save_file(older, tmp_path / "model.safetensors")
    config = read_json(tmp_path / "config.json")
    config["backbone"]["length_distribution"] = 23
    write_json(tmp_path / "config.json", config)
    again = load_flexmdm(tmp_path)
    assert again.backbone.length_distribution is None
    read = again.state_dict()
    assert read.keys() == now.keys() and all(now[name].equal(read[name]) for name in now)


def test_an_adapter_does_not_take_over_the_head_of_its_base(fitted, tmp_path):
    """The adapter changes the hidden states that the head was fitted to."""
    model = load_llada(fitted)
    assert model.config.length_distribution == 23  # of the base itself
    add_lora(model, {"r": 2, "lora_alpha": 2, "lora_dropout": 0.0})
    write_checkpoint(model, tmp_path, tiny.tokenizer(), card="# test\n")
    for merge in (True, False):
        again = load_llada(tmp_path, merge=merge)
        assert not again.config.length_distribution and again.length_distribution is None
