"""What every FlexMDM sample must satisfy, whatever the network says: hypothesis draws the rows, the
settings and the network.

pytest tests/sampling/test_sampler_properties.py        about half a minute on two cores
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexmdm_interpolant import GeometricSchedule, LinearSchedule, PowerSchedule
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.row_random import row_uniforms

# padding is a token of the text, as LLaDA's is; 10, 11 have no token
VOCABULARY, NUM_TOKENS, MASK, PAD = 12, 10, 8, 5


class HashNetwork(torch.nn.Module):
    """Answers that are a fixed, wild function of a row's own text and time: any g up to `most`,
    logits that like mask and padding best.
    """

    device = torch.device("cpu")

    def __init__(self, most, falling, logits_mask, **config):
        super().__init__()
        self.most, self.falling, self.widths, self.rows, self.latest = most, falling, [], [], 0.0
        if logits_mask:
            self.supports_logits_mask = True
        if config:
            self.config = SimpleNamespace(**config)

    def forward(self, input_ids, timesteps, attention_mask=None, logits_mask=None, missing_at=None):
        batch, length = input_ids.shape
        self.widths.append(length)
        self.rows.append(batch)
        self.latest = max(self.latest, float(timesteps.max()))
        lengths = attention_mask.sum(1)
        text = torch.where(attention_mask.bool(), input_ids + 1, 0)
        # wraps: a hash
        key = (text * 31 ** torch.arange(length)).sum(1) + (timesteps.double() * 2**30).long()
        gaps = torch.from_numpy(row_uniforms(key, 0, 0, length + 1)) * self.most
        gaps = gaps * (1 - timesteps[:, None]) if self.falling else gaps
        gaps[torch.arange(length + 1) > lengths[:, None]] = torch.nan  # means nothing
        logits = torch.from_numpy(row_uniforms(key, 0, 1, length * VOCABULARY))
        logits = logits.view(batch, length, VOCABULARY) * 8
        logits[..., [MASK, PAD, 10, 11]] += 100
        output = {
            "logits": logits if logits_mask is None else logits[logits_mask],
            "length": gaps.float(),
        }
        if missing_at is not None:  # laws of 0 ... 9 tokens, also of each its own
            key = key[missing_at // (length + 1)] + missing_at % (length + 1)
            law = torch.from_numpy(row_uniforms(key, 0, 2, 10)) * 5
            output["missing_log_probs"] = law.log_softmax(1)
        return output


class Steady(torch.nn.Module):
    """Thirty tokens are missing from the empty row, fewer as it fills and as time passes."""

    device = torch.device("cpu")

    def forward(self, input_ids, timesteps, attention_mask=None):
        batch, length = input_ids.shape
        gaps = (30 - attention_mask.sum(1)).clamp(min=0) / (length + 1.0)
        return {
            "logits": torch.zeros(batch, length, VOCABULARY),
            "length": gaps[:, None].repeat(1, length + 1),
        }


text = st.lists(
    st.integers(0, NUM_TOKENS - 1).filter(lambda token: token not in (MASK,)), max_size=5
).map(lambda ids: ids[:-1] + [0] if ids and ids[-1] == PAD else ids)  # trailing padding is not text


def consistent(chosen):
    """Approximations only where they belong."""
    if chosen["sampler"] != "event_driven":
        chosen = {**chosen, "events_per_evaluation": 1}
        if chosen["bound_inflation"] is not None:
            chosen = {**chosen, "confidence_threshold": None, "leap_counts": "poisson"}
    if chosen["unmasking"] == "random" or chosen["confidence_method"] == "position":
        chosen = {**chosen, "confidence_threshold": None}
    if "corrector_time" in chosen and chosen["sampler"] == "event_driven":
        chosen = {**chosen, "steps": None}
    return chosen


correctors = st.sampled_from(
    [
        {},
        {},
        {},
        {"corrector_time": 0.3, "corrector_choice": "least_confident"},
        {"corrector_time": 0.7, "corrector_rounds": 2, "corrector_spread": True},
    ]
)
samplers = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(["tau_leaping", "event_driven"]),
        "steps": st.integers(1, 12),
        "unmasking": st.sampled_from(["random", "confidence"]),
        "confidence_method": st.sampled_from(["position", "top_prob", "prob_diff", "entropy"]),
        "use_sliding_window": st.booleans(),
        "alpha": st.sampled_from([0.1, 1.0, 5.0]),
        "max_window": st.integers(1, 4),
        "temperature": st.sampled_from([0.0, 0.7, 1.0]),
        "insertion_schedule": st.sampled_from(
            [None, LinearSchedule(), PowerSchedule(1.7), GeometricSchedule(10, 0.01)]
        ),
        "unmask_schedule": st.sampled_from([None, PowerSchedule(0.5)]),
        "events_per_evaluation": st.sampled_from([1, 1, 3]),
        "bound_inflation": st.sampled_from([None, None, 1.0, 1.5]),
        "confidence_threshold": st.sampled_from([None, None, 0.2]),
        "leap_counts": st.sampled_from(["poisson", "drawn"]),
    }
)
samplers = st.builds(lambda *parts: consistent(parts[0] | parts[1]), samplers, correctors)
networks = st.builds(
    HashNetwork, st.sampled_from([0.0, 0.3, 5.0, 5000.0]), st.booleans(), st.booleans()
) | st.builds(
    HashNetwork,
    st.sampled_from([0.3, 5000.0]),
    st.just(False),
    st.just(True),
    time_epsilon=st.sampled_from([1e-3, 0.2]),
    attend_to_padding=st.booleans(),
    insertion_schedule=st.sampled_from([{"name": "linear"}, {"name": "power", "p": 2.0}]),
    max_length=st.just(14),
    length_distribution=st.just(9),
)
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def padded(rows):
    width = max(map(len, rows), default=0)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.long).view(
        len(rows), width
    )


def sample(network, rows, seeds, chosen, **more):
    if not hasattr(network, "config"):  # it has no length distribution
        chosen = {**chosen, "leap_counts": "poisson"}
    return generate_flexmdm_infilling(
        network,
        padded([prefix for prefix, _ in rows]),
        padded([suffix for _, suffix in rows]),
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=NUM_TOKENS,
        max_length=14,
        seeds=torch.tensor(seeds),
        **chosen,
        **more,
    )


@quick
@given(
    network=networks,
    rows=st.lists(st.tuples(text, text), min_size=1, max_size=4),
    seed=st.integers(0, 2**40),
    chosen=samplers,
)
def test_prompts_and_suffixes_stay_and_generated_tokens_are_ordinary(network, rows, seed, chosen):
    result = sample(
        network, rows, [seed + row for row in range(len(rows))], chosen, return_trace=True
    )
    assert result.sequences.shape[1] == int(result.lengths.max())
    for row, (prefix, suffix) in enumerate(rows):
        length = int(result.lengths[row])
        ids = result.sequences[row, :length].tolist()
        assert length <= 14 and bool((result.sequences[row, length:] == PAD).all())
        assert ids[: len(prefix)] == prefix and ids[length - len(suffix) :] == suffix
        middle = ids[len(prefix) : length - len(suffix)]
        assert all(token < NUM_TOKENS and token not in (MASK, PAD) for token in middle)
        evaluations, corrected = int(result.evaluations[row]), "corrector_time" in chosen
        check_trace(result.trace[row], len(prefix), len(suffix), ids, evaluations, corrected)
    if chosen["steps"] is None:
        assert not bool(result.truncated.any())
    elif chosen["sampler"] == "event_driven":
        assert bool((result.evaluations <= chosen["steps"]).all())
    elif not hasattr(network, "config"):
        most = chosen["steps"] * (1 + chosen.get("corrector_rounds", "corrector_time" in chosen))
        assert bool((result.evaluations <= most).all()) and not bool(result.truncated.any())


def check_trace(frames, prefix, suffix, ids, evaluations, corrected):
    """Slots are lasting identities in order; what was once written stays as it is, where it is,
    unless a corrector removes it; no count runs backwards, and without a corrector no clock.
    """
    assert (
        frames[0]["slots"] == list(range(prefix + suffix))
        and frames[0]["evaluations"] == 0
        and frames[0]["t"] == 0
    )
    assert frames[-1]["ids"] == ids and frames[-1]["evaluations"] == evaluations
    born = prefix + suffix - 1
    for before, after in zip(frames, frames[1:]):
        assert before["t"] <= after["t"] or corrected
        assert after["t"] <= 1 and before["evaluations"] <= after["evaluations"]
        where = {slot: place for place, slot in enumerate(after["slots"])}
        kept = [slot for slot in before["slots"] if slot in where]
        assert corrected or kept == before["slots"]  # nothing disappears
        places = [where[slot] for slot in kept]
        assert places == sorted(places)  # nothing changes sides
        for slot, token in zip(before["slots"], before["ids"]):
            # nothing written is overwritten
            assert token == MASK or slot not in where or after["ids"][where[slot]] == token
        # numbered in order of birth
        born = max([born, *after["slots"]])
        assert corrected or sorted(after["slots"]) == list(range(len(after["slots"])))
        new = [slot for slot in after["slots"] if slot not in before["slots"]]
        assert not new or sorted(new) == list(range(born + 1 - len(new), born + 1))
        # nothing is inserted into what was given
        end = len(after["slots"]) - suffix
        given = after["slots"][:prefix] + after["slots"][end:]
        assert given == list(range(prefix + suffix)) and end >= prefix


@quick
@given(
    network=networks,
    rows=st.lists(st.tuples(text, text), min_size=2, max_size=6),
    seed=st.integers(0, 2**40),
    chosen=samplers,
    at_once=st.integers(1, 3),
    data=st.data(),
)
def test_a_row_does_not_depend_on_its_neighbours(network, rows, seed, chosen, at_once, data):
    seeds = [seed + 7 * row for row in range(len(rows))]
    together = sample(network, rows, seeds, chosen)
    order = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(1, len(rows)))]
    network.rows.clear()
    apart = sample(
        network,
        [rows[row] for row in order],
        [seeds[row] for row in order],
        chosen,
        rows_at_once=at_once,
    )
    assert max(network.rows, default=0) <= at_once
    for index, row in enumerate(order):
        length = int(together.lengths[row])
        assert int(apart.lengths[index]) == length
        assert torch.equal(apart.sequences[index, :length], together.sequences[row, :length])
        for counter in ("evaluations", "truncated", "dropped_insertions", "rate_bound_violations"):
            assert getattr(apart, counter)[index] == getattr(together, counter)[row]


@quick
@given(
    most=st.sampled_from([0.3, 5.0, 5000.0]),
    rows=st.lists(text, min_size=1, max_size=3),
    epsilon=st.sampled_from([1e-3, 0.05]),
    fixed=st.booleans(),
    chosen=samplers,
)
def test_the_network_is_queried_within_its_time_range_and_canvas(
    most, rows, epsilon, fixed, chosen
):
    network = HashNetwork(
        most,
        True,
        True,
        time_epsilon=epsilon,
        attend_to_padding=fixed,
        insertion_schedule={"name": "power", "p": 1.5},
        length_distribution=9,
    )
    result = generate_flexmdm(
        network,
        padded(rows),
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=NUM_TOKENS,
        max_length=14,
        **chosen,
    )
    assert network.latest <= 1 - epsilon + 1e-6
    if network.widths and fixed:
        assert set(network.widths) == {14}
    elif network.widths:  # rows only grow, unless a corrector takes tokens away
        longest = 14 if "corrector_time" in chosen else max(1, int(result.lengths.max()))
        assert max(network.widths) <= longest
    # each evaluation of a row is paid once
    assert sum(network.rows) == int(result.evaluations.sum())


def test_excess_insertions_fill_the_row_to_max_length():
    for sampler, steps in (("tau_leaping", 8), ("event_driven", None)):
        result = generate_flexmdm(
            HashNetwork(1e6, False, True),
            batch_size=5,
            mask_id=MASK,
            pad_id=PAD,
            num_tokens=NUM_TOKENS,
            max_length=100,
            sampler=sampler,
            steps=steps,
        )
        assert result.lengths.tolist() == [100] * 5 and not bool((result.sequences == MASK).any())


def test_a_cap_on_evaluations_truncates():
    network = Steady()
    result = generate_flexmdm(
        network,
        batch_size=20,
        mask_id=MASK,
        pad_id=PAD,
        max_length=40,
        sampler="event_driven",
        steps=15,
    )
    assert (
        bool(result.truncated.all())
        and bool((result.evaluations <= 15).all())
        and not bool((result.sequences == MASK).any())
    )
    free = generate_flexmdm(
        network, batch_size=20, mask_id=MASK, pad_id=PAD, max_length=40, sampler="event_driven"
    )
    assert not bool(free.truncated.any()) and bool((free.evaluations > 15).any())


def test_samples_are_determined_by_the_generator():
    network = HashNetwork(5.0, True, True)
    common = dict(
        mask_id=MASK, pad_id=PAD, num_tokens=NUM_TOKENS, max_length=20, steps=6, temperature=1.0
    )
    first, second, other = (
        generate_flexmdm(
            network, batch_size=30, generator=torch.Generator().manual_seed(seed), **common
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.sequences, second.sequences)
    assert first.sequences.shape != other.sequences.shape or not torch.equal(
        first.sequences, other.sequences
    )
    rows = {tuple(row) for row in first.sequences.tolist()}
    assert len(rows) > 20  # rows of one call differ among themselves


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(steps=0), "steps"),
        (dict(sampler="euler"), "sampler"),
        (dict(unmasking="left"), "unmasking"),
        (dict(confidence_method="margin"), "confidence_method"),
        (dict(temperature=-1.0), "temperature"),
        (dict(rows_at_once=0), "rows_at_once"),
        (dict(max_length=2), "max_length"),
        (dict(max_length=None), "max_length"),
        (dict(pad_id=MASK), "mask_id"),
        (dict(pad_id=None), "give mask_id and pad_id"),
        (dict(prompts=torch.tensor([[1, MASK, 2]])), "mask token"),
        (dict(prompts=None), "batch_size"),
        (dict(seeds=torch.arange(5)), "seeds"),
        (dict(sampler="event_driven", unmask_schedule=GeometricSchedule(10, 0.01)), "reaches 1"),
        (dict(events_per_evaluation=2), "event_driven"),
        (
            dict(
                bound_inflation=1.5,
                unmasking="confidence",
                confidence_method="entropy",
                confidence_threshold=-1.0,
            ),
            "confidence_threshold",
        ),
        (dict(sampler="event_driven", bound_inflation=0.5), "bound_inflation"),
        (dict(confidence_threshold=0.9), "confidence_threshold"),
        (
            dict(confidence_threshold=0.9, unmasking="confidence", confidence_method="position"),
            "confidence_threshold",
        ),
    ],
)
def test_bad_arguments_are_named(change, words):
    arguments = dict(
        prompts=torch.tensor([[1, 2, 3]]), steps=4, max_length=10, mask_id=MASK, pad_id=PAD
    )
    with pytest.raises(ValueError, match=words):
        generate_flexmdm(HashNetwork(1.0, True, True), **{**arguments, **change})


def test_non_finite_network_outputs_are_reported():
    class Broken(Steady):
        def forward(self, *arguments, **masks):
            output = super().forward(*arguments, **masks)
            return {**output, part: output[part] * float("nan")}

    for part in ("logits", "length"):
        with pytest.raises(ValueError, match=part):
            generate_flexmdm(
                Broken(), batch_size=2, steps=4, max_length=10, mask_id=MASK, pad_id=PAD
            )
