"""Flags as the scripts' parsers see them: boolean ones may stand bare, and what is shown works.

Run: pytest tests/scripts/test_command_lines.py        (in this process, no model is loaded)
"""

import argparse
import subprocess
import sys

import pytest
from command_lines import (
    Line,
    boolean_fields,
    commands_in,
    parser_of,
    parsers_in,
    python_files,
    refused,
    shown,
)
from conftest import ROOT

from common.command_line import ArgumentParser, Switch
from common.errors import InputError
from training.arguments import InstructionArguments, RunArguments, parse_arguments
from training.command_line import make_parser
from training.flags import InstructionFlags

SCRIPTS = [name for path in python_files() if parser_of(name := str(path.relative_to(ROOT)))]


@pytest.mark.parametrize("cls", [RunArguments, InstructionArguments])
def test_every_boolean_training_flag_works_with_or_without_a_value(cls):
    """By the parser alone: some of them conflict with each other or with this machine."""
    parser, names = make_parser(cls), boolean_fields(cls)
    assert {
        "bf16",
        "tf32",
        "gradient_checkpointing",
        "load_in_4bit",
        "low_discrepancy",
        "include_num_input_tokens_seen",
    } <= set(names)
    defaults = parser.parse_args([])
    for name in names:
        for words, value in (([], True), (["true"], True), (["false"], False)):
            parsed = parser.parse_args([f"--{name}", *words, "--seed", "7"])
            assert getattr(parsed, name) is value and parsed.seed == 7, (name, words)
        default = cls.__dataclass_fields__[name].default
        assert getattr(defaults, name) is default or isinstance(default, str), name  # "no"
    negated = [each for each in parser._actions if isinstance(each, argparse._StoreFalseAction)]
    assert "low_discrepancy" in {action.dest for action in negated}
    for action in negated:
        assert getattr(parser.parse_args([action.option_strings[0]]), action.dest) is False


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_boolean_flag_of_every_script_works_without_a_value(script):
    for parser in parsers_in(parser_of(script)):
        for action in parser._actions:
            action.required = False
        for action in parser._actions:
            assert action.type is not bool, (script, action.dest)  # bool("false") is True
            if isinstance(action.default, bool):
                for flag in action.option_strings:
                    value = getattr(parser.parse_args([flag]), action.dest)
                    assert isinstance(value, bool), (script, flag)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_boolean_flag_of_every_script_works_with_a_value(script):
    """By word or after an equals sign, as in the training scripts; a switch, negated, too."""
    for parser in parsers_in(parser_of(script)):
        for action in parser._actions:
            action.required = False
        for action in parser._actions if isinstance(parser, ArgumentParser) else []:
            if not isinstance(action, argparse._StoreTrueAction | Switch):
                continue
            flag, parsed = action.option_strings[0], lambda *words: parser.parse_args(words)
            for word, value in (("true", True), ("False", False), ("1", True), ("no", False)):
                value = value or (action.default and not isinstance(action, Switch))
                assert getattr(parsed(flag, word), action.dest) is value, (flag, word)
                assert getattr(parsed(f"{flag}={word}"), action.dest) is value, (flag, word)
            with pytest.raises(InputError, match=f"{flag}: maybe is neither true nor false"):
                parsed(f"{flag}=maybe")
            for negated in action.option_strings[1:]:
                assert getattr(parsed(negated), action.dest) is False


@pytest.mark.parametrize(
    "script, typed, meant",
    [
        ("eval_gsm8k.py", "--checkpoint_pth", "--checkpoint_path"),
        ("eval_gsm8k.py", "--difusion_steps=3", "--diffusion_steps"),
        ("scripts/builtin_data.py", "--sed", "--seed"),
        ("instruction_finetuning.py", "--train_dta", "--train_data"),
        ("instruction_finetuning.py", "--gradient_accumulation", "--gradient_accumulation_steps"),
    ],
)
def test_a_mistyped_flag_gets_a_suggestion(script, typed, meant, monkeypatch):
    if script in ("instruction_finetuning.py",):
        monkeypatch.setattr(sys, "argv", [script, typed, "x"])
        with pytest.raises(InputError, match=f"unrecognized arguments: {typed} x; did you mean"):
            parse_arguments(InstructionArguments, None)
        with pytest.raises(InputError, match=rf"{meant}\?$"):
            parse_arguments(InstructionArguments, None)
        return
    words = ["math", "--output", "x"] if "builtin" in script else ["--checkpoint_path", "C"]
    with pytest.raises(InputError, match=f"unrecognized arguments: {typed}.*did you mean {meant}"):
        parser_of(script).parse_args([*words, typed, "3"])


def test_every_mistyped_flag_gets_its_suggestion_once():
    words = ["--smapler", "x", "--seeed=3", "--zzzzzz", "--sampller"]
    with pytest.raises(InputError, match=r"; did you mean --sampler and --seed\?$"):
        parser_of("flexmdm_inference.py").parse_args(["--checkpoint_path", "C", *words])


