"""Interpolant and schedules: golden numbers, closed-form marginals, and what must hold for every
draw.

Run: pytest tests/network/test_interpolant.py
"""

import math

import pytest
import torch

from flexmdm_interpolant import (
    AnyOrderMaskInsertionInterpolant,
    GeometricSchedule,
    LinearSchedule,
    PowerSchedule,
    parse_schedule,
    schedule_from_config,
)

SCHEDULES = [
    LinearSchedule(),
    PowerSchedule(1.7),
    PowerSchedule(0.6),
    GeometricSchedule(10.0, 0.01),
]
MASK, PAD = 298, 299


def interpolant(insertion=None, unmask=None, max_length=64):
    return AnyOrderMaskInsertionInterpolant(
        insertion or LinearSchedule(), unmask or LinearSchedule(), 300, MASK, PAD, max_length
    )


@pytest.mark.parametrize("kind", ["linear", "geometric"])
def test_golden_schedules(golden, kind):
    numbers = golden("flexmdm_tiny/schedules.safetensors")
    schedule = LinearSchedule() if kind == "linear" else GeometricSchedule(10.0, 0.01)
    t, alpha = numbers["t"], numbers["alpha"]
    for name, ours in [
        ("at", schedule.at(t)),
        ("derivative_at", schedule.derivative_at(t)),
        ("inv", schedule.inv(alpha)),
        ("inv_of_at", schedule.inv(schedule.at(t))),
        ("rate_scale_factor", schedule.rate_scale_factor(t)),
    ]:
        torch.testing.assert_close(ours, numbers[f"{kind}.{name}"], rtol=2e-5, atol=2e-5)
    if kind == "geometric":
        for name in ("at", "rate_scale_factor"):
            torch.testing.assert_close(
                getattr(schedule, name)(t.double()),
                numbers[f"geometric.{name}_f64"],
                rtol=1e-12,
                atol=0,
            )


def test_golden_interpolant(golden):
    """The paper's code's numbers for given uniforms: geometric insertion, linear unmasking."""
    numbers = golden("flexmdm_tiny/interpolant.safetensors")
    law = interpolant(GeometricSchedule(10.0, 0.01))
    insertion_time, unmasking_time = law.stopping_times(numbers["u_insert"], numbers["u_unmask"])
    torch.testing.assert_close(insertion_time, numbers["insertion_time"], rtol=1e-5, atol=1e-6)
    # alpha(1) < 1: the others never are, and have no unmasking time here
    inserted = insertion_time < 1
    torch.testing.assert_close(
        unmasking_time[inserted], numbers["unmasking_time"][inserted], rtol=1e-5, atol=1e-6
    )
    assert torch.isinf(unmasking_time[~inserted]).all()
    result = law.sample_interpolant(
        numbers["t"],
        numbers["x1"],
        numbers["prompt_indices"],
        uniforms=(numbers["u_insert"], numbers["u_unmask"]),
    )
    gaps, gaps_mask = result.gaps_and_mask
    for ours, name in [
        (result.xt, "xt"),
        (result.st, "st"),
        (result.mask_indices, "mask_indices"),
        (result.unmasked, "unmasked"),
        (result.xt_length, "xt_length"),
        (result.x1_length, "x1_length"),
        (gaps, "gaps"),
        (gaps_mask, "gaps_mask"),
    ]:
        assert torch.equal(ours, numbers[name]), name
    unmask_weight, insert_weight = law.elbo_weight(numbers["t"], numbers["x1"])
    torch.testing.assert_close(insert_weight, numbers["insert_weight"], rtol=1e-5, atol=0)
    # the paper's code adds 1e-6 to 1 - beta, which is 2e-5 of the weight at t = 0.95
    torch.testing.assert_close(unmask_weight, numbers["unmask_weight"], rtol=3e-5, atol=0)
    unmask_rate, length_rate = interpolant().to_actual_rate(
        numbers["xt"],
        {"logits": numbers["rate.logits"], "length": numbers["rate.expected_gaps"]},
        numbers["t"],
    )
    torch.testing.assert_close(length_rate, numbers["rate.length_rate"], rtol=1e-5, atol=1e-5)
    masked = numbers["xt"] == MASK
    torch.testing.assert_close(
        unmask_rate[masked], numbers["rate.unmask_rate"][masked], rtol=3e-5, atol=1e-6
    )
    # the paper's code gives rates to clean tokens too; they never apply
    assert not unmask_rate[~masked].any()


