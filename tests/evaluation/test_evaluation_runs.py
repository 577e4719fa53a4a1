"""evaluation/generation_run.py: rows that survive interruption, sharding and merging.

pytest tests/evaluation/test_evaluation_runs.py         about 20 s on 2 cores
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from generated_rows import rows_of

from common.errors import InputError
from common.rows import write_rows
from evaluation.generation_run import (
    GENERATIONS,
    GenerationRun,
    Stop,
    make_tasks,
)
from evaluation.given_rows import merge_rows, read_generations
from sampling.row_random import item_seed

STUB = ROOT / "tests/helpers/stub_run.py"


# ---- the loop, with a stand-in for the model (stub_run.py) ---------------------------------------


def stub(folder, items=60, samples=2, batch=3, pause=0.0, **environment):
    command = [
        sys.executable,
        str(STUB),
        str(folder),
        str(items),
        str(samples),
        str(batch),
        str(pause),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # a script's background job ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


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
        if attempt % 3:  # the others are killed somewhere in their start
            wait_for_bytes(tmp_path, process, size_of(tmp_path))
        time.sleep(random.random() * 0.15)
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        # a kill may tear the last line; here every second one does
        for path in tmp_path.glob(GENERATIONS):
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
    running = [
        stub(tmp_path, pause=0.01, RANK=str(rank), WORLD_SIZE=str(processes))
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    assert rows_of(tmp_path) == whole
    assert "120 rows" in outputs[0] and not any("rows" in output for output in outputs[1:])
    assert len(list(tmp_path.glob(GENERATIONS))) == processes


def test_another_number_of_processes_resumes_a_stopped_run(tmp_path, whole):
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


def test_a_process_that_begins_while_another_writes_the_first_rows_is_not_refused(
    tmp_path, monkeypatch
):
    exists = Path.exists

    def seen_too_early(path):
        there = exists(path)
        if path.name == "settings.json" and not there:  # and now the other process goes on
            monkeypatch.setattr(Path, "exists", exists)
            run_of(tmp_path, {"a": 1}).generate(4, lambda batch: [{} for _ in batch])
        return there

    monkeypatch.setattr(Path, "exists", seen_too_early)
    assert len(run_of(tmp_path, {"a": 1}).finished()) == 4
    assert Path.exists is exists


def test_a_run_resumes_when_an_option_is_new_and_left_alone(tmp_path):
    old = {"seed": random.randrange(100), "threshold": None}
    run_of(tmp_path, old).generate(4, lambda batch: [{} for _ in batch])
    assert len(run_of(tmp_path, {**old, "share": None}).finished()) == 4
    with pytest.raises(InputError, match="share: None there, 0.5 now"):
        run_of(tmp_path, {**old, "share": 0.5})


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
    write_rows(
        tmp_path / "generations-001.jsonl", [{"item": 0, "sample": 0, "configuration": "other"}]
    )
    with pytest.raises(InputError, match="another configuration"):
        run_of(tmp_path, {"steps": 8})


def test_more_items_and_samples_add_to_a_folder(tmp_path):
    for n in (2, 5):
        run_of(tmp_path, {"steps": 8}, n).generate(2, lambda tasks: [{"x": 1} for _ in tasks])
    assert len(rows_of(tmp_path)) == 5


def test_seeds_are_a_stable_function_of_seed_item_and_sample():
    # stored: a change breaks old runs
    assert item_seed(42, 0, 0) == 2304941102897067046 and item_seed(42, 1, 0) == 2844843876009695437
    seeds = {
        item_seed(seed, item, sample)
        for seed in range(3)
        for item in range(50)
        for sample in range(5)
    }
    assert len(seeds) == 750 and all(0 <= seed < 2**62 for seed in seeds)


def test_long_rows_come_first_and_every_task_once():
    tasks = make_tasks([5, 9, 9, 1], 2)
    assert [task["item"] for task in tasks] == [1, 1, 2, 2, 0, 0, 3, 3] and len(
        {(t["item"], t["sample"]) for t in tasks}
    ) == 8


# ---- merging files of other runs and programs ----------------------------------------------------


def ours(n=4, samples=1, configuration="a"):
    return [
        {
            "item": item,
            "sample": sample,
            "configuration": configuration,
            "question": f"q{item}",
            "generations": rf"\boxed{{{item}}}",
            "ground_truth": float(item),
        }
        for item in range(n)
        for sample in range(samples)
    ]


def merge(paths, expected=None, samples=1, duplicates=False, missing=False):
    rows, _ = read_generations(paths, "question")
    return merge_rows(rows, expected, samples, duplicates, missing)


def test_shards_merge_in_order(tmp_path):
    rows = ours(samples=2)
    write_rows(tmp_path / "a.jsonl", rows[::2])
    write_rows(tmp_path / "b.jsonl", rows[1::2][::-1])
    merged, counts = merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], samples=2)
    assert [(row["item"], row["sample"]) for row in merged] == [
        (item, sample) for item in range(4) for sample in range(2)
    ]
    assert counts == {"missing": 0, "duplicates": 0}


def test_duplicates_and_missing_rows_are_refused_unless_allowed(tmp_path):
    write_rows(tmp_path / "a.jsonl", ours() + ours()[:1])
    with pytest.raises(InputError, match="occurs twice"):
        merge([tmp_path / "a.jsonl"])
    assert merge([tmp_path / "a.jsonl"], duplicates=True)[1] == {"missing": 0, "duplicates": 1}
    write_rows(tmp_path / "b.jsonl", ours()[:1] + ours()[2:])
    for expected in (None, ["q0", "q1", "q2", "q3"]):
        with pytest.raises(InputError, match="1 rows are missing"):
            merge([tmp_path / "b.jsonl"], expected)
        assert merge([tmp_path / "b.jsonl"], expected, missing=True)[1] == {
            "missing": 1,
            "duplicates": 0,
        }
    with pytest.raises(InputError, match="not in the data set"):
        merge([tmp_path / "a.jsonl"], ["q0"], duplicates=True)


def test_several_configurations_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", ours(2))
    write_rows(tmp_path / "b.jsonl", ours(2, configuration="b"))
    with pytest.raises(InputError, match="several configurations"):
        merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_repeated_rows_of_other_programs_count_as_samples_only_with_num_samples(tmp_path):
    rows = [{"question": "q", "generations": r"\boxed{1}", "ground_truth": 1.0}] * 3
    (tmp_path / "old.json").write_text(json.dumps({"generations": rows, "model_path": "/models/x"}))
    with pytest.raises(InputError, match="--num_samples"):
        merge([tmp_path / "old.json"])
    assert [row["sample"] for row in merge([tmp_path / "old.json"], samples=3)[0]] == [0, 1, 2]
    assert len(merge([tmp_path / "old.json"], duplicates=True)[0]) == 3
