"""`positions` of a result are what the network was given: counted in its calls.

pytest tests/sampling/test_positions.py                                  seconds
"""

import random

import pytest
import tiny
import torch

from sampling.flexmdm import generate_flexmdm_infilling
from sampling.llada import generate_mdm_infilling

IDS = dict(mask_id=tiny.MASK, pad_id=tiny.PAD, num_tokens=58)
FLEXMDM = {
    "tau-leaping": dict(sampler="tau_leaping", steps=5),
    "event-driven": dict(sampler="event_driven", steps=12),
    "count first": dict(sampler="count_first", length_choice="likeliest"),
    "three lengths": dict(sampler="count_first", length_choice="likeliest", length_candidates=3),
    "a cache": dict(sampler="event_driven", steps=12, cache_refresh=3),
}
LLADA = {"plain": {}, "guidance": {"cfg_scale": 0.5}, "blocks": {"block_length": 3}}
LLADA["a cache"] = {"block_length": 3, "cache_refresh": 2}


def watched(model):
    """[positions of each call], counted at the network's own input."""
    seen, forward = [], model.forward

    def counting(ids, *rest, attention_mask=None, places=None, **more):
        if places is not None:
            seen.append(len(places.tokens))
        else:
            rows = len(ids) if model.config.model_type == "flexmdm" else 0  # end slots
            text = ids.numel() if attention_mask is None else int(attention_mask.sum())
            seen.append(text + rows)
        if attention_mask is not None:
            more["attention_mask"] = attention_mask
        return forward(ids, *rest, **({"places": places} if places is not None else {}), **more)

    model.forward = counting
    return seen


def given(count):
    row = lambda: [random.randint(5, 50) for _ in range(random.randint(1, 6))]
    return [row() for _ in range(count)], [row() for _ in range(count)]


@pytest.mark.parametrize("name", FLEXMDM)
def test_flexmdm_counts_what_it_computes(name):
    model = tiny.flexmdm(length_distribution=9)
    seen, (prefixes, suffixes) = watched(model), given(5)
    result = generate_flexmdm_infilling(
        model, prefixes, suffixes, max_length=24, rows_at_once=3, **IDS, **FLEXMDM[name]
    )
    assert int(result.positions.sum()) == sum(seen) > 0
    shortest = [len(a) + len(b) + 1 for a, b in zip(prefixes, suffixes)]
    if name != "a cache":
        for positions, evaluations, least in zip(
            result.positions.tolist(), result.evaluations.tolist(), shortest
        ):
            assert evaluations * least <= positions <= evaluations * 25


@pytest.mark.parametrize("name", LLADA)
def test_llada_counts_what_it_computes(name):
    model = tiny.llada()
    seen, (prefixes, suffixes) = watched(model), given(5)
    lengths = torch.tensor([random.randint(0, 7) for _ in range(5)])
    result = generate_mdm_infilling(
        model,
        prefixes,
        suffixes,
        middle_lengths=lengths,
        steps=None,
        rows_at_once=3,
        **IDS,
        **LLADA[name],
    )
    assert int(result.positions.sum()) == sum(seen)
    if name == "plain":
        for row in range(5):
            assert result.positions[row] == result.evaluations[row] * result.lengths[row]
