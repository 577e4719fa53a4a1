"""LLaDA's sampler against a direct reimplementation: one row, no batch, no padding, float64,
written here from its definition (docs/sampling.md).

Run: python -m pytest tests/sampling/test_llada_sampler.py        (about 20 s on one CPU core)
"""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llada_dit import LLaDAModelLM, rope
from network.config import LLaDAConfig
from network.packed_rows import PaddedRows
from sampling.llada import generate_mdm, generate_mdm_infilling
from sampling.llada_blocks import unmasking_plan, unmaskings_of_block
from sampling.llada_sampler import CONFIDENCE, TOKEN
from sampling.prefix_cache import PrefixCache
from sampling.row_random import draw_seeds, row_uniforms
from sampling.token_choice import log_probability

# embedding rows, tokens of the tokenizer; ids 22 and 23 have no token
V, TOKENS, MASK, PAD = 24, 22, 20, 21


@pytest.fixture(scope="module")
def network():
    """A random LLaDA in float64, its weights large enough that the answer depends on everything it
    sees.
    """
    torch.manual_seed(random.randrange(2**31))
    config = LLaDAConfig(
        d_model=16,
        n_heads=2,
        n_kv_heads=2,
        n_layers=2,
        mlp_hidden_size=32,
        vocab_size=V,
        embedding_size=V,
        max_sequence_length=64,
        mask_token_id=MASK,
        pad_token_id=PAD,
        eos_token_id=PAD,
    )
    model = LLaDAModelLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.double()


def pad_rows(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.long).view(
        len(rows), width
    )


def random_rows(count, longest, shortest=1):
    """Not empty: a row of nothing but masks has the same logits everywhere, and rounding alone says
    which place is surest.
    """
    return [
        [random.randrange(20) for _ in range(random.randint(shortest, longest))]
        for _ in range(count)
    ]


def step_logits(model, x, given, cfg_scale):
    """Logits [L, V] of one row x (list), unbatched and without any mask; mask token and rows
    without token at -inf.
    """
    logits = model(torch.tensor([x])).logits[0]
    if cfg_scale:
        blind = model(torch.tensor([[MASK if g else token for g, token in zip(given, x)]])).logits[
            0
        ]
        logits = blind + (cfg_scale + 1) * (logits - blind)
    logits = logits.double().clone()
    logits[:, MASK] = logits[:, TOKENS:] = -torch.inf
    return logits


@torch.no_grad()
def reference(
    model,
    before,
    masks,
    after,
    *,
    steps,
    block_length,
    cfg_scale=0.0,
    remasking="low_confidence",
    uniforms=None,
):
    """LLaDA's sampler at temperature 0, the slow way. uniforms(step) -> a number for every place,
    for random remasking.
    """
    x = before + [MASK] * masks + after
    given = [True] * len(before) + [False] * masks + [True] * len(after)
    hidden = [not g for g in given]
    blocks = [(s, min(s + block_length, masks)) for s in range(0, masks, block_length)]
    evaluations = 0
    for start, end in blocks:
        todo = steps // len(blocks)
        quota = [
            (end - start) // todo + (1 if i < (end - start) % todo else 0) for i in range(todo)
        ]
        for reveal in quota:
            if reveal == 0:
                continue
            logits = step_logits(model, x, given, cfg_scale)
            places = [i for i in range(len(before) + start, len(before) + end) if hidden[i]]
            if remasking == "low_confidence":
                score = {i: float(torch.softmax(logits[i], -1).max()) for i in places}
            else:
                u = uniforms(evaluations)
                score = {i: float(u[i]) for i in places}
            for i in sorted(places, key=lambda i: -score[i])[:reveal]:
                x[i], hidden[i] = int(logits[i].argmax()), False
            evaluations += 1
    return x, evaluations * (2 if cfg_scale else 1)


@pytest.mark.parametrize("masks, steps", [(10, 3), (3, 8), (8, 8), (0, 4), (1, 1)])
def test_unmasking_counts_per_step_are_floor_and_remainder(masks, steps):
    reveals = unmaskings_of_block(masks, steps)
    assert len(reveals) == steps and sum(reveals) == masks
    assert reveals == sorted(reveals, reverse=True) and max(reveals) - min(reveals) <= 1


