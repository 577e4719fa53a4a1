"""Both evaluation scripts with small networks: the same rows however they are cut, results, scores
of text, refusals.

FLEXMDM_DATA=... pytest tests/evaluation/test_evaluation_scripts.py      about a minute on 2 cores
"""

import gzip
import json
import math
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from generated_rows import rows_of
from hypothesis import given
from hypothesis import strategies as st

import eval_gsm8k
import eval_humaneval_infill
import flexmdm_inference
from common.errors import InputError
from common.files import content_hash
from common.rows import read_finished, write_rows
from data.functions import code_infill_rows
from data.infills import llada_infill_prompt
from data.library_code import stdlib_infill_rows
from data.tokenizer import inner_ids, load_tokenizer, text_ids
from data.word_problems import math_rows
from evaluation.benchmarks import gsm8k_items, gsm8k_name, infill_items, infill_name
from evaluation.generation_run import GENERATIONS
from evaluation.infill_scores import REACHED, edit_similarity, parses
from llada_utils import load_llada
from sampling import canvas_search
from sampling.flags import options_from
from sampling.length_law import likeliest_lengths
from sampling.options import SamplerOptions, sampler_words


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    import tiny
    import torch

    from llada_utils import write_checkpoint

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "flexmdm").mkdir()
    model = tiny.flexmdm()
    with torch.no_grad():
        model.scalar_length_head.proj2.bias.fill_(-2.0)  # a few insertions, not hundreds
    write_checkpoint(model, folder / "flexmdm", tiny.tokenizer(), card="# test\n")
    tiny.write_llada(folder / "llada")
    (folder / "counting").mkdir()
    counting = tiny.llada(length_distribution=9)
    with torch.no_grad():
        counting.length_distribution.proj2.weight.mul_(30)  # a number that is not 0
    write_checkpoint(counting, folder / "counting", tiny.tokenizer(), card="# test\n")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_rows(folder / "math.jsonl", math_rows("test", 24, 0))
    write_rows(folder / "code.jsonl", code_infill_rows("test", 24, 0))
    write_rows(folder / "stdlib.jsonl", stdlib_infill_rows("test", 8, 0))
    return folder


