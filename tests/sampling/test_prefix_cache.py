"""FlexMDM's cached prompts: refreshed at every evaluation they change nothing; between refreshes
only the prompt is old; rows do not depend on the batch. (LLaDA's are tested in
test_llada_sampler.py.)"""

import pytest
import tiny
import torch

from network.packed_rows import PaddedRows
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.prefix_cache import PrefixCache

IDS = dict(mask_id=tiny.MASK, pad_id=tiny.PAD)
EVENTS = dict(
    sampler="event_driven",
    unmasking="confidence",
    confidence_method="top_prob",
    temperature=1.0,
    max_length=24,
)


@pytest.fixture(scope="module")
def network():
    model = tiny.flexmdm().double()
    with torch.no_grad():
        # a few tokens a gap: rows grow, and not all to the limit
        model.scalar_length_head.proj2.bias.fill_(-1.0)
    return model


def prompts(rows=5, longest=6):
    ids = torch.randint(0, 50, (rows, longest))
    ids[1, 2:] = ids[3, 4:] = tiny.PAD
    return ids


@pytest.mark.parametrize(
    "options",
    [
        EVENTS,
        {**EVENTS, "events_per_evaluation": 3, "bound_inflation": 1.5, "rows_at_once": 2},
        dict(sampler="tau_leaping", steps=12, max_length=24),
    ],
)
def test_a_cache_refreshed_every_time_changes_nothing(network, options):
    seeds, given, after = torch.randint(2**62, (5,)), prompts(), prompts(5, 4)
    for generate, parts in (
        (generate_flexmdm, (given,)),
        (generate_flexmdm_infilling, (given, after)),
    ):
        plain = generate(network, *parts, seeds=seeds, **IDS, **options)
        cached = generate(network, *parts, seeds=seeds, cache_refresh=1, **IDS, **options)
        assert plain.sequences.equal(cached.sequences) and plain.evaluations.equal(
            cached.evaluations
        )
        old = generate(network, *parts, seeds=seeds, cache_refresh=5, **IDS, **options)
        assert not (old.sequences == tiny.MASK).any()
        for row, length in enumerate((given[1] != tiny.PAD).sum()[None]):
            assert old.sequences[1, :length].equal(given[1, :length]), row


@torch.no_grad()
def test_between_refreshes_only_the_prompt_is_stale(network):
    """The second evaluation, written out block by block: the prompt's keys and values, and its
    time, are the first evaluation's.
    """
    prompt, answer = 5, 4
    first = torch.randint(0, 50, (1, prompt + answer))
    first[0, prompt:] = tiny.MASK
    second = first.clone()
    second[0, prompt + 1] = 7
    times = torch.tensor([[0.3], [0.6]])
    cache = PrefixCache(network, 4)
    length = torch.tensor([prompt + answer + 1])
    wanted = torch.arange(prompt, prompt + answer)
    outputs = []
    for ids, t in zip((first, second), times):
        places = cache.places(["row"], length, [prompt], prompt + answer + 1, wanted)
        outputs.append(network(ids, t, attention_mask=torch.ones_like(ids), places=places))
    assert cache.tokens == prompt + 2 * (answer + 1)
    backbone, end = network.backbone, torch.tensor([[tiny.PAD]])
    rows = PaddedRows(prompt + answer + 1, None, "cpu")
    from llada_dit import rope

    cos, sin = (
        table[:, None]
        for table in rope(torch.arange(prompt + answer + 1), 8, backbone.config.rope_theta)
    )
    old, new = (backbone.model.transformer.wte(torch.cat([ids, end], 1)) for ids in (first, second))
    new = new[:, prompt:]
    for block, old_modulation, new_modulation in zip(
        backbone.model.transformer.blocks,
        network.modulations(times[0]),
        network.modulations(times[1]),
    ):
        # queries of the new tokens over keys of both: the old prompt under the old time's
        # modulation, the rest under the new one's
        q, k, v = block.qkv(
            torch.cat(
                [
                    modulated(block.attn_norm(old[:, :prompt]), old_modulation),
                    modulated(block.attn_norm(new), new_modulation),
                ],
                1,
            )
        )
        from llada_dit import rotate

        mixed = rows.attend(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(-2)[:, prompt:]
        new = new + block.attn_out(mixed)
        new = new + block.mlp(modulated(block.ff_norm(new), new_modulation))
        old = block(old, cos, sin, rows, *old_modulation)
    hidden = backbone.model.transformer.ln_f(new)
    torch.testing.assert_close(
        outputs[1]["logits"], backbone.head(hidden[0, :answer]), rtol=1e-8, atol=1e-8
    )
    torch.testing.assert_close(
        outputs[1]["log_length"][0, prompt:],
        network.scalar_length_head(hidden)[0],
        rtol=1e-6,
        atol=1e-6,
    )
    whole = network(second, times[1], attention_mask=torch.ones_like(second))["logits"][0, prompt:]
    assert (outputs[1]["logits"] - whole).abs().max() > 1e-4


def modulated(y, modulation):
    scale, shift = modulation
    return (1 + scale[:, None].to(y.dtype)) * y + shift[:, None].to(y.dtype)


def test_cached_rows_do_not_depend_on_the_batch(network):
    seeds, given = torch.randint(2**62, (5,)), prompts()
    together = generate_flexmdm(network, given, seeds=seeds, cache_refresh=3, **IDS, **EVENTS)
    two = generate_flexmdm(
        network, given, seeds=seeds, cache_refresh=3, rows_at_once=2, **IDS, **EVENTS
    )
    for row in range(5):
        alone = generate_flexmdm(
            network,
            given[row : row + 1],
            seeds=seeds[row : row + 1],
            cache_refresh=3,
            **IDS,
            **EVENTS,
        )
        for other in (together, two):
            assert int(alone.lengths[0]) == int(other.lengths[row]) and alone.sequences[
                0, : alone.lengths[0]
            ].equal(other.sequences[row, : alone.lengths[0]])


def test_what_cannot_be_cached_is_refused(network):
    with pytest.raises(ValueError, match="cache_refresh"):
        generate_flexmdm(network, prompts(), cache_refresh=0, **IDS, **EVENTS)
    with pytest.raises(ValueError, match="length_head total"):
        generate_flexmdm(
            tiny.flexmdm(length_head="total"), prompts(), cache_refresh=2, **IDS, **EVENTS
        )
    with pytest.raises(ValueError, match="padding"):
        generate_flexmdm(
            tiny.flexmdm(attend_to_padding=True),
            prompts(),
            cache_refresh=2,
            **IDS,
            **{**EVENTS, "max_length": 64},
        )