def test_plan_goes_block_by_block_and_refuses_uneven_steps():
    assert unmasking_plan(8, 4, 4) == [(0, 4, 2), (0, 4, 2), (4, 8, 2), (4, 8, 2)]
    # the last block is short; its second step reveals nothing
    assert unmasking_plan(5, 4, 4) == [(0, 4, 2), (0, 4, 2), (4, 5, 1)]
    assert unmasking_plan(5, 2, None) == [(0, 5, 3), (0, 5, 2)]
    assert unmasking_plan(3, None, 2) == [(0, 2, 1), (0, 2, 1), (2, 3, 1)]
    assert unmasking_plan(0, 4, 4) == []
    with pytest.raises(ValueError, match="divisible"):
        unmasking_plan(12, 4, 4)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("steps, block_length", [(4, 12), (12, 4), (6, 6), (12, 12), (24, 6)])
def test_temperature_0_equals_the_reimplementation(
    network, steps, block_length, remasking, cfg_scale
):
    """Ragged prompts (an empty one too, where order does not go by confidence) with 12 tokens each,
    in one batch: token for token what each row gives alone."""
    rows = random_rows(4, 9) + ([[]] if remasking == "random" else random_rows(1, 1))
    seeds = torch.randint(2**62, (5,))
    result = generate_mdm(
        network,
        pad_rows(rows),
        steps=steps,
        gen_length=12,
        block_length=block_length,
        remasking=remasking,
        cfg_scale=cfg_scale,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
        seeds=seeds,
    )
    for b, row in enumerate(rows):
        expected, evaluations = reference(
            network,
            row,
            12,
            [],
            steps=steps,
            block_length=block_length,
            cfg_scale=cfg_scale,
            remasking=remasking,
            uniforms=lambda step: row_uniforms(seeds[b : b + 1], step, CONFIDENCE, 40)[0],
        )
        assert result.sequences[b].tolist() == expected + [PAD] * (
            result.sequences.shape[1] - len(expected)
        )
        assert (
            result.lengths[b] == len(expected)
            and result.evaluations[b] == evaluations
            and not result.truncated[b]
        )


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_infilling_equals_the_reimplementation(network, remasking):
    """Prefixes, suffixes (empty ones too) and middles of different lengths in one batch; they are
    filled in place.
    """
    prefixes, suffixes = random_rows(6, 6), random_rows(6, 5, shortest=0)
    middles = [random.randint(0, 8) for _ in range(5)] + [5]
    seeds = torch.randint(2**62, (6,))
    result = generate_mdm_infilling(
        network,
        pad_rows(prefixes),
        pad_rows(suffixes),
        middle_lengths=torch.tensor(middles),
        steps=3,
        remasking=remasking,
        cfg_scale=0.7,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
        seeds=seeds,
    )
    for b in range(6):
        expected, evaluations = reference(
            network,
            prefixes[b],
            middles[b],
            suffixes[b],
            steps=3,
            block_length=8,
            cfg_scale=0.7,
            remasking=remasking,
            uniforms=lambda step: row_uniforms(seeds[b : b + 1], step, CONFIDENCE, 40)[0],
        )
        assert result.sequences[b, : result.lengths[b]].tolist() == expected
        assert result.evaluations[b] == evaluations
        middle = result.sequences[
            b, len(prefixes[b]) : result.lengths[b] - len(suffixes[b])
        ].tolist()
        assert middle == expected[len(prefixes[b]) : len(prefixes[b]) + middles[b]]


def test_ragged_lengths_and_a_network_without_logits_mask(network):
    """gen_length per row, fewer rows at once than rows, and a network that computes all logits: the
    same tokens.
    """

    class Plain(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, ids, attention_mask=None):
            return network(ids, attention_mask=attention_mask)

    rows, masks = random_rows(7, 8), [0, 1, 5, 9, 9, 3, 12]
    settings = dict(
        steps=6, gen_length=torch.tensor(masks), mask_id=MASK, pad_id=PAD, num_tokens=TOKENS
    )
    together = generate_mdm(network, pad_rows(rows), **settings)
    few = generate_mdm(Plain(), pad_rows(rows), rows_at_once=2, **settings)
    assert together.sequences.equal(few.sequences) and together.evaluations.equal(few.evaluations)
    for b, row in enumerate(rows):
        expected, _ = reference(network, row, masks[b], [], steps=6, block_length=12)
        assert together.sequences[b, : together.lengths[b]].tolist() == expected
    assert together.evaluations.tolist() == [min(6, count) for count in masks]


