"""Every training and evaluation script under torchrun and under accelerate's launcher, in two
processes on a CPU.

pytest --full tests/scripts/test_launchers.py                         some minutes
"""

import json
import random
import subprocess
import sys

import pytest
import tiny
from conftest import ROOT
from generated_rows import rows_of
from training_helpers import environment, free_port, run_flags, write_data

from common.rows import write_rows
from data.functions import code_infill_rows
from data.word_problems import math_rows

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": [
        "accelerate.commands.launch",
        # its --cpu starts a single process; with --multi_gpu it starts what torchrun starts
        *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}
SCRIPTS = [
    "flexmdm_transfer_openwebtext",
    "instruction_finetuning",
    "eval_gsm8k",
    "eval_humaneval_infill",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, training rows, and questions and infills."""
    work = tmp_path_factory.mktemp("made")
    tiny.write_llada(work / "base")
    write_data(work / "data")
    seed = random.randrange(2**31)
    write_rows(work / "eval_gsm8k.jsonl", math_rows("test", 6, seed))
    write_rows(work / "eval_humaneval_infill.jsonl", code_infill_rows("test", 6, seed))
    return work


def words_of(script, made, output):
    if script.startswith("eval_"):
        shared = ["--checkpoint_path", made / "base", "--data_path", made / f"{script}.jsonl"]
        return [*shared, "--gen_length", 8, "--max_length", 600, "--output_dir", output]
    task = {"task": "math"} if script == "instruction_finetuning" else {}
    return run_flags(
        made / "base", made / "data", output, variable_length=True, max_steps=2, **task
    )


@pytest.mark.full
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_make_one_result(made, tmp_path, script, launcher):
    output, start = tmp_path / "out", LAUNCHERS[launcher]
    if launcher == "accelerate":
        start = [*start, "--main_process_port", str(free_port())]
    words = map(str, words_of(script, made, output))
    done = subprocess.run(
        [sys.executable, "-m", *start, str(ROOT / f"{script}.py"), *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if script.startswith("eval_"):
        assert len(rows_of(output)) == 6 and len(list(output.glob("generations-*.jsonl"))) == 2
        assert json.loads((output / "results.json").read_text())["rows"] == 6
    else:
        last = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
        assert max(row["step"] for row in last) == 2
        assert (output / "final/model.safetensors").exists()
        assert json.loads((output / "checkpoint-2/complete.json").read_text())["processes"] == 2
