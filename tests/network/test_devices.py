"""No function that takes tensors makes one without saying on which device: with torch's default
device set to `meta`, a tensor made without a device has no numbers, and whatever meets it fails.
Written into another tensor it changes nothing, where a GPU would refuse: so samplers are also
compared with themselves. A CPU thus shows what a GPU would trip over."""

import operator

import numpy as np
import pytest
import tiny
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import TrainerState

from data.noise_stream import NoiseStream
from flexmdm_interpolant import GeometricSchedule
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses, flexmdm_reconstruction
from llada_trainer import LLaDACollator, llada_losses, token_costs
from network.packed_rows import Places
from sampling.canvas_search import add_cost
from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling
from sampling.llada import generate_mdm, generate_mdm_infilling
from sampling.results import GenerationResult
from training.micro_batches import collate_micro_batches
from training.weight_average import WeightAverage

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


def without_meta(sample):
    """The result of sample(), under `meta` and with no default device: they must be the same."""
    found = sample()
    torch.set_default_device(None)
    wanted = sample()
    torch.set_default_device("meta")
    for name, value in vars(wanted).items():
        same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
        assert same(getattr(found, name), value), name
    return found


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


def counting(kind, **settings):
    """A network on the CPU that has a length distribution."""
    with torch.device("cpu"):
        if kind == "flexmdm":
            return tiny.flexmdm(length_distribution=24, **settings)
        return tiny.llada(length_distribution=24)


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
    options = {**IDS, **options, "max_length": 20, "seeds": [3, 9]}
    for sample in (
        lambda: generate_flexmdm(flexmdm, given, return_trace=True, **options),
        lambda: generate_flexmdm(flexmdm, None, batch_size=2, **options),
        lambda: generate_flexmdm_infilling(flexmdm, given, given, **options),
    ):
        result = without_meta(sample)
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
    options = {**IDS, **options, "seeds": [3, 9]}
    result = without_meta(
        lambda: generate_mdm(llada, given, gen_length=6, block_length=3, **options)
    )
    assert result.sequences.device.type == "cpu" and not (result.sequences == tiny.MASK).any()
    without_meta(lambda: generate_mdm_infilling(llada, given, given, middle_lengths=4, **options))


@pytest.mark.parametrize("training", [True, False])
def test_loss_of_a_shared_total_and_a_length_distribution(meta, training):
    model = counting("flexmdm", length_head="total").train(training)
    items, collator = batch_of(FlexMDMCollator(model.config))
    losses = flexmdm_losses(model, collator(items), collator.interpolant)
    gradients(model, (losses["unmask"] + losses["insertion"] + losses["missing"]).sum())


@pytest.mark.parametrize(
    "options",
    [
        dict(sampler="count_first"),
        dict(sampler="count_first", length_choice="drawn", temperature=1.0, rows_at_once=1),
        dict(sampler="count_first", length_candidates=3),
        dict(sampler="event_driven", placed_share=0.5),
        dict(sampler="event_driven", leap_counts="drawn"),
        dict(sampler="tau_leaping", steps=5, leap_counts="drawn", rows_at_once=1),
        dict(sampler="event_driven", corrector_time=0.5, corrector_choice="least_confident"),
        dict(sampler="tau_leaping", steps=5, corrector_time=0.5, corrector_rounds=2),
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
@pytest.mark.parametrize("head", ["log_rate", "total"])
def test_flexmdm_samplers_that_count_and_correct(meta, head, options):
    model = counting("flexmdm", length_head=head)
    given = torch.tensor([[3, 4, 5], [6, 7, tiny.PAD]], device="cpu")
    for suffixes in (given, [[], []]):
        result = without_meta(
            lambda suffixes=suffixes: generate_flexmdm_infilling(
                model, given, suffixes, **IDS, max_length=20, seeds=[3, 9], **options
            )
        )
        assert result.sequences.device.type == "cpu" and not (result.sequences == tiny.MASK).any()


@pytest.mark.parametrize(
    "options",
    [
        dict(llada_length="counted"),
        dict(llada_length="grown", rows_at_once=1),
        dict(llada_length="searched", length_drift={"2": -1.0, "5": -1.1, "30": 0.0}),
    ],
    ids=lambda options: options["llada_length"],
)
def test_llada_finds_its_length(meta, options):
    model = counting("llada")
    given = torch.tensor([[3, 4, 5], [6, 7, tiny.PAD]], device="cpu")
    options = {**IDS, **options, "max_length": 20, "seeds": [3, 9]}
    result = without_meta(lambda: generate_mdm(model, given, **options))
    assert not (result.sequences == tiny.MASK).any()
    if options["llada_length"] != "grown":  # which is for prompts
        without_meta(lambda: generate_mdm_infilling(model, given, given, **options))


def test_micro_batches_of_a_token_budget_and_averaged_parameters(meta):
    model = counting("flexmdm", length_head="total").train()
    collator = FlexMDMCollator(model.config)
    stream = NoiseStream(rows(6), 6, 1, 5, tokens=collator.tokens, tokens_per_batch=20)
    average = WeightAverage(0.9)
    average.begin(model)
    for batch in collate_micro_batches(collator, [stream[place] for place in range(6)]):
        losses = flexmdm_losses(model, batch, collator.interpolant)
        gradients(model, losses["insertion"].sum())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    own = [parameter.detach().clone() for parameter in model.parameters()]
    average.on_step_end(None, TrainerState(global_step=1), None)
    with average.in_place():
        changed = [(each - was).abs() for each, was in zip(model.parameters(), own)]
        # 2 / 11 of the parameters that it began with, each smaller by 1
        assert all(torch.allclose(each, each.new_full((), 2 / 11), atol=1e-5) for each in changed)
    assert all(torch.equal(each, was) for each, was in zip(model.parameters(), own))


@pytest.mark.parametrize("head", ["log_rate", "total"])
def test_a_step_of_flexmdm_never_waits_for_its_device(head):
    """Everything is on `meta`, which has no number to give: asking it for one raises."""
    model = counting("flexmdm", length_head=head).train().to("meta")
    items, collator = batch_of(FlexMDMCollator(model.config))
    batch = {name: value.to("meta") for name, value in collator(items).items()}
    losses = flexmdm_losses(model, batch, collator.interpolant)
    (losses["unmask"] + losses["insertion"] + losses["missing"]).sum().backward()
    with pytest.raises(RuntimeError, match="meta"):
        losses["unmask"].sum().item()


def test_a_step_of_llada_never_waits_for_its_device():
    model = tiny.llada().train().to("meta")
    items, collator = batch_of(LLaDACollator(tiny.MASK, tiny.PAD, None))
    batch = {name: value.to("meta") for name, value in collator(items).items()}
    llada_losses(model, batch).sum().backward()


def test_the_cost_of_a_length_is_added_where_the_result_is():
    """As on a GPU, whose checks torch makes without one: the result is on it, what is added not."""
    with FakeTensorMode():
        *parts, positions = (torch.zeros(2, dtype=torch.long, device="cuda") for _ in range(5))
        result = GenerationResult(*parts, positions=positions)
        add_cost(result, [4, 5], [[2], [2, 3]])
        assert result.evaluations.is_cuda and result.positions.is_cuda


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
