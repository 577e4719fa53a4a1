"""The harness's own gsm8k and humaneval_infilling tasks, unmodified and offline: their data lie in
folders named as on the Hub, their metric in code_eval/, both in the working directory.

FLEXMDM_DATA=... pytest --full tests/evaluation/test_lm_eval_tasks.py    two minutes, with lm-eval
"""

import gzip
import json
import os
import random
import subprocess
import sys

import pytest
from conftest import ROOT, SEED

from common.rows import read_rows, write_rows

pytestmark = pytest.mark.full
INFILLING = {
    "SingleLineInfilling": "humaneval_single_line_infilling",
    "MultiLineInfilling": "humaneval_multi_line_infilling",
    "RandomSpanInfilling": "humaneval_random_span_infilling",
    "RandomSpanInfillingLight": "humaneval_random_span_infilling_light",
}

# The Hub's metric of this name runs programs without a sandbox; this one runs them in ours.
CODE_EVAL = """
import sys

import datasets
import evaluate

sys.path.insert(0, {root!r})
from evaluation.sandbox.runner import CodeRunner


class CodeEval(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({{"predictions": datasets.Sequence(text), "references": text}})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, k):
        jobs = []
        for (program,), test in zip(predictions, references):
            test, _, call = test.rpartition("\\n")
            jobs.append((program, test, call.removeprefix("check(").removesuffix(")")))
        with CodeRunner(workers=2) as runner:
            passed = [verdict["status"] == "passed" for verdict in runner.run_all(jobs)]
        return {{"pass@1": sum(passed) / len(passed)}}, {{}}
"""

# The script with a model that knows what to say: answers.json maps prompts to texts.
KNOWING = """
import json, runpy, sys
import evaluation.model

class Knowing:
    kind, rows_per_call, arguments, settings = "flexmdm", 3, {}, {}
    def __init__(self, args, default_steps): self.texts = json.load(open("answers.json"))
    def encode(self, text): return [text]
    def check_fits(self, names, given, flag): pass
    def answer(self, prompts, tasks, lengths=None):
        return [(self.texts[prompt], {}) for (prompt,) in prompts]

evaluation.model.EvaluatedModel = Knowing
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with random items of each set, in folders named as on the Hub."""
    pytest.importorskip("lm_eval", reason="pip install lm-eval==0.4.13")
    data = os.environ.get("FLEXMDM_DATA")
    if not data:
        pytest.skip("FLEXMDM_DATA does not name a folder")
    folder = tmp_path_factory.mktemp("harness")
    chosen = random.Random(SEED)
    math = folder / "openai/gsm8k"
    for split in ("train", "test"):
        rows = read_rows(f"{data}/gsm8k/{split}.jsonl", fields=["question", "answer"], flag="data")
        write_rows(math / f"{split}.jsonl", chosen.sample(rows, 10))
    write_card(math, {"main": {"train": "train.jsonl", "test": "test.jsonl"}})
    code = folder / "loubnabnl/humaneval_infilling"
    for name in INFILLING:
        with gzip.open(f"{data}/humaneval/HumanEval-{name}.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        # an answer ends at the first empty line; in the single-line set at the first line end,
        # which is then missing before the suffix (docs/evaluation.md)
        if name == "SingleLineInfilling":
            rows = [row for row in rows if not row["suffix"]]
        rows = [row for row in rows if "\n\n" not in row["canonical_solution"]]
        write_rows(code / f"{name}.jsonl", chosen.sample(rows, 6))
    write_card(code, {f"HumanEval-{name}": {"test": f"{name}.jsonl"} for name in INFILLING})
    (folder / "code_eval").mkdir()
    (folder / "code_eval/code_eval.py").write_text(CODE_EVAL.format(root=str(ROOT)))
    (folder / "knowing.py").write_text(KNOWING)
    return folder


def write_card(folder, configs):
    """The README that tells `datasets` which file is which split."""
    listed = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": path} for split, path in files.items()],
        }
        for name, files in configs.items()
    ]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(listed)}\n---\n")


