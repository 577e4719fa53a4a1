"""README's laptop chain, pasted command after command on a fresh copy of the repository: names
follow from each other, and the last command answers.

Run: pytest tests/scripts/test_readme_chain.py           every number made small (a minute)
     pytest --full tests/scripts/test_readme_chain.py    also as README has it (ten minutes)
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from command_lines import logical_lines
from conftest import ROOT

SMALL = {"--n": 60, "--max_steps": 2, "--per_device_train_batch_size": 4}


def chain():
    """The commands of the block under "A laptop", without the one that installs."""
    text = (ROOT / "README.md").read_text().partition("**A laptop**")[2]
    block = re.search(r"\n\n((?:    .*\n|\n)+)", text)[1]
    first, *commands = [line.strip() for line in logical_lines(block) if line.strip()]
    assert first == "bash scripts/environment.sh && . .venv/bin/activate"
    return commands


def small(line):
    """The command with few rows, steps and items."""
    for flag, value in SMALL.items():
        line = re.sub(rf"{flag} \d+", f"{flag} {value}", line)
    if "--max_steps" in line:
        line += " --logging_steps 1"
    if "eval_" in line:
        line += " --subsample 2 --diffusion_steps 4"
    return line


def paste(tmp_path, shorten):
    """Everything that the commands print, on a copy of what git has."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/", "results/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    printed = []
    for line in chain():
        done = subprocess.run(
            ["bash", "-c", shorten(line)],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert "\r" not in done.stdout + done.stderr, line
        if "flexmdm_inference" not in line:  # its answer is all that it prints
            ends = [text.split()[0] for text in done.stdout.splitlines()[-3:]]
            assert ends == ["made:", "where:", "next:"], done.stdout
        printed.append(done.stdout + done.stderr)
    return printed


def test_the_chain_in_small(tmp_path):
    assert all(any(flag in line for line in chain()) for flag in SMALL)
    paste(tmp_path, small)
    for run in ("transfer", "IFT_math", "IFT_code"):
        assert json.loads((tmp_path / f"runs/{run}/settings.json").read_text())["max_steps"] == 2
    results = [json.loads(file.read_text()) for file in tmp_path.glob("runs/eval_*/*/results.json")]
    assert len(results) == 2 and all(result["rows"] == 2 for result in results)


@pytest.mark.full
def test_the_chain_as_it_is(tmp_path):
    *_, asked, _ = paste(tmp_path, str)
    assert re.search(r"sample 1: [1-9]\d* tokens", asked)
