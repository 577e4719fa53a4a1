"""RESULTS.md says what results/*.json say; the statistics behind its tables; infills of a given
length; the script's flags.

Run: pytest tests/scripts/test_reproduction.py (seconds; --full also runs chains of
scripts/reproduce_small.sh with a hundredth of their steps)
"""

import copy
import json
import math
import os
import random
import re
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import length_study
import reproduction
from results_page.counting import BUDGET, budget
from results_page.intervals import over_items, over_seeds, student
from results_page.lengths import total_variation
from results_page.tables import read_chains

from common.errors import InputError
from evaluation.results import Z


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
    text = (ROOT / "RESULTS.md").read_text()
    assert (tmp_path / "RESULTS.md").read_text() == text
    assert set(re.findall(r"<!-- (\w+) -->", text)) == set(reproduction.TABLES)
    files = list((ROOT / "results").glob("*.json"))
    assert files and all(path.stat().st_size < 200_000 for path in files)
    for path in files:
        content = json.loads(path.read_text())
        assert (
            (content["scale"] == 1 or "budget_" in path.stem)
            and content["commit"]
            and content["date"]
            and str(ROOT.parent) not in path.read_text()
        )


def test_the_tables_leave_what_they_read_unchanged():
    """One that adds to the results would change the tables after it."""
    chains = read_chains(ROOT / "results")
    before = copy.deepcopy(chains)
    for name, (needed, table) in reproduction.TABLES.items():
        if needed is None or needed in chains:
            table(chains)
            assert chains == before, name


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


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe no UTF-8"])
def test_a_file_without_places_for_the_tables_is_refused(content, tmp_path):
    """Missing, empty or not text: one line, and the file stays as it is."""
    path = tmp_path / "RESULTS.md"
    if content is not None:
        path.write_bytes(content)
    args = reproduction.make_parser().parse_args(["report", "--output", str(path)])
    with pytest.raises(InputError, match=f"--output: .*{re.escape(str(path))}"):
        reproduction.report(args)
    assert (path.read_bytes() if path.exists() else None) == content


@pytest.mark.parametrize("content", ["", "3", "[]", "{}", '{"chain": "comparison_1"}', '{"chain'])
def test_a_result_that_no_chain_wrote_is_refused(content, tmp_path):
    """By its name, and RESULTS.md stays as it is."""
    path, output = tmp_path / "comparison_1.json", tmp_path / "RESULTS.md"
    path.write_text(content)
    output.write_text(text := (ROOT / "RESULTS.md").read_text())
    words = ["report", "--results", str(tmp_path), "--output", str(output)]
    with pytest.raises(InputError, match=f"--results: .*{re.escape(str(path))}"):
        reproduction.report(reproduction.make_parser().parse_args(words))
    assert output.read_text() == text and len(list(tmp_path.iterdir())) == 2


def test_students_quantiles():
    """Against published tables, on both sides of the end of ours."""
    for freedom, quantile in ((1, 12.706), (9, 2.262), (10, 2.2281), (15, 2.1314), (30, 2.0423)):
        assert student(freedom) == pytest.approx(quantile, abs=5e-4)
    assert student(10**6) == pytest.approx(1.959964, abs=1e-5)