def run_main(script, monkeypatch, *arguments, rank=0, world_size=1):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def flags(checkpoints, sets, kind, task):
    common = [
        "--checkpoint_path",
        checkpoints / kind,
        "--data_path",
        sets / f"{task}.jsonl",
        "--diffusion_steps",
        6,
        "--max_length",
        200,
    ]
    return common + {
        ("llada", "math"): ["--gen_length", 20],
        ("llada", "code"): ["--gen_length", 20],
    }.get((kind, task), [])


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
@pytest.mark.parametrize("task", ["math", "code"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_one_process_or_two_batch_1_or_16_give_the_same_rows(
    checkpoints, sets, tmp_path, monkeypatch, kind, task, temperature
):
    script = {"math": eval_gsm8k, "code": eval_humaneval_infill}[task]
    arguments = [
        *flags(checkpoints, sets, kind, task),
        "--num_samples",
        2,
        "--subsample",
        12,
        "--temperature",
        temperature,
    ]
    run_main(script, monkeypatch, *arguments, "--batch_size", 16, "--output_dir", tmp_path / "one")
    run_main(script, monkeypatch, *arguments, "--batch_size", 1, "--output_dir", tmp_path / "small")
    for rank in (1, 0):
        run_main(
            script,
            monkeypatch,
            *arguments,
            "--batch_size",
            5,
            "--output_dir",
            tmp_path / "two",
            rank=rank,
            world_size=2,
        )
    rows = rows_of(tmp_path / "one")
    assert len(rows) == 24 and rows == rows_of(tmp_path / "small") == rows_of(tmp_path / "two")
    results = [
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("one", "small", "two")
    ]
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    if temperature:  # samples differ from each other
        assert any(
            rows[item, 0].get("completion", rows[item, 0].get("generations"))
            != rows[item, 1].get("completion", rows[item, 1].get("generations"))
            for item in range(12)
        )


@pytest.mark.parametrize(
    "kind, more",
    [("flexmdm", ["--sampler", "event_driven", "--diffusion_steps", 100]), ("llada", [])],
)
def test_finished_rows_are_replaced_and_the_batch_size_is_never_exceeded(
    checkpoints, sets, tmp_path, monkeypatch, kind, more
):
    """Rows of the event-driven sampler end at different times: 16 rows in batches of 4 take fewer
    calls than four batches run to their ends.
    """
    import llada_dit

    network, seen = {"flexmdm": llada_dit.LLaDADiT, "llada": llada_dit.LLaDAModelLM}[kind], []
    forward = network.forward
    monkeypatch.setattr(
        network,
        "forward",
        lambda self, ids, *rest, **named: (
            seen.append(len(ids)),
            forward(self, ids, *rest, **named),
        )[1],
    )
    arguments = [*flags(checkpoints, sets, kind, "math"), *more, "--subsample", 16]
    for name, size, most in (
        ("batch", ["--batch_size", 4], 4),
        ("rows", ["--batch_size", 16, "--rows_at_once", 3], 3),
    ):
        seen.clear()
        run_main(eval_gsm8k, monkeypatch, *arguments, *size, "--output_dir", tmp_path / name)
        assert max(seen) == most
        taken = [
            row["evaluations"] for row in read_finished(tmp_path / name / "generations-000.jsonl")
        ]
        drained = sum(max(taken[start : start + most]) for start in range(0, 16, most))
        assert len(seen) < drained if kind == "flexmdm" else len(seen) == drained


@pytest.mark.parametrize(
    "words, sampler, steps",
    [
        ([], "event_driven", None),
        (["--preset", "paper"], "tau_leaping", 4096),
        (["--preset", "paper", "--diffusion_steps", "64"], "tau_leaping", 64),
        (["--diffusion_steps", "64"], "tau_leaping", 64),
        (["--diffusion_steps", "64", "--sampler", "event_driven"], "event_driven", 64),
        (["--preset", "paper", "--sampler", "count_first"], "count_first", None),
    ],
)
def test_infills_are_sampled_event_driven_unless_steps_or_the_paper_are_named(
    words, sampler, steps, tmp_path
):
    args = eval_humaneval_infill.parse_args(["--checkpoint_path", str(tmp_path), *words])
    default = eval_humaneval_infill.Infilling.default_steps
    options = options_from(args, SamplerOptions, default)
    assert (options.sampler, options.steps) == (sampler, steps)
    # the rest is the paper's
    assert options.unmasking == "confidence" and options.confidence_method == "top_prob"
    assert (options.use_sliding_window, options.alpha, options.max_window) == (True, 15, 32)


def test_torchrun_shards_the_same_command(checkpoints, sets, tmp_path, monkeypatch):
    arguments = [*map(str, flags(checkpoints, sets, "flexmdm", "math")), "--temperature", "1"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    done = subprocess.run(
        [*launcher, str(ROOT / "eval_gsm8k.py"), *arguments, "--output_dir", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run_main(eval_gsm8k, monkeypatch, *arguments, "--output_dir", tmp_path / "one")
    assert (
        rows_of(tmp_path / "two") == rows_of(tmp_path / "one")
        and len(list((tmp_path / "two").glob(GENERATIONS))) == 2
    )


def test_results_json_is_complete(checkpoints, sets, tmp_path, monkeypatch):
    run_main(
        eval_gsm8k,
        monkeypatch,
        *flags(checkpoints, sets, "flexmdm", "math"),
        "--output_dir",
        tmp_path,
        "--label",
        "ours",
    )
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["benchmark"] == "math" and result["label"] == "ours" and result["rows"] == 24
    assert (
        set(result["metrics"]["pass@1"]) == {"value", "right", "n", "low", "high"}
        and result["metrics"]["pass@1"]["n"] == 24
    )
    assert (
        set(result["evaluations"]) == {"mean", "q1", "median", "q3"}
        and result["tokens"] >= 0
        and result["seconds"] > 0
    )
    assert (
        result["settings"]["steps"] == 6 and result["settings"]["confidence_method"] == "prob_diff"
    )
    assert (
        len(result["settings"]["checkpoint_hash"]) == 12
        and result["versions"]["torch"]
        and result["answer_rule"] == "paper"
    )
    for name in (
        "sampler",
        "unmasking",
        "use_sliding_window",
        "alpha",
        "max_window",
        "temperature",
        "seed",
        "dtype",
        "max_length",
    ):
        assert name in result["settings"]


def test_other_data_or_weights_in_the_same_folder_are_refused(
    checkpoints, sets, tmp_path, monkeypatch
):
    run_main(
        eval_gsm8k,
        monkeypatch,
        *flags(checkpoints, sets, "flexmdm", "math"),
        "--output_dir",
        tmp_path,
    )
    write_rows(tmp_path / "other" / "math.jsonl", math_rows("test", 24, 1))
    with pytest.raises(InputError, match="data_hash"):
        run_main(
            eval_gsm8k,
            monkeypatch,
            *flags(checkpoints, tmp_path / "other", "flexmdm", "math"),
            "--output_dir",
            tmp_path,
        )
    with pytest.raises(InputError, match="checkpoint_hash"):
        run_main(
            eval_gsm8k,
            monkeypatch,
            *flags(checkpoints, sets, "llada", "math"),
            "--output_dir",
            tmp_path,
        )


def test_score_only_reproduces_the_runs_result(checkpoints, sets, tmp_path, monkeypatch):
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        *flags(checkpoints, sets, "flexmdm", "code"),
        "--output_dir",
        tmp_path / "run",
    )
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        "--score_only",
        tmp_path / "run",
        "--data_path",
        sets / "code.jsonl",
        "--output_dir",
        tmp_path / "again",
    )
    first, again = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "again")
    )
    assert (
        first["metrics"] == again["metrics"]
        and first["settings"] == again["settings"]
        and first["label"] == again["label"] == "FlexMDM"
    )


@pytest.mark.parametrize("layout", ["paper", "oracle", "fixed"])
def test_llada_supports_its_three_infill_layouts(checkpoints, sets, tmp_path, monkeypatch, layout):
    arguments = flags(checkpoints, sets, "llada", "code")
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        *arguments,
        "--llada_infill",
        layout,
        "--output_dir",
        tmp_path,
    )
    rows = rows_of(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["llada_infill"] == layout
    if layout == "oracle":
        assert all(row["length"] <= row["reference_length"] for row in rows.values())
    else:
        assert max(row["length"] for row in rows.values()) <= 20


@pytest.mark.parametrize("task", ["math", "code"])
def test_a_llada_that_searches_its_length_takes_the_most_confident_canvas(
    checkpoints, sets, tmp_path, monkeypatch, task
):
    """Against probabilities computed row by row, in float64; every canvas counts."""
    import torch

    script = eval_gsm8k if task == "math" else eval_humaneval_infill
    lengths = sorted(random.sample(range(1, 12), 4))
    drift = {str(n): random.gauss(-1, 0.3) for n in lengths}
    (tmp_path / "drift.json").write_text(json.dumps(drift))
    words = ["--data_path", sets / f"{task}.jsonl", "--max_length", 200, "--llada_length"]
    words += ["searched", "--output_dir", tmp_path / "out", "--batch_size", 2]
    words += ["--llada_infill", "fixed"] if task == "code" else []
    run = ["--checkpoint_path", checkpoints / "llada", *words]
    with pytest.raises(InputError, match="--length_drift"):
        run_main(script, monkeypatch, *run)
    (tmp_path / "wrong.json").write_text("[1]")
    with pytest.raises(InputError, match="--length_drift .*: not a file of"):
        run_main(script, monkeypatch, *run, "--length_drift", tmp_path / "wrong.json")
    run_main(script, monkeypatch, *run, "--length_drift", tmp_path / "drift.json")
    model, tokenizer = load_llada(checkpoints / "llada"), load_tokenizer(checkpoints / "llada")
    asked = "prompt_input" if task == "math" else "prompt"
    for row in rows_of(tmp_path / "out").values():
        before = text_ids(tokenizer, row[asked])
        after = inner_ids(tokenizer, row.get("suffix", ""))
        scores = {}
        for n in lengths:
            ids = torch.tensor([[*before, *[model.config.mask_token_id] * n, *after]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(before) : len(before) + n].double()
            logits = logits[:, : len(tokenizer)]
            logits[:, model.config.mask_token_id] = -torch.inf
            scores[n] = logits.log_softmax(-1).max(-1).values.mean().item() - drift[str(n)]
        best = max(scores, key=scores.get)
        assert row["evaluations"] == len(lengths) + best
        given = len(before) + len(after)
        assert row["positions"] == sum(given + n for n in lengths) + best * (given + best)
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert "best of 4 lengths" in sampler_words(result["settings"])


@pytest.mark.parametrize(
    "words",
    [
        ["--sampler", "count_first"],
        ["--sampler", "event_driven", "--placed_share", 0.5],
        ["--sampler", "event_driven", "--leap_counts", "drawn"],
    ],
)
def test_counting_is_refused_where_the_checkpoint_cannot(
    checkpoints, sets, tmp_path, monkeypatch, words
):
    """By evaluation and by inference, before anything is written."""
    run = ["--checkpoint_path", checkpoints / "flexmdm", *words]
    with pytest.raises(InputError, match=f"{words[-2]} {words[-1]}: .*flexmdm has no length dist"):
        data = ["--data_path", sets / "math.jsonl", "--output_dir", tmp_path / "out"]
        run_main(eval_gsm8k, monkeypatch, *run, *data)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=f"{words[-2]} {words[-1]}: .* has no length distribution"):
        run_main(flexmdm_inference, monkeypatch, *run, "--prompt", "x")


@pytest.mark.parametrize("task", ["math", "code"])
def test_a_llada_that_counts_its_answer_fills_as_many_masks(
    checkpoints, sets, tmp_path, monkeypatch, task
):
    """One evaluation counts, and one unmasks each token."""
    script = eval_gsm8k if task == "math" else eval_humaneval_infill
    words = ["--data_path", sets / f"{task}.jsonl", "--max_length", 200, "--llada_length"]
    words += ["counted", "--output_dir", tmp_path / "out"]
    words += ["--llada_infill", "fixed"] if task == "code" else []
    run_main(script, monkeypatch, "--checkpoint_path", checkpoints / "counting", *words)
    rows = rows_of(tmp_path / "out").values()
    model = load_llada(checkpoints / "counting")
    tokenizer = load_tokenizer(checkpoints / "counting")
    asked = "prompt_input" if task == "math" else "prompt"
    expected = likeliest_lengths(
        model,
        [text_ids(tokenizer, row[asked]) for row in rows],
        [inner_ids(tokenizer, row.get("suffix", "")) for row in rows],
        200,
    )
    assert [row["evaluations"] - 1 for row in rows] == expected
    assert all(row["length"] < row["evaluations"] for row in rows)
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert result["settings"]["llada_length"] == "counted"
    with pytest.raises(InputError, match="--llada_length counted: .* has no length distribution"):
        run_main(script, monkeypatch, "--checkpoint_path", checkpoints / "llada", *words)
    with pytest.raises(InputError, match="--gen_length"):
        more = ["--gen_length", 4]
        run_main(script, monkeypatch, "--checkpoint_path", checkpoints / "counting", *words, *more)


@pytest.mark.parametrize("task", ["math", "code"])
def test_a_llada_whose_canvas_grows_answers_prompts_only(
    checkpoints, sets, tmp_path, monkeypatch, task
):
    """An evaluation for each canvas that was asked about, and one for each of its masks."""
    monkeypatch.setattr(canvas_search, "ENDS", 2.0)  # never reached: asked up to max_length
    script = eval_gsm8k if task == "math" else eval_humaneval_infill
    words = ["--checkpoint_path", checkpoints / "llada", "--data_path", sets / f"{task}.jsonl"]
    words += ["--max_length", 200, "--llada_length", "grown", "--output_dir", tmp_path / "out"]
    words += ["--subsample", 4]
    for layout in ("fixed", "oracle") if task == "code" else ():
        with pytest.raises(InputError, match="--llada_length grown: needs --llada_infill paper"):
            run_main(script, monkeypatch, *words, "--llada_infill", layout)
    assert not (tmp_path / "out").exists()
    run_main(script, monkeypatch, *words)
    tokenizer = load_tokenizer(checkpoints / "llada")
    for row in rows_of(tmp_path / "out").values():
        if task == "math":
            prompt = text_ids(tokenizer, row["prompt_input"])
        else:
            prompt = llada_infill_prompt(tokenizer, row["prompt"], row["suffix"])
        room = 200 - len(prompt)
        assert row["evaluations"] == room + (room - 1) // 8
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert "length grown" in sampler_words(result["settings"])


def test_pass_at_k_of_several_samples_and_suspicious_programs(sets, tmp_path, monkeypatch):
    """Completions of another program, two samples each: the reference and an empty one."""
    items = code_infill_rows("test", 8, 0)
    write_rows(tmp_path / "items.jsonl", items)
    write_rows(
        tmp_path / "samples.jsonl",
        [
            {"task_id": item["task_id"], "completion": completion}
            for item in items
            for completion in (item["canonical_solution"], "syntax error (")
        ],
    )
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        "--score_only",
        tmp_path / "samples.jsonl",
        "--data_path",
        tmp_path / "items.jsonl",
        "--num_samples",
        2,
        "--allow_code_execution",
        "--output_dir",
        tmp_path / "scored",
    )
    result = json.loads((tmp_path / "scored" / "results.json").read_text())
    metrics = result["metrics"]
    assert (
        metrics["pass@1"]["value"] == 0.5
        and metrics["pass@2"]["value"] == 1.0
        and metrics["pass@1"]["n"] == 8
    )
    assert (
        metrics["exact_match"]["value"] == 0.5
        and result["suspicious"] == 0
        and result["isolation"]["level"]
    )
    verdicts = [
        json.loads(line)
        for line in (tmp_path / "scored" / "verdicts.jsonl").read_text().splitlines()
    ]
    assert [verdict["status"] for verdict in verdicts] == ["passed", "failed"] * 8