def test_the_training_scripts_answer_help_and_wrong_paths_without_torch(tmp_path):
    """Importing torch and the Trainer takes seconds. transformers' flags come with --help_all."""
    for script in ("flexmdm_transfer_openwebtext.py", "instruction_finetuning.py"):
        for words, expected, code in (
            (["--help"], "--init_from", 0),
            (["--init_from", str(tmp_path / "x")], "--init_from", 2),
            (["--train_data", str(tmp_path / "x")], "--train_data", 2),
            (["--lora_r", "many"], "--lora_r", 2),
        ):
            looked = f"""
import sys
sys.argv = {[script, *words]!r}
import {script[:-3]} as script
from common.errors import run
try:
    run(script.main)
except SystemExit as end:
    print("code", end.code, "torch" in sys.modules)
"""
            done = subprocess.run(
                [sys.executable, "-c", looked], cwd=ROOT, capture_output=True, text=True
            )
            assert f"code {code} False" in done.stdout, done.stderr
            assert expected in (done.stdout if code == 0 else done.stderr)
            if words == ["--help"]:
                assert "--push_to_hub" not in done.stdout.replace("--help_all", "")
    own, everything = (make_parser(cls).format_help() for cls in (InstructionFlags, RunArguments))
    assert "--push_to_hub" in everything and len(everything) > 2 * len(own)


LINES = list(dict.fromkeys(shown()))


def test_documentation_is_searched_for_commands_everywhere():
    """Of every kind, from every place, for every script: else the next test would check nothing."""
    assert {
        "README.md",
        "RESULTS.md",
        "scripts/README.md",
        "eval_gsm8k.py",
        "scripts/run_all.sh",
        "scripts/benchmark_training.py",
    } <= {line.source for line in LINES}
    texts = [line.text for line in LINES]
    for word in (
        "torchrun",
        "sbatch",
        "srun",
        "bash scripts/run_all.sh --dry_run",
        "--wrap",
        "--use_sliding_window --alpha 15",
        "--watch",
    ):
        assert any(word in text for text in texts), word
    assert not {script for script in SCRIPTS if not any(script in text for text in texts)}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.source}: {line.text}"[:100])
def test_every_documented_command_line_is_accepted(line):
    assert refused(line) is None, f"{line.source} shows\n    {line.text}\n{refused(line)}"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("python eval_gsm8k.py --checkpoint_path C --no_such_flag 3 ...", "--no_such_flag"),
        ("python eval_gsm8k.py --answer_rule lenient", "lenient"),
        ("python eval_gsm8k.py --checkpoint_path", "--checkpoint_path"),
        ("python flexmdm_inference.py --prompt w7", "--checkpoint_path"),
        ("python flexmdm_transfer_openwebtext.py --variable_lenght ...", "--variable_lenght"),
        ("python instruction_finetuning.py --seed many ...", "--seed"),
        ("python scripts/trace_page.py", "--output"),
        ("python scripts/new_base.py lama --source S --output_dir O", "lama"),
        ("python eval_gsm9k.py", "not there"),
        ("python scripts/quickstart_table.py --work runs", "takes no flags"),
        ("torchrun --processes 2 eval_gsm8k.py ...", "torchrun"),
        ("torchrun --nproc_per_node 2 eval_gsm8k.py --batchsize 3", "--batchsize"),
        (
            "srun --gpus 1 python llada_inference.py --checkpoint_path C --gen_len 4 ...",
            "--gen_len",
        ),
        ("sbatch --wrap 'python preprocess_math.py --num_procs 8'", "--num_procs"),
        ("sbatch --nodes=2 scripts/IFT_code.sh --num_epochs 10", "--num_epochs"),
        ("TASK=code sbatch scripts/IFT_preprocess.sh --corpus x", "--corpus"),
        ("MODEL_TYPE=llada sbatch scripts/IFT_math.sh", "MODEL_TYPE"),
        ("bash scripts/run_all.sh --dryrun", "--dryrun"),
        ("bash scripts/reproduce.sh", "not there"),
        ("bash scripts/test.sh tests/common/test_nothing.py", "not there"),
    ],
)
def test_a_wrong_command_line_is_noticed(text, reason):
    ((command, _),) = commands_in(f"One GPU:     {text}        (minutes)")
    assert command == text and reason in refused(Line("here", command))


def test_an_unclosed_quote_is_noticed():
    assert "quotation" in refused(Line("here", "python flexmdm_inference.py --prompt 'w7 ..."))


def test_a_command_line_that_begins_with_an_ellipsis_continues_the_script_before_it():
    text = "Watch it:    ... --watch, or --trace page.html (plays it)"
    assert [command for command, _ in commands_in(text, "llada_inference.py")] == [
        "python llada_inference.py ... --watch",
        "python llada_inference.py ... --trace page.html",
    ]
