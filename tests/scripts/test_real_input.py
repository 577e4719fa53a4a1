"""The whole chain on real input: LLaDA's tokenizer and all 126,464 vocabulary rows on a tiny
network, real text, GSM8K, MBPP, HumanEval.

Preprocess, transfer (50 steps), tuning of both models on both tasks (50 steps), both evaluations
over the first 40 items, alone and as two processes. What the answers say means nothing: nothing was
learned. Run: FLEXMDM_DATA=... pytest tests/scripts/test_real_input.py
"""

import json

import pytest
from conftest import _folder
from generated_rows import rows_of
from training_helpers import log_of, run_here, start

STEPS, ITEMS, VOCABULARY = 50, 40, 126_464


def script(name, *words):
    """A script's main() in this process (a new one would import torch and transformers anew)."""
    with pytest.MonkeyPatch.context() as patch:
        run_here(name, [str(word) for word in words], patch)


def two_processes(name, *words):
    """The same script under torchrun."""
    process = start(name, [str(word) for word in words], processes=2)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, f"{name}: {output[-4000:]}"


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder with data and trained models: base, text, math, code, transfer,
    {flexmdm,llada}_{math,code}.
    """
    data, work = _folder("FLEXMDM_DATA"), tmp_path_factory.mktemp("real")
    tokenizer = data / "llada_tokenizer"
    script(
        "new_base",
        "random",
        "--tokenizer",
        tokenizer,
        "--d_model",
        32,
        "--n_layers",
        2,
        "--n_heads",
        2,
        "--mlp_hidden_size",
        64,
        "--output_dir",
        work / "base",
    )
    script(
        "flexmdm_transfer_preprocess",
        "--data_path",
        data / "text",
        "--tokenizer",
        tokenizer,
        "--max_length",
        128,
        "--num_proc",
        2,
        "--output_dir",
        work / "text",
        "--cache_path",
        work / "cache",
    )
    script(
        "preprocess_math",
        "--data_path",
        data / "gsm8k" / "train.jsonl",
        "--tokenizer",
        tokenizer,
        "--num_proc",
        2,
        "--output_dir",
        work / "math",
    )
    script(
        "preprocess_code_infilling",
        "--data_path",
        data / "code" / "mbpp_as_opc.jsonl",
        "--tokenizer",
        tokenizer,
        "--output_dir",
        work / "code",
    )

    assert json.loads((work / "base" / "config.json").read_text())["embedding_size"] == VOCABULARY

    def train(name, output, rows, length, *words):
        script(
            name,
            "--train_data",
            work / rows,
            "--output_dir",
            work / output,
            "--max_steps",
            STEPS,
            "--per_device_train_batch_size",
            1,
            "--sft_max_length",
            length,
            "--learning_rate",
            1e-3,
            "--lora_r",
            8,
            "--lora_alpha",
            8,
            "--save_strategy",
            "no",
            *words,
        )

    train(
        "flexmdm_transfer_openwebtext",
        "transfer",
        "text",
        128,
        "--variable_length",
        "--model_name_or_path",
        work / "base",
    )
    for task in ("math", "code"):
        train(
            "instruction_finetuning",
            f"flexmdm_{task}",
            task,
            512,
            "--task",
            task,
            "--variable_length",
            "--init_from",
            work / "transfer" / "final",
        )
        train(
            "instruction_finetuning",
            f"llada_{task}",
            task,
            512,
            "--task",
            task,
            "--model_name_or_path",
            work / "base",
        )
    return work


@pytest.mark.parametrize(
    "run, terms",
    [
        ("transfer", {"unmask_loss", "insertion_loss", "gap_error"}),
        ("flexmdm_math", {"insertion_loss"}),
        ("flexmdm_code", {"insertion_loss"}),
        ("llada_math", set()),
        ("llada_code", set()),
    ],
)
def test_training_on_real_data_ends_with_finite_losses(chain, run, terms):
    log = log_of(chain / run)
    assert max(log) == STEPS and terms <= log[STEPS].keys()
    assert all(
        0 < row["loss"] < 1e4 and 0 < row["grad_norm"] < 1e5 and not row["nonfinite_steps"]
        for row in log.values()
    )


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
@pytest.mark.parametrize("task", ["math", "code"])
def test_one_process_and_two_evaluate_real_data_alike(chain, data_dir, tmp_path, kind, task):
    words = [
        "--checkpoint_path",
        chain / f"{kind}_{task}" / "final",
        "--subsample",
        ITEMS,
        "--batch_size",
        20,
    ]
    if task == "math":
        name = "eval_gsm8k"
        words = [*words, "--data_path", data_dir / "gsm8k" / "test.jsonl", "--max_length", 512]
    else:
        name = "eval_humaneval_infill"
        words = [
            *words,
            "--data_path",
            data_dir / "humaneval",
            "--allow_code_execution",
            "--max_length",
            640,
        ]
    if kind == "flexmdm":
        words += ["--variable_length", "--diffusion_steps", 8]
    else:
        words += ["--gen_length", 16, "--diffusion_steps", 8]
    script(name, *words, "--output_dir", tmp_path / "one")
    two_processes(name, *words, "--output_dir", tmp_path / "two")
    rows = rows_of(tmp_path / "one")
    assert len(rows) == ITEMS and rows == rows_of(tmp_path / "two")
    one, two = (
        json.loads((tmp_path / which / "results.json").read_text()) for which in ("one", "two")
    )
    assert one["metrics"] == two["metrics"] and one["metrics"]["pass@1"]["n"] == ITEMS
    assert all(row["length"] <= 640 and row["evaluations"] >= 1 for row in rows.values())
