"""What the samplers are given: lists of ids, or padded tensors. Both give the same rows.

pytest tests/sampling/test_id_lists.py                                seconds
"""

import random

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.llada import generate_mdm, generate_mdm_infilling
from sampling.sequences import id_lists

IDS = dict(mask_id=tiny.MASK, pad_id=tiny.PAD, num_tokens=58, temperature=1.0)
# (options, those of a prompt, those of an infill, continuing prompts, filling middles, network)
SAMPLERS = {
    "llada": (
        dict(steps=4),
        dict(gen_length=8),
        dict(middle_lengths=8),
        generate_mdm,
        generate_mdm_infilling,
        tiny.llada,
    ),
    "flexmdm": (
        dict(steps=6, max_length=24),
        {},
        {},
        generate_flexmdm,
        generate_flexmdm_infilling,
        tiny.flexmdm,
    ),
}


def drawn_rows(lengths):
    return [[random.randrange(58) for _ in range(length)] for length in lengths]


def padded(rows):
    width = max(map(len, rows)) + random.randrange(3)
    return torch.tensor([[*row, *[tiny.PAD] * (width - len(row))] for row in rows])


def assert_equal(lists, tensors):
    for name in ("sequences", "lengths", "evaluations", "truncated"):
        assert torch.equal(getattr(lists, name), getattr(tensors, name)), name


@pytest.mark.parametrize("kind", SAMPLERS)
def test_lists_and_padded_tensors_give_the_same_rows(kind):
    shared, of_prompts, of_infills, generate, infill, network = SAMPLERS[kind]
    model, settings = network(), {**IDS, **shared, "seeds": torch.arange(4)}
    rows = drawn_rows([random.randrange(1, 9), 0, 3, 1])
    answers = [generate(model, given, **settings, **of_prompts) for given in (rows, padded(rows))]
    assert_equal(*answers)
    nothing = torch.zeros((4, 0), dtype=torch.long)
    free = [
        generate(model, given, **settings, **of_prompts) for given in ([[]] * 4, [()] * 4, nothing)
    ]
    assert_equal(free[0], free[1])
    assert_equal(free[0], free[2])
    behind = drawn_rows([2, 0, random.randrange(1, 9), 0])
    fills = [
        infill(model, *given, **settings, **of_infills)
        for given in ((rows, behind), (padded(rows), padded(behind)), (rows, padded(behind)))
    ]
    assert_equal(fills[0], fills[1])
    assert_equal(fills[0], fills[2])
    with pytest.raises(ValueError, match="4 prefixes, but 3 suffixes"):
        infill(model, rows, behind[:3], **settings, **of_infills)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_padding_token_at_the_end_of_a_list_is_given_text(kind):
    shared, of_prompts, of_infills, generate, infill, network = SAMPLERS[kind]
    model, settings = network(), {**IDS, **shared, "seeds": torch.arange(2)}
    rows = [[*row, *[tiny.PAD] * count] for row, count in zip(drawn_rows([3, 0]), (1, 2))]
    result = generate(model, rows, **settings, **of_prompts)
    filled = infill(model, rows, rows[::-1], **settings, **of_infills)
    for number, (row, suffix) in enumerate(zip(rows, rows[::-1])):
        assert result.sequences[number, : len(row)].tolist() == row
        assert not of_prompts or result.lengths[number] == len(row) + 8
        ids = filled.sequences[number, : filled.lengths[number]].tolist()
        assert ids[: len(row)] == row and ids[len(ids) - len(suffix) :] == suffix
        assert not of_infills or len(ids) == len(row) + 8 + len(suffix)
    # in a tensor it ends the row
    cut = generate(model, padded(rows), **settings, **of_prompts)
    assert_equal(cut, generate(model, [rows[0][:-1], []], **settings, **of_prompts))


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), max_size=4), st.integers(0, 3))
def test_id_lists_undo_padding_and_copy_lists(rows, more):
    assert id_lists(rows, 6) == id_lists([torch.tensor(row, dtype=int) for row in rows], 6) == rows
    width = max(map(len, rows), default=0) + more
    given = torch.tensor([[*row, *[7] * (width - len(row))] for row in rows], dtype=torch.int32)
    assert id_lists(given.view(len(rows), width), 7) == rows


@pytest.mark.parametrize("given", [[1, 2], torch.tensor([1, 2]), [[1.5]], ["ab"], [[None]], 3])
def test_what_is_no_rows_of_ids_is_refused(given):
    with pytest.raises(ValueError, match="long .B, P. or lists of ids, not "):
        id_lists(given, 7)
