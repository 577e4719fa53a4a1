"""The two scripts for GPU machines run on a CPU: all checks, a check that fails, and the benchmark
at toy size.
"""

import json
import os
import random
import subprocess
import sys

import pytest
from conftest import ROOT

from common.errors import InputError

sys.path.insert(0, str(ROOT / "scripts"))
QUICK = ["golden", "network", "training", "gradients", "evaluate_only", "float8", "fsdp2"]


def run(script, *words, folder):
    """A script from another working directory."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(None, marks=pytest.mark.full)], ids=["quick", "all"]
)
def test_all_checks_pass_on_a_cpu(tmp_path, names):
    code, printed, errors = run(
        "check_gpu.py",
        "--device",
        "cpu",
        "--output",
        tmp_path / "check.json",
        *(["--only", ",".join(names)] if names else []),
        folder=tmp_path,
    )
    assert code == 0, printed + errors
    found = json.loads((tmp_path / "check.json").read_text())
    assert list(found["checks"]) == (names or list(__import__("check_gpu").CHECKS)) and {
        "torch",
        "transformers",
        "python",
        "card",
    } <= set(found)
    assert {each["outcome"] for each in found["checks"].values()} <= {"ok", "skipped"}


def test_a_check_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    import check_gpu

    def broken(work):
        raise ValueError("made to fail")

    monkeypatch.setattr(
        check_gpu, "CHECKS", {"broken": broken, "four_bits": check_gpu.CHECKS["four_bits"]}
    )
    monkeypatch.setattr(
        sys, "argv", ["check_gpu.py", "--device", "cpu", "--output", str(tmp_path / "check.json")]
    )
    with pytest.raises(SystemExit) as ended:
        check_gpu.main()
    assert ended.value.code == 1 and "failed: broken" in capsys.readouterr().out
    checks = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert (
        checks["broken"]["outcome"] == "failed"
        and "made to fail" in checks["broken"]["said"]
        and checks["four_bits"]["outcome"] == "skipped"
    )


@pytest.mark.parametrize(
    "parts",
    [
        ["limits", "sampling", "float8", "peer"],
        pytest.param(["training", "trainer"], marks=pytest.mark.full),
    ],
)
def test_the_benchmark_at_toy_size(tmp_path, parts):
    code, printed, errors = run(
        "benchmark_gpu.py",
        "--small",
        "--device",
        "cpu",
        "--only",
        ",".join(parts),
        "--output",
        tmp_path / "benchmark.json",
        folder=tmp_path,
    )
    assert code == 0, printed + errors
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert {each["part"] for each in found["results"]} == set(parts) and not any(
        "error" in each for each in found["results"]
    )


@pytest.mark.parametrize("script, known", [("check_gpu", "CHECKS"), ("benchmark_gpu", "PARTS")])
def test_only_takes_names_that_are_there(script, known):
    module = __import__(script)
    names, parse = list(getattr(module, known)), module.make_parser().parse_args
    chosen = random.sample(names, random.randint(1, len(names)))
    assert parse(["--only", ",".join(chosen)]).only == chosen and parse([]).only is None
    for text in ("bogus", "", f"{names[0]},bogus", f"{names[0]},"):
        with pytest.raises(InputError, match=f"--only: .*is none of {', '.join(names)}"):
            parse(["--only", text])


def test_missing_cuda_is_reported_in_one_line(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for script in ("check_gpu.py", "benchmark_gpu.py"):
        code, printed, errors = run(script, "--device", "cuda", folder=tmp_path)
        assert code == 2 and "--device" in errors and len(errors.strip().splitlines()) == 1, errors
