"""evaluation/results_table.py: intervals, pass@k, quartiles, the table and the plot.

pytest tests/evaluation/test_results_table.py                            seconds
"""

import itertools
import json
import math
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.files import write_json
from common.rows import write_rows
from evaluation.results import (
    describe,
    item_scores,
    make_result,
    paired_difference,
    pass_at_k,
    share_of,
    spread,
    wilson,
)
from evaluation.results_table import (
    PAPER,
    PAPER_STEPS,
    markdown,
    plot,
    read_results,
    sampler_name,
    table_rows,
)


def result(label="FlexMDM", benchmark="gsm8k", right=60, n=100, evaluations=128, **settings):
    rows = [{"evaluations": evaluations, "length": 50, "seconds": 0.5} for _ in range(n)]
    settings = {
        "kind": "flexmdm",
        "sampler": "tau_leaping",
        "steps": evaluations,
        "unmasking": "random",
        **settings,
    }
    return make_result(
        benchmark=benchmark,
        label=label,
        metrics={"pass@1": share_of(right, n), "edit_similarity": 0.5},
        rows=rows,
        settings=settings,
        details={},
    )


@pytest.mark.parametrize(
    "right, n, low, high",
    [
        (783, 1130, 0.6654, 0.7191),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_wilson_against_published_values(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 2000), st.data())
def test_wilson_bounds_solve_their_equation_and_contain_the_proportion(n, data):
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    for bound in (low, high):
        # |share - bound| = z sqrt(bound (1 - bound) / n): what defines Wilson's interval
        if 0 < bound < 1:
            assert abs(right / n - bound) == pytest.approx(
                1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-5, abs=1e-9
            )


@pytest.mark.parametrize("n, right", [(1, 0), (1, 1), (5, 2), (6, 0), (6, 6)])
def test_pass_at_k_is_the_mean_over_all_choices(n, right):
    outcomes = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        choices = list(itertools.combinations(outcomes, k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, choices)) / len(choices))
    with pytest.raises(ValueError):
        pass_at_k(n, right, n + 1)


def test_spread_is_mean_and_quartiles():
    assert spread([1, 2, 3, 4, 5]) == {"mean": 3, "q1": 2, "median": 3, "q3": 4}
    assert spread([7]) == {"mean": 7, "q1": 7, "median": 7, "q3": 7} and spread([None]) is None


def test_a_result_holds_totals_and_its_description_the_interval():
    made = result()
    assert (
        made["tokens"] == 5000
        and made["seconds"] == 50
        and made["evaluations"]["mean"] == 128
        and made["versions"]["python"]
    )
    assert "60 of 100" in describe(made) and "[50.20%, 69.06%]" in describe(made)


def test_sampler_name_states_the_settings_that_a_comparison_needs():
    assert (
        sampler_name(result(use_sliding_window=True, max_window=32))
        == "tau-leaping 128, random order, window 32"
    )
    assert sampler_name(result(events_per_evaluation=4, confidence_threshold=0.9)).endswith(
        "4 events per evaluation, threshold 0.9"
    )
    llada = {
        "settings": {
            "kind": "llada",
            "steps": 256,
            "remasking": "random",
            "block_length": 32,
            "llada_infill": "oracle",
            "temperature": 0.5,
        }
    }
    assert (
        sampler_name(llada, with_steps=False)
        == "remasking random, blocks of 32, T 0.5, oracle layout"
    )
    assert sampler_name(llada) == "256 steps, remasking random, blocks of 32, T 0.5, oracle layout"


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "a": result(),
        "b": result(evaluations=512, right=65),
        "c": result("LLaDA", right=59, kind="llada"),
        "d": result("empty completions", "code", right=3, evaluations=0),
    }.items():
        write_json(tmp_path / name / "results.json", content)
    return tmp_path


def test_table_has_every_result_and_the_papers_rows(folder):
    rows = table_rows(read_results([folder]))
    assert [(row["benchmark"], row["label"], row["evaluations"]) for row in rows] == [
        ("code", "empty completions", 0),
        ("gsm8k", "FlexMDM", 128),
        ("gsm8k", "FlexMDM", 512),
        ("gsm8k", "LLaDA", 128),
    ]
    text = markdown(rows)
    assert text.count("\n") == 1 + 4 + 2 * len(PAPER_STEPS)
    assert (
        "| gsm8k | FlexMDM | tau-leaping 512, random order, no window | pass@1 | 65.0 % | 55.3 to"
        " 73.6 | 100 | 512.0 |" in text
    )
    assert "| gsm8k | FlexMDM 8B, paper | 4096 steps | pass@1, paper rule | 67.1 % |" in text


def test_stored_paper_numbers_are_the_published_ones():
    assert PAPER["gsm8k"]["FlexMDM"][-1] == 67.1 and PAPER["humaneval-infill single-line"][
        "LLaDA"
    ] == (52.8, 52.9, 51.2, 53.3, 52.8)


def test_command_writes_table_and_plot(folder, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/results_table.py"),
            str(folder),
            "--output_dir",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "table.md").read_text().strip()
    assert done.stdout.startswith(f"{table}\n\nmade:  ")
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 4
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_plot_labels_axes_units_and_sample_sizes(folder, tmp_path):
    plot(table_rows(read_results([folder])), tmp_path / "accuracy.svg")
    import matplotlib

    assert matplotlib.get_backend().lower() == "agg"
    assert (tmp_path / "accuracy.svg").read_text().startswith("<?xml")


def test_paired_difference(tmp_path):
    for name, right in (("a", [1, 1, 1, 0, 1]), ("b", [1, 0, 1, 0, 0]), ("c", [1, 0])):
        write_rows(
            tmp_path / name / "verdicts.jsonl",
            [{"name": f"q{n}", "sample": 0, "right": bool(r)} for n, r in enumerate(right)],
        )
    pair = paired_difference(item_scores(tmp_path / "a"), item_scores(tmp_path / "b"))
    half = 1.959964 * math.sqrt(0.3 / 5)  # differences 0 1 0 0 1: variance 0.3
    assert [pair[name] for name in ("difference", "low", "high")] == pytest.approx(
        [0.4, 0.4 - half, 0.4 + half]
    )
    assert (pair["n"], pair["only_a"], pair["only_b"]) == (5, 2, 0)
    with pytest.raises(InputError, match="different items"):
        paired_difference(item_scores(tmp_path / "a"), item_scores(tmp_path / "c"))
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/results_table.py"),
            "--pair",
            str(tmp_path / "a"),
            str(tmp_path / "b"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "+40.00 points" in done.stdout and "n = 5" in done.stdout


def test_refusals(folder, tmp_path):
    for arguments, words in (
        ([tmp_path / "none"], "does not exist"),
        ([folder, "--metric", "edit_similarity"], "--metric edit_similarity"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "scripts/results_table.py"),
                *map(str, arguments),
                "--output_dir",
                str(tmp_path / "out"),
            ],
            capture_output=True,
            text=True,
        )
        assert (
            done.returncode == 2
            and words in done.stderr
            and len(done.stderr.strip().splitlines()) == 1
        )
    write_json(tmp_path / "odd" / "results.json", {"a": 1})
    with pytest.raises(InputError, match="no result of these evaluations"):
        read_results([tmp_path / "odd"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no results.json"):
        read_results([tmp_path / "empty"])
