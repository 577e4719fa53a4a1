"""evaluation/lm_eval_adapter.py with the real lm-evaluation-harness, where it is installed (pip
install lm-eval==0.4.13).

pytest tests/evaluation/test_lm_eval_adapter.py                          half a minute
"""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from common.rows import write_rows
from data.word_problems import math_rows
from evaluation.lm_eval_adapter import cut_at

TASK = """task: own_math
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output_type}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list: [{{metric: {metric}}}]
"""


def test_text_ends_before_the_first_stop():
    assert (
        cut_at("a b\n\nc Q: d", ["Q:", "\n\n"]) == "a b"
        and cut_at("a", ["b", ""]) == "a"
        and cut_at("a", []) == "a"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    import tiny
    import torch

    from llada_utils import write_checkpoint

    folder = tmp_path_factory.mktemp("harness")
    write_rows(folder / "math.jsonl", math_rows("test", 6, 0))
    (folder / "flexmdm").mkdir()
    torch.manual_seed(1)
    write_checkpoint(tiny.flexmdm(), folder / "flexmdm", tiny.tokenizer(), card="# test\n")
    tiny.write_llada(folder / "llada")
    (folder / "task.yaml").write_text(
        TASK.format(
            data=folder / "math.jsonl",
            output_type="generate_until",
            metric="exact_match",
            more='generation_kwargs: {until: ["w7"], max_gen_toks: 8}',
        )
    )
    (folder / "ranked.yaml").write_text(
        TASK.format(
            data=folder / "math.jsonl",
            output_type="multiple_choice",
            metric="acc",
            more='doc_to_choice: ["a", "b"]',
        )
        .replace("own_math", "own_ranked")
        .replace('"{{answer}}"', "0")
    )
    return folder


def adapter(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/lm_evaluation.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_a_generation_task_runs(place, tmp_path, kind):
    pytest.importorskip("lm_eval")
    done = adapter(
        "--checkpoint_path",
        place / kind,
        "--tasks",
        "own_math",
        "--include_path",
        place,
        "--limit",
        4,
        "--diffusion_steps",
        4,
        "--max_length",
        100,
        "--output_dir",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "lm_eval_results.json").read_text())
    assert (
        content["results"]["own_math"]["exact_match,none"] == 0.0
        and content["settings"]["steps"] == 4
    )


def test_ranking_tasks_and_unknown_ones_are_refused(place):
    pytest.importorskip("lm_eval")
    for task, words in (
        ("own_ranked", "only generation tasks"),
        ("nothing", "has no task 'nothing'"),
    ):
        done = adapter(
            "--checkpoint_path", place / "flexmdm", "--tasks", task, "--include_path", place
        )
        assert done.returncode == 2 and words in done.stderr.strip().splitlines()[-1]


def test_without_the_harness_it_says_what_to_install(place):
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        done = adapter("--checkpoint_path", place / "flexmdm", "--tasks", "gsm8k")
        assert done.returncode == 2 and "pip install lm-eval" in done.stderr
