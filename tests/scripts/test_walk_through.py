"""The walk-through of scripts/README.md as it stands there, with a tiny model on a CPU: one node,
and a bare torchrun whose two machines are two agents on this one. (Slurm: test_slurm.py)

pytest --full tests/scripts/test_walk_through.py                              three minutes
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from common.rows import write_rows
from data.word_problems import math_rows

TINY = {"IFT_preprocess.sh": [], "IFT_math.sh": ["--max_steps", "2", "--sft_max_length", "160"]}
TINY["instruction_finetuning.py"] = [
    *TINY["IFT_math.sh"],
    *("--model_name_or_path", str(ROOT / "LLaDA-tiny-Base")),
]
ANSWER = ["--gen_length", "32", "--block_length", "32", "--max_length", "1024"]
TINY["inference_math.sh"] = TINY["eval_gsm8k.py"] = ANSWER


def commands_of(heading):
    """The commands of one part of the walk-through, a list of words each."""
    text = (ROOT / "scripts/README.md").read_text()
    block = re.search(rf"\*\*{heading}.*?\n\n((?:    [^\n]*\n)+)", text, re.S)[1]
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def place(tmp_path):
    write_rows(tmp_path / "train.jsonl", math_rows("train", 100, 0))
    write_rows(tmp_path / "test.jsonl", math_rows("test", 4, 0))
    for name in ("scripts", "LLaDA-tiny-Base", *(path.name for path in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(commands, place, environment):
    """Start commands at once, as on several machines, and wait for them."""
    given = {
        "FLEXMDM_PYTHON": sys.executable,
        "BASE_MODEL": "LLaDA-tiny-Base",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    launched = r"SLURM|RANK$|WORLD_SIZE$|RUNS_DIR|DATA_CACHE|MODEL_KIND|STRATEGY|GLOBAL_BATCH"
    kept = {name: os.environ[name] for name in os.environ if not re.match(launched, name)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [
        subprocess.Popen(["env", *command], cwd=place, env=kept | given, **pipes)
        for command in commands
    ]
    try:
        for each in running:
            output, _ = each.communicate(timeout=900)
            assert each.returncode == 0, output[-3000:]
    finally:
        for each in running:
            each.kill()


def adapted(words, place):
    """A documented command with data and sizes for a tiny model."""
    (script,) = (word for word in words if word.endswith((".py", ".sh")))
    name = script.rpartition("/")[2]
    data = "test" if name in ("inference_math.sh", "eval_gsm8k.py") else "train"
    takes_data = name not in ("IFT_math.sh", "instruction_finetuning.py")
    return words + TINY.get(name, []) + ["--data_path", f"{data}.jsonl"] * takes_data


def accuracy(path):
    return json.loads(path.read_text())["metrics"]["pass@1"]


@pytest.mark.full
def test_one_node(place):
    (export, *words), *commands = commands_of("One node")
    assert export == "export" and len(commands) == 3
    variables = dict(word.split("=") for word in words)
    for command in commands:
        run([adapted(command, place)], place, variables)
    assert accuracy(place / "runs/inference_math_llada_256/results.json")["n"] == 4


@pytest.mark.full
def test_bare_torchrun_on_two_machines(place):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    replaced = {"8": "1", "HOST:29500": f"localhost:{port}"}
    preprocessing, *launches = commands_of("Bare torchrun")
    tokenizer = ["--tokenizer", "LLaDA-tiny-Base", "--output_dir", "data_cache/gsm8k"]
    run([[sys.executable, *adapted(preprocessing, place)[1:], *tokenizer]], place, {})
    assert len(launches) == 2
    for launch in launches:
        assert launch[0] == "torchrun"
        words = [replaced.get(word, word) for word in adapted(launch, place)]
        command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        run([command, command], place, {})
    logs = [json.loads(line) for line in open(place / "runs/IFT_math_llada/train_log.jsonl")]
    assert max(row.get("step", 0) for row in logs) == 2
    parts = list(place.glob("runs/eval_gsm8k/*/generations-*.jsonl"))
    (results,) = place.glob("runs/eval_gsm8k/*/results.json")
    assert len(parts) == 2 and accuracy(results)["n"] == 4
