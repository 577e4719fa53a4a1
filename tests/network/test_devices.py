"""No function that takes tensors makes one without saying on which device: with torch's default
device set to `meta`, a tensor made without a device has no numbers, and whatever meets it fails. So
a CPU shows what a GPU would trip over."""

import numpy as np
import pytest
import tiny
import torch

from data.noise_stream import NoiseStream
from flexmdm_interpolant import GeometricSchedule
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses, flexmdm_reconstruction
from llada_trainer import LLaDACollator, llada_losses, token_costs
from network.packed_rows import Places
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.llada import generate_mdm, generate_mdm_infilling

IDS = dict(mask_id=tiny.MASK, pad_id=tiny.PAD)


@pytest.fixture
def meta():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def rows(n, prompt=0):
    random = np.random.default_rng()
    return [
        {
            "input_ids": random.integers(0, 50, random.integers(4, 20)).tolist(),
            "prompt_length": min(prompt, 3),
        }
        for _ in range(n)
    ]


def batch_of(collator, fixed_time=None):
    stream = NoiseStream(
        rows(6), 6, 1, seed=int(np.random.default_rng().integers(2**31)), fixed_time=fixed_time
    )
    return [stream[place] for place in range(6)], collator


@pytest.fixture(scope="module")
def flexmdm():
    return tiny.stir(tiny.flexmdm(lora={"r": 2, "lora_alpha": 2, "lora_dropout": 0.1}))


@pytest.fixture(scope="module")
def llada():
    return tiny.stir(tiny.llada())


def gradients(model, loss):
    loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    assert found and all(torch.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("training", [True, False])
def test_flexmdm_loss_gradients_and_bound(flexmdm, meta, training):
    flexmdm.train(training)
    items, collator = batch_of(FlexMDMCollator(flexmdm.config))
    batch = collator(items)
    losses = flexmdm_losses(flexmdm, batch, collator.interpolant)
    gradients(flexmdm, (losses["unmask"] + losses["insertion"]).sum())
    by_hand = {
        name: value for name, value in batch.items() if name not in ("token_places", "mask_places")
    }
    assert torch.isfinite(flexmdm_losses(flexmdm, by_hand, collator.interpolant)["unmask"]).all()
    items, collator = batch_of(collator, fixed_time=1.0)
    last = collator(items)
    assert torch.isfinite(
        flexmdm_reconstruction(flexmdm, last, (last["x1"], last["x1_hidden"], tiny.MASK))
    ).all()


@pytest.mark.parametrize("fill_length", [None, 24])
def test_llada_loss_gradients_and_bound(llada, meta, fill_length):
    llada.train()
    items, collator = batch_of(LLaDACollator(tiny.MASK, tiny.PAD, fill_length))
    batch = collator(items)
    gradients(llada, llada_losses(llada, batch).sum())
    assert torch.isfinite(
        token_costs(llada, {name: value for name, value in batch.items() if "places" not in name})[
            0
        ]
    ).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(sampler="event_driven"),
        dict(
            sampler="event_driven",
            bound_inflation=1.5,
            events_per_evaluation=3,
            unmasking="confidence",
            confidence_method="entropy",
        ),
        dict(
            sampler="event_driven",
            unmasking="confidence",
            confidence_method="top_prob",
            confidence_threshold=0.3,
            temperature=1.0,
            rows_at_once=2,
        ),
        dict(sampler="event_driven", cache_refresh=2, rows_at_once=1),
        dict(sampler="tau_leaping", steps=9),
        dict(
            sampler="tau_leaping",
            steps=9,
            bound_inflation=2.0,
            unmasking="confidence",
            confidence_method="prob_diff",
        ),
        dict(
            sampler="tau_leaping",
            steps=5,
            insertion_schedule=GeometricSchedule(10, 0.01),
            temperature=0.7,
            use_sliding_window=True,
            unmasking="confidence",
        ),
    ],
)
def test_flexmdm_samplers(flexmdm, meta, options):
    flexmdm.eval()
    given = torch.tensor([[3, 4, 5], [6, 7, tiny.PAD]], device="cpu")
    for result in (
        generate_flexmdm(flexmdm, given, **IDS, max_length=20, return_trace=True, **options),
        generate_flexmdm(flexmdm, None, batch_size=2, **IDS, max_length=20, **options),
        generate_flexmdm_infilling(flexmdm, given, given, **IDS, max_length=20, **options),
    ):
        assert result.sequences.device.type == "cpu" and not (result.sequences == tiny.MASK).any()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(remasking="random", temperature=1.0),
        dict(cfg_scale=1.0),
        dict(cache_refresh=2),
        dict(cache_refresh=2, cfg_scale=0.5),
    ],
)
def test_llada_sampler_and_prompt_cache(llada, meta, options):
    llada.eval()
    given = torch.tensor([[3, 4, 5], [6, 7, tiny.PAD]], device="cpu")
    result = generate_mdm(llada, given, steps=None, gen_length=6, block_length=3, **IDS, **options)
    assert result.sequences.device.type == "cpu" and not (result.sequences == tiny.MASK).any()
    generate_mdm_infilling(llada, given, given, steps=None, middle_lengths=4, **IDS, **options)


def test_packing_by_positions_equals_packing_by_masks_and_padded_rows(flexmdm, llada):
    """Rows packed by the places that a batch names, by those found from its masks, and padded rows:
    the same numbers.
    """
    lengths, width = torch.tensor([5, 0, 8]), 8
    ids = torch.where(
        torch.arange(width) < lengths[:, None], torch.randint(0, 50, (3, width)), tiny.PAD
    )
    text, t = torch.arange(width) < lengths[:, None], torch.rand(3)
    wanted = text & (torch.rand(3, width) < 0.5)
    ends = torch.arange(width + 1) <= lengths[:, None]
    named = Places(ends.flatten().nonzero()[:, 0], wanted.flatten().nonzero()[:, 0])
    padded = flexmdm.eval()(ids, t, attention_mask=text, logits_mask=wanted)
    packed = flexmdm(ids, t, attention_mask=text, logits_mask=wanted, places=named)
    torch.testing.assert_close(packed["logits"], padded["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed["length"][ends], padded["length"][ends], rtol=1e-4, atol=1e-5)
    # all logits of packed rows
    every = flexmdm(ids, t, attention_mask=text, places=Places(named.tokens))["logits"]
    torch.testing.assert_close(every[wanted], padded["logits"], rtol=1e-4, atol=1e-5)
    named = Places(text.flatten().nonzero()[:, 0], wanted.flatten().nonzero()[:, 0])
    padded = llada.eval()(ids, attention_mask=text, logits_mask=wanted).logits
    torch.testing.assert_close(
        llada(ids, attention_mask=text, places=named).logits, padded, rtol=1e-4, atol=1e-5
    )
