"""LLaDA's canvas that grows behind a prompt: the rule against a network whose every answer is
known, and a random network against a row at a time.

Run: pytest tests/sampling/test_grown_canvas.py        (seconds)
"""

import math
import random
from types import SimpleNamespace

import pytest
import tiny
import torch

from sampling import canvas_search
from sampling.canvas_search import ENDS, GROWN_BY, grown_lengths
from sampling.llada import generate_mdm, generate_mdm_infilling
from sampling.options import LLaDAOptions, OptionError, sampler_words

V, TOKENS, MASK, PAD = 12, 10, 8, 9  # ids 10 and 11 have no token


class Oracle:
    """At the last 8 masks of a row the end of text has the mean probability ends[prompt][masks];
    at all others it is certain, as the mask and ids without a token would be at the last.
    """

    def __init__(self, ends):
        self.ends, self.device, self.rows = ends, torch.device("cpu"), 0
        self.config = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD)

    def __call__(self, ids, attention_mask=None):
        logits = torch.zeros(*ids.shape, V)
        logits[..., PAD] = 50.0
        for number, row in enumerate(ids.tolist()):
            self.rows += 1
            masks = row.count(MASK)
            start = row.index(MASK)
            assert row[start : start + masks] == [MASK] * masks
            assert set(row[start + masks :]) <= {PAD}
            probability = self.ends[tuple(row[:start])][masks]
            others = TOKENS - 2  # all that can be written but for the end
            step = random.uniform(0, min(probability, 1 - probability)) * 0.9
            for place in range(start + masks - 8, start + masks):
                p = probability + step * (-1) ** place
                logits[number, place, PAD] = math.log(p * others / (1 - p))
                logits[number, place, [MASK, 10, 11]] = 60.0
        return SimpleNamespace(logits=logits)


def test_the_canvas_grows_until_the_end_is_expected_within_it():
    """Or until it reaches max_length, which is not asked about."""
    prompts, ends, lengths, asked, max_length = [], {}, [], [], 50
    for number in range(12):
        prompt = [
            number % 8,
            number // 8,
            *(random.randrange(8) for _ in range(random.randrange(30))),
        ]
        room, times = max_length - len(prompt), random.randint(1, 4)
        tried = [GROWN_BY * k for k in range(1, times + 1) if GROWN_BY * k < room]
        ends[tuple(prompt)] = {n: random.uniform(0.01, ENDS - 0.01) for n in tried}
        if len(tried) == times:
            ends[tuple(prompt)][tried[-1]] = random.uniform(ENDS + 0.01, 0.999)
        prompts.append(prompt)
        lengths.append(tried[-1] if len(tried) == times else room)
        asked.append(tried)
    model = Oracle(ends)
    rows_at_once = random.choice([None, 1, 2, 5])
    assert grown_lengths(model, prompts, max_length, TOKENS, rows_at_once) == (lengths, asked)
    assert model.rows == sum(map(len, asked))


def test_prompts_that_leave_no_room_are_not_asked_about():
    full = [[1] * 20, [2] * 21, [3] * 12]
    assert grown_lengths(Oracle({}), full, 20) == ([0, 0, 8], [[], [], []])
    assert grown_lengths(Oracle({}), [], 20) == ([], [])


def test_answers_and_their_cost_are_those_of_each_row_alone(monkeypatch):
    """A random network, and a probability that some of its canvases reach."""
    model, size, given = tiny.llada(max_sequence_length=80).double(), 45, random.randint(1, 8)
    prompts = [[random.randrange(50) for _ in range(given + row)] for row in range(6)]
    probability = {}
    for row, prompt in enumerate(prompts):
        for n in range(GROWN_BY, size - len(prompt), GROWN_BY):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + [tiny.MASK] * n])).logits[0, -GROWN_BY:]
            logits[:, tiny.MASK] = -torch.inf
            probability[row, n] = logits.softmax(-1)[:, tiny.PAD].mean().item()
    ranked = sorted(probability.values())
    gaps = [(a + b) / 2 for a, b in zip(ranked, ranked[1:]) if b > 1.0001 * a]
    monkeypatch.setattr(canvas_search, "ENDS", random.choice(gaps))
    options = LLaDAOptions(llada_length="grown", max_length=size, rows_at_once=3, block_length=8)
    result = generate_mdm(model, prompts, options=options)
    for row, prompt in enumerate(prompts):
        room = size - len(prompt)
        tried = [n for number, n in probability if number == row]
        enough = [n for n in tried if probability[row, n] >= canvas_search.ENDS]
        length = min(enough, default=room)
        cost = [n for n in tried if n <= length]
        assert int(result.lengths[row]) == len(prompt) + length
        plain = generate_mdm(model, [prompt], gen_length=length, block_length=8)
        assert result.sequences[row, : len(prompt) + length].tolist() == plain.sequences[0].tolist()
        assert int(result.evaluations[row]) == length + len(cost)
        positions = sum(len(prompt) + n for n in cost)
        assert int(result.positions[row]) == int(plain.positions[0]) + positions


def test_what_does_not_go_together_is_refused():
    model = tiny.llada()
    with pytest.raises(ValueError, match="llada_length grown is for prompts"):
        generate_mdm_infilling(model, [[1], [2]], [[], [3]], llada_length="grown")
    for name in ("gen_length", "steps"):
        with pytest.raises(OptionError, match="left out where llada_length is grown"):
            LLaDAOptions(llada_length="grown", **{name: 8})
    assert "length grown" in sampler_words({"kind": "llada", "llada_length": "grown"})
