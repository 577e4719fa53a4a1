"""scripts/fit_length_distribution.py: the head learns the law of what it is shown, and nothing else
changes.

pytest tests/scripts/test_fit_length_distribution.py                     half a minute
"""

import json
import random
import sys

import fit_length_distribution
import pytest
import tiny
import torch
from training_helpers import weights

from common.errors import InputError
from data.infills import infill_boundary_ids
from llada_utils import load_flexmdm, load_llada, write_checkpoint
from network.lora import add_lora
from sampling.length_law import missing_log_probs

PROMPT = 3
LORA = {"r": 4, "lora_alpha": 4, "lora_dropout": 0.0}


def checkpoint(folder, kind):
    """A checkpoint of random weights: all in it, or trained parts beside their base."""
    folder.mkdir()
    if kind == "flexmdm":
        model = tiny.flexmdm()
    elif kind == "llada":
        model = tiny.llada()
    else:
        base = tiny.write_llada(folder.parent / "base")
        if kind == "flexmdm with LoRA":
            from llada_utils import new_flexmdm

            model = new_flexmdm(base, lora=LORA, max_length=64, adaln_group_size=2)
        else:
            model = add_lora(load_llada(base), LORA)
            model.name_or_path = str(base)
    write_checkpoint(model, folder, tiny.tokenizer(), card="# test\n")
    return folder


def write_rows(folder, task):
    """Rows whose first token says how many tokens follow the prompt: 1, or 6 or 7 by chance."""
    from datasets import Dataset, DatasetDict

    made = []
    for _ in range(400):
        first = random.choice([10, 20])
        n = 1 if first == 10 else random.choice([6, 6, 7])
        ids = [first, *(random.randint(5, 9) for _ in range(PROMPT - 1 + n))]
        made.append({"input_ids": ids, "prompt_length": PROMPT})
    DatasetDict({"train": Dataset.from_list(made)}).save_to_disk(str(folder))
    info = {"settings": {"task": task}}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def fit(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["fit_length_distribution.py", *map(str, words)])
    fit_length_distribution.main()


@pytest.mark.parametrize("kind", ["flexmdm", "llada", "flexmdm with LoRA", "llada with LoRA"])
def test_the_head_learns_the_law_and_nothing_else_changes(tmp_path, monkeypatch, kind):
    source, data = checkpoint(tmp_path / "source", kind), write_rows(tmp_path / "data", "math")
    words = ["--checkpoint_path", source, "--task", "math", "--train_data", data]
    words += ["--output_dir", tmp_path / "out", "--most", 12, "--max_steps", 400]
    words += ["--examples", 800, "--learning_rate", 5e-3]
    fit(monkeypatch, *words)
    load = load_flexmdm if kind.startswith("flexmdm") else load_llada
    before, after = load(source), load(tmp_path / "out")
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert {name for name in new if name not in old} == {
        name for name in new if "length_distribution" in name
    }
    for name, tensor in old.items():
        assert torch.equal(tensor, new[name]), name
    assert getattr(after.config, "length_distribution_at_start", True)
    saved = weights(tmp_path / "out").keys()
    assert ("LoRA" in kind and "flexmdm" in kind) == all("wte" not in name for name in saved)
    pairs = [[a, b] for a in range(5, 10) for b in range(5, 10)]
    with torch.no_grad():
        one = missing_log_probs(after, [[10, *pair] for pair in pairs], [[]] * 25).exp()
        more = missing_log_probs(after, [[20, *pair] for pair in pairs], [[]] * 25).exp()
    assert one.shape == (25, 13) and one.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert one.mean(0)[1] > 0.95 and more.mean(0)[6:8].sum() > 0.95
    assert 0.45 < more.mean(0)[6] < 0.88  # two in three
    log = [json.loads(line) for line in (tmp_path / "out/fit_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [100, 200, 300, 400]
    assert min(row["held_out_nats"] for row in log) < 0.6  # half of 0.64 nats are chance


def test_holes_are_cut_and_framed_as_in_tuning():
    rows = [{"input_ids": list(range(5, 5 + n)), "prompt_length": 2} for n in (3, 4, 9, 30)]
    frame = [1, 2]
    drawn = fit_length_distribution.examples(rows, "code", frame, seed=random.randrange(2**31))
    plain = fit_length_distribution.examples(rows, "code", None, seed=random.randrange(2**31))
    numbers = set()
    for _ in range(200):
        prefix, suffix, n = next(drawn)
        assert prefix[-2:] == frame and suffix[:2] == frame and n >= 1
        whole = [*prefix[:-2], *suffix[2:]]
        assert len(whole) + n in (3, 4, 9, 30) and whole[:2] == [5, 6]
        before, after, n = next(plain)
        assert [*before, *range(5 + len(before), 5 + len(before) + n), *after] == list(
            range(5, 5 + len(before) + n + len(after))
        )
        numbers.add(n)
    assert len(numbers) > 5
    assert len(infill_boundary_ids(tiny.tokenizer())) > 0


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch):
    source, data = checkpoint(tmp_path / "source", "llada"), write_rows(tmp_path / "data", "math")
    words = {"checkpoint_path": source, "task": "math", "train_data": data}
    words["output_dir"] = tmp_path / "out"
    for flag, value in [
        ("max_steps", 0),
        ("most", 10**9),
        ("learning_rate", -1),
        ("train_data", tmp_path),
        ("checkpoint_path", tmp_path / "none"),
    ]:
        given = {**words, flag: value}
        with pytest.raises((InputError, ValueError), match=flag.split("_")[0]):
            fit(monkeypatch, *(part for name, v in given.items() for part in (f"--{name}", v)))
    assert not (tmp_path / "out").exists()
