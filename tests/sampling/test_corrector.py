"""Correctors keep the law of the text where the posterior is exact, and noise it as the interpolant
does.

    pytest tests/sampling/test_corrector.py
        half a minute; the rule of test_sampler_exactness.py decides
"""

import numpy as np
import pytest
import torch
from exact_posterior import ExactPosterior, random_lengths, random_prompts
from test_sampler_exactness import COMMON, LAWS, ORDERS, SCHEDULES, is_exact

import sampling.corrector
from flexmdm_interpolant import (
    AnyOrderMaskInsertionInterpolant,
    GeometricSchedule,
    LinearSchedule,
    PowerSchedule,
)
from sampling.corrector import noise_probabilities
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.options import OptionError, SamplerOptions


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


EVENTS = dict(sampler="event_driven")
LEAPS = dict(steps=20_000, bound_inflation=3.0)  # its error is below the noise


@pytest.mark.parametrize(
    "sampler, law, schedule, order, rounds, spread",
    [
        (EVENTS, "lengths 0..6", "linear", "random", 2, False),
        (EVENTS, "mixed prompts", "power", "prob_diff", 1, False),
        (EVENTS, "every split", "geometric", "top_prob", 1, False),
        (EVENTS, "every split", "power", "random", 3, True),
        (EVENTS, "lengths 0..6", "geometric", "random", 2, True),
        (LEAPS, "mixed prompts", "linear", "entropy", 1, False),
        (LEAPS, "every split", "power", "random", 2, True),
    ],
)
def test_a_corrector_keeps_the_law(sampler, law, schedule, order, rounds, spread, rng):
    contexts, insertion = LAWS[law](rng), SCHEDULES[schedule]()
    assert is_exact(
        contexts,
        ExactPosterior(contexts, insertion),
        rng,
        inserted=float(insertion.at(torch.tensor(1.0))),
        insertion_schedule=insertion,
        unmask_schedule=PowerSchedule(1.4) if spread else None,
        corrector_time=float(rng.uniform(0.2, 0.8)),
        corrector_rounds=rounds,
        corrector_spread=spread,
        **sampler,
        **ORDERS[order],
    )