def test_blocks_are_filled_from_left_to_right(network):
    result = generate_mdm(
        network,
        pad_rows([[3, 1]]),
        steps=8,
        gen_length=8,
        block_length=4,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
        return_trace=True,
    )
    first, *_, last = frames = result.trace[0]
    assert len(frames) == 9 and [frame["evaluations"] for frame in frames] == list(range(9))
    assert first["ids"] == [3, 1] + [MASK] * 8 and first["t"] == 0 and last["t"] == 1
    assert last["ids"] == result.sequences[0].tolist() and last["slots"] == list(range(10))
    assert MASK not in frames[4]["ids"][:6] and frames[4]["ids"][6:] == [MASK] * 4
    for earlier, later in zip(frames, frames[1:]):
        assert all(a == b for a, b in zip(earlier["ids"], later["ids"]) if a != MASK)


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_rows_do_not_depend_on_the_batch(network, remasking):
    """At temperature 1 with seeds: alone, in any order, with neighbours, some at once: always the
    same row.
    """
    rows = random_rows(6, 10)
    seeds = torch.randint(2**62, (6,))
    settings = dict(
        steps=5,
        gen_length=10,
        temperature=1.0,
        remasking=remasking,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
    )
    together = generate_mdm(network, pad_rows(rows), seeds=seeds, **settings)
    order = random.sample(range(6), 4)
    other = generate_mdm(
        network, pad_rows([rows[b] for b in order]), seeds=seeds[order], rows_at_once=3, **settings
    )
    for place, b in enumerate(order):
        alone = generate_mdm(network, pad_rows([rows[b]]), seeds=seeds[b : b + 1], **settings)
        row = alone.sequences[0, : alone.lengths[0]].tolist()
        assert (
            row
            == together.sequences[b, : together.lengths[b]].tolist()
            == other.sequences[place, : other.lengths[place]].tolist()
        )
    again = generate_mdm(
        network, pad_rows(rows), generator=torch.Generator().manual_seed(5), **settings
    )
    assert again.sequences.equal(
        generate_mdm(
            network, pad_rows(rows), generator=torch.Generator().manual_seed(5), **settings
        ).sequences
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature):
    """40,000 one-token answers against softmax(logits / T) without the excluded tokens; 99.9 %
    quantile of multinomial resamples.
    """
    logits, n = torch.randn(V), 40_000
    model = lambda ids, attention_mask=None: SimpleNamespace(logits=logits.expand(*ids.shape, V))
    model.device = torch.device("cpu")
    result = generate_mdm(
        model,
        torch.zeros(n, 1, dtype=torch.long),
        steps=1,
        gen_length=1,
        temperature=temperature,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
    )
    target = logits.double() / temperature
    target[MASK] = target[TOKENS:] = -torch.inf
    target = torch.softmax(target, -1)
    assert target[PAD] > 0  # end of text is a token like any other
    count = torch.bincount(result.sequences[:, 1], minlength=V)
    noise = torch.tensor(
        np.random.default_rng(random.randrange(2**31)).multinomial(n, target.numpy(), size=2000)
    )
    distance = lambda count: (count / n - target).abs().sum(-1) / 2
    assert count[MASK] == 0 and count[TOKENS:].sum() == 0
    assert distance(count) < distance(noise).quantile(0.999)
    # control: ignoring temperature and exclusions must be seen
    wrong = torch.softmax(logits.double(), -1)
    assert distance(
        torch.bincount(torch.multinomial(wrong, n, replacement=True), minlength=V)
    ) > distance(noise).quantile(0.999)


def test_confidence_is_the_drawn_tokens_probability():
    """Of the drawn token, not of the best one; and without temperature."""
    logits = torch.randn(500, V)
    excluded = torch.zeros(V, dtype=torch.bool)
    excluded[MASK] = True
    tokens = torch.randint(MASK, (500,))
    expected = torch.log_softmax(logits.double().masked_fill(excluded, -torch.inf), -1).gather(
        1, tokens[:, None]
    )[:, 0]
    assert torch.allclose(log_probability(logits, tokens, excluded), expected, atol=1e-12)


