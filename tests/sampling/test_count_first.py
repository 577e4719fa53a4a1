"""Count first samples the law itself, where length distribution and posterior are exact; and the
histogram of the head is a law over 0 ... N.
"""

import random
from argparse import ArgumentParser
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
    random_lengths,
    random_prompts,
    total_variation,
)
from test_sampler_exactness import COMMON, LAWS, ORDERS, SCHEDULES, is_exact

from common.errors import InputError
from flexmdm_interpolant import LinearSchedule, PowerSchedule
from network.length_heads import LengthDistribution, count_bins
from sampling import flexmdm, partial_count
from sampling.flags import add_flexmdm_flags, add_model_flags, options_from
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.flexmdm_sampler import FlexMDMSampler
from sampling.length_search import search_lengths
from sampling.options import SamplerOptions
from sampling.sequences import Sequences

LONGEST = 7


class WithCount(ExactPosterior):
    """The exact posterior, and the exact law of a row's missing tokens at t = 0."""

    def __init__(self, contexts, schedule):
        super().__init__(contexts, schedule)
        self.config = SimpleNamespace(
            length_distribution=LONGEST,
            insertion_schedule=schedule.to_config(),
            unmask_schedule=LinearSchedule().to_config(),
        )
        self.counts, self.counted = {}, 0
        for context in contexts:
            law = np.zeros(LONGEST + 1)
            for middle, p in context.middles.items():
                law[len(middle)] += p
            with np.errstate(divide="ignore"):
                self.counts[context.prefix + context.suffix] = len(context.prefix), np.log(law)

    def forward(self, ids, t, attention_mask=None, missing_at=None, **options):
        output = super().forward(ids, t, attention_mask, **options)
        if missing_at is not None:
            rows, gaps = missing_at // (ids.shape[1] + 1), missing_at % (ids.shape[1] + 1)
            lengths, laws = attention_mask.sum(1), []
            for row, gap in zip(rows.tolist(), gaps.tolist()):
                prefix, law = self.counts[tuple(ids[row, : lengths[row]].tolist())]
                assert gap == prefix and float(t[row]) == 0
                laws.append(law)
            self.counted += len(laws)
            output["missing_log_probs"] = torch.from_numpy(np.array(laws))
        return output


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("order", ORDERS)
def test_count_first_samples_the_exact_law(law, order, rng):
    contexts, schedule = LAWS[law](rng), PowerSchedule(1.7)
    model = WithCount(contexts, schedule)
    settings = dict(
        sampler="count_first",
        length_choice="drawn",
        query_time=1.0,
        insertion_schedule=schedule,
        **ORDERS[order],
    )
    assert is_exact(contexts, model, rng, **settings)
    assert model.counted >= 20_000 and model.unknown == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("order", ["random", "top_prob"])
def test_counting_a_share_and_inserting_the_rest_samples_the_exact_law(law, order, rng):
    contexts, schedule = LAWS[law](rng), SCHEDULES[str(rng.choice(list(SCHEDULES)))]()
    share = float(rng.choice([0.2, 0.5, 0.8, 1.0]))
    model, inserted = WithCount(contexts, schedule), float(schedule.at(torch.tensor(1.0)))
    settings = dict(sampler="event_driven", placed_share=share, insertion_schedule=schedule)
    settings |= {"length_choice": "drawn", **ORDERS[order]}
    settings["unmask_schedule"] = PowerSchedule(float(rng.uniform(0.6, 2.5)))
    assert is_exact(contexts, model, rng, inserted=inserted, **settings)
    assert model.counted >= 20_000 and model.unknown == 0


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_the_cap_on_evaluations_counts_the_one_that_counts_tokens(steps, rng):
    """Six tokens, all placed at once, take eight evaluations."""
    texts = {tuple(rng.integers(3, size=6).tolist()): 1.0 for _ in range(5)}
    model = WithCount([Context((), (), texts)], PowerSchedule(1.7))
    settings = COMMON | dict(sampler="event_driven", placed_share=0.5, steps=steps)
    result = generate_flexmdm(model, batch_size=100, **settings)
    assert bool((result.evaluations == steps).all()) and bool(result.truncated.all())