def test_the_items_test_is_used_not_the_one_in_the_generations_file(tmp_path, monkeypatch):
    item = {
        "task_id": "x/0",
        "entry_point": "f",
        "prompt": "def f(x):\n",
        "suffix": "",
        "canonical_solution": "    return 1\n",
        "test": "def check(f):\n    assert f(0) == 1\n",
    }
    write_rows(tmp_path / "items.jsonl", [item])
    cheat = {
        "completion": "    return 0\n",
        "test": "def check(f):\n    pass\n",
        "prompt": "def f(x): return 1\n",
    }
    write_rows(tmp_path / "samples.jsonl", [{**item, **cheat}])
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        "--score_only",
        tmp_path / "samples.jsonl",
        "--data_path",
        tmp_path / "items.jsonl",
        "--allow_code_execution",
        "--output_dir",
        tmp_path / "scored",
    )
    assert (
        json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"]["pass@1"]["value"]
        == 0
    )


def test_without_permission_no_program_runs(checkpoints, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "evaluation.sandbox.runner.CodeRunner.__init__",
        lambda *a, **k: pytest.fail("a program would have run"),
    )
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        *flags(checkpoints, sets, "flexmdm", "code"),
        "--output_dir",
        tmp_path,
    )
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        *flags(checkpoints, sets, "flexmdm", "stdlib"),
        "--output_dir",
        tmp_path / "stdlib",
        "--allow_code_execution",
    )  # items without tests
    assert len(rows_of(tmp_path)) == 24 and "--allow_code_execution" in capsys.readouterr().err
    assert (
        next(iter(json.loads((tmp_path / "results.json").read_text())["metrics"])) == "exact_match"
    )
    assert (
        json.loads((tmp_path / "stdlib" / "results.json").read_text())["metrics"]["parses"]["n"]
        == 8
    )


