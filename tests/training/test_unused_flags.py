"""A flag that was typed has its effect, or is refused in one line: by the flags beside it, or by
the checkpoint of --init_from, which keeps its settings.

Run: pytest tests/training/test_unused_flags.py        (seconds)
"""

import json
import random
import shutil
import sys

import pytest
import tiny
from command_lines import TRAINING, parser_of, shown
from datasets import Dataset, DatasetDict
from training_helpers import flags, run_flags, run_here, write_data

from common.command_line import typed_flags
from common.errors import InputError
from llada_utils import write_checkpoint
from training.arguments import RunArguments, parse_arguments
from training.models import build_model
from training.run import check_kind
from training.unused_flags import refuse_unused_flags

KINDS = {"FlexMDM": {"variable_length": True, "length_distribution": 9}, "LLaDA": {}}
# a mode, flags that have an effect in it, flags that have none
MODES = {
    "FlexMDM": (KINDS["FlexMDM"], {"time_epsilon": 0.1, "start_share": 0.2}, "mask_ratio_epsilon"),
    "LLaDA": (
        {},
        {"mask_ratio_epsilon": 0.1, "lora_r": 3},
        "insertion_schedule unmask_schedule length_head time_scale time_epsilon adaln_group_size"
        " attend_to_padding start_share weight_decay",
    ),
    "no length distribution": ({"variable_length": True}, {"length_head": "total"}, "start_share"),
    "all parameters": (
        {"all_parameters": True},
        {"weight_decay": 0.1},
        "lora_r lora_alpha lora_dropout lora_lr lora_weight_decay",
    ),
    "training": (
        {},
        {"eval_strategy": "steps", "torch_compile": True},
        "eval_data eval_draws dry_run_gpus dry_run_tokens mfu gpu_tflops train_sampling_strategy"
        " length_column_name data_seed torch_compile_mode torch_compile_backend do_predict",
    ),
    "no evaluation": (
        {},
        {"eval_strategy": "no", "save_steps": 3},
        "eval_steps eval_delay do_eval",
    ),
    "one evaluation": ({"eval_on_start": True}, {"do_eval": True}, "eval_steps eval_delay"),
    "evaluations": ({"eval_strategy": "steps"}, {"eval_steps": 3, "do_eval": True}, "do_predict"),
    "evaluation": ({"evaluate_only": True}, {"eval_draws": 2, "eval_data": "d"}, "dry_run_gpus"),
    "estimate": ({"dry_run": True}, {"dry_run_gpus": 2, "mfu": 0.3}, "eval_draws"),
    "a checkpoint": ({"init_from": "c"}, {"lora_r": 3}, "from_scratch"),
}
VALUES = {
    "insertion_schedule": "linear",  # the default, but typed
    "unmask_schedule": "power:2",
    "length_head": "softplus",
    "attend_to_padding": True,
    "eval_data": "folder",
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "n",
    "data_seed": 3,
    "torch_compile_mode": "default",
    "torch_compile_backend": "inductor",
    "adaln_group_size": 3,
    "from_scratch": True,
    "do_eval": True,
    "do_predict": True,
}


def parsed(monkeypatch, **settings):
    words = flags(**{"train_data": "data", "use_cpu": True} | settings)
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return parse_arguments(RunArguments, None)


@pytest.mark.parametrize("mode", MODES)
def test_a_typed_flag_without_an_effect_is_refused(mode, monkeypatch):
    settings, used, unused = MODES[mode]
    args = parsed(monkeypatch, **settings, **used)  # what has an effect is taken
    assert {*settings, *used} <= args.typed
    for flag in unused.split():
        value = VALUES.get(flag, round(random.uniform(0.01, 0.4), 3))
        if flag in ("lora_r", "eval_draws", "dry_run_gpus"):
            value = random.randrange(1, 9)
        with pytest.raises(InputError, match=f"^--{flag}: no effect here, "):
            parsed(monkeypatch, **settings, **{flag: value})
    # without typing them, their defaults are no fault
    RunArguments(train_data="data", use_cpu=True, **settings).check()


