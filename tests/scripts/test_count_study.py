"""scripts/count_study.py: its counts add up, and the surplus is the integral that it says.

pytest tests/scripts/test_count_study.py                                 half a minute
"""

import json
import math
import random
import sys

import count_study
import pytest
import tiny
import torch

from common.errors import InputError
from common.rows import write_rows
from data.functions import code_infill_rows
from data.word_problems import math_rows
from flexmdm_interpolant import schedule_from_config
from llada_utils import write_checkpoint

G = 0.01  # expected missing tokens of every gap


@pytest.fixture(params=[{"name": "linear"}, {"name": "power", "p": 3.0}])
def checkpoint(request, tmp_path):
    """A network whose insertion head says the same of every gap."""
    model = tiny.flexmdm(insertion_schedule=request.param, time_epsilon=0.02)
    with torch.no_grad():
        model.scalar_length_head.proj2.weight.zero_()
        model.scalar_length_head.proj2.bias.fill_(math.log(G))
    (tmp_path / "c").mkdir()
    write_checkpoint(model, tmp_path / "c", tiny.tokenizer(), card="# test\n")
    return tmp_path / "c"


@pytest.mark.parametrize("task", ["math", "code"])
def test_counts_add_up_and_the_surplus_is_its_integral(checkpoint, tmp_path, monkeypatch, task):
    n, seed = 6, random.randrange(1000)
    rows = math_rows("test", n, seed) if task == "math" else code_infill_rows("test", n, seed)
    write_rows(tmp_path / "data.jsonl", rows)
    words = ["--checkpoint_path", checkpoint, "--task", task, "--batch_size", 4]
    words += ["--data_path", tmp_path / "data.jsonl", "--output_dir", tmp_path / "out"]
    words += ["--max_length", 400]
    if task == "code":  # an option that the part with known lengths does not take
        words += ["--corrector_time", 0.5, "--corrector_rounds", 2, "--corrector_spread"]
    monkeypatch.setattr(sys, "argv", ["count_study.py", *map(str, words)])
    count_study.main()
    study = json.loads((tmp_path / "out/count_study.json").read_text())
    made = study["sampled"]
    assert sum(made["length_errors"].values()) == n == study["items"]
    assert made["length_errors"].get("0", 0) == made["length_right"]
    assert made["right"] == made["right_where_length_right"] + made["right_where_length_wrong"]
    assert len(study["length_known"]) == 2
    schedule = schedule_from_config(
        json.loads((checkpoint / "config.json").read_text())["insertion_schedule"]
    )
    end = torch.tensor(0.98, dtype=torch.float64)
    total = study["surplus"][0]["expected"]
    assert total > 0
    gaps = total / (G * -math.log(1 - float(schedule.at(end))))  # of an answer, on average
    assert gaps * n == pytest.approx(round(gaps * n), rel=1e-4) and gaps > 1
    for point in study["surplus"]:
        t = torch.tensor(point["t"], dtype=torch.float64)
        left = math.log(float((1 - schedule.at(t)) / (1 - schedule.at(end))))
        assert point["expected"] == pytest.approx(G * gaps * left, rel=1e-4)
    assert (tmp_path / "out/count_study.png").read_bytes().startswith(b"\x89PNG")
    shown = (tmp_path / "out/count_study.md").read_text()
    assert f"{made['right']} of {n}" in shown and "surplus" in shown


def test_a_llada_and_a_folder_that_is_not_ours_are_refused(tmp_path, monkeypatch):
    write_rows(tmp_path / "data.jsonl", math_rows("test", 2, 0))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/theirs").write_text("x")
    words = ["--checkpoint_path", tiny.write_llada(tmp_path / "l"), "--task", "math"]
    words += ["--data_path", tmp_path / "data.jsonl"]
    for folder, wrong in [("out", "is a LLaDA"), ("full", "--output_dir")]:
        more = ["--output_dir", tmp_path / folder]
        monkeypatch.setattr(sys, "argv", ["count_study.py", *map(str, words + more)])
        with pytest.raises(InputError, match=wrong):
            count_study.main()
    assert not (tmp_path / "out").exists()
