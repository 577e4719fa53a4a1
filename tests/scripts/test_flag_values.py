"""Numbers on the command line that cannot be: every number of the training scripts, and the
others'.

pytest tests/scripts/test_flag_values.py                              seconds
"""

import math
import sys

import pytest
from command_lines import parser_of
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from training.arguments import RANGES, InstructionArguments, RunArguments, parse_arguments
from training.command_line import make_parser

GIVEN = ["x", "--train_data", "rows", "--use_cpu"]


def numbers(cls, kinds):
    """Flags of a training script whose values are of these types."""
    return sorted(one.dest for one in make_parser(cls)._actions if one.type in kinds)


FLOATS = numbers(InstructionArguments, (float,))


def parse(cls, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*GIVEN, *words])
        return parse_arguments(cls, "")


def test_every_float_flag_has_a_range():
    assert {"learning_rate", "warmup_steps", "adam_epsilon", "mfu"} <= set(FLOATS)
    ranged = [name for _, _, names in RANGES for name in names]
    assert len(ranged) == len(set(ranged))
    unbounded = {"label_smoothing_factor", "neftune_noise_alpha"}  # refused altogether
    assert set(FLOATS) - set(ranged) == unbounded


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("cls", [RunArguments, InstructionArguments])
def test_every_training_number_must_be_finite(cls, name):
    for value in ("nan", "inf", "-inf", "1e999", "NaN"):
        with pytest.raises(InputError, match=f"^--{name}: (nan|-?inf) is not a finite number$"):
            parse(cls, f"--{name}={value}")


LIMITS = {name: fits for fits, _, names in RANGES for name in names}
WHOLE = set(numbers(InstructionArguments, (int,)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LIMITS)), st.floats(-3, 3) | st.integers(-3, 3))
def test_a_number_out_of_its_range_is_refused_by_its_flag(name, value):
    value = math.floor(value) if name in WHOLE else value
    if LIMITS[name](value):
        return
    with pytest.raises(InputError, match=f"^--{name}: .* is not (above|at least|between)"):
        parse(RunArguments, f"--{name}={value}")


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_scheduler_arguments_must_be_finite(value):
    with pytest.raises(InputError, match="--lr_scheduler_kwargs: num_cycles"):
        parse(RunArguments, "--lr_scheduler_kwargs", f'{{"num_cycles": {value}}}')


def other_commands():
    import builtin_data
    import new_base

    import eval_humaneval_infill
    import llada_utils

    random = ["random", "--tokenizer", "x", "--output_dir", "x"]
    export = ["export", "--checkpoint_path", "x", "--output_dir", "x"]
    shares = ["text", "--output", "x", "--weights", *"11111"]
    yield new_base, [*random, "--init_std"]
    yield llada_utils, [*export, "--lora_alpha"]
    yield builtin_data, shares
    yield eval_humaneval_infill, ["--score_only", "x", "--timeout"]


@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
@pytest.mark.parametrize("module, words", list(other_commands()))
def test_numbers_of_the_other_commands_must_be_finite(module, words, value, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", *words, value])
    with pytest.raises(InputError, match=f"--[a-z_]+: '{value}' is not a finite number"):
        module.main()


@pytest.mark.parametrize("value", ["-1", str(2**31), str(2**70)])
@pytest.mark.parametrize("name", ["fit_length_distribution", "length_drift", "new_base"])
def test_a_seed_that_no_generator_takes_is_refused(name, value):
    """Before a model is loaded, whose rows are drawn with it."""
    words = {
        "new_base": ["random", "--tokenizer", "x", "--output_dir", "x"],
        "length_drift": ["--checkpoint_path", "x", "--task", "math", "--train_data", "x"],
    }
    parser = parser_of(f"scripts/{name}.py")
    given = words.get(name, [*words["length_drift"], "--output_dir", "x"])
    given += ["--output", "x"] if name == "length_drift" else []
    assert parser.parse_args([*given, "--seed", "7"]).seed == 7
    with pytest.raises(InputError, match=f"--seed: '{value}' is not in 0 ... 2147483647"):
        parser.parse_args([*given, "--seed", value])


def test_one_example_is_too_few_to_hold_one_out(monkeypatch):
    import fit_length_distribution

    words = ["--checkpoint_path", "x", "--task", "math", "--train_data", "x", "--output_dir", "x"]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--examples", "1"])
    with pytest.raises(InputError, match="^--examples: 1 is not at least 2"):
        fit_length_distribution.main()


def test_a_paired_difference_takes_no_flags_of_the_table():
    import results_table

    assert results_table.parse_args(["--pair", "a", "b"]).pair == ["a", "b"]
    for words in (["--metric", "x"], ["--output_dir", "x"], ["--format", "svg"]):
        with pytest.raises(InputError, match=f"^{words[0]}: no effect with --pair"):
            results_table.parse_args(["--pair", "a", "b", *words])
