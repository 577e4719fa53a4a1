"""Correctors keep the law of the text where the posterior is exact, and noise it as the interpolant
does.

    pytest tests/sampling/test_corrector.py
        half a minute; the rule of test_sampler_exactness.py decides
"""

import numpy as np
import pytest
import torch
from exact_posterior import MASK, PAD, Context, ExactPosterior, random_lengths, random_prompts
from test_count_first import WithCount
from test_sampler_exactness import COMMON, LAWS, ORDERS, SCHEDULES, is_exact

import sampling.corrector
from flexmdm_interpolant import (
    AnyOrderMaskInsertionInterpolant,
    GeometricSchedule,
    LinearSchedule,
    PowerSchedule,
)
from sampling.corrector import Corrector, noise_probabilities
from sampling.event_driven import EventDriven
from sampling.flexmdm import generate_flexmdm
from sampling.options import OptionError, SamplerOptions, sampler_words
from sampling.row_random import RowUniforms
from sampling.schedules import Schedules
from sampling.sequences import Sequences


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


@pytest.mark.full
def test_a_corrector_keeps_the_law_of_a_text_of_which_a_share_was_placed(rng):
    contexts, insertion = random_prompts(rng), PowerSchedule(1.7)
    settings = dict(EVENTS, placed_share=0.5, length_choice="drawn")
    settings["corrector_time"] = float(rng.uniform(0.2, 0.8))
    assert is_exact(contexts, WithCount(contexts, insertion), rng, **settings)


@pytest.mark.parametrize("delete", [0.0, 1.3], ids=["never deletes", "deletes too much"])
def test_control_another_kernel_fails(delete, rng, monkeypatch):
    contexts, insertion = random_lengths(rng), LinearSchedule()
    settings = dict(EVENTS, corrector_time=0.5, corrector_rounds=2)
    kernel = sampling.corrector.noise_probabilities

    def wrong(*times):
        clean_deleted, clean_masked, mask_deleted = kernel(*times)
        return clean_deleted * delete, clean_masked, mask_deleted * delete

    monkeypatch.setattr(sampling.corrector, "noise_probabilities", wrong)
    model = ExactPosterior(contexts, insertion)
    assert not is_exact(contexts, model, rng, samples=2_000, **settings)


def random_pair(rng):
    insertion = [PowerSchedule(rng.uniform(0.6, 5)), LinearSchedule(), GeometricSchedule(10, 0.01)]
    unmasking = [PowerSchedule(rng.uniform(0.5, 3)), LinearSchedule()]
    return insertion[rng.integers(3)], unmasking[rng.integers(2)]