@pytest.mark.parametrize(
    "settings, both",
    [
        ({"dry_run": True, "evaluate_only": True}, ("--dry_run", "--evaluate_only")),
        (
            {"overwrite": True, "resume_from_checkpoint": "auto"},
            ("--overwrite", "--resume_from_checkpoint"),
        ),
        (
            {"evaluate_only": True, "resume_from_checkpoint": "runs/a/checkpoint-3"},
            ("--resume_from_checkpoint", "--evaluate_only"),
        ),
        ({"cache_path": "other"}, ("--train_data", "--cache_path")),
        ({"wandb": True, "report_to": "tensorboard"}, ("--wandb", "--report_to")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_contradict_each_other_are_refused_by_both_names(settings, both, monkeypatch):
    with pytest.raises(InputError) as refusal:
        parsed(monkeypatch, **settings)
    assert all(flag in str(refusal.value) for flag in both)


def test_no_documented_training_command_has_a_flag_without_effect():
    seen = 0
    for line in shown():
        words = line.text.split()
        script = next((word for word in words if word.removesuffix(".py") in TRAINING), None)
        if script is None or "..." in words:  # what is left out may say more
            continue
        parser, given = parser_of(script), words[words.index(script) + 1 :]
        args, _ = parser.parse_known_args(given)
        args.typed = typed_flags(parser, given)
        refuse_unused_flags(args)
        seen += 1
    assert seen > 10


LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.25}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{what it is: folder} of both kinds, with LoRA and without."""
    folder = tmp_path_factory.mktemp("checkpoints")
    base = tiny.write_llada(folder / "llada")
    from llada_utils import load_llada, new_flexmdm
    from network.lora import add_lora

    def written(name, model):
        (folder / name).mkdir()
        write_checkpoint(model, folder / name, tiny.tokenizer(), card="# test\n")
        return folder / name

    settings = {
        "insertion_schedule": {"name": "power", "p": 5.0},
        "length_head": "total",
        "adaln_group_size": 2,
        "time_epsilon": 0.02,
    }
    adapter = load_llada(base)
    add_lora(adapter, LORA)
    return {
        "llada": base,
        "adapter": written("adapter", adapter),
        "lora": written("lora", new_flexmdm(base, lora=LORA, **settings)),
        "counting": written("counting", tiny.flexmdm(length_distribution=12)),
        "whole": written("whole", new_flexmdm(base, lora=None, **settings)),
    }


@pytest.mark.parametrize(
    "name, contradictions",
    [
        ("llada", {}),
        (
            "adapter",
            {
                "lora_r": (3, "lora_r 2"),
                "lora_alpha": (2, "lora_alpha 4"),
                "lora_dropout": (0, "lora_dropout 0.25"),
                "all_parameters": (True, "LoRA"),
            },
        ),
        (
            "lora",
            {
                "insertion_schedule": ("linear", "insertion_schedule {'name': 'power', 'p': 5.0}"),
                "unmask_schedule": ("power:2", "unmask_schedule {'name': 'linear'}"),
                "length_head": ("log_rate", "length_head total"),
                "time_scale": (1, "time_scale 1000.0"),
                "time_epsilon": (0.001, "time_epsilon 0.02"),
                "adaln_group_size": (8, "adaln_group_size 2"),
                "attend_to_padding": (True, "attend_to_padding False"),
                "lora_r": (3, "lora_r 2"),
                "lora_alpha": (2, "lora_alpha 4"),
                "lora_dropout": (0, "lora_dropout 0.25"),
                "all_parameters": (True, "LoRA"),
                "start_share": (0.2, "no length distribution"),
            },
        ),
        (
            "counting",
            {"length_distribution": (30, "length_distribution 12")},
        ),
        (
            "whole",
            {
                "lora_r": (3, "no LoRA"),
                "lora_lr": (1e-4, "no LoRA"),
                "all_parameters": ("false", "no LoRA"),
            },
        ),
    ],
)
def test_a_checkpoint_keeps_its_settings_or_the_flag_is_refused(
    name, contradictions, checkpoints, monkeypatch
):
    kind = {"variable_length": True} if name not in ("llada", "adapter") else {}
    start = {"init_from": checkpoints[name], **kind}
    for flag, (value, has) in contradictions.items():
        args = parsed(monkeypatch, **start, **{flag: str(value).lower()})
        said = f"--{flag} {getattr(args, flag)}: --init_from keeps its settings, and"
        with pytest.raises(InputError) as refusal:
            check_kind(args)
        assert str(refusal.value).startswith(f"{said} {start['init_from']} has {has}")
    check_kind(parsed(monkeypatch, **start))


def test_only_a_frozen_base_is_in_4_bits(checkpoints, monkeypatch):
    for name in ("whole", "lora"):
        args = parsed(monkeypatch, init_from=checkpoints[name], variable_length=True)
        args.load_in_4bit, args.typed = True, args.typed | {"load_in_4bit"}  # needs a GPU
        if name == "lora":
            check_kind(args)
            continue
        with pytest.raises(InputError, match="^--load_in_4bit True: .* has no LoRA"):
            check_kind(args)


@pytest.mark.parametrize("content", ["[1]", '"r"', "3"])
def test_an_adapter_that_is_no_json_object_is_refused(content, checkpoints, tmp_path, monkeypatch):
    shutil.copytree(checkpoints["adapter"], tmp_path / "adapter")
    (tmp_path / "adapter/adapter_config.json").write_text(content)
    args = parsed(monkeypatch, init_from=tmp_path / "adapter", lora_r=3)
    check_kind(args)
    with pytest.raises(InputError, match="adapter_config.json"):
        build_model(args)


def test_flags_that_say_what_the_checkpoint_says_are_taken(checkpoints, monkeypatch):
    said = dict(insertion_schedule="power:5", length_head="total", time_epsilon=0.02, lora_r=2)
    start = {"init_from": checkpoints["lora"], "variable_length": True}
    check_kind(parsed(monkeypatch, **start, **said, length_distribution=7, start_share=0.3))
    check_kind(parsed(monkeypatch, init_from=checkpoints["llada"], lora_r=5, lora_dropout=0))
    whole = {"init_from": checkpoints["whole"], "variable_length": True}
    check_kind(parsed(monkeypatch, **whole, all_parameters=True, start_share="0"))


def test_rows_that_cannot_be_evaluated_are_refused_before_anything_is_written(
    checkpoints, tmp_path, monkeypatch
):
    rows = {"input_ids": [[7, 8, 9, 10]] * 4}
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "data"))
    base, data = checkpoints["llada"], tmp_path / "data"
    for flag, value in (("eval_strategy", "steps"), ("eval_on_start", True)):
        words = run_flags(base, data, tmp_path / "run", **{flag: value})
        with pytest.raises(InputError, match=f"^--{flag}: .*data has no validation split"):
            run_here("flexmdm_transfer_openwebtext", words, monkeypatch)
        assert not (tmp_path / "run").exists()


def test_eval_on_start_alone_evaluates_once(checkpoints, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data")
    changes = {"max_steps": 2, "eval_on_start": True}
    words = run_flags(checkpoints["llada"], data, tmp_path / "run", **changes)
    run_here("flexmdm_transfer_openwebtext", words, monkeypatch)
    log = (tmp_path / "run/train_log.jsonl").read_text().splitlines()
    assert [row["step"] for row in map(json.loads, log) if "eval_loss" in row] == [0]


@pytest.mark.parametrize("name, wide", [("whole", True), ("lora", False)])
def test_what_is_trained_is_in_fp32_whatever_the_flags(name, wide, checkpoints, monkeypatch):
    """A checkpoint without LoRA is trained whole, also without --all_parameters."""
    start = {"init_from": checkpoints[name], "variable_length": True, "bf16": True}
    model, _ = build_model(parsed(monkeypatch, **start))
    trained = {each.dtype for each in model.parameters() if each.requires_grad}
    frozen = {each.dtype for each in model.parameters() if not each.requires_grad}
    assert str(trained) == "{torch.float32}" and bool(frozen) != wide
    assert wide or str(frozen) == "{torch.bfloat16}"