def test_intervals_against_their_closed_forms():
    mean, low, high = over_seeds([1.0, 2.0, 4.0])
    half = 4.303 * math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) / math.sqrt(3)
    assert (
        mean == pytest.approx(7 / 3)
        and low == pytest.approx(mean - half)
        and high == pytest.approx(mean + half)
    )
    assert over_seeds([0.5]) == (0.5, None, None)
    # items' means: 0.5, 0.5, 0.5, 0
    mean, low, high = over_items([("1100", "1000"), ("1010", "0000")])
    half = Z * 0.25 / math.sqrt(4)
    assert (mean, low, high) == (
        pytest.approx(0.375),
        pytest.approx(0.375 - half),
        pytest.approx(0.375 + half),
    )
    # bins 0-7, 8-15, 16-: 2 1 0 against 1 0 2
    assert total_variation([0, 1, 9], [0, 17, 17]) == pytest.approx(2 / 3)
    assert total_variation([3, 3], [4, 5]) == 0


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
        (["--jobs"], "--jobs needs a whole number above 0"),
        (["--jobs", "1.5"], "--jobs needs a whole number above 0"),
        (["--gpu", "counting_1"], "--gpu is for the chains budget_SEED, not for counting_1"),
        (["budget_1", "counting_1"], "run budget_SEED and counting_1 one after the other"),
        (["--gpu"], "--gpu: torch sees no CUDA GPU"),
        (["--scale", "2", "budget_1"], "holds runs with --scale 0.5; name another folder in WORK"),
    ],
)
def test_bad_arguments_are_refused(words, said, tmp_path):
    """Before anything is written."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/scale").write_text("1\n" if "--gpu" in words else "0.5\n")
    done = reproduce(tmp_path, *words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.glob("**/*")] == ["work", "scale"]


def reproduce(folder, *words, **variables):
    """The finished process of the script, with its work and results in folder."""
    places = {"WORK": str(folder / "work"), "RESULTS": str(folder / "results")}
    return subprocess.run(
        ["bash", "scripts/reproduce_small.sh", *words],
        cwd=ROOT,
        env={**os.environ, "FLEXMDM_PYTHON": sys.executable, **places, **variables},
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.mark.parametrize(
    "scale, rows, factor",
    [(12, 128, 3), (1, 32, 1), (0.25, 32, 0.25), (2.5, 64, 1.25), (40, 128, 10)],
)
def test_a_larger_budget_has_scale_times_the_rows(scale, rows, factor, tmp_path):
    """Up to 128 rows a step, the rest in steps; nothing is run or written."""
    done = reproduce(tmp_path, "--dry_run", "--gpu", "--scale", str(scale))
    steps = [round(factor * usual) for usual in (800, 300, 500)]
    expected = "steps of {}: transfer {}, word problems {}, infilling {}"
    assert expected.format(f"{rows} rows", *steps) in done.stdout, done.stdout
    assert [rows * n for n in steps] == [32 * scale * usual for usual in (800, 300, 500)]
    assert f"text {60000 * min(scale, 3):.0f}" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.full
def test_a_chain_runs_and_a_second_run_reuses_it(tmp_path):
    chains = ("ablations_1", "comparison_1", "counting_1", "lengths")
    done = reproduce(tmp_path, "--scale", "0.01", *chains)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for chain in chains:
        assert json.loads((tmp_path / "results" / f"{chain}.json").read_text())["scale"] == 0.01
    assert reproduce(tmp_path, "--scale", "0.01", *chains).stdout.count("is there") == 4


@pytest.mark.full
def test_a_larger_budget_runs_side_by_side_and_resumes_after_a_failure(tmp_path):
    """On the CPU, without --gpu. The first try meets a file where a run's folder should be."""
    blocked = tmp_path / "work/budget1/llada_code"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    words = ("--scale", "0.01", "--jobs", "2", "budget_1")
    failed = reproduce(tmp_path, *words)
    assert failed.returncode == 1 and not (tmp_path / "results/budget_1.json").exists()
    log = tmp_path / "work/logs/budget1_llada_code.log"
    assert f"budget1/llada_code failed, see {log}: " in failed.stderr
    blocked.unlink()
    done = reproduce(tmp_path, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    content = json.loads((tmp_path / "results/budget_1.json").read_text())
    trained = ["continued", "flexmdm_code", "flexmdm_math", "llada_code", "llada_math", "transfer"]
    assert sorted(content["training"]) == trained
    arms = {f"{data}_{arm}" for _, data, _, arm in BUDGET}
    assert set(content["evaluations"]) == arms
    table = budget({"budget": [content]})
    assert table.count("\n") == len(BUDGET) + 3
    assert "is there" in reproduce(tmp_path, *words).stdout


def test_a_larger_budget_runs_in_order_side_by_side_and_resumes(tmp_path):
    """With a stand-in for Python: each stage waits for the one before it, --jobs processes at most,
    on one GPU; a run that fails is named with its last line, and begins again by the same command.
    """
    calls, jobs = tmp_path / "calls", random.randint(2, 5)
    words = ("--gpu", "--scale", "12", "--jobs", str(jobs))
    stub = {"FLEXMDM_PYTHON": str(ROOT / "tests/helpers/stub_python.sh"), "STUB_CALLS": str(calls)}
    stub["CUDA_VISIBLE_DEVICES"] = "3,5"
    failed = reproduce(tmp_path, *words, **stub, STUB_FAILS="budget1/llada_math --bf16")
    assert failed.returncode == 1 and "fit_length" not in calls.read_text()
    log, run = tmp_path / "work/logs/budget1_llada_math.log", tmp_path / "work/budget1/llada_math"
    said = f"budget1/llada_math failed, see {log}: error: no room for {run}\n"
    assert failed.stderr.count("\n") == 1 and failed.stderr.endswith(said)
    calls.unlink()
    done = reproduce(tmp_path, *words, **stub)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results/budget_1.json").exists()
    lines, running, most, begun, ended = calls.read_text().splitlines(), 0, 0, {}, {}
    for number, line in enumerate(lines):
        what, made = line.split(":")[0].split(" ", 1)
        running += 1 if what == "begins" else -1
        most = max(most, running)
        (begun if what == "begins" else ended)[made.removeprefix(f"{tmp_path}/work/")] = number
    assert 1 < most <= jobs and all(line.endswith("GPU 3") for line in lines if "begins" in line)
    arms = {f"{data}_{arm}" for _, data, _, arm in BUDGET}
    evaluations = {name for name in begun if "/results/" in name}
    assert {name.rsplit("/", 1)[1] for name in evaluations} == arms
    transfers = {"budget1/transfer", "budget1/continued"}
    tunings = {
        f"budget1/{kind}_{task}" for kind in ("flexmdm", "llada") for task in ("math", "code")
    }
    fits = {name.replace("budget1", "budget1/counting") + "/final" for name in tunings}
    stages = [{"text", "math", "code"}, transfers, tunings, fits, evaluations]
    for before, after in zip(stages, stages[1:]):
        assert max(ended[name] for name in before) < min(begun[name] for name in after), after
    for name, steps in [*((name, 2400) for name in transfers), *((n, None) for n in tunings)]:
        line = lines[begun[name]]
        steps = steps or (900 if name.endswith("math") else 1500)
        assert f"--max_steps {steps} " in line and "--per_device_train_batch_size 128 " in line
        assert "--bf16 false " in line
    assert all("--dtype float32 " in lines[begun[name]] for name in [*evaluations, *fits])
    assert "collect budget_1" in lines[-2] and "--scale 12 " in lines[-2]


def test_the_table_of_a_larger_budget_pairs_the_same_items():
    """With what is known at 1 x of the same seed, and nothing else."""

    def arm(right, items="a"):
        share = {"value": right.count("1") / len(right)}
        found = {"metrics": {"pass@1": share}, "right": right, "items_hash": items}
        return {**found, "evaluations": {"mean": 3.0}}

    large = {"math_flexmdm_event": arm("1110"), "math_llada_counted": arm("1111")}
    large["code_flexmdm_tau32"] = arm("0111", "b")
    made = {"scale": 12.0, "processor": "CPU", "card": "some GPU", "date": "2026-01-01"}
    chains = {
        "budget": [{"chain": "budget_1", "evaluations": large, **made}],
        "counting": [
            {"chain": "counting_1", "evaluations": {"math_flexmdm_event": arm("1000")}},
            {"chain": "counting_2", "evaluations": {"math_llada_counted": arm("0000")}},
        ],
        "comparison": [{"chain": "comparison_1", "evaluations": {"math_flexmdm_event": arm("0")}}],
    }
    chains["comparison"][0]["evaluations"]["code_flexmdm_tau32"] = arm("0001", "other items")
    _, _, tau, event, counted, _, machine = budget(chains).split("\n")
    cells = [cell.strip() for cell in event.split("|")]
    items = Z * math.sqrt(1 / 3) / 2  # standard deviation of 0, 1, 1, 0
    assert cells[3:5] == ["25.0", "75.0 (75.0)"]
    assert cells[6] == f"+50.0 [{100 * (0.5 - items):+.1f}, {100 * (0.5 + items):+.1f}]"
    assert cells[7].startswith("-25.0 ")
    assert tau.split("|")[3].strip() == "" and tau.split("|")[6].strip() == ""
    assert counted.split("|")[3].strip() == "" and counted.split("|")[7].strip() == ""
    assert machine == "Seed 1: some GPU, 2026-01-01."