def test_a_placed_share_that_the_clock_does_not_know_of_fails_the_exactness_check(rng, monkeypatch):
    """All masks are placed, but the sampler goes on as if half of them were."""
    half = partial_count.count_and_insert

    def wrong(counting, continued, share):
        return half(counting, lambda masks, starts: continued(masks, starts**0.5), share)

    monkeypatch.setattr(flexmdm, "count_and_insert", wrong)
    contexts, schedule = random_lengths(rng), LinearSchedule()
    settings = dict(sampler="event_driven", placed_share=0.5, insertion_schedule=schedule)
    settings |= {"length_choice": "drawn"}
    assert not is_exact(contexts, WithCount(contexts, schedule), rng, **settings)


def test_the_share_follows_the_entropy_of_the_number(rng):
    """Of a settled number everything is placed, and nothing has to be inserted."""
    p = rng.dirichlet(np.ones(6), 20)
    expected = torch.distributions.Categorical(torch.from_numpy(p)).entropy()
    np.testing.assert_allclose(partial_count.entropy(np.log(p)), expected)
    context = Context((), (), {(0, 1, 2): 0.5, (2, 1, 0): 0.5})
    model, share = WithCount([context], PowerSchedule(1.7)), float(rng.uniform(0.05, 0.9))
    settings = COMMON | dict(sampler="event_driven", placed_share=share, return_trace=True)
    result = generate_flexmdm(model, batch_size=50, **settings)
    assert {len(trace[1]["ids"]) for trace in result.trace} == {3}
    assert set(result.lengths.tolist()) == {3}


@pytest.mark.parametrize("wrong", [{"length_choice": "likeliest"}, {"events_per_evaluation": 3}])
def test_count_first_approximations_fail_the_exactness_check(wrong, rng):
    contexts, schedule = random_lengths(rng), LinearSchedule()
    settings = dict(sampler="count_first", query_time=1.0, insertion_schedule=schedule)
    settings |= {"length_choice": "drawn", **wrong}
    assert not is_exact(contexts, WithCount(contexts, schedule), rng, **settings)


