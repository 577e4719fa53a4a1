"""A sampler's flag that was typed has its effect, or is refused in one line.

Run: pytest tests/sampling/test_unused_sampler_flags.py        (seconds)
"""

import random
import sys

import pytest
import tiny

import eval_gsm8k
import eval_humaneval_infill
import flexmdm_inference
from common.errors import InputError
from evaluation.model import EvaluatedModel
from llada_utils import load_flexmdm, write_checkpoint

FLAGS = {
    "alpha": (["--alpha", str(random.randint(1, 9))], ["--use_sliding_window"]),
    "max_window": (["--max_window", str(random.randint(1, 9))], ["--use_sliding_window"]),
    "confidence_method": (["--confidence_method", "entropy"], ["--unmasking", "confidence"]),
    "length_choice": (["--length_choice", "drawn"], ["--sampler", "count_first"]),
}
WITHOUT = ["--no-use_sliding_window", "--unmasking", "random", "--sampler", "event_driven"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flexmdm")
    model = tiny.flexmdm(length_distribution=20)
    write_checkpoint(model, folder, tiny.tokenizer(), card="# test\n")
    return folder


@pytest.mark.parametrize("script", [eval_gsm8k, eval_humaneval_infill])
@pytest.mark.parametrize("flag", FLAGS)
def test_an_evaluation_refuses_a_flag_without_effect(script, flag, checkpoint):
    typed, needed = FLAGS[flag]
    words = ["--checkpoint_path", str(checkpoint), *WITHOUT]
    with pytest.raises(InputError, match=f"^--{flag}: no effect without .*{needed[0]}"):
        EvaluatedModel(script.parse_args([*words, *typed]), 8)
    EvaluatedModel(script.parse_args(words), 8)  # defaults are no fault
    EvaluatedModel(script.parse_args([*words, *typed, *needed]), 8)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_single_text_refuses_a_flag_without_effect(flag, checkpoint, monkeypatch, capsys):
    typed, needed = FLAGS[flag]

    def answer(*more):
        words = ["--checkpoint_path", checkpoint, "--prompt", "w7 w8", "--max_length", 6, "--quiet"]
        monkeypatch.setattr(sys, "argv", ["flexmdm_inference.py", *map(str, [*words, *more])])
        flexmdm_inference.main()
        return capsys.readouterr().err

    with pytest.raises(InputError, match=f"^--{flag}: no effect without .*{needed[0]}"):
        answer(*WITHOUT, *typed)
    assert "sample 1" in answer(*WITHOUT, *typed, *needed)
    if flag == "length_choice":  # without --sampler this network counts first
        assert "sample 1" in answer(*typed)


@pytest.mark.parametrize("lora", [None, {"r": 2, "lora_alpha": 3, "lora_dropout": 0.1}])
def test_a_scale_of_lora_that_a_checkpoint_stores_is_not_overruled(lora, tmp_path):
    base = tiny.write_llada(tmp_path / "base")
    from llada_utils import new_flexmdm

    (tmp_path / "made").mkdir()
    write_checkpoint(new_flexmdm(base, lora=lora), tmp_path / "made", tiny.tokenizer())
    stored = "stores its own, 3" if lora else "has no LoRA"
    with pytest.raises(InputError, match=f"^--lora_alpha 7.5: .* {stored}$"):
        load_flexmdm(tmp_path / "made", lora_alpha=7.5)
    if lora:
        load_flexmdm(tmp_path / "made", lora_alpha=3.0)


@pytest.mark.parametrize(
    "script, words, said",
    [
        (eval_gsm8k, ["--allow_missing"], "--allow_missing: no effect without --score_only"),
        (eval_gsm8k, ["--allow_duplicates"], "--allow_duplicates: no effect without --score_only"),
        (
            eval_gsm8k,
            ["--score_only", "x", "--check_references"],
            "give only one of --score_only and --check_references",
        ),
        (eval_humaneval_infill, ["--timeout", "3"], "--timeout: no effect without --allow_code"),
        (eval_humaneval_infill, ["--code_workers", "3"], "--code_workers: no effect without"),
        (eval_humaneval_infill, ["--unsafe_as_root"], "--unsafe_as_root: no effect without"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_flags_of_an_evaluation_need_their_counterpart(script, words, said, checkpoint):
    with pytest.raises(InputError, match=f"^{said}"):
        script.parse_args(["--checkpoint_path", str(checkpoint), *words])


def test_a_flag_that_is_turned_off_is_off_anyway(checkpoint):
    words = ["--checkpoint_path", str(checkpoint), "--unsafe_as_root", "false"]
    assert not eval_humaneval_infill.parse_args(words).unsafe_as_root