@pytest.mark.parametrize("to_the_end", [False, True])
def test_noise_probabilities_are_those_of_the_interpolant(to_the_end, rng):
    insertion, unmasking = random_pair(rng)
    s, t = sorted(rng.uniform(0.02, 0.98, size=2))
    t = 1.0 if to_the_end else t
    interpolant = AnyOrderMaskInsertionInterpolant(insertion, unmasking, 9, 6, 8, 16)
    uniforms = torch.from_numpy(rng.random((2, 1_000_000)))
    inserted, unmasked = (times.numpy() for times in interpolant.stopping_times(*uniforms))
    clean, mask = unmasked <= t, (inserted <= t) & (unmasked > t)
    expected = noise_probabilities(insertion, unmasking, 1 - t, 1 - s)
    pairs = [
        (clean, inserted > s),
        (clean, (inserted <= s) & (unmasked > s)),
        (mask, inserted > s),
    ]
    for (given, event), p in zip(pairs, expected):
        n = given.sum()
        if n:  # no masks at t = 1
            assert abs(event[given].mean() - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1e-4


@pytest.mark.parametrize(
    "sampler, spread",
    [
        (EVENTS, False),
        (EVENTS, True),
        (dict(steps=60), True),
    ],
    ids=["event_driven", "spread", "tau_leaping"],
)
def test_noised_states_match_the_interpolant(sampler, spread, rng, monkeypatch):
    """Six tokens, linear schedules: the shares of masks and clean tokens after each round."""
    rounds, kept, masks = 3, np.zeros(3), np.zeros(3)
    noise = Corrector.noise

    def counting(self, rows, sequences):
        round_of = self.round[rows]
        noise(self, rows, sequences)
        np.add.at(kept, round_of, sequences.lengths[rows])
        np.add.at(masks, round_of, sequences.masks(rows).sum(1))

    monkeypatch.setattr(Corrector, "noise", counting)
    text = {tuple(rng.integers(3, size=6).tolist()): 1.0 for _ in range(5)}
    generate_flexmdm(
        ExactPosterior([Context((), (), text)], LinearSchedule()),
        batch_size=2_000,
        corrector_time=0.5,
        corrector_rounds=rounds,
        corrector_spread=spread,
        **COMMON,
        **sampler,
    )
    s = 0.5 * (np.arange(3) + 1) / 3 if spread else np.full(3, 0.5)
    assert kept / 12_000 == pytest.approx(s, abs=0.025)
    assert masks / 12_000 == pytest.approx(-(1 - s) * np.log(1 - s), abs=0.025)


def test_the_least_confident_tokens_are_noised_first(rng):
    """As many as chance would noise, in each row."""
    rows, length = 200, 9
    sequences = Sequences([[0]] * rows, [[1]] * rows, 16, MASK, PAD)
    everything = np.arange(rows)
    gaps = np.tile([0.0, 1.0, 0.0], (rows, 1))
    sequences.insert(everything, gaps, np.full(rows, length), np.zeros((rows, length)))
    sequences.ids[:, 1 : 1 + length] = rng.integers(3, size=(rows, length))
    log_probs = np.log(rng.random((rows, length)))
    sequences.log_probs[:, 1 : 1 + length] = log_probs
    random = RowUniforms(everything, np.zeros(rows, dtype=np.int64))
    linear = LinearSchedule()
    guided = SamplerOptions(corrector_time=0.6, corrector_choice="least_confident", **EVENTS)
    clock = EventDriven(Schedules(linear, linear), random, guided)
    Corrector(clock, guided).noise(everything, sequences)
    clean = (sequences.ids != MASK) & (sequences.slots >= 2)
    for row in range(rows):
        stays = log_probs[row][sequences.slots[row, clean[row]] - 2]
        assert np.sort(stays) == pytest.approx(np.sort(log_probs[row])[length - len(stays) :])
    share = clean.sum() / (rows * length)
    assert share == pytest.approx(0.6 + 0.4 * np.log(0.4), abs=0.06)


@pytest.mark.parametrize(
    "chosen, named",
    [
        (dict(corrector_time=1.0), "corrector_time"),
        (dict(corrector_time=0.0), "corrector_time"),
        (dict(corrector_time=0.5, sampler="count_first"), "corrector_time"),
        (dict(corrector_time=0.5, sampler="event_driven", steps=9), "steps"),
        (dict(corrector_rounds=2), "corrector_rounds"),
        (dict(corrector_time=0.5, corrector_rounds=0), "corrector_rounds"),
        (dict(corrector_choice="least_confident"), "corrector_choice"),
        (dict(corrector_spread=True), "corrector_spread"),
        (dict(corrector_time=0.5, corrector_spread=True), "corrector_spread"),
    ],
)
def test_senseless_options_are_refused(chosen, named):
    with pytest.raises(OptionError) as refused:
        SamplerOptions(**chosen)
    assert refused.value.name == named


def test_the_results_table_names_the_rounds():
    options = SamplerOptions(
        **EVENTS, corrector_time=0.6, corrector_rounds=3, corrector_spread=True
    )
    words = sampler_words({"kind": "flexmdm", **options.settings()})
    assert "3 x corrected from t 0.6, spread" in words
