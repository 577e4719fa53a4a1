"""scripts/length_drift.py: the mean confidence of canvases of each length.

pytest tests/scripts/test_length_drift.py                     seconds
"""

import json
import random
import sys

import length_drift
import pytest
import tiny
import torch
from fit_length_distribution import examples
from test_fit_length_distribution import checkpoint, write_rows

from common.errors import InputError
from data.token_rows import load_rows
from llada_utils import load_llada


def run_script(monkeypatch, words):
    line = [str(part) for name, value in words.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["length_drift.py", *line])
    length_drift.main()


def test_the_drift_is_the_mean_confidence_whatever_is_in_the_holes(tmp_path, monkeypatch):
    source, data = checkpoint(tmp_path / "source", "llada"), write_rows(tmp_path / "data", "math")
    task, seed = random.choice(["math", "code"]), random.randrange(1000)
    words = {"checkpoint_path": source, "task": task, "train_data": data, "seed": seed}
    words |= {"lengths": "2,5", "examples": 7, "batch_size": 3, "output": tmp_path / "drift.json"}
    run_script(monkeypatch, words)
    found = json.loads((tmp_path / "drift.json").read_text())
    assert list(found) == ["2", "5"]
    model = load_llada(source)
    drawn = examples(load_rows(data)["train"], task, None, seed)
    holes = [next(drawn)[:2] for _ in range(7)]
    for n in (2, 5):
        logs = []
        for before, after in holes:
            ids = torch.tensor([[*before, *[model.config.mask_token_id] * n, *after]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(before) : len(before) + n].double()
            logits = logits[:, : len(tiny.tokenizer())]
            logits[:, model.config.mask_token_id] = -torch.inf
            logs.append(logits.log_softmax(-1).max(-1).values.mean().item())
        assert found[str(n)] == pytest.approx(sum(logs) / 7, rel=1e-5)


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    source, data = checkpoint(tmp_path / "source", "llada"), write_rows(tmp_path / "data", "math")
    words = {"checkpoint_path": source, "task": "math", "train_data": data}
    words["output"] = tmp_path / "drift.json"
    for flag, value in [
        ("examples", 0),
        ("lengths", "0-3"),
        ("lengths", "3-1"),
        ("lengths", "many"),
        ("train_data", tmp_path),
        ("checkpoint_path", tmp_path / "none"),
        ("checkpoint_path", checkpoint(tmp_path / "flexmdm", "flexmdm")),
    ]:
        with pytest.raises((InputError, SystemExit)) as refused:
            run_script(monkeypatch, {**words, flag: value})
        assert flag in str(refused.value) + capsys.readouterr().err
    assert not (tmp_path / "drift.json").exists()