def test_the_most_confident_draws_are_kept():
    """Temperature 3 draws often miss the best token; what is kept are the places whose *drawn*
    token is likeliest.
    """
    logits = torch.randn(6, V)
    model = lambda ids, attention_mask=None: SimpleNamespace(logits=logits.expand(len(ids), 6, V))
    model.device = torch.device("cpu")
    seeds, n = torch.arange(300), 300
    result = generate_mdm(
        model,
        torch.zeros(n, 0, dtype=torch.long),
        steps=2,
        gen_length=6,
        temperature=3.0,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
        seeds=seeds,
        return_trace=True,
    )
    allowed = logits.double().clone()
    allowed[:, MASK] = allowed[:, TOKENS:] = -torch.inf
    p, cdf = torch.softmax(allowed, -1), torch.softmax(allowed / 3, -1).cumsum(-1)
    for b in range(n):
        u = row_uniforms(seeds[b : b + 1], 0, TOKEN, 6)[0]
        drawn = [int((cdf[i] <= u[i]).sum()) for i in range(6)]
        kept = sorted(range(6), key=lambda i: -p[i, drawn[i]])[:3]
        assert result.trace[b][1]["ids"] == [drawn[i] if i in kept else MASK for i in range(6)]


def test_only_the_needed_logits_are_computed(network):
    """Low confidence: the current block's masks. Random remasking chooses first, so only what it
    reveals.
    """

    class Spy:
        device, supports_logits_mask, asked = torch.device("cpu"), True, []

        def __call__(self, ids, attention_mask=None, logits_mask=None):
            self.asked.append(int(logits_mask.sum()))
            return network(ids, attention_mask=attention_mask, logits_mask=logits_mask)

    for remasking, expected in (("low_confidence", [4, 2, 4, 2]), ("random", [2, 2, 2, 2])):
        spy = Spy()
        spy.asked = []
        generate_mdm(
            spy,
            pad_rows([[1, 2]]),
            steps=4,
            gen_length=8,
            block_length=4,
            remasking=remasking,
            mask_id=MASK,
            pad_id=PAD,
        )
        assert spy.asked == expected


def test_prompts_with_masks_or_inner_padding_are_unchanged(network):
    prompt = [1, PAD, MASK, 2]
    result = generate_mdm(
        network,
        pad_rows([prompt, [5]]),
        steps=3,
        gen_length=6,
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
    )
    assert result.sequences[0, :4].tolist() == prompt and MASK not in result.sequences[0, 4:]
    assert result.lengths.tolist() == [10, 7]


def test_wrong_settings_are_refused(network):
    prompts, settings = pad_rows([[1, 2]]), dict(steps=4, gen_length=8, mask_id=MASK, pad_id=PAD)
    for wrong, message in (
        ({"steps": 3, "block_length": 4}, "divisible"),
        ({"remasking": "best"}, "remasking"),
        ({"steps": 0}, "steps"),
        ({"block_length": 0}, "block_length"),
        ({"temperature": -1}, "temperature"),
        ({"gen_length": -1}, "negative"),
        ({"seeds": torch.tensor([1, 2])}, "seeds"),
        ({"rows_at_once": 0}, "rows_at_once"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_mdm(network, prompts, **{**settings, **wrong})
    with pytest.raises(ValueError, match="suffixes"):
        generate_mdm_infilling(
            network,
            prompts,
            pad_rows([[1], [2]]),
            steps=2,
            middle_lengths=2,
            mask_id=MASK,
            pad_id=PAD,
        )


def test_row_uniforms_are_uniform_and_independent():
    """Mean, variance and correlations of 20,000 numbers along each axis: seeds, events, purposes
    and columns.
    """
    seeds = draw_seeds(20_000)
    columns = [
        row_uniforms(seeds, 3, TOKEN, 2)[:, 0],
        row_uniforms(seeds, 3, TOKEN, 2)[:, 1],
        row_uniforms(seeds, 3, CONFIDENCE, 1)[:, 0],
        row_uniforms(seeds, 4, TOKEN, 1)[:, 0],
        row_uniforms(torch.arange(20_000), 3, TOKEN, 1)[:, 0],
        row_uniforms(torch.full((20_000,), 7), torch.arange(20_000), TOKEN, 1)[:, 0],
        row_uniforms(seeds[:1], 0, TOKEN, 20_000)[0],
    ]
    u = torch.from_numpy(np.stack(columns))  # (7, n)
    assert u.min() > 0 and u.max() < 1
    assert (u.mean(1) - 0.5).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    assert (u.var(1) * 12 - 1).abs().max() < 0.05
    assert (torch.corrcoef(u) - torch.eye(7)).abs().max() < 5 / 20_000**0.5
    several = row_uniforms(seeds[5:7], torch.tensor([3, 4]), TOKEN, 9)
    assert (several[0] == row_uniforms(seeds[5:6], 3, TOKEN, 12)[0, :9]).all()


# ---- the cache

CACHED = dict(steps=12, gen_length=12, block_length=4, mask_id=MASK, pad_id=PAD, num_tokens=TOKENS)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.8])
def test_a_cache_refreshed_every_step_changes_nothing(network, cfg_scale):
    """Also guards sampling/prefix_cache.py."""
    prompts, suffixes = pad_rows(random_rows(5, 9)), pad_rows(random_rows(5, 3, shortest=0))
    plain = generate_mdm(network, prompts, cfg_scale=cfg_scale, **CACHED)
    cached = generate_mdm(network, prompts, cfg_scale=cfg_scale, cache_refresh=1, **CACHED)
    assert cached.sequences.equal(plain.sequences) and cached.evaluations.equal(plain.evaluations)
    settings = dict(
        steps=3,
        middle_lengths=torch.tensor([4, 0, 7, 2, 3]),
        mask_id=MASK,
        pad_id=PAD,
        num_tokens=TOKENS,
        cfg_scale=cfg_scale,
    )
    plain = generate_mdm_infilling(network, prompts, suffixes, **settings)
    assert generate_mdm_infilling(
        network, prompts, suffixes, cache_refresh=1, **settings
    ).sequences.equal(plain.sequences)