def test_golden_interpolant_of_empty_full_and_partial_rows(golden):
    """Rows emptied, untouched and holed, from the golden st and masks: uniforms chosen so that just
    those are kept.
    """
    numbers = golden("flexmdm_tiny/interpolant.safetensors")
    x1, st, xt = numbers["edge.x1"], numbers["edge.st"], numbers["edge.xt"]
    u_insert = torch.full(x1.shape, 0.9)
    u_unmask = torch.zeros(x1.shape)
    for row in range(len(x1)):
        for column in range(int(numbers["edge.gaps_mask"][row].sum() - 1)):
            u_insert[row, st[row, column]] = 0.1
            if xt[row, column] == MASK:
                u_unmask[row, st[row, column]] = 0.99
    result = interpolant().sample_interpolant(
        torch.full((len(x1),), 0.5),
        x1,
        torch.zeros_like(x1, dtype=torch.bool),
        uniforms=(u_insert, u_unmask),
    )
    gaps, gaps_mask = result.gaps_and_mask
    for ours, name in [
        (result.xt, "xt"),
        (result.st, "st"),
        (result.mask_indices, "mask_indices"),
        (result.unmasked, "unmasked"),
        (gaps, "gaps"),
        (gaps_mask, "gaps_mask"),
    ]:
        assert torch.equal(ours, numbers[f"edge.{name}"]), name


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedule_methods_agree(schedule):
    t = torch.rand(1000, dtype=torch.float64) * 0.999
    t.requires_grad_(True)
    value = schedule.at(t)
    (derivative,) = (
        torch.autograd.grad(value.sum(), t)
        if value.requires_grad and value is not t
        else (torch.ones_like(t),)
    )
    t = t.detach()
    torch.testing.assert_close(schedule.derivative_at(t), derivative, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        schedule.rate_scale_factor(t), derivative / (1 - value.detach()), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(schedule.inv(value.detach()), t, rtol=1e-7, atol=1e-7)
    again = schedule_from_config(schedule.to_config())
    assert torch.equal(again.at(t), schedule.at(t))


@pytest.mark.parametrize("insertion", SCHEDULES, ids=str)
@pytest.mark.parametrize("unmask", SCHEDULES[:2], ids=str)
def test_marginals(insertion, unmask):
    """P(deleted) = 1 - alpha(t); P(mask) = integral over T1 <= t of alpha'(s) (1 - beta(t)) / (1 -
    beta(s)) ds.
    """
    rows, length = 4000, 50
    x1 = torch.randint(0, 298, (rows, length))
    prompt = torch.zeros_like(x1, dtype=torch.bool)
    for t in (0.15, 0.5, 0.85):
        result = interpolant(insertion, unmask).sample_interpolant(
            torch.full((rows,), t), x1, prompt
        )
        n = rows * length
        s = ((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000) * t
        # the geometric schedule's jump at 0: T1 <= 0
        at_zero = float(insertion.at(torch.zeros((), dtype=torch.float64)))
        beta_t = unmask.at(torch.tensor(t, dtype=torch.float64))
        p_mask = float(
            (insertion.derivative_at(s) * (1 - beta_t) / (1 - unmask.at(s))).mean() * t
            + at_zero * (1 - beta_t)
        )
        p_kept = float(insertion.at(torch.tensor(t, dtype=torch.float64)))
        if isinstance(insertion, LinearSchedule) and isinstance(unmask, LinearSchedule):
            assert abs(p_mask + (1 - t) * math.log(1 - t)) < 1e-6
        for p, seen in [
            (p_kept, int(result.xt_length.sum())),
            (p_mask, int(result.mask_indices.sum())),
        ]:
            assert abs(seen / n - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 1e-9, (t, p, seen / n)


@pytest.mark.parametrize("insertion", SCHEDULES, ids=str)
def test_every_draw_has_consistent_lengths_gaps_and_masks(insertion):
    rows, length = 300, 23
    lengths = torch.randint(0, length + 1, (rows,))
    x1 = torch.randint(0, 298, (rows, length))
    position = torch.arange(length)
    x1 = torch.where(position < lengths[:, None], x1, PAD)
    prompt = position < (torch.rand(rows) * (lengths + 1)).long()[:, None]
    result = interpolant(insertion, PowerSchedule(2.0)).sample_interpolant(
        torch.rand(rows), x1, prompt
    )
    gaps, gaps_mask = result.gaps_and_mask
    assert torch.equal(result.xt_length + gaps.sum(1), result.x1_length) and torch.equal(
        result.x1_length, lengths
    )
    assert (gaps >= 0).all() and not gaps[~gaps_mask].any()
    assert torch.equal(gaps_mask.sum(1), result.xt_length + 1)
    for row in range(rows):
        n, st = int(result.xt_length[row]), result.st[row]
        assert (st[:n].diff() > 0).all()
        clean = ~result.mask_indices[row, :n]
        assert torch.equal(result.xt[row, :n][clean], x1[row, st[:n]][clean])
        assert (
            torch.equal(result.unmasked[row, :n], x1[row, st[:n]])
            and (result.xt[row, n:] == PAD).all()
        )
        p = int(prompt[row].sum())
        # the prompt is whole and closed
        assert torch.equal(result.xt[row, :p], x1[row, :p]) and not gaps[row, :p].any()
    trimmed = result.trim()
    assert (
        trimmed.xt.shape[1] == max(1, int(result.xt_length.max()))
        and trimmed.gaps_and_mask[0].sum() == gaps.sum()
    )


def test_eos_inside_the_text_is_not_padding():
    x1 = torch.tensor([[5, PAD, 6, PAD, PAD]])
    result = interpolant().sample_interpolant(
        torch.ones(1), x1, torch.zeros(1, 5, dtype=torch.bool)
    )
    assert int(result.x1_length) == 3 and result.xt[0, :3].tolist() == [5, PAD, 6]


def test_refusals():
    with pytest.raises(ValueError, match="max_length"):
        interpolant(max_length=4).sample_interpolant(
            torch.rand(1), torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.bool)
        )
    for text in (
        "cosine",
        "power",
        "power:0",
        "geometric:1",
        "geometric:0.01,10",
        "linear:3",
        "power:x",
    ):
        with pytest.raises(ValueError):
            parse_schedule(text)
    assert parse_schedule("power:1.7").to_config() == {"name": "power", "p": 1.7}
    with pytest.raises(ValueError, match="unknown schedule"):
        schedule_from_config({"name": "cosine"})