def harness(place, *arguments, script=(str(ROOT / "scripts/lm_evaluation.py"),)):
    """(its results, standard error) of lm_evaluation.py, run in that directory without network."""
    output = place / f"out-{random.getrandbits(40):x}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hub")}
    done = subprocess.run(
        [sys.executable, *map(str, script), *map(str, arguments), "--output_dir", str(output)],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, **offline, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        return None, f"{done.returncode} {done.stderr}"
    return json.loads((output / "lm_eval_results.json").read_text())["results"], done.stderr


def test_right_answers_are_counted_as_the_harness_counts_them(place):
    answers, expected = {}, {}
    rows = read_rows(place / "openai/gsm8k/test.jsonl", fields=["question"], flag="data")
    right = set(random.sample(range(10), random.randint(1, 9)))
    for number, row in enumerate(rows):
        final = row["answer"].rpartition("#### ")[2] if number in right else "-0.5"
        prompt = f"Question: {row['question']}\nAnswer:"
        answers[prompt] = f" so it is #### {final}\nQuestion: and then? #### 7"
    expected["gsm8k"] = len(right) / 10
    for name, task in INFILLING.items():
        path = place / f"loubnabnl/humaneval_infilling/{name}.jsonl"
        rows = read_rows(path, fields=["prompt"], flag="data")
        right = set(random.sample(range(6), random.randint(1, 5)))
        passed = 0
        for number, row in enumerate(rows):
            prompt = f"{row['suffix']}\n\n{row['prompt']}"  # several sets may ask the same
            answers.setdefault(prompt, row["canonical_solution"] if number in right else "\0")
            passed += answers[prompt] != "\0"  # in no program, not even in a comment
        expected[task] = passed / 6
    (place / "answers.json").write_text(json.dumps(answers))
    results, errors = harness(
        place,
        *("--checkpoint_path", "x", "--tasks", "gsm8k,humaneval_infilling"),
        *("--num_fewshot", 0, "--confirm_run_unsafe_code"),
        script=("knowing.py", ROOT / "scripts/lm_evaluation.py"),
    )
    assert results, errors
    assert results["gsm8k"]["exact_match,strict-match"] == pytest.approx(expected["gsm8k"])
    for task in INFILLING.values():
        assert results[task]["pass@1,create_test"] == pytest.approx(expected[task]), task
    mean = sum(expected[task] for task in INFILLING.values()) / 4
    assert results["humaneval_infilling"]["pass@1,create_test"] == pytest.approx(mean)


@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_the_tiny_models_answer_the_harness(place, tmp_path, kind):
    import tiny

    from llada_utils import write_checkpoint

    if kind == "flexmdm":
        write_checkpoint(tiny.flexmdm(), tmp_path, tiny.tokenizer(), card="# test\n")
    checkpoint = tmp_path if kind == "flexmdm" else ROOT / "LLaDA-tiny-Base"
    results, errors = harness(
        place,
        *("--checkpoint_path", checkpoint, "--tasks", "gsm8k,humaneval_single_line_infilling"),
        *("--limit", 3, "--num_fewshot", 1, "--diffusion_steps", 4, "--max_length", 1024),
        *("--gen_length", 16, "--confirm_run_unsafe_code"),
    )
    assert results, errors
    assert results["gsm8k"]["sample_len"] == 3
    assert 0 <= results["humaneval_single_line_infilling"]["pass@1,create_test"] <= 1


def test_refusals_are_one_line_and_come_before_the_model(place):
    for arguments, words in (
        (["--tasks", "humaneval_infilling"], "allow it with --confirm_run_unsafe_code"),
        (["--tasks", "gsm8k,arc_easy"], "the harness cannot load gsm8k, arc_easy"),
        (["--tasks", "gsm8k", "--limit", "0"], "--limit: 0 is not at least 1"),
        (["--tasks", "gsm8k", "--include_path", "nowhere"], "folder nowhere does not exist"),
    ):
        results, errors = harness(place, "--checkpoint_path", "nowhere", *arguments)
        last = errors.strip().splitlines()[-1]
        assert results is None and errors.startswith("2 ") and words in last, errors
