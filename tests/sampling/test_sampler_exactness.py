"""Is the sampled law the right one? Nothing here is learned: the "network" is an enumerated
posterior (exact_posterior.py), so a failure is a bug in the sampler. Laws are drawn anew in every
run.

    pytest tests/sampling/test_sampler_exactness.py
        about a minute and a half on two cores
    pytest tests/sampling/test_sampler_exactness.py --full
        every pair of schedules, orders and laws for tau-leaping as well

Event-driven: the total variation distance of 20,000 samples stays below the 99.9 % quantile of
multinomial samples of the target itself. A thousandth of correct runs does not, so a run that
exceeds it is drawn once more and fails if that exceeds it too. Tau-leaping: the distance at 64
steps is 0.4 to 0.65 of that at 32 steps, 100,000 samples each (first order in 1/steps). The
negative controls must fail by the same rule.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact_posterior import (
    MASK,
    NUM_TOKENS,
    PAD,
    Context,
    ExactPosterior,
    law_inputs,
    noise_quantile,
    padded,
    random_infills,
    random_lengths,
    random_prompts,
    total_variation,
)

from flexmdm_interpolant import GeometricSchedule, LinearSchedule, PowerSchedule
from sampling.event_driven import EventDriven
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.row_random import RowUniforms
from sampling.sequences import Sequences
from sampling.tau_leaping import Grid

LAWS = {
    "lengths 0..6": random_lengths,
    "mixed prompts": random_prompts,
    "every split": random_infills,
}
SCHEDULES = {
    "linear": LinearSchedule,
    "power": lambda: PowerSchedule(1.7),
    "geometric": lambda: GeometricSchedule(10, 0.01),
}
ORDERS = {
    "random": dict(unmasking="random"),
    "window": dict(unmasking="random", use_sliding_window=True, alpha=2.0, max_window=3),
    "position": dict(unmasking="confidence", confidence_method="position"),
    "top_prob": dict(unmasking="confidence", confidence_method="top_prob"),
    "prob_diff": dict(
        unmasking="confidence", confidence_method="prob_diff", use_sliding_window=True, alpha=2.0
    ),
    "entropy": dict(unmasking="confidence", confidence_method="entropy"),
}
COMMON = dict(max_length=16, mask_id=MASK, pad_id=PAD, num_tokens=NUM_TOKENS, temperature=1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


def distance_and_noise(contexts, model, rng, samples, inserted=1.0, **settings):
    which, prefixes, suffixes = law_inputs(contexts, samples, rng)
    result = generate_flexmdm_infilling(model, prefixes, suffixes, **COMMON, **settings)
    assert not bool((result.sequences == MASK).any())
    distance, judged = total_variation(contexts, which, result, inserted)
    return distance, noise_quantile(judged, rng), result


def is_exact(contexts, model, rng, samples=20_000, **settings):
    for _ in range(2):
        distance, noise, result = distance_and_noise(contexts, model, rng, samples, **settings)
        if distance < noise:
            return True
    print(f"distance {distance:.4f}, noise {noise:.4f}")
    return False


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", ORDERS)
def test_event_driven_samples_the_exact_law(law, schedule, order, rng):
    contexts, insertion = LAWS[law](rng), SCHEDULES[schedule]()
    model = ExactPosterior(contexts, insertion)
    inserted = float(insertion.at(torch.tensor(1.0)))
    assert is_exact(
        contexts,
        model,
        rng,
        inserted=inserted,
        sampler="event_driven",
        insertion_schedule=insertion,
        **ORDERS[order],
    )
    assert model.unknown == 0  # not even a state that the law cannot reach


@pytest.mark.parametrize(
    "unmask_schedule", [PowerSchedule(2.89), PowerSchedule(0.6)], ids=["early", "late"]
)
def test_event_driven_is_exact_for_every_unmasking_schedule(unmask_schedule, rng):
    contexts, insertion = random_prompts(rng), PowerSchedule(1.7)
    assert is_exact(
        contexts,
        ExactPosterior(contexts, insertion),
        rng,
        sampler="event_driven",
        insertion_schedule=insertion,
        unmask_schedule=unmask_schedule,
        unmasking="confidence",
        confidence_method="entropy",
    )


def test_event_driven_needs_about_four_evaluations_a_token(rng):
    """Two events a token, two evaluations each, where the length is known; a doubtful length adds
    the insertions it rejects.
    """
    contexts = [Context((), (), {tuple(rng.integers(3, size=6).tolist()): 1.0 for _ in range(9)})]
    _, _, result = distance_and_noise(
        contexts, ExactPosterior(contexts, LinearSchedule()), rng, 5_000, sampler="event_driven"
    )
    assert 4.0 <= result.evaluations.double().mean() / 6 <= 4.5
    assert (
        int(result.rate_bound_violations.sum()) == 0 and int(result.dropped_insertions.sum()) == 0
    )


PAIRS = [(law, schedule, order) for law in LAWS for schedule in SCHEDULES for order in ORDERS]
QUICK = [
    ("lengths 0..6", "linear", "random"),
    ("mixed prompts", "power", "prob_diff"),
    ("every split", "geometric", "random"),
    ("every split", "linear", "top_prob"),
    ("lengths 0..6", "geometric", "entropy"),
    ("mixed prompts", "power", "random"),
]


@pytest.mark.parametrize(
    "law, schedule, order",
    [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.full) for pair in PAIRS],
)
def test_tau_leaping_is_first_order(law, schedule, order, rng):
    contexts, insertion = LAWS[law](rng), SCHEDULES[schedule]()
    model = ExactPosterior(contexts, insertion)
    inserted = float(insertion.at(torch.tensor(1.0)))
    coarse, fine = (
        distance_and_noise(
            contexts,
            model,
            rng,
            100_000,
            inserted=inserted,
            steps=steps,
            insertion_schedule=insertion,
            **ORDERS[order],
        )[0]
        for steps in (32, 64)
    )
    assert 0.4 <= fine / coarse <= 0.65, (coarse, fine)


@pytest.mark.parametrize(
    "insertion, unmasking",
    [
        (LinearSchedule(), LinearSchedule()),
        (PowerSchedule(3.0), PowerSchedule(0.7)),
        (GeometricSchedule(10, 0.01), LinearSchedule()),
    ],
    ids=["linear", "power", "geometric"],
)
@pytest.mark.parametrize(
    "masks, bound, begin", [(3, 1.3, 2), (0, 2.0, 0), (5, 0.0, 4), (1, 0.02, 0)]
)
def test_next_step_with_an_event_follows_its_closed_form(insertion, unmasking, masks, bound, begin):
    """Grid.next_step against the law of drawing Binomial(masks, p_k) and Poisson(bound q_k) step by
    step until one is not 0.
    """
    grid, rows = Grid(8, 0.0, insertion, unmasking), 200_000
    u, u_masks = (torch.rand(rows, n, dtype=torch.float64).numpy() for n in (4, 6))
    step, unmaskings, proposals = grid.next_step(
        np.full(rows, begin), np.full(rows, masks), np.full(rows, bound), u, u_masks
    )
    assert (((unmaskings > 0) | (proposals > 0)) == (step < 8)).all() and (step >= begin).all()
    stay = 1.0
    for k in range(begin, 8):
        p, q = float(grid.unmask[k]), bound * float(grid.insert[k])
        for r in range(masks + 1):
            for c in range(4):
                expected = (
                    stay
                    * math.comb(masks, r)
                    * p**r
                    * (1 - p) ** (masks - r)
                    * math.exp(-q)
                    * q**c
                    / math.factorial(c)
                )
                found = float(((step == k) & (unmaskings == r) & (proposals == c)).mean())
                if r or c:
                    assert abs(found - expected) < 5 * math.sqrt(expected / rows) + 2e-5, (k, r, c)
        stay *= (1 - p) ** masks * math.exp(-q)
    assert abs(float((step == 8).mean()) - stay) < 5 * math.sqrt(stay / rows) + 2e-5


@pytest.mark.parametrize(
    "law, schedule, order",
    [("lengths 0..6", "linear", "random"), ("every split", "power", "top_prob")],
)
def test_tau_leaping_that_skips_no_op_steps_keeps_its_law(law, schedule, order, rng):
    """The same distance from the truth as the whole grid's, first order in it, and evaluations that
    do not grow with it.
    """
    contexts, insertion = LAWS[law](rng), SCHEDULES[schedule]()
    model = ExactPosterior(contexts, insertion)
    settings = dict(insertion_schedule=insertion, **ORDERS[order])
    plain = distance_and_noise(contexts, model, rng, 100_000, steps=32, **settings)[0]
    coarse, fine = (
        distance_and_noise(
            contexts, model, rng, 100_000, steps=steps, bound_inflation=3.0, **settings
        )[0]
        for steps in (32, 64)
    )
    assert abs(coarse / plain - 1) < 0.08 and 0.4 <= fine / coarse <= 0.65, (plain, coarse, fine)
    # its error is below the noise by then
    assert is_exact(contexts, model, rng, steps=20_000, bound_inflation=3.0, **settings)
    result = distance_and_noise(
        contexts, model, rng, 2_000, steps=20_000, bound_inflation=3.0, **settings
    )[2]
    assert float(result.evaluations.double().mean()) < 40


@pytest.mark.parametrize(
    "unmask_schedule, p_mask",
    [
        (LinearSchedule(), 0.5 * np.log(2)),  # -(1-t) ln(1-t)
        # (1-t)^2 times the integral of 1 / (1-s)^2: (1-t) t
        (PowerSchedule(2.0), 0.25),
    ],
    ids=["linear", "power"],
)
@pytest.mark.parametrize(
    "settings",
    [
        dict(sampler="event_driven"),
        dict(sampler="event_driven", **ORDERS["prob_diff"]),
        dict(steps=64),
    ],
    ids=["event_driven", "adaptive", "tau_leaping"],
)
def test_intermediate_states_match_the_interpolant(settings, unmask_schedule, p_mask, rng):
    """The last law would not notice reveals that come too early or too late: the posterior does not
    care. At t = 1/2 the shares of deleted, mask and clean tokens are those of the joint interpolant
    in closed form."""
    contexts = [Context((), (), {tuple(rng.integers(3, size=6).tolist()): 1.0 for _ in range(5)})]
    result = generate_flexmdm(
        ExactPosterior(contexts, LinearSchedule()),
        batch_size=2_000,
        return_trace=True,
        unmask_schedule=unmask_schedule,
        **COMMON,
        **settings,
    )
    # a frame of tau-leaping carries the time its step began
    half = 0.5 if "sampler" in settings else 0.5 - 1 / 64
    states = [
        [frame for frame in frames if frame["t"] <= half + 1e-9][-1]["ids"]
        for frames in result.trace
    ]
    kept = np.mean([len(ids) for ids in states]) / 6
    masks = np.mean([ids.count(MASK) for ids in states]) / 6
    assert kept == pytest.approx(0.5, abs=0.025) and masks == pytest.approx(p_mask, abs=0.025)


# ---- the network's time ends at 1 - time_epsilon


class Configured(ExactPosterior):
    """The exact posterior of a model that has a config, and remembers the latest time it was asked
    at.
    """

    def __init__(self, contexts, schedule, **config):
        super().__init__(contexts, schedule)
        self.config, self.latest = SimpleNamespace(**config), 0.0

    def forward(self, input_ids, timesteps, **masks):
        self.latest = max(self.latest, float(timesteps.max()))
        return super().forward(input_ids, timesteps, **masks)


@pytest.mark.parametrize(
    "settings", [dict(sampler="event_driven"), dict(steps=200)], ids=["event_driven", "tau_leaping"]
)
def test_final_leap_inserts_the_tokens_missing_at_one_minus_epsilon(settings, rng):
    """With epsilon 0.1 a tenth of the tokens is missing when the network's time ends (200 steps are
    a finer grid than that). Poisson(g) is right on average only, so the law is not exact to this
    order, but its mean length is."""
    contexts, samples = random_prompts(rng), 10_000
    model = Configured(contexts, LinearSchedule(), time_epsilon=0.1)
    which, prefixes, suffixes = law_inputs(contexts, samples, rng)
    result = generate_flexmdm_infilling(model, prefixes, suffixes, **COMMON, **settings)
    given = torch.tensor([len(c.prefix) for c in contexts])[which]
    mean = np.array([sum(p * len(middle) for middle, p in c.middles.items()) for c in contexts])[
        which
    ].mean()
    # without the leap 0.2 less
    assert float((result.lengths - given).double().mean()) == pytest.approx(mean, abs=0.09)
    assert model.latest == pytest.approx(0.9, abs=1e-6) and not bool(
        (result.sequences == MASK).any()
    )


# ---- an insertion schedule other than the trained one


@pytest.mark.parametrize(
    "trained, sampled", [("linear", "power"), ("power", "linear"), ("linear", "geometric")]
)
def test_another_insertion_schedule_is_queried_at_the_matched_time(trained, sampled, rng):
    contexts, trained, sampled = random_prompts(rng), SCHEDULES[trained](), SCHEDULES[sampled]()
    model = Configured(
        contexts, trained, insertion_schedule=trained.to_config(), time_epsilon=0.001
    )
    settings = dict(
        inserted=float(sampled.at(torch.tensor(1.0))),
        sampler="event_driven",
        insertion_schedule=sampled,
    )
    assert is_exact(contexts, model, rng, **settings)
    assert model.latest <= 0.999 + 1e-6
    # no config: asked at t, as if the given schedule were its own
    unmatched = ExactPosterior(contexts, trained)
    assert not is_exact(contexts, unmatched, rng, **settings)


# ---- negative controls


class FrozenTime(ExactPosterior):
    """Predictions that stop changing half-way: the sampler's clock runs on while the network's
    stands.
    """

    def forward(self, input_ids, timesteps, **masks):
        return super().forward(input_ids, timesteps.clamp(max=0.5), **masks)


@pytest.mark.parametrize("law", LAWS)
def test_control_frozen_time_fails(law, rng):
    contexts = LAWS[law](rng)
    assert not is_exact(
        contexts, FrozenTime(contexts, LinearSchedule()), rng, sampler="event_driven"
    )
    coarse, fine = (
        distance_and_noise(
            contexts, FrozenTime(contexts, LinearSchedule()), rng, 20_000, steps=steps
        )[0]
        for steps in (32, 64)
    )
    assert fine / coarse > 0.65


def test_control_a_poisson_number_of_unmaskings_fails(rng, monkeypatch):
    """A reveal event that writes Poisson(1) tokens at once instead of one."""
    # the two tokens agree, unless they are drawn at once
    contexts = [Context((), (), {(0, 0): 0.5, (1, 1): 0.5})]
    model = ExactPosterior(contexts, LinearSchedule())
    assert is_exact(contexts, model, rng, sampler="event_driven")
    one = EventDriven._number

    def poisson_number(self, rows, masks):
        return torch.poisson(torch.from_numpy(one(self, rows, masks)).double()).long().numpy()

    monkeypatch.setattr(EventDriven, "_number", poisson_number)
    assert not is_exact(contexts, model, rng, sampler="event_driven")


# ---- small laws in closed form


def test_tau_leaping_unmasks_a_binomial_number():
    """A prompt whose next step inserts many masks; half of what is there is revealed in the step
    after it: Binomial(n, 1/2).
    """

    class TwoGaps(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, timesteps, attention_mask=None):
            batch, length = input_ids.shape
            gaps = torch.zeros(batch, length + 1)
            gaps[:, 1] = torch.where(timesteps == 0, 1e6, 0.0)  # fills the room of 6 at once
            return {"logits": torch.zeros(batch, length, 9), "length": gaps}

    result = generate_flexmdm(
        TwoGaps(),
        torch.ones(20_000, 1, dtype=torch.long),
        steps=3,
        **{**COMMON, "max_length": 7},
        return_trace=True,
    )
    counts = np.zeros(7)
    for frames in result.trace:
        after_two = [frame for frame in frames if frame["evaluations"] <= 2][-1]
        counts[sum(token != MASK for token in after_two["ids"][1:])] += 1
    binomial = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
    chi_square = ((counts - 20_000 * binomial) ** 2 / (20_000 * binomial)).sum()
    assert chi_square < 33.1  # 99.999 % of 6 degrees of freedom


def test_dropped_insertions_are_counted():
    """About 500 masks are drawn where 2 fit; where nothing fits, nothing is asked."""

    class ThreeGaps(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, timesteps, attention_mask=None):
            batch, length = input_ids.shape
            return {
                "logits": torch.zeros(batch, length, 9),
                "length": torch.full((batch, length + 1), 1000.0),
            }

    prompts = torch.tensor([[0, 1, 2]]).repeat(20_000, 1)
    result = generate_flexmdm(ThreeGaps(), prompts, steps=2, **{**COMMON, "max_length": 5})
    assert bool((result.lengths == 5).all())
    refused = result.dropped_insertions.double()  # one gap is allowed: Poisson(500) less 2
    assert float(refused.mean()) == pytest.approx(498, abs=1) and float(
        refused.var()
    ) == pytest.approx(500, rel=0.1)
    result = generate_flexmdm_infilling(
        ThreeGaps(), prompts[:, :1], prompts[:, 1:], steps=2, **{**COMMON, "max_length": 3}
    )
    assert torch.equal(result.sequences, prompts) and int(result.evaluations.sum()) == 0


def test_truncated_insertions_keep_the_distribution_over_gaps():
    """Room for 2 of about 5,000 drawn masks: each falls into a gap as g says."""
    rows = 30_000
    # a prompt token and three written ones
    sequences = Sequences([[0]] * rows, [[]] * rows, 6, MASK, PAD)
    sequences.ids[:, :4], sequences.lengths[:] = [0, 1, 2, 3], 4
    sequences.slots[:, :4] = [0, 1, 2, 3]
    seeds = torch.randint(2**62, (rows,)).numpy()
    u = RowUniforms(seeds, np.zeros(rows, dtype=np.int64)).table(np.arange(rows), 0, 2)
    gaps = np.tile([0.0, 1000.0, 3000.0, 500.0, 500.0], (rows, 1))
    sequences.insert(np.arange(rows), gaps, np.full(rows, 2), u)
    assert (sequences.lengths == 6).all()
    # place of the leftmost new mask
    first = torch.from_numpy((sequences.ids == MASK).argmax(1))
    share = torch.bincount(first, minlength=6)[1:5].double() / rows
    expected = torch.tensor(
        [1 - 0.8**2, 0.8**2 - 0.2**2, 0.2**2 - 0.1**2, 0.1**2], dtype=torch.float64
    )
    assert torch.allclose(share, expected, atol=0.015), share


def test_temperature_draws_from_the_tempered_posterior():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    contexts = [Context((), (), {(token,): float(weight) for token, weight in enumerate(p)})]
    model = ExactPosterior(contexts, LinearSchedule())
    for temperature, power in ((0.5, 2.0), (2.0, 0.5)):
        result = generate_flexmdm(
            model,
            batch_size=20_000,
            sampler="event_driven",
            **{**COMMON, "temperature": temperature},
        )
        share = torch.bincount(result.sequences[:, 0], minlength=4)[:4] / 20_000
        assert torch.allclose(share, p**power / (p**power).sum(), atol=0.02)
    result = generate_flexmdm(
        model, batch_size=100, sampler="event_driven", **{**COMMON, "temperature": 0.0}
    )
    assert bool((result.sequences == 3).all())


# ---- a row is on its own


@pytest.mark.parametrize(
    "settings",
    [
        dict(sampler="event_driven", unmasking="confidence", confidence_method="top_prob"),
        dict(sampler="event_driven", steps=9),
        dict(steps=12),
        dict(steps=7, **ORDERS["prob_diff"]),
        dict(steps=90, bound_inflation=1.5, **ORDERS["prob_diff"]),
    ],
    ids=["event_driven", "capped", "tau_random", "tau_window", "tau_skipping"],
)
def test_rows_do_not_depend_on_what_shares_the_batch(settings, rng):
    contexts = random_infills(rng)
    which, prefixes, suffixes = law_inputs(contexts, 300, rng)
    seeds = torch.randint(2**62, (300,))

    def sample(rows, model, **more):
        return generate_flexmdm_infilling(
            model, prefixes[rows], suffixes[rows], seeds=seeds[rows], **COMMON, **settings, **more
        )

    def same(result, rows):
        for index, row in enumerate(rows.tolist()):
            length = int(whole.lengths[row])
            assert int(result.lengths[index]) == length
            assert torch.equal(result.sequences[index, :length], whole.sequences[row, :length])
            assert int(result.evaluations[index]) == int(whole.evaluations[row])
            assert bool(result.truncated[index]) == bool(whole.truncated[row])

    everything, shuffled, few = torch.arange(300), torch.randperm(300), torch.randint(300, (7,))
    model = ExactPosterior(contexts, LinearSchedule())
    whole = sample(everything, model)
    same(sample(shuffled, model), shuffled)
    same(sample(few, model), few)
    same(sample(few[:1], model), few[:1])
    same(sample(shuffled, model, rows_at_once=17), shuffled)
    # the plain contract
    same(
        sample(shuffled, ExactPosterior(contexts, LinearSchedule(), only_logits_mask=False)),
        shuffled,
    )


def test_width_of_input_padding_changes_nothing(rng):
    contexts = random_prompts(rng)
    model, seeds = ExactPosterior(contexts, LinearSchedule()), torch.randint(2**62, (3,))
    prompts = padded([c.prefix for c in contexts])
    wide = torch.nn.functional.pad(prompts, (0, 4), value=PAD)
    narrow, wider = (
        generate_flexmdm(model, rows, seeds=seeds, steps=10, **COMMON) for rows in (prompts, wide)
    )
    assert torch.equal(narrow.sequences, wider.sequences)
