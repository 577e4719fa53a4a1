"""generation_run.py, evaluated_model.py and both evaluation scripts: rows that survive interruption, sharding, merging and refusals.

    FLEXMDM_DATA=... pytest tests/test_evaluation_runs.py         about 40 s on 2 cores
"""
import gzip
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eval_gsm8k
import eval_humaneval_infill
from builtin_data import code_infill_rows, math_rows, stdlib_infill_rows
from generation_run import GENERATIONS, GenerationRun, Stop, content_hash, item_seed, make_tasks, merge_rows, read_generations
from records import InputError, read_finished, write_rows

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "tests" / "stub_run.py"


def rows_of(folder):
    """{(item, sample): row without what may differ between runs}, and that no row is there twice."""
    rows = [json.loads(line) for file in sorted(Path(folder).glob(GENERATIONS)) for line in file.read_text().splitlines()]
    keyed = {(row["item"], row["sample"]): {key: value for key, value in row.items() if key != "seconds"} for row in rows}
    assert len(keyed) == len(rows)
    return keyed


# ---- the loop, with a stand-in for the model (stub_run.py) -----------------------------------------------------------------

def stub(folder, items=60, samples=2, batch=3, pause=0.0, **environment):
    command = [sys.executable, str(STUB), str(folder), str(items), str(samples), str(batch), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # a script's background job ignores Ctrl-C


def wait_for_bytes(folder, process, size):
    """Until the rows' files hold more than `size` bytes (or the process has ended)."""
    while process.poll() is None and size_of(folder) <= size:
        time.sleep(0.01)


def size_of(folder):
    return sum(path.stat().st_size for path in Path(folder).glob(GENERATIONS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert stub(folder).wait() == 0
    assert len(rows_of(folder)) == 120
    return rows_of(folder)


def test_a_run_killed_ten_times_at_random_equals_an_undisturbed_one(tmp_path, whole):
    kills = 0
    for attempt in range(60):
        process = stub(tmp_path, pause=0.05, batch=random.choice([1, 2, 5]))
        if attempt % 3:                                # the others are killed somewhere in their start
            wait_for_bytes(tmp_path, process, size_of(tmp_path))
        time.sleep(random.random() * 0.15)
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        for path in tmp_path.glob(GENERATIONS):        # a kill may tear the last line; here every second one does
            if random.random() < 0.5 and path.stat().st_size > 20:
                os.truncate(path, path.stat().st_size - random.randint(1, 20))
        if kills >= 10:
            break
    assert stub(tmp_path).wait() == 0
    assert kills >= 10 and rows_of(tmp_path) == whole


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_batch_size_does_not_change_rows(tmp_path, whole, batch):
    assert stub(tmp_path, batch=batch).wait() == 0
    assert rows_of(tmp_path) == whole


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_and_process_0_waits_for_all(tmp_path, whole, processes):
    running = [stub(tmp_path, pause=0.01, RANK=str(rank), WORLD_SIZE=str(processes)) for rank in range(processes)]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    assert rows_of(tmp_path) == whole
    assert "120 rows" in outputs[0] and not any("rows" in output for output in outputs[1:])
    assert len(list(tmp_path.glob(GENERATIONS))) == processes


def test_another_number_of_processes_goes_on_where_one_stopped(tmp_path, whole):
    process = stub(tmp_path, pause=0.05)
    wait_for_bytes(tmp_path, process, 0)
    process.kill()
    process.wait()
    assert 0 < len(rows_of(tmp_path)) < 120
    running = [stub(tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert rows_of(tmp_path) == whole


def test_sigterm_finishes_the_batch_says_what_is_missing_and_exits_0(tmp_path, whole):
    process = stub(tmp_path, pause=0.1, batch=4)
    wait_for_bytes(tmp_path, process, 0)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    done = rows_of(tmp_path)
    assert process.returncode == 0 and 0 < len(done) < 120 and len(done) % 4 == 0
    assert f"{120 - len(done)} of 120 rows are missing" in errors and "rows" not in output
    assert stub(tmp_path).wait() == 0 and rows_of(tmp_path) == whole


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    process = stub(tmp_path, pause=0.1)
    wait_for_bytes(tmp_path, process, 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors and len(rows_of(tmp_path)) > 0


def test_two_processes_never_write_one_file(tmp_path):
    first = stub(tmp_path, pause=0.1)
    wait_for_bytes(tmp_path, first, 0)
    second = stub(tmp_path)
    _, errors = second.communicate(timeout=30)
    first.kill()
    first.wait()
    assert second.returncode == 2 and "another process is writing" in errors


def run_of(folder, settings, n=4):
    return GenerationRun(folder, settings, make_tasks([3] * n, 1), Stop())


def test_other_settings_are_refused_by_name(tmp_path):
    run_of(tmp_path, {"steps": 8, "seed": 1}).generate(2, lambda tasks: [{"x": 1} for _ in tasks])
    with pytest.raises(InputError, match="steps: 8 there, 9 now"):
        run_of(tmp_path, {"steps": 9, "seed": 1})
    assert len(rows_of(tmp_path)) == 4
    (tmp_path / "settings.json").unlink()
    with pytest.raises(InputError, match="no settings.json"):
        run_of(tmp_path, {"steps": 8, "seed": 1})


def test_a_row_of_another_configuration_in_the_folder_is_refused(tmp_path):
    run_of(tmp_path, {"steps": 8})
    write_rows(tmp_path / "generations-001.jsonl", [{"item": 0, "sample": 0, "configuration": "other"}])
    with pytest.raises(InputError, match="another configuration"):
        run_of(tmp_path, {"steps": 8})


def test_more_items_and_samples_add_to_a_folder(tmp_path):
    for n in (2, 5):
        run_of(tmp_path, {"steps": 8}, n).generate(2, lambda tasks: [{"x": 1} for _ in tasks])
    assert len(rows_of(tmp_path)) == 5


def test_seeds_are_a_stable_function_of_seed_item_and_sample():
    assert item_seed(42, 0, 0) == 2304941102897067046 and item_seed(42, 1, 0) == 2844843876009695437      # stored: a change breaks old runs
    seeds = {item_seed(seed, item, sample) for seed in range(3) for item in range(50) for sample in range(5)}
    assert len(seeds) == 750 and all(0 <= seed < 2 ** 62 for seed in seeds)


def test_long_rows_come_first_and_every_task_once():
    tasks = make_tasks([5, 9, 9, 1], 2)
    assert [task["item"] for task in tasks] == [1, 1, 2, 2, 0, 0, 3, 3] and len({(t["item"], t["sample"]) for t in tasks}) == 8


# ---- merging files of other runs and programs ------------------------------------------------------------------------------

def ours(n=4, samples=1, configuration="a"):
    return [{"item": item, "sample": sample, "configuration": configuration, "question": f"q{item}", "generations": rf"\boxed{{{item}}}",
             "ground_truth": float(item)} for item in range(n) for sample in range(samples)]


def merge(paths, expected=None, samples=1, duplicates=False, missing=False):
    rows, _ = read_generations(paths, "question")
    return merge_rows(rows, expected, samples, duplicates, missing)


def test_shards_merge_in_order(tmp_path):
    rows = ours(samples=2)
    write_rows(tmp_path / "a.jsonl", rows[::2])
    write_rows(tmp_path / "b.jsonl", rows[1::2][::-1])
    merged, counts = merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], samples=2)
    assert [(row["item"], row["sample"]) for row in merged] == [(item, sample) for item in range(4) for sample in range(2)]
    assert counts == {"missing": 0, "duplicates": 0}


def test_duplicates_and_missing_rows_are_refused_unless_told(tmp_path):
    write_rows(tmp_path / "a.jsonl", ours() + ours()[:1])
    with pytest.raises(InputError, match="occurs twice"):
        merge([tmp_path / "a.jsonl"])
    assert merge([tmp_path / "a.jsonl"], duplicates=True)[1] == {"missing": 0, "duplicates": 1}
    write_rows(tmp_path / "b.jsonl", ours()[:1] + ours()[2:])
    for expected in (None, ["q0", "q1", "q2", "q3"]):
        with pytest.raises(InputError, match="1 rows are missing"):
            merge([tmp_path / "b.jsonl"], expected)
        assert merge([tmp_path / "b.jsonl"], expected, missing=True)[1] == {"missing": 1, "duplicates": 0}
    with pytest.raises(InputError, match="not in the data set"):
        merge([tmp_path / "a.jsonl"], ["q0"], duplicates=True)


def test_several_configurations_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", ours(2))
    write_rows(tmp_path / "b.jsonl", ours(2, configuration="b"))
    with pytest.raises(InputError, match="several configurations"):
        merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_rows_of_other_programs_are_samples_only_when_told(tmp_path):
    rows = [{"question": "q", "generations": r"\boxed{1}", "ground_truth": 1.0}] * 3
    (tmp_path / "old.json").write_text(json.dumps({"generations": rows, "model_path": "/models/x"}))
    with pytest.raises(InputError, match="--num_samples"):
        merge([tmp_path / "old.json"])
    assert [row["sample"] for row in merge([tmp_path / "old.json"], samples=3)[0]] == [0, 1, 2]
    assert len(merge([tmp_path / "old.json"], duplicates=True)[0]) == 3


# ---- both scripts with small networks of random weights --------------------------------------------------------------------

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
        model.scalar_length_head.proj2.bias.fill_(-2.0)                    # a few insertions, not hundreds
    write_checkpoint(model, folder / "flexmdm", tiny.tokenizer(), card="# test\n")
    tiny.write_llada(folder / "llada")
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
    common = ["--checkpoint_path", checkpoints / kind, "--data_path", sets / f"{task}.jsonl", "--diffusion_steps", 6, "--max_length", 200]
    return common + {("llada", "math"): ["--gen_length", 20], ("llada", "code"): ["--gen_length", 20]}.get((kind, task), [])


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
@pytest.mark.parametrize("task", ["math", "code"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_one_process_or_two_batch_1_or_16_give_the_same_rows(checkpoints, sets, tmp_path, monkeypatch, kind, task, temperature):
    script = {"math": eval_gsm8k, "code": eval_humaneval_infill}[task]
    arguments = [*flags(checkpoints, sets, kind, task), "--num_samples", 2, "--subsample", 12, "--temperature", temperature]
    run_main(script, monkeypatch, *arguments, "--batch_size", 16, "--output_dir", tmp_path / "one")
    run_main(script, monkeypatch, *arguments, "--batch_size", 1, "--output_dir", tmp_path / "small")
    for rank in (1, 0):
        run_main(script, monkeypatch, *arguments, "--batch_size", 5, "--output_dir", tmp_path / "two", rank=rank, world_size=2)
    rows = rows_of(tmp_path / "one")
    assert len(rows) == 24 and rows == rows_of(tmp_path / "small") == rows_of(tmp_path / "two")
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "small", "two")]
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    if temperature:                                    # samples differ from each other
        assert any(rows[item, 0].get("completion", rows[item, 0].get("generations")) !=
                   rows[item, 1].get("completion", rows[item, 1].get("generations")) for item in range(12))


@pytest.mark.parametrize("kind, more", [("flexmdm", ["--sampler", "event_driven", "--diffusion_steps", 100]), ("llada", [])])
def test_the_network_sees_no_more_rows_than_it_may_and_free_places_are_taken(checkpoints, sets, tmp_path, monkeypatch, kind, more):
    """Rows of the event-driven sampler end at different times: 16 rows in batches of 4 take fewer calls than four batches run to their ends."""
    import llada_dit
    network, seen = {"flexmdm": llada_dit.LLaDADiT, "llada": llada_dit.LLaDAModelLM}[kind], []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda self, ids, *rest, **named: (seen.append(len(ids)), forward(self, ids, *rest, **named))[1])
    arguments = [*flags(checkpoints, sets, kind, "math"), *more, "--subsample", 16]
    for name, size, most in (("batch", ["--batch_size", 4], 4), ("rows", ["--batch_size", 16, "--rows_at_once", 3], 3)):
        seen.clear()
        run_main(eval_gsm8k, monkeypatch, *arguments, *size, "--output_dir", tmp_path / name)
        assert max(seen) == most
        taken = [row["evaluations"] for row in read_finished(tmp_path / name / "generations-000.jsonl")]
        drained = sum(max(taken[start:start + most]) for start in range(0, 16, most))
        assert len(seen) < drained if kind == "flexmdm" else len(seen) == drained


def test_torchrun_shards_the_same_command(checkpoints, sets, tmp_path, monkeypatch):
    arguments = [*map(str, flags(checkpoints, sets, "flexmdm", "math")), "--temperature", "1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, str(ROOT / "eval_gsm8k.py"), *arguments, "--output_dir", str(tmp_path / "two")],
                          capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    run_main(eval_gsm8k, monkeypatch, *arguments, "--output_dir", tmp_path / "one")
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one") and len(list((tmp_path / "two").glob(GENERATIONS))) == 2


def test_results_json_says_everything(checkpoints, sets, tmp_path, monkeypatch):
    run_main(eval_gsm8k, monkeypatch, *flags(checkpoints, sets, "flexmdm", "math"), "--output_dir", tmp_path, "--label", "ours")
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["benchmark"] == "math" and result["label"] == "ours" and result["rows"] == 24
    assert set(result["metrics"]["pass@1"]) == {"value", "right", "n", "low", "high"} and result["metrics"]["pass@1"]["n"] == 24
    assert set(result["evaluations"]) == {"mean", "q1", "median", "q3"} and result["tokens"] >= 0 and result["seconds"] > 0
    assert result["settings"]["steps"] == 6 and result["settings"]["confidence_method"] == "prob_diff"
    assert len(result["settings"]["checkpoint_hash"]) == 12 and result["versions"]["torch"] and result["answer_rule"] == "paper"
    for name in ("sampler", "unmasking", "use_sliding_window", "alpha", "max_window", "temperature", "seed", "dtype", "max_length"):
        assert name in result["settings"]


def test_other_data_or_weights_in_the_same_folder_are_refused(checkpoints, sets, tmp_path, monkeypatch):
    run_main(eval_gsm8k, monkeypatch, *flags(checkpoints, sets, "flexmdm", "math"), "--output_dir", tmp_path)
    write_rows(tmp_path / "other" / "math.jsonl", math_rows("test", 24, 1))
    with pytest.raises(InputError, match="data_hash"):
        run_main(eval_gsm8k, monkeypatch, *flags(checkpoints, tmp_path / "other", "flexmdm", "math"), "--output_dir", tmp_path)
    with pytest.raises(InputError, match="checkpoint_hash"):
        run_main(eval_gsm8k, monkeypatch, *flags(checkpoints, sets, "llada", "math"), "--output_dir", tmp_path)


def test_score_only_gives_the_run_s_own_result(checkpoints, sets, tmp_path, monkeypatch):
    run_main(eval_humaneval_infill, monkeypatch, *flags(checkpoints, sets, "flexmdm", "code"), "--output_dir", tmp_path / "run")
    run_main(eval_humaneval_infill, monkeypatch, "--score_only", tmp_path / "run", "--data_path", sets / "code.jsonl",
             "--output_dir", tmp_path / "again")
    first, again = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "again"))
    assert first["metrics"] == again["metrics"] and first["settings"] == again["settings"] and first["label"] == again["label"] == "FlexMDM"


@pytest.mark.parametrize("layout", ["paper", "oracle", "fixed"])
def test_llada_s_three_layouts(checkpoints, sets, tmp_path, monkeypatch, layout):
    arguments = flags(checkpoints, sets, "llada", "code")
    run_main(eval_humaneval_infill, monkeypatch, *arguments, "--llada_infill", layout, "--output_dir", tmp_path)
    rows = rows_of(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["llada_infill"] == layout
    if layout == "oracle":
        assert all(row["length"] <= row["reference_length"] for row in rows.values())
    else:
        assert max(row["length"] for row in rows.values()) <= 20


def test_pass_at_k_of_several_samples_and_suspicion(sets, tmp_path, monkeypatch):
    """Completions of another program, two samples each: the reference and an empty one."""
    items = code_infill_rows("test", 8, 0)
    write_rows(tmp_path / "items.jsonl", items)
    write_rows(tmp_path / "samples.jsonl", [{"task_id": item["task_id"], "completion": completion} for item in items
                                            for completion in (item["canonical_solution"], "syntax error (")])
    run_main(eval_humaneval_infill, monkeypatch, "--score_only", tmp_path / "samples.jsonl", "--data_path", tmp_path / "items.jsonl",
             "--num_samples", 2, "--allow_code_execution", "--output_dir", tmp_path / "scored")
    result = json.loads((tmp_path / "scored" / "results.json").read_text())
    metrics = result["metrics"]
    assert metrics["pass@1"]["value"] == 0.5 and metrics["pass@2"]["value"] == 1.0 and metrics["pass@1"]["n"] == 8
    assert metrics["exact_match"]["value"] == 0.5 and result["suspicious"] == 0 and result["isolation"]["level"]
    verdicts = [json.loads(line) for line in (tmp_path / "scored" / "verdicts.jsonl").read_text().splitlines()]
    assert [verdict["status"] for verdict in verdicts] == ["passed", "failed"] * 8


def test_the_items_test_counts_not_the_file_s(tmp_path, monkeypatch):
    item = {"task_id": "x/0", "entry_point": "f", "prompt": "def f(x):\n", "suffix": "", "canonical_solution": "    return 1\n",
            "test": "def check(f):\n    assert f(0) == 1\n"}
    write_rows(tmp_path / "items.jsonl", [item])
    cheat = {"completion": "    return 0\n", "test": "def check(f):\n    pass\n", "prompt": "def f(x): return 1\n"}
    write_rows(tmp_path / "samples.jsonl", [{**item, **cheat}])
    run_main(eval_humaneval_infill, monkeypatch, "--score_only", tmp_path / "samples.jsonl", "--data_path", tmp_path / "items.jsonl",
             "--allow_code_execution", "--output_dir", tmp_path / "scored")
    assert json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"]["pass@1"]["value"] == 0


def test_without_permission_no_program_runs(checkpoints, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("code_runner.CodeRunner.__init__", lambda *a, **k: pytest.fail("a program would have run"))
    run_main(eval_humaneval_infill, monkeypatch, *flags(checkpoints, sets, "flexmdm", "code"), "--output_dir", tmp_path)
    run_main(eval_humaneval_infill, monkeypatch, *flags(checkpoints, sets, "flexmdm", "stdlib"), "--output_dir", tmp_path / "stdlib",
             "--allow_code_execution")                 # items without tests
    assert len(rows_of(tmp_path)) == 24 and "--allow_code_execution" in capsys.readouterr().err
    assert next(iter(json.loads((tmp_path / "results.json").read_text())["metrics"])) == "exact_match"
    assert json.loads((tmp_path / "stdlib" / "results.json").read_text())["metrics"]["parses"]["n"] == 8


def test_check_references_runs_the_references_and_the_empty_baseline(sets, tmp_path, monkeypatch):
    run_main(eval_humaneval_infill, monkeypatch, "--check_references", "--data_path", sets / "code.jsonl", "--allow_code_execution",
             "--output_dir", tmp_path)
    reference, empty = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("reference", "empty"))
    assert reference["metrics"]["pass@1"]["value"] == 1.0 and empty["metrics"]["pass@1"]["value"] < 0.5
    broken = [{**row, "canonical_solution": " ("} for row in code_infill_rows("test", 2, 0)]
    write_rows(tmp_path / "broken.jsonl", broken)
    with pytest.raises(InputError, match="2 canonical solutions fail"):
        run_main(eval_humaneval_infill, monkeypatch, "--check_references", "--data_path", tmp_path / "broken.jsonl",
                 "--allow_code_execution")


def test_the_middle_alone_is_the_completion():
    """Boundary marks, prefix and suffix stay outside; special tokens are skipped; LLaDA's text ends at its first end token."""
    import torch
    from evaluated_model import EvaluatedModel
    words = {1: "a", 2: " b", 3: "c\n", 9: "<mark>", 5: "P", 6: "S"}
    model = EvaluatedModel.__new__(EvaluatedModel)
    model.tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(words[token] for token in ids))
    model.kind, model.stop_ids = "flexmdm", {0}
    result = SimpleNamespace(sequences=torch.tensor([[5, 9, 1, 2, 3, 9, 6], [5, 9, 9, 6, 6, 0, 0], [9, 2, 9, 0, 0, 0, 0]]),
                             lengths=torch.tensor([7, 5, 3]), evaluations=torch.tensor([4, 5, 6]),
                             truncated=torch.tensor([False, True, False]))
    rows = model._cut(result, [2, 2, 1], [2, 3, 1])
    assert [text for text, _ in rows] == ["a bc\n", "", " b"] and [fields["length"] for _, fields in rows] == [3, 0, 1]
    assert rows[1][1] == {"evaluations": 5, "length": 0, "truncated": True}
    model.kind = "llada"
    result.sequences = torch.tensor([[5, 1, 2, 0, 3, 0, 0], [5, 0, 0, 0, 0, 0, 0], [5, 1, 2, 3, 1, 2, 3]])
    result.lengths = torch.tensor([7, 7, 7])
    assert [text for text, _ in model._cut(result, [1, 1, 1], [0, 0, 0])] == ["a b", "", "a bc\na bc\n"]


# ---- scores of text --------------------------------------------------------------------------------------------------------

def levenshtein(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.text("ab\n", max_size=6), st.text("ab\n", max_size=6))
def test_edit_similarity_is_levenshtein(a, b):
    expected = 1 - levenshtein(a, b) / max(len(a), len(b), 1)
    assert math.isclose(eval_humaneval_infill.edit_similarity(a, b), expected)


def test_parses():
    assert eval_humaneval_infill.parses("def f():\n    return '\\d'\n") and eval_humaneval_infill.parses("")
    assert not any(map(eval_humaneval_infill.parses, ("def f(:\n", "x = '''", "\0", "  x\n y\n")))


# ---- refusals: one line, exit code 2, nothing written -----------------------------------------------------------------------

def refused(script, *arguments, cwd=None):
    done = subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("script", ["eval_gsm8k", "eval_humaneval_infill"])
def test_bad_flags_and_files_are_refused_at_once(script, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "fields.jsonl").write_text('{"a": 1}\n')
    for arguments, words in ((["--data_path", tmp_path / "none", "--checkpoint_path", "x"], "--data_path"), ([], "--checkpoint_path"),
                             (["--data_path", tmp_path / "empty.jsonl", "--checkpoint_path", "x"], "is empty"),
                             (["--data_path", tmp_path / "broken.jsonl", "--checkpoint_path", "x"], "line 1 is not JSON"),
                             (["--data_path", tmp_path / "fields.jsonl", "--checkpoint_path", "x"], "has no field"),
                             (["--batch_size", "0", "--checkpoint_path", "x"], "--batch_size"), (["--unknown"], "--unknown"),
                             (["--sampler", "other"], "--sampler")):
        assert words in refused(script, *arguments, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "empty.jsonl", "fields.jsonl"]


def test_checkpoints_and_prompts_that_do_not_fit_are_refused_before_anything_is_written(checkpoints, sets, tmp_path, monkeypatch):
    def expect(words, script, *arguments):
        with pytest.raises(InputError, match=words):
            run_main(script, monkeypatch, *arguments, "--output_dir", tmp_path / "out")
    math_data, code_data = ["--data_path", sets / "math.jsonl"], ["--data_path", sets / "code.jsonl"]
    flexmdm, llada = ["--checkpoint_path", checkpoints / "flexmdm"], ["--checkpoint_path", checkpoints / "llada"]
    expect("--checkpoint_path", eval_gsm8k, *math_data, "--checkpoint_path", tmp_path)
    expect("--variable_length", eval_gsm8k, *math_data, *llada, "--variable_length")
    expect("item 0 .* takes .* --max_length is 20", eval_gsm8k, *math_data, *flexmdm, "--max_length", 20)
    expect("BuiltinInfilling/test/0/.* --max_length is 5", eval_humaneval_infill, *code_data, *flexmdm, "--max_length", 5)
    code_rows = read_finished(sets / "code.jsonl")
    write_rows(tmp_path / "ended.jsonl", [*code_rows[:2], {**code_rows[2], "suffix": code_rows[2]["suffix"] + "<|endoftext|>"}])
    expect("BuiltinInfilling/test/0/2: ends in the padding", eval_humaneval_infill, "--data_path", tmp_path / "ended.jsonl", *flexmdm)
    expect("must be divisible", eval_gsm8k, *math_data, *llada, "--max_length", 200, "--block_length", 7, "--diffusion_steps", 11)
    expect("--gen_length", eval_humaneval_infill, *code_data, *llada, "--llada_infill", "fixed")
    expect("has only 24 items", eval_gsm8k, *math_data, *flexmdm, "--subsample", 25)
    expect("--allow_code_execution", eval_humaneval_infill, *code_data, "--check_references")
    assert not (tmp_path / "out").exists()


def test_flags_of_the_other_kind_are_said_to_have_no_effect(checkpoints, sets, tmp_path, monkeypatch, capsys):
    arguments = flags(checkpoints, sets, "flexmdm", "math")
    run_main(eval_gsm8k, monkeypatch, *arguments, "--gen_length", 5, "--remasking", "random", "--output_dir", tmp_path)
    assert "--gen_length, --remasking: LLaDA's" in capsys.readouterr().err


def test_the_official_files_are_told_by_their_names(data_dir, tmp_path):
    args = SimpleNamespace(data_path=str(data_dir / "humaneval"), benchmark="random-span-light")
    assert len(eval_humaneval_infill.read_items(args)) == 164
    assert eval_humaneval_infill.benchmark_name(args) == "humaneval-infill random-span-light"
    args.data_path = str(data_dir / "humaneval" / "HumanEval-SingleLineInfilling.jsonl.gz")
    with pytest.raises(InputError, match="--benchmark random-span-light"):
        eval_humaneval_infill.benchmark_name(args)
    with gzip.open(args.data_path, "rt") as file:
        rows = [json.loads(line) for line in file][:3]
    write_rows(tmp_path / "mine.jsonl", rows + rows[:1])
    args.data_path = str(tmp_path / "mine.jsonl")
    assert eval_humaneval_infill.benchmark_name(args) == "mine"
    with pytest.raises(InputError, match="occurs twice"):
        eval_humaneval_infill.read_items(args)


def test_the_real_gsm8k_is_told_by_its_content(data_dir, sets):
    args = SimpleNamespace(data_path=str(data_dir / "gsm8k"))
    items = eval_gsm8k.read_items(args)
    assert len(items) == 1319 and eval_gsm8k.benchmark_name(args, items) == "gsm8k"
    args = SimpleNamespace(data_path=str(sets / "math.jsonl"))
    assert eval_gsm8k.benchmark_name(args, eval_gsm8k.read_items(args)) == "math"


def test_help_needs_no_torch():
    for script in ("eval_gsm8k", "eval_humaneval_infill", "results_table"):
        done = subprocess.run([sys.executable, "-X", "importtime", str(ROOT / f"{script}.py"), "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert not any(f" {name}\n" in done.stderr for name in ("torch", "transformers", "datasets", "matplotlib", "numpy"))


def test_content_hash_does_not_depend_on_order():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1}) != content_hash({"a": 1, "b": [3]})


def test_without_a_local_copy_the_hub_sets_are_read(monkeypatch):
    """The hub cannot be reached in tests: a stand-in for its client shows what is asked for."""
    import datasets
    asked = []

    def load_dataset(*names, split, revision=None):
        asked.append((names, split, revision))
        if revision is None and "infilling" in names[0]:
            raise RuntimeError("Dataset scripts are no longer supported")
        return code_infill_rows("test", 3, 0) if "infilling" in names[0] else math_rows("test", 3, 0)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(eval_gsm8k.read_items(SimpleNamespace(data_path=None))) == 3
    args = SimpleNamespace(data_path=None, benchmark="multi-line")
    assert len(eval_humaneval_infill.read_items(args)) == 3
    assert eval_humaneval_infill.benchmark_name(args) == "humaneval-infill multi-line"
    hub = ("loubnabnl/humaneval_infilling", "HumanEval-MultiLineInfilling")
    assert asked == [(("openai/gsm8k", "main"), "test", None), (hub, "test", None), (hub, "test", "refs/convert/parquet")]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(InputError, match="--data_path"):
        eval_gsm8k.read_items(SimpleNamespace(data_path=None))
