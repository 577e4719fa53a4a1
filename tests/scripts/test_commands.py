"""Every script as a user with bad habits meets it: --help in time and without a network, wrong
input in one line with exit code 2.

Run: pytest tests/scripts/test_commands.py
"""

import os
import re
import subprocess
import sys

import pytest
import tiny
from conftest import ROOT

QUICK = [
    "flexmdm_inference.py",
    "llada_inference.py",
    "eval_gsm8k.py",
    "eval_humaneval_infill.py",
    "flexmdm_transfer_preprocess.py",
    "preprocess_math.py",
    "preprocess_code_infilling.py",
    "scripts/builtin_data.py",
    "scripts/results_table.py",
]
TRAINING = ["flexmdm_transfer_openwebtext.py", "instruction_finetuning.py"]
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def call(*words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=OFFLINE,
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused(done, *words):
    """One line on stderr (warnings of libraries apart), exit code 2, no traceback, every word in
    it.
    """
    lines = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(lines) == 1, (
        done.returncode,
        done.stderr[-2000:],
    )
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.mark.parametrize("script", QUICK + TRAINING)
def test_help_is_quick_and_needs_no_network(script):
    """2 s and 8 s (interfaces): CPU time, so that a busy machine fails nothing; best of two, the
    first may compile byte code.
    """
    best = 1e9
    for _ in range(2):
        before = os.times()
        done = call(script, "--help")
        after = os.times()
        best = min(
            best,
            (after.children_user - before.children_user)
            + (after.children_system - before.children_system),
        )
        assert done.returncode == 0 and "usage:" in done.stdout
    assert best < (8 if script in TRAINING else 2), best


@pytest.mark.parametrize("script", QUICK + TRAINING)
def test_unknown_flags_are_refused(script):
    refused(call(script, "--no_such_flag", "1"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    return tiny.write_llada(tmp_path_factory.mktemp("commands") / "base")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("rows") / "rows"
    DatasetDict(
        {"train": Dataset.from_list([{"input_ids": [5, 6, 7, 8], "prompt_length": 1}] * 8)}
    ).save_to_disk(str(folder))
    return folder


def test_wrong_paths_are_refused(base, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "w7 w8", "answer": "w9 #### 3"}\n')
    for script, extra in [
        ("eval_gsm8k.py", ("--data_path", questions)),
        ("flexmdm_inference.py", ("--prompt", "a")),
        ("llada_inference.py", ("--prompt", "a")),
    ]:
        refused(call(script, "--checkpoint_path", "nowhere/at/all", *extra), "nowhere/at/all")
    refused(
        call("flexmdm_transfer_preprocess.py", "--data_path", "nowhere.txt", "--tokenizer", base),
        "--data_path",
        "nowhere.txt",
    )
    refused(
        call("preprocess_math.py", "--data_path", tmp_path / "none.jsonl", "--tokenizer", base),
        "--data_path",
    )
    refused(
        call(
            "flexmdm_transfer_openwebtext.py",
            "--train_data",
            tmp_path / "none",
            "--model_name_or_path",
            base,
        ),
        "--train_data",
    )
    refused(call("flexmdm_transfer_openwebtext.py"), "--train_data")
    refused(
        call(
            "llada_utils.py",
            "export",
            "--checkpoint_path",
            "nowhere/at/all",
            "--output_dir",
            tmp_path / "out",
        ),
        "nowhere/at/all",
    )


def test_empty_files_are_refused(base, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    refused(call("eval_gsm8k.py", "--checkpoint_path", base, "--data_path", empty), "empty.jsonl")
    refused(
        call("eval_humaneval_infill.py", "--checkpoint_path", base, "--data_path", empty),
        "empty.jsonl",
    )
    for script in (
        "preprocess_math.py",
        "preprocess_code_infilling.py",
        "flexmdm_transfer_preprocess.py",
    ):
        refused(
            call(
                script, "--data_path", empty, "--tokenizer", base, "--output_dir", tmp_path / "out"
            ),
            "empty",
        )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_the_other_kind_is_refused(base, rows, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "w7 w8", "answer": "w9 #### 3"}\n')
    refused(
        call(
            "eval_gsm8k.py",
            "--checkpoint_path",
            base,
            "--variable_length",
            "--data_path",
            questions,
        ),
        "--variable_length",
    )
    refused(
        call("flexmdm_inference.py", "--checkpoint_path", base, "--prompt", "w7"),
        "--checkpoint_path",
    )
    refused(
        call(
            "instruction_finetuning.py",
            "--variable_length",
            "--init_from",
            base,
            "--train_data",
            rows,
            "--output_dir",
            tmp_path / "run",
        ),
        "--init_from",
    )
    assert not (tmp_path / "run").exists()


def test_a_too_long_prompt_is_refused(base, tmp_path):
    refused(
        call(
            "llada_inference.py",
            "--checkpoint_path",
            base,
            "--prompt",
            "w7 " * 30,
            "--max_length",
            20,
        ),
        "20",
    )


@pytest.mark.parametrize(
    "flags, word",
    [
        (("--insertion_schedule", "cosine"), "--insertion_schedule"),
        (("--unmask_schedule", "geometric:10,0.01"), "--unmask_schedule"),
        (("--length_head", "tanh"), "--length_head"),
        (("--time_epsilon", "0"), "--time_epsilon"),
        (("--from_scratch",), "--from_scratch"),
        (("--init_from", "nowhere/at/all"), "nowhere/at/all"),
    ],
)
def test_impossible_training_flags_are_refused(base, rows, tmp_path, flags, word):
    refused(
        call(
            "flexmdm_transfer_openwebtext.py",
            "--variable_length",
            "--model_name_or_path",
            base,
            "--train_data",
            rows,
            "--output_dir",
            tmp_path / "run",
            *flags,
        ),
        word,
    )
    assert not (tmp_path / "run").exists()


def test_files_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"[\w/.-]+\.(?:py|sh|md|cff|txt)\b", text)):
        assert (ROOT / name).exists(), name