@torch.no_grad()
def test_between_refreshes_only_cached_prompt_keys_and_values_are_stale(network):
    """The second evaluation, written out: the prompt's keys and values come from the first,
    everything from the block on is new.
    """
    cache, prompt, masks = PrefixCache(network, 4), 7, 5
    first = torch.tensor([[random.randrange(20) for _ in range(prompt)] + [MASK] * masks])
    second = first.clone()
    second[0, prompt + 2] = 3
    real, wanted = torch.ones_like(first, dtype=torch.bool), first == MASK
    whole = network(first, logits_mask=wanted).logits
    assert torch.allclose(cache.logits([0], first, real, wanted, [prompt]), whole, atol=1e-10)
    cached = cache.logits([0], second, real, wanted, [prompt])
    assert cache.tokens == prompt + masks + masks
    x_old = network.model.transformer.wte(first)
    x_new = network.model.transformer.wte(second)[:, prompt:]
    cos, sin = (
        table[:, None] for table in rope(torch.arange(prompt + masks), 8, network.config.rope_theta)
    )
    rows = PaddedRows(prompt + masks, None, "cpu")
    for block in network.model.transformer.blocks:
        # what the block would see with an old past and a new present
        joined = torch.cat([x_old[:, :prompt], x_new], 1)
        x_new = block(joined, cos, sin, rows)[:, prompt:]
        x_old = block(x_old, cos, sin, rows)
    expected = network.head(network.model.transformer.ln_f(x_new))[0]
    assert torch.allclose(cached, expected, atol=1e-10)
    assert not torch.allclose(cached, network(second, logits_mask=wanted).logits, atol=1e-6)


def test_cached_rows_do_not_depend_on_the_batch(network):
    rows, seeds = random_rows(6, 10), torch.randint(2**62, (6,))
    together = generate_mdm(
        network, pad_rows(rows), seeds=seeds, cache_refresh=3, temperature=1.0, **CACHED
    )
    few = generate_mdm(
        network,
        pad_rows(rows),
        seeds=seeds,
        cache_refresh=3,
        temperature=1.0,
        rows_at_once=2,
        **CACHED,
    )
    assert together.sequences.equal(few.sequences)
    for b, row in enumerate(rows):
        alone = generate_mdm(
            network,
            pad_rows([row]),
            seeds=seeds[b : b + 1],
            cache_refresh=3,
            temperature=1.0,
            **CACHED,
        )
        assert alone.sequences[0, : alone.lengths[0]].equal(
            together.sequences[b, : together.lengths[b]]
        )
    with pytest.raises(ValueError, match="cache_refresh"):
        generate_mdm(network, pad_rows(rows), cache_refresh=-1, **CACHED)
    with pytest.raises(ValueError, match="LLaDAModelLM"):
        generate_mdm(SimpleNamespace(device="cpu"), pad_rows(rows), cache_refresh=2, **CACHED)