def test_check_references_runs_the_references_and_the_empty_baseline(sets, tmp_path, monkeypatch):
    run_main(
        eval_humaneval_infill,
        monkeypatch,
        "--check_references",
        "--data_path",
        sets / "code.jsonl",
        "--allow_code_execution",
        "--output_dir",
        tmp_path,
    )
    reference, empty = (
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("reference", "empty")
    )
    assert (
        reference["metrics"]["pass@1"]["value"] == 1.0 and empty["metrics"]["pass@1"]["value"] < 0.5
    )
    broken = [{**row, "canonical_solution": " ("} for row in code_infill_rows("test", 2, 0)]
    write_rows(tmp_path / "broken.jsonl", broken)
    with pytest.raises(InputError, match="2 canonical solutions fail"):
        run_main(
            eval_humaneval_infill,
            monkeypatch,
            "--check_references",
            "--data_path",
            tmp_path / "broken.jsonl",
            "--allow_code_execution",
        )


@pytest.fixture(scope="module")
def to_score(tmp_path_factory):
    """(flags, what an undisturbed run writes) of six completions, right and wrong."""
    folder = tmp_path_factory.mktemp("to_score")
    items = code_infill_rows("test", 6, 3)
    rows = [
        {
            "task_id": item["task_id"],
            "completion": item["canonical_solution"] if number % 2 else "0",
        }
        for number, item in enumerate(items)
    ]
    write_rows(folder / "data.jsonl", items)
    write_rows(folder / "rows.jsonl", rows)
    flags = ["--score_only", folder / "rows.jsonl", "--data_path", folder / "data.jsonl"]
    return [*map(str, flags), "--allow_code_execution", "--code_workers", "1"]


