"""The event-driven sampler's approximations: what each saves, and how far it then is from the
truth. All are off by default.

    pytest tests/sampling/test_sampler_approximations.py -s
        prints the measurements; about half a minute on two cores

At real lengths a law over strings cannot be enumerated, but a law over lengths can be followed
exactly (length_law.py). Short strings come from exact_posterior.py.
"""

import numpy as np
import pytest
import torch
from exact_posterior import (
    ExactPosterior,
    law_inputs,
    noise_quantile,
    random_lengths,
    random_prompts,
    total_variation,
)
from length_law import COMMON, TEN_OR_FORTY, distance_of_lengths, lengths_of

from flexmdm_interpolant import GeometricSchedule, LinearSchedule
from sampling.flexmdm import generate_flexmdm_infilling


def test_a_known_length_is_reached_exactly_under_a_stale_rate_bound():
    """150 tokens: exact 4.01 evaluations a token; a carried bound at most 2.5, and at most 400 a
    row.
    """
    p = np.eye(151)[150]
    exact, per_token = lengths_of(p, 20)
    assert bool((exact.lengths == 150).all()) and per_token <= 4.5
    carried, per_token = lengths_of(p, 50, bound_inflation=1.25)
    assert (
        bool((carried.lengths == 150).all())
        and per_token <= 2.5
        and int(carried.evaluations.max()) <= 400
    )
    assert int(carried.rate_bound_violations.sum()) == 0


def test_lengths_keep_their_distribution_under_a_stale_rate_bound():
    p = np.zeros(201)
    p[100:] = 1 / 101
    result, per_token = lengths_of(p, 300, bound_inflation=1.25)
    lengths = result.lengths.double()
    assert per_token <= 2.5
    # uniform: 29.15
    assert (
        abs(float(lengths.mean()) - 150) < 4 * 29.2 / 300**0.5 and 26 < float(lengths.std()) < 32.5
    )


def test_several_events_per_evaluation_keep_the_mean_length_within_ten_percent():
    """k = 2 and 4 with a carried bound: 1.2 and 0.65 evaluations a token."""
    p = np.zeros(201)
    p[100:] = 1 / 101
    for events, most in ((2, 1.4), (4, 0.8)):
        result, per_token = lengths_of(p, 300, bound_inflation=1.25, events_per_evaluation=events)
        assert per_token <= most and abs(float(result.lengths.double().mean()) - 150) < 15


def test_several_events_per_evaluation_bias_a_bimodal_length_distribution_little():
    """10 or 40 tokens, even chances, 3,000 rows (a standard deviation of the distance: 0.009):
    exact 0, several events up to 0.06.
    """
    found = {
        events: lengths_of(TEN_OR_FORTY, 3_000, events_per_evaluation=events)
        for events in (1, 2, 4)
    }
    distance = {
        events: distance_of_lengths(result, TEN_OR_FORTY) for events, (result, _) in found.items()
    }
    print(distance)
    # each saves: they do something
    assert found[4][1] < 0.8 * found[2][1] < 0.8 * 0.8 * found[1][1]
    assert distance[1] < 0.036 and max(distance.values()) < 0.1


@pytest.mark.parametrize("inflation", [1.25, 2.0])
def test_an_interval_without_proposals_is_not_drawn_again(inflation):
    """Where the insertion schedule ends below 1, rows often end with nothing proposed: a second
    draw would insert too much.
    """
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    schedule, contexts = GeometricSchedule(10, 0.5), random_lengths(rng)
    which, prefixes, suffixes = law_inputs(contexts, 20_000, rng)
    result = generate_flexmdm_infilling(
        ExactPosterior(contexts, schedule),
        prefixes,
        suffixes,
        max_length=16,
        bound_inflation=inflation,
        insertion_schedule=schedule,
        **COMMON,
    )
    distance, judged = total_variation(
        contexts, which, result, float(schedule.at(torch.tensor(1.0)))
    )
    assert distance < noise_quantile(judged, rng) + 0.012, distance


@pytest.mark.parametrize("law", [random_lengths, random_prompts])
@pytest.mark.parametrize(
    "settings, slack",
    [
        (dict(bound_inflation=2.0), 0.01),
        (dict(bound_inflation=1.25), 0.015),
        (
            dict(unmasking="confidence", confidence_method="top_prob", confidence_threshold=0.95),
            0.03,
        ),
        (dict(corrector_time=0.5, corrector_choice="least_confident"), 0.03),
    ],
    ids=["bound_2", "bound_1.25", "threshold", "least_confident"],
)
def test_short_strings_stay_near_their_distribution_under_approximations(law, settings, slack):
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    contexts = law(rng)
    which, prefixes, suffixes = law_inputs(contexts, 20_000, rng)

    def sample(**more):
        return generate_flexmdm_infilling(
            ExactPosterior(contexts, LinearSchedule()),
            prefixes,
            suffixes,
            max_length=16,
            **COMMON,
            **more,
        )

    exact, saved = sample(), sample(**settings)
    distance, judged = total_variation(contexts, which, saved)
    noise = noise_quantile(judged, rng)
    print(
        f"{settings}: distance {distance:.4f} (noise {noise:.4f}), evaluations a row"
        f" {float(saved.evaluations.double().mean()):.2f} instead of"
        f" {float(exact.evaluations.double().mean()):.2f}, ratios clipped"
        f" {int(saved.rate_bound_violations.sum())}"
    )
    assert distance < noise + slack
    if "bound_inflation" in settings:
        assert float(saved.evaluations.double().mean()) < 0.85 * float(
            exact.evaluations.double().mean()
        )
