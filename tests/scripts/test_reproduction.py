"""RESULTS.md says what results/*.json say; the statistics behind its tables; infills of a given
length; the script's flags.

Run: pytest tests/scripts/test_reproduction.py (seconds; --full also runs a chain of
scripts/reproduce_small.sh with a hundredth of its steps)
"""

import json
import math
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import length_study
import reproduction


def test_results_md_matches_the_result_files(tmp_path):
    """The report over the committed JSON files changes nothing in the committed RESULTS.md."""
    (tmp_path / "RESULTS.md").write_text((ROOT / "RESULTS.md").read_text())
    for path in (ROOT / "results").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "scripts/reproduction.py",
        "report",
        "--results",
        str(tmp_path),
        "--output",
        str(tmp_path / "RESULTS.md"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "RESULTS.md").read_text() == (ROOT / "RESULTS.md").read_text()
    files = list((ROOT / "results").glob("*.json"))
    assert files and all(path.stat().st_size < 200_000 for path in files)
    for path in files:
        content = json.loads(path.read_text())
        assert (
            content["scale"] == 1
            and content["commit"]
            and content["date"]
            and str(ROOT.parent) not in path.read_text()
        )


def test_every_number_in_the_answers_is_in_a_table():
    """The answers are written by hand: their decimals, but for the size of the network, must be
    those of the tables.
    """
    answers, rest = (ROOT / "RESULTS.md").read_text().split("**Changed after the protocol", 1)
    decimal = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")
    shown = set(
        decimal.findall("".join(line for line in rest.splitlines(True) if line.startswith("|")))
    )
    said = decimal.findall(answers.split("\n", 1)[1].replace("1.3 M parameters", ""))
    assert len(said) > 20 and not [number for number in said if number not in shown]


def test_students_quantiles():
    """Against published tables, on both sides of the end of ours."""
    for freedom, quantile in ((1, 12.706), (9, 2.262), (10, 2.2281), (15, 2.1314), (30, 2.0423)):
        assert reproduction.student(freedom) == pytest.approx(quantile, abs=5e-4)
    assert reproduction.student(10**6) == pytest.approx(1.959964, abs=1e-5)


def test_intervals_against_their_closed_forms():
    mean, low, high = reproduction.over_seeds([1.0, 2.0, 4.0])
    half = 4.303 * math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) / math.sqrt(3)
    assert (
        mean == pytest.approx(7 / 3)
        and low == pytest.approx(mean - half)
        and high == pytest.approx(mean + half)
    )
    assert reproduction.over_seeds([0.5]) == (0.5, None, None)
    # items' means: 0.5, 0.5, 0.5, 0
    mean, low, high = reproduction.over_items([("1100", "1000"), ("1010", "0000")])
    half = 1.96 * 0.25 / math.sqrt(4)
    assert (mean, low, high) == (
        pytest.approx(0.375),
        pytest.approx(0.375 - half),
        pytest.approx(0.375 + half),
    )
    # bins 0-7, 8-15, 16-: 2 1 0 against 1 0 2
    assert reproduction.total_variation([0, 1, 9], [0, 17, 17]) == pytest.approx(2 / 3)
    assert reproduction.total_variation([3, 3], [4, 5]) == 0


def test_items_have_exactly_the_asked_length():
    from data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(ROOT / "LLaDA-tiny-Base")
    rows = length_study.length_items(
        tokenizer, longest=7, each=3, seed=int.from_bytes(os.urandom(4), "big")
    )
    assert len(rows) == 24 and len({row["task_id"] for row in rows}) == 24
    for row in rows:
        count = int(row["task_id"].split("/")[1])
        assert (
            len(tokenizer(row["canonical_solution"], add_special_tokens=False)["input_ids"])
            == count
        )
        parts = (row["prompt"], row["canonical_solution"], row["suffix"])
        # cut between tokens
        assert sum(
            len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in parts
        ) == len(tokenizer("".join(parts), add_special_tokens=False)["input_ids"])
        scope = {}
        exec("".join(parts) + row["test"], scope)  # our own template's code, not a model's
        scope["check"](scope[row["entry_point"]])


@pytest.mark.parametrize(
    "words, said",
    [
        (["nonsense"], "unknown chain nonsense"),
        (["--scale", "0"], "--scale needs a number above 0"),
        (["--jobs"], "--jobs needs a number above 0"),
    ],
)
def test_bad_arguments_are_refused(words, said):
    environment = {**os.environ, "FLEXMDM_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "scripts/reproduce_small.sh", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.full
def test_a_chain_runs_and_a_second_run_reuses_it(tmp_path):
    environment = {
        **os.environ,
        "FLEXMDM_PYTHON": sys.executable,
        "WORK": str(tmp_path / "work"),
        "RESULTS": str(tmp_path / "results"),
    }

    def once():
        return subprocess.run(
            [
                "bash",
                "scripts/reproduce_small.sh",
                "--scale",
                "0.01",
                "ablations_1",
                "comparison_1",
                "counting_1",
                "lengths",
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
        )

    done = once()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for chain in ("ablations_1", "comparison_1", "counting_1", "lengths"):
        assert json.loads((tmp_path / "results" / f"{chain}.json").read_text())["scale"] == 0.01
    assert once().stdout.count("is there") == 4