def counted_programs(monkeypatch, upto=None):
    """How many programs are run from here on; with `upto`, no file can grow once so many are."""
    from evaluation.sandbox.runner import CodeRunner

    run_one, ran = CodeRunner._run_one, []

    def counted(self, slot, job):
        ran.append(job)
        if len(ran) == upto:
            monkeypatch.setattr(
                "common.rows.RowWriter.append", lambda self, row: full_disk(self.path)
            )
        return run_one(self, slot, job)

    monkeypatch.setattr(CodeRunner, "_run_one", counted)
    return ran


def full_disk(path):
    raise InputError(f"cannot write {path}: No space left on device")


@pytest.mark.parametrize("written", [0, 1, 4])
def test_a_full_disk_while_programs_run_loses_no_finished_verdict(
    to_score, tmp_path, monkeypatch, written
):
    """Those reached are kept, the same command runs the others only, and the end is as if nothing
    had been.
    """
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        ran = counted_programs(patch, upto=written + 1)
        with pytest.raises(InputError, match="cannot write .*No space left"):
            run_main(eval_humaneval_infill, patch, *to_score, "--output_dir", out)
        assert len(ran) == written + 1
    reached = out / REACHED
    assert len(read_finished(reached)) == written and not (out / "results.json").exists()
    with reached.open("ab") as file:
        file.write(b'{"job": "torn')  # what a full disk leaves of a row
    with monkeypatch.context() as patch:
        ran = counted_programs(patch)
        run_main(eval_humaneval_infill, patch, *to_score, "--output_dir", out)
        assert len(ran) == 6 - written
    verdicts = [row["right"] for row in read_finished(out / "verdicts.jsonl")]
    assert verdicts == [False, True] * 3 and not reached.exists()


