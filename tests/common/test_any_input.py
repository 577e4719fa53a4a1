"""Any JSON value in any field of what comes in, and any bytes as a checkpoint: it is taken, or
refused in one line (InputError), at once. Nothing outside the output folder changes.

pytest tests/common/test_any_input.py                                    half a minute
"""

import json
import shutil
import sys
import time

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eval_gsm8k
import eval_humaneval_infill
import preprocess_code_infilling
import preprocess_math
from common.errors import InputError
from evaluation.benchmarks import INFILL_FIELDS
from evaluation.generation_run import GenerationRun, Stop
from llada_utils import load_flexmdm, load_llada, write_checkpoint
from network.checkpoint_folder import checkpoint_kind
from training.rows import check_origin

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e999", "<|mdm_mask|>", "\ud800", "a" * 9999, "../x", "/", "nan"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
drawn = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def taken_or_refused(action, outside):
    """Whether action() went through. It may refuse by InputError; either within ten seconds, and
    with the files of `outside` as they were.
    """
    state = lambda: {
        path: path.read_bytes()
        for folder in outside
        for path in folder.rglob("*")
        if path.is_file()
    }
    before, began = state(), time.monotonic()
    try:
        action()
        through = True
    except InputError as error:
        assert str(error).strip()
        through = False
    assert time.monotonic() - began < 10
    assert state() == before
    return through


def call(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
    return script.main


@drawn
@given(st.data())
def test_rows_to_score_and_the_settings_beside_them(tmp_path, monkeypatch, data):
    folder = tmp_path / "given"
    folder.mkdir(exist_ok=True)
    script = data.draw(st.sampled_from([eval_gsm8k, eval_humaneval_infill]))
    name, text = ("question", "generations") if script is eval_gsm8k else ("task_id", "completion")
    rows = [
        {name: f"n{number}", text: "#### 3", "ground_truth": 3, "item": number, "sample": 0}
        | {"evaluations": 4, "length": 2, "seconds": 0.1, "configuration": "c"}
        for number in range(3)
    ]
    beside = {"benchmark": "b", "kind": "flexmdm", "sampler": "event_driven", "steps": 3}
    which = data.draw(st.sampled_from(["row", "settings", "item"]))
    item = dict.fromkeys(INFILL_FIELDS, "x = 1\n") | {"answer": "a #### 3"}
    items = [{**item, "task_id": f"n{number}", "question": f"n{number}"} for number in range(3)]
    target = {"row": rows[1], "settings": beside, "item": items[1]}[which]
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    written(folder / "rows.jsonl", rows)
    written(folder / "items.jsonl", items)
    (folder / "settings.json").write_text(json.dumps(beside))
    words = ["--score_only", folder / "rows.jsonl", "--output_dir", tmp_path / "out"]
    words += ["--data_path", folder / "items.jsonl"]
    if taken_or_refused(call(monkeypatch, script, *words), [folder]):
        result = json.loads((tmp_path / "out/results.json").read_text())
        assert result["rows"] == 3 and "NaN" not in json.dumps(result["metrics"])


@drawn
@given(st.data())
def test_the_settings_of_an_evaluation_to_resume(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("out")
    said = {"benchmark": "b", "seed": 3, "steps": 8, "temperature": 0.0}
    there = {**said, data.draw(st.sampled_from([*said, "more"])): data.draw(JSON)}
    if data.draw(st.booleans()):
        there = data.draw(JSON)
    (folder / "settings.json").write_text(json.dumps(there))
    # what is null is not set
    set_there = isinstance(there, dict) and {k: v for k, v in there.items() if v is not None}
    outside = [] if set_there == said else [folder]
    resumed = taken_or_refused(lambda: GenerationRun(folder, said, [], Stop()), outside)
    assert not resumed or set_there == said


@drawn
@given(st.data())
def test_the_origin_of_training_rows(tmp_path, data):
    info = {"settings": {"task": "math", "tokenizer_hash": "x"}, "rows": 3}
    inner = data.draw(st.booleans())
    target = info["settings"] if inner else info
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    (tmp_path / "info.json").write_text(json.dumps(info))
    check = lambda: check_origin(tmp_path, tiny.tokenizer(), "math", "--train_data")
    taken_or_refused(check, [tmp_path])


@settings(parent=drawn, max_examples=12)
@given(st.data())
def test_rows_to_preprocess(tmp_path_factory, data):
    work = tmp_path_factory.mktemp("rows")
    base = tiny.write_llada(work / "base")
    rows = [
        {
            "question": "How many?",
            "answer": f"{n} #### {n}",
            "instruction": "Add",
            "output": "x = 1",
        }
        for n in range(4)
    ]
    rows[1][data.draw(st.sampled_from(sorted(rows[1])))] = data.draw(JSON)
    written(work / "rows.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        script = data.draw(st.sampled_from([preprocess_math, preprocess_code_infilling]))
        words = ["--data_path", work / "rows.jsonl", "--tokenizer", base, "--max_length", 400]
        words += ["--output_dir", work / "out"]
        done = taken_or_refused(call(patch, script, *words), [base])
    assert done == (work / "out").exists()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    work = tmp_path_factory.mktemp("checkpoints")
    (work / "flexmdm").mkdir()
    write_checkpoint(tiny.flexmdm(), work / "flexmdm", tiny.tokenizer(), card="# test\n")
    tiny.write_llada(work / "llada")
    return work


@drawn
@given(st.data())
def test_any_bytes_as_a_checkpoint(checkpoints, tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["flexmdm", "llada"]))
    folder = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoints / kind, folder)
    file = folder / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    content = original = file.read_bytes()
    how = data.draw(st.sampled_from(["other", "cut", "changed"]))
    if how == "other":
        content = data.draw(st.binary(max_size=64))
    else:
        # most of the header, and some of the tensors
        place = data.draw(st.integers(0, min(len(content), 4000) - 1))
        more = data.draw(st.binary(min_size=1, max_size=9))
        rest = b"" if how == "cut" else more + content[place + len(more) :]
        content = content[:place] + rest
    file.write_bytes(content)

    def load():
        checkpoint_kind(folder)
        (load_flexmdm if kind == "flexmdm" else load_llada)(folder)

    whole = content.strip() == original.strip()  # of config.json the last line end may go
    assert not taken_or_refused(load, [checkpoints]) or how == "changed" or whole