def conditional(contexts, which, result):
    """log p(middle | context) of each row, from the enumerated law."""
    laws = [context.target() for context in contexts]
    ids, lengths = result.sequences.tolist(), result.lengths.tolist()
    with np.errstate(divide="ignore"):
        return np.log(
            [laws[c].get(tuple(row[:end]), 0.0) for c, row, end in zip(which, ids, lengths)]
        )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("order", ["random", "window", "top_prob"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_several_lengths_the_most_probable_answer_is_kept(law, order, temperature, rng):
    contexts, schedule = LAWS[law](rng), PowerSchedule(1.7)
    model = WithCount(contexts, schedule)
    which, prefixes, suffixes = law_inputs(contexts, 100, rng)
    settings = dict(
        sampler="count_first", length_choice="likeliest", query_time=1.0, seeds=torch.arange(100)
    )
    settings |= COMMON | ORDERS[order] | {"temperature": temperature}
    plain = generate_flexmdm_infilling(model, prefixes, suffixes, **settings)
    before = conditional(contexts, which, plain)
    for candidates in (2, LONGEST + 1):
        result = generate_flexmdm_infilling(
            model,
            prefixes,
            suffixes,
            length_candidates=candidates,
            rows_at_once=50,
            return_trace=True,
            **settings,
        )
        # the chain rule: number and tokens together are the law's own string
        found = conditional(contexts, which, result)
        np.testing.assert_allclose(result.log_probs.numpy(), found, atol=1e-9)
        assert (found >= before - 1e-9).all()
        before = found
        for c, evaluations in zip(which, result.evaluations.tolist()):
            context = contexts[c]
            log_p = model.counts[context.prefix + context.suffix][1]
            tried = np.argsort(-log_p, kind="stable")[:candidates]
            assert evaluations == 1 + sum(n for n in tried.tolist() if np.isfinite(log_p[n]))
        for row, trace in enumerate(result.trace):
            assert trace[0]["evaluations"] == 0
            assert trace[-1]["ids"] == result.sequences[row, : result.lengths[row]].tolist()


def test_a_known_number_of_tokens_is_filled_in_by_the_law_given_it(rng):
    """Without a length distribution, and one evaluation for each token."""
    contexts, schedule = random_lengths(rng), PowerSchedule(1.7)
    number = int(rng.integers(2, 5))
    model = ExactPosterior(contexts, schedule)
    rows = [[]] * 20_000
    settings = COMMON | dict(sampler="count_first", query_time=1.0, insertion_schedule=schedule)
    result = generate_flexmdm_infilling(
        model, rows, rows, middle_lengths=[number] * len(rows), **settings
    )
    assert set(result.lengths.tolist()) == set(result.evaluations.tolist()) == {number}
    given = {text: p for text, p in contexts[0].middles.items() if len(text) == number}
    law = [Context((), (), given)]
    distance, judged = total_variation(law, torch.zeros(len(rows), dtype=torch.long), result)
    assert distance <= 1.5 * noise_quantile(judged, rng)
    for wrong in ({"middle_lengths": [1]}, {"sampler": "event_driven", "query_time": None}):
        with pytest.raises(ValueError, match="middle_lengths"):
            more = {"middle_lengths": [1, 2]} | settings | wrong
            generate_flexmdm_infilling(model, rows[:2], rows[:2], **more)
    with pytest.raises(ValueError, match="longer than max_length"):
        generate_flexmdm_infilling(model, rows[:2], rows[:2], middle_lengths=[1, 17], **settings)


def test_a_rarer_length_wins_with_a_likelier_answer():
    """Two tokens are the likeliest number, but each text of two is rarer than the one of one."""
    middles = {(0,): 0.4, **dict.fromkeys([(0, 0), (0, 1), (1, 2), (2, 0), (2, 2)], 0.1)}
    middles[0, 1, 2] = 0.1
    model = WithCount([Context((), (), middles)], PowerSchedule(1.7))
    settings = COMMON | dict(
        sampler="count_first", length_choice="likeliest", query_time=1.0, temperature=0.0
    )
    plain = generate_flexmdm(model, [[]], **settings)
    assert plain.lengths.tolist() == [2]
    result = generate_flexmdm(model, [[]], length_candidates=2, **settings)
    assert result.sequences[0, : result.lengths[0]].tolist() == [0]
    assert result.log_probs[0].exp() == pytest.approx(0.4)
    assert result.evaluations.tolist() == [1 + 2 + 1]


def test_a_single_candidate_is_count_first_itself(rng):
    """Also in rows without room, and in rows that have none for the likeliest number."""
    contexts = random_prompts(rng)
    model, prompt = WithCount(contexts, PowerSchedule(1.7)), list(contexts[1].prefix)
    own = dict(sampler="count_first", length_choice="likeliest", temperature=1.0)
    for longest in range(len(prompt), len(prompt) + 5):
        settings = COMMON | own | {"max_length": longest, "seeds": [3, 4, 5]}
        plain = generate_flexmdm(model, torch.tensor([prompt] * 3), **settings)
        result = search_lengths(
            lambda rows, seeds, longest=longest, **more: FlexMDMSampler(
                model,
                Sequences([prompt] * len(rows), [[]] * len(rows), longest, MASK, PAD),
                seeds,
                SamplerOptions(**own),
                num_tokens=NUM_TOKENS,
                **more,
            ),
            np.array([3, 4, 5]),
            1,
        )
        assert torch.equal(result.sequences, plain.sequences)
        assert torch.equal(result.evaluations, plain.evaluations)


@pytest.mark.parametrize(
    "own", [dict(sampler="event_driven", placed_share=0.6), dict(length_candidates=2)]
)
def test_a_full_row_stays_as_it_is_and_changes_no_other(own, rng):
    """Nor does it cost an evaluation, alone or among others; a batch may also be empty."""
    contexts = random_prompts(rng)
    model, prompts = WithCount(contexts, PowerSchedule(1.7)), [list(c.prefix) for c in contexts]
    longest = max(map(len, prompts))
    settings = COMMON | {"sampler": "count_first", "max_length": longest} | own
    seeds = torch.randint(2**62, (len(prompts),))
    together = generate_flexmdm(model, prompts, seeds=seeds, **settings)
    for row, prompt in enumerate(prompts):
        alone = generate_flexmdm(model, [prompt], seeds=seeds[row : row + 1], **settings)
        length = int(alone.lengths[0])
        assert torch.equal(alone.sequences[0, :length], together.sequences[row, :length])
        for counter in ("lengths", "evaluations", "positions"):
            assert getattr(alone, counter)[0] == getattr(together, counter)[row]
        full = len(prompt) == longest
        assert full == (alone.evaluations[0] == 0) and (not full or length == longest)
    assert len(generate_flexmdm(model, [], **settings).lengths) == 0


@pytest.mark.parametrize("most", [1, 5, 63, 64, 130, 1024])
def test_length_distribution_head_is_normalised_over_all_counts(most):
    starts, widths = count_bins(most, torch.device("cpu"))
    assert starts[0] == 0 and int(widths.sum()) == most + 1
    assert torch.equal(starts.diff(), widths[:-1])
    head, hidden = LengthDistribution(12, most).double(), torch.randn(4, 3, 12).double()
    log_probs = head.log_probs(hidden)  # (4, 3, most + 1)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, 3))
    n = torch.randint(0, most + 1, (4, 3))
    torch.testing.assert_close(head(hidden, n), log_probs.gather(-1, n[..., None])[..., 0])


def test_count_first_without_a_length_distribution_or_with_conflicting_options_is_refused():
    with pytest.raises(ValueError, match="length distribution"):
        generate_flexmdm(
            ExactPosterior(random_lengths(np.random.default_rng(0)), LinearSchedule()),
            batch_size=1,
            mask_id=6,
            pad_id=8,
            max_length=9,
            sampler="count_first",
        )
    for wrong in (
        {"bound_inflation": 2.0},
        {"events_per_evaluation": 0},
        {"query_time": 1.5},
        {"steps": 8},
        {"length_candidates": 0},
        {"length_candidates": 2, "length_choice": "drawn"},
    ):
        with pytest.raises((ValueError, InputError)):
            SamplerOptions(sampler="count_first", **wrong)
    with pytest.raises(ValueError, match="query_time"):
        SamplerOptions(query_time=0.5)
    with pytest.raises(ValueError, match="at least 2 with a placed_share"):
        SamplerOptions(sampler="event_driven", placed_share=0.5, steps=1)


def test_count_first_refuses_the_steps_flag_but_not_the_scripts_own_default():
    parser = ArgumentParser()
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    words, steps = ["--sampler", "count_first"], random.randrange(1, 5000)
    options = options_from(parser.parse_args(words), SamplerOptions, default_steps=256)
    assert options.steps is None
    words += ["--diffusion_steps", str(steps)]
    said = f"--diffusion_steps {steps}: must be used with the samplers tau_leaping and event_driven"
    with pytest.raises(InputError, match=said):
        options_from(parser.parse_args(words), SamplerOptions, default_steps=256)
    for sampler in ("tau_leaping", "event_driven"):
        words[1] = sampler
        assert options_from(parser.parse_args(words), SamplerOptions).steps == steps
