"""Leaps by drawn counts (sampling/drawn_counts.py), with the exact p(n | xt, t) of enumerated laws.

pytest tests/sampling/test_leap_counts.py                                half a minute

A leap into one gap has the law of the length; a Poisson number, the control, has not. Into several
gaps it is an approximation, nearer to the law than the Poisson one.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from exact_posterior import Context, ExactPosterior, law_inputs, noise_quantile, random_strings
from test_sampler_exactness import COMMON, LAWS, distance_and_noise

from common.errors import InputError
from flexmdm_interpolant import LinearSchedule, PowerSchedule
from sampling.drawn_counts import leap
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.length_law import check_network_serves
from sampling.options import OptionError, SamplerOptions
from sampling.row_random import RowUniforms
from sampling.sequences import Sequences

ROWS = 20_000


class Counting(ExactPosterior):
    """The exact posterior of a network that has a length distribution."""

    def __init__(self, contexts, schedule, **config):
        super().__init__(contexts, schedule)
        self.config = SimpleNamespace(
            length_distribution=self.sizes.shape[2] - 1,
            insertion_schedule=schedule.to_config(),
            unmask_schedule=LinearSchedule().to_config(),
            **config,
        )


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


def whole_leap(law, schedule, counts):
    """Lengths (ROWS,), and the share of the missing tokens that was inserted: the network's time
    ends where it begins, so the event-driven sampler inserts everything in one leap at t = 0.
    """
    model = Counting(law, schedule, time_epsilon=1 - 1e-9)
    settings = COMMON | {"sampler": "event_driven", "leap_counts": counts}
    return generate_flexmdm(model, batch_size=ROWS, **settings).lengths.numpy(), 1.0


def first_step(law, schedule, counts):
    """The same after the first of two steps of tau-leaping."""
    settings = COMMON | {"steps": 2, "leap_counts": counts, "return_trace": True}
    result = generate_flexmdm(Counting(law, schedule), batch_size=ROWS, **settings)
    after = [[frame for frame in trace if frame["evaluations"] < 2][-1] for trace in result.trace]
    inserted = float(schedule.at(torch.tensor(1 / 2, dtype=torch.float64)))
    return np.array([len(frame["ids"]) for frame in after]), inserted


@pytest.mark.parametrize("lengths_of", [whole_leap, first_step])
def test_a_leap_into_one_gap_has_the_law_of_the_length(lengths_of, rng):
    # lengths 4 ... 6 vary little, and most of a text is inserted: far from a Poisson number
    strings = {text: p for text, p in random_strings(rng, 30, 6, tokens=3).items() if len(text) > 3}
    law = [Context((), (), strings)]
    schedule = PowerSchedule(0.6)

    def distance(counts):
        """Total variation of the lengths from their law, and what noise alone gives."""
        lengths, inserted = lengths_of(law, schedule, counts)
        expected = np.zeros(17)
        for text, p in law[0].target(inserted).items():
            expected[len(text)] += p
        found = np.bincount(lengths, minlength=17) / ROWS
        return np.abs(found - expected).sum() / 2, noise_quantile([(ROWS, expected)], rng)

    drawn, noise = distance("drawn")
    if drawn >= noise:  # as a thousandth of correct runs is
        drawn, noise = distance("drawn")
    poisson, _ = distance("poisson")
    print(f"drawn {drawn:.4f}, Poisson {poisson:.4f}, noise {noise:.4f}")
    assert drawn < noise < poisson / 2


@pytest.mark.parametrize("law", LAWS)
def test_few_steps_of_drawn_counts_are_nearer_to_the_law(law, rng):
    """Eight steps, of which the first insert most: with Poisson numbers the distance is larger."""
    contexts, schedule = LAWS[law](rng), PowerSchedule(5.0)
    model = Counting(contexts, schedule)
    drawn, poisson = (
        distance_and_noise(contexts, model, rng, ROWS, steps=8, leap_counts=counts)[0]
        for counts in ("drawn", "poisson")
    )
    print(f"drawn {drawn:.4f}, Poisson {poisson:.4f}")
    assert drawn < poisson


@pytest.mark.parametrize(
    "settings",
    [
        dict(steps=9),
        dict(sampler="event_driven"),
        dict(sampler="event_driven", bound_inflation=2.0),
    ],
    ids=["tau_leaping", "event_driven", "stale"],
)
def test_rows_do_not_depend_on_what_shares_the_batch(settings, rng):
    contexts = LAWS["every split"](rng)
    _, prefixes, suffixes = law_inputs(contexts, 200, rng)
    model = Counting(contexts, LinearSchedule(), time_epsilon=0.3)
    seeds = torch.randint(2**62, (200,))
    settings = COMMON | {"leap_counts": "drawn"} | settings

    def sample(rows, **more):
        given = prefixes[rows], suffixes[rows]
        return generate_flexmdm_infilling(model, *given, seeds=seeds[rows], **settings, **more)

    whole, some = sample(torch.arange(200)), torch.randperm(200)[:40]
    for result in (sample(some), sample(some, rows_at_once=7)):
        assert torch.equal(result.lengths, whole.lengths[some])
        width = result.sequences.shape[1]
        assert torch.equal(result.sequences, whole.sequences[some, :width])
        assert torch.equal(result.evaluations, whole.evaluations[some])
    poisson = generate_flexmdm_infilling(
        model, prefixes, suffixes, seeds=seeds, **settings | {"leap_counts": "poisson"}
    )
    assert not torch.equal(poisson.lengths, whole.lengths)


def test_a_leap_inserts_each_missing_token_with_its_probability_and_keeps_any_of_too_many():
    """Binomial numbers in each gap; where three of all fit, every token is as likely to stay."""
    rows, missing, share = 30_000, np.array([4, 0, 2]), 0.3
    free, tight = (Sequences([[0, 1]] * rows, [[]] * rows, length, 6, 8) for length in (40, 5))
    seeds = torch.randint(2**62, (rows,)).numpy()
    random = RowUniforms(seeds, np.zeros(rows, dtype=np.int64))
    everything, share = np.arange(rows), np.full(rows, share)
    gaps = everything.repeat(3), np.tile(np.arange(3), rows)
    received, dropped = leap(free, random, everything, gaps, np.tile(missing, rows), share)
    assert not dropped.any() and (free.lengths == 2 + received).all()
    before = (free.ids == 0).argmax(1)  # masks in front of the first token
    after = received - before
    for found, n in ((before, 4), (after, 2)):
        for k in range(n + 1):
            expected = math.comb(n, k) * 0.3**k * 0.7 ** (n - k)
            assert abs((found == k).mean() - expected) < 5 * math.sqrt(expected / rows)
    assert abs(np.corrcoef(before, after)[0, 1]) < 5 / math.sqrt(rows)
    received, dropped = leap(tight, random, everything, gaps, np.tile(missing, rows), np.ones(rows))
    assert (received == 3).all() and (dropped == 3).all()
    assert abs((tight.ids == 0).argmax(1).mean() - 3 * 4 / 6) < 0.03
    with pytest.raises(ValueError, match="not made of finite numbers"):
        leap(free, random, everything[:1], (everything[:1], everything[:1]), np.array([-1]), share)


@pytest.mark.parametrize("head", ["log_rate", "total"])
@pytest.mark.parametrize("settings", [dict(steps=6), dict(sampler="event_driven", steps=30)])
def test_a_network_leaps_by_its_own_distribution(head, settings):
    """Prompt and suffix stay, nothing is left masked, and the trace ends with the result."""
    model = tiny.flexmdm(length_head=head, length_distribution=9, time_epsilon=0.2)
    prefixes = [[int(token) for token in torch.randint(5, 50, (n,))] for n in (0, 3, 6)]
    result = generate_flexmdm_infilling(
        model,
        prefixes,
        [[7, 8]] * 3,
        leap_counts="drawn",
        mask_id=tiny.MASK,
        pad_id=tiny.PAD,
        max_length=24,
        return_trace=True,
        **settings,
    )
    for row, prefix in enumerate(prefixes):
        ids = result.sequences[row, : result.lengths[row]].tolist()
        assert ids[: len(prefix)] == prefix and ids[-2:] == [7, 8] and tiny.MASK not in ids
        assert result.trace[row][-1]["ids"] == ids
    assert int(result.lengths.sum()) > 9 + 6


def test_what_cannot_be_drawn_is_refused():
    for more in ({"sampler": "count_first"}, {"sampler": "tau_leaping", "bound_inflation": 2.0}):
        with pytest.raises(OptionError, match="leap_counts"):
            SamplerOptions(leap_counts="drawn", **more)
    SamplerOptions(leap_counts="drawn", sampler="event_driven", bound_inflation=2.0)
    fitted = tiny.flexmdm(length_distribution=9, length_distribution_at_start=True)
    options = SamplerOptions(sampler="event_driven", leap_counts="drawn", max_length=24)
    for model, why in (
        (tiny.flexmdm(), "has no length distribution"),
        (fitted, "was fitted at t = 0 only"),
    ):
        with pytest.raises(InputError, match=f"--leap_counts drawn: RUN .*{why}"):
            check_network_serves(model, options, "RUN")
        with pytest.raises(ValueError, match=f"leap_counts drawn: the network .*{why}"):
            generate_flexmdm(model, [[5]], options=options, mask_id=tiny.MASK, pad_id=tiny.PAD)
    check_network_serves(tiny.flexmdm(length_distribution=9), options, "RUN")