def test_verdicts_of_other_programs_are_not_reused(to_score, tmp_path, monkeypatch):
    """Nor rows that are no verdicts; a program that ran out of time is tried again."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        counted_programs(patch, upto=6)
        with pytest.raises(InputError, match="No space left"):
            run_main(eval_humaneval_infill, patch, *to_score, "--output_dir", out)
    rows = read_finished(out / REACHED)
    rows[0]["job"] = "another"
    rows[1]["verdict"]["status"] = "timed out"
    rows[2] = [rows[2]]
    rows[3]["verdict"] = "passed"
    write_rows(out / REACHED, rows)
    ran = counted_programs(monkeypatch)
    run_main(eval_humaneval_infill, monkeypatch, *to_score, "--output_dir", out)
    assert len(ran) == 5


def test_completion_is_the_middle_alone():
    """Boundary marks, prefix and suffix stay outside; special tokens are skipped; LLaDA's text ends
    at its first end token.
    """
    import torch

    from evaluation.model import EvaluatedModel
    from sampling.results import GenerationResult

    words = {1: "a", 2: " b", 3: "c\n", 9: "<mark>", 5: "P", 6: "S"}
    model = EvaluatedModel.__new__(EvaluatedModel)
    model.tokenizer = SimpleNamespace(
        decode=lambda ids, **_: "".join(words[token] for token in ids)
    )
    model.kind, model.stop_ids = "flexmdm", {0}
    result = GenerationResult(
        sequences=torch.tensor(
            [[5, 9, 1, 2, 3, 9, 6], [5, 9, 9, 6, 6, 0, 0], [9, 2, 9, 0, 0, 0, 0]]
        ),
        lengths=torch.tensor([7, 5, 3]),
        evaluations=torch.tensor([4, 5, 6]),
        truncated=torch.tensor([False, True, False]),
    )
    rows = model.answers_of(result, [2, 2, 1], [2, 3, 1])
    assert [text for text, _ in rows] == ["a bc\n", "", " b"] and [
        fields["length"] for _, fields in rows
    ] == [3, 0, 1]
    assert rows[1][1] == {"evaluations": 5, "length": 0, "truncated": True}
    model.kind = "llada"
    result.sequences = torch.tensor(
        [[5, 1, 2, 0, 3, 0, 0], [5, 0, 0, 0, 0, 0, 0], [5, 1, 2, 3, 1, 2, 3]]
    )
    result.lengths = torch.tensor([7, 7, 7])
    assert [text for text, _ in model.answers_of(result, [1, 1, 1], [0, 0, 0])] == [
        "a b",
        "",
        "a bc\na bc\n",
    ]


# ---- scores of text ------------------------------------------------------------------------------


def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1,
        levenshtein(a, b[1:]) + 1,
        levenshtein(a[1:], b[1:]) + (a[0] != b[0]),
    )


@given(st.text("ab\n", max_size=6), st.text("ab\n", max_size=6))
def test_edit_similarity_is_levenshtein(a, b):
    expected = 1 - levenshtein(a, b) / max(len(a), len(b), 1)
    assert math.isclose(edit_similarity(a, b), expected)


def test_parses_accepts_exactly_valid_python():
    assert parses("def f():\n    return '\\d'\n") and parses("")
    assert not any(map(parses, ("def f(:\n", "x = '''", "\0", "  x\n y\n")))


# ---- refusals: one line, exit code 2, nothing written --------------------------------------------


def refused(script, *arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr, (
        done.stderr
    )
    return done.stderr


@pytest.mark.parametrize("script", ["eval_gsm8k", "eval_humaneval_infill"])
def test_bad_flags_and_files_are_refused_at_once(script, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "fields.jsonl").write_text('{"a": 1}\n')
    for arguments, words in (
        (["--data_path", tmp_path / "none", "--checkpoint_path", tmp_path], "--data_path"),
        ([], "--checkpoint_path"),
        (["--data_path", tmp_path / "empty.jsonl", "--checkpoint_path", tmp_path], "is empty"),
        (
            ["--data_path", tmp_path / "broken.jsonl", "--checkpoint_path", tmp_path],
            "line 1 is not JSON",
        ),
        (["--data_path", tmp_path / "fields.jsonl", "--checkpoint_path", tmp_path], "has no field"),
        (["--batch_size", "0", "--checkpoint_path", tmp_path], "--batch_size"),
        (["--unknown"], "--unknown"),
        (["--checkpoint_path", tmp_path / "none"], "--checkpoint_path"),
        (["--sampler", "other"], "--sampler"),
    ):
        assert words in refused(script, *arguments, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.jsonl",
        "empty.jsonl",
        "fields.jsonl",
    ]


def test_checkpoints_and_prompts_that_do_not_fit_are_refused_before_anything_is_written(
    checkpoints, sets, tmp_path, monkeypatch
):
    def expect(words, script, *arguments):
        with pytest.raises(InputError, match=words):
            run_main(script, monkeypatch, *arguments, "--output_dir", tmp_path / "out")

    math_data = ["--data_path", sets / "math.jsonl"]
    code_data = ["--data_path", sets / "code.jsonl"]
    flexmdm = ["--checkpoint_path", checkpoints / "flexmdm"]
    llada = ["--checkpoint_path", checkpoints / "llada"]
    expect("--checkpoint_path", eval_gsm8k, *math_data, "--checkpoint_path", tmp_path)
    expect("--variable_length", eval_gsm8k, *math_data, *llada, "--variable_length")
    expect(
        "item 0 .* takes .* --max_length is 20",
        eval_gsm8k,
        *math_data,
        *flexmdm,
        "--max_length",
        20,
    )
    expect(
        "BuiltinInfilling/test/0/.* --max_length is 5",
        eval_humaneval_infill,
        *code_data,
        *flexmdm,
        "--max_length",
        5,
    )
    code_rows = read_finished(sets / "code.jsonl")
    for field in ("prompt", "suffix"):
        text = code_rows[2][field]
        cut = random.randrange(len(text) + 1)
        ended = code_rows[2] | {field: f"{text[:cut]}<|endoftext|>{text[cut:]}"}
        write_rows(tmp_path / "ended.jsonl", [*code_rows[:2], ended])
        expect(
            "--data_path: BuiltinInfilling/test/0/2: holds the padding token",
            eval_humaneval_infill,
            "--data_path",
            tmp_path / "ended.jsonl",
            *random.choice([flexmdm, llada]),
        )
    math = read_finished(sets / "math.jsonl")
    math[1]["question"] = f"Is <|endoftext|> {math[1]['question']}"
    write_rows(tmp_path / "ended.jsonl", math)
    expect(
        "--data_path: item 1 .*: holds the padding token",
        eval_gsm8k,
        "--data_path",
        tmp_path / "ended.jsonl",
        *random.choice([flexmdm, llada]),
    )
    expect(
        "must be divisible",
        eval_gsm8k,
        *math_data,
        *llada,
        "--max_length",
        200,
        "--block_length",
        7,
        "--diffusion_steps",
        11,
    )
    expect("--gen_length", eval_humaneval_infill, *code_data, *llada, "--llada_infill", "fixed")
    expect("has only 24 items", eval_gsm8k, *math_data, *flexmdm, "--subsample", 25)
    expect("--allow_code_execution", eval_humaneval_infill, *code_data, "--check_references")
    assert not (tmp_path / "out").exists()


def test_flags_of_the_other_model_kind_give_a_no_effect_warning(
    checkpoints, sets, tmp_path, monkeypatch, capsys
):
    arguments = flags(checkpoints, sets, "flexmdm", "math")
    run_main(
        eval_gsm8k,
        monkeypatch,
        *arguments,
        "--gen_length",
        5,
        "--remasking",
        "random",
        "--output_dir",
        tmp_path,
    )
    assert "--gen_length, --remasking: only for LLaDA" in capsys.readouterr().err


def test_official_files_are_recognised_by_name(data_dir, tmp_path):
    folder, light = str(data_dir / "humaneval"), "random-span-light"
    assert len(infill_items(folder, light)) == 164
    assert infill_name(folder, light) == "humaneval-infill random-span-light"
    single = str(data_dir / "humaneval" / "HumanEval-SingleLineInfilling.jsonl.gz")
    with pytest.raises(InputError, match="--benchmark random-span-light"):
        infill_name(single, light)
    with gzip.open(single, "rt") as file:
        rows = [json.loads(line) for line in file][:3]
    write_rows(tmp_path / "mine.jsonl", rows + rows[:1])
    mine = str(tmp_path / "mine.jsonl")
    assert infill_name(mine, light) == "mine"
    with pytest.raises(InputError, match="occurs twice"):
        infill_items(mine, light)


def test_official_gsm8k_is_recognised_by_content(data_dir, sets):
    folder, other = str(data_dir / "gsm8k"), str(sets / "math.jsonl")
    items = gsm8k_items(folder)
    assert len(items) == 1319 and gsm8k_name(folder, items) == "gsm8k"
    assert gsm8k_name(other, gsm8k_items(other)) == "math"


def test_help_needs_no_torch():
    for script in ("eval_gsm8k", "eval_humaneval_infill", "scripts/results_table"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(ROOT / f"{script}.py"), "--help"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert not any(
            f" {name}\n" in done.stderr
            for name in ("torch", "transformers", "datasets", "matplotlib", "numpy")
        )


def test_content_hash_does_not_depend_on_order():
    assert (
        content_hash({"a": 1, "b": [2]})
        == content_hash({"b": [2], "a": 1})
        != content_hash({"a": 1, "b": [3]})
    )


def test_without_a_local_copy_the_hub_sets_are_read(monkeypatch):
    """The hub cannot be reached in tests: a stand-in for its client shows what is asked for."""
    import datasets

    asked = []

    def load_dataset(*names, split, revision=None):
        asked.append((names, split, revision))
        if revision is None and "infilling" in names[0]:
            raise RuntimeError("Dataset scripts are no longer supported")
        return (
            code_infill_rows("test", 3, 0) if "infilling" in names[0] else math_rows("test", 3, 0)
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(gsm8k_items(None)) == 3
    assert len(infill_items(None, "multi-line")) == 3
    assert infill_name(None, "multi-line") == "humaneval-infill multi-line"
    hub = ("loubnabnl/humaneval_infilling", "HumanEval-MultiLineInfilling")
    assert asked == [
        (("openai/gsm8k", "main"), "test", None),
        (hub, "test", None),
        (hub, "test", "refs/convert/parquet"),
    ]
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no network")),
    )
    with pytest.raises(InputError, match="--data_path"):
        gsm8k_items(None)
