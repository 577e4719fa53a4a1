"""The forms of the insertion head: what each predicts, how its loss splits, and that rows do not
depend on how they lie in a batch.

pytest tests/network/test_insertion_heads.py                             seconds
"""

import pytest
import tiny
import torch
from test_losses import batch_items

from common.errors import InputError
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses, gap_loss, interpolant_of
from network.config import FlexMDMConfig
from network.length_heads import share_out

HEADS = ("log_rate", "total")


def head_of(name, **settings):
    return tiny.flexmdm(length_head=name, length_distribution=70, **settings)


def phi(x, y):
    return y - x + torch.xlogy(x, x / y)


def test_loss_of_a_total_shared_out_splits_into_that_of_the_total_and_a_divergence():
    """sum_j phi(gaps[j], N pi[j]) = phi(X, N) + X KL(gaps / X || pi), in float64."""
    z = torch.randn(50, 9, 2, dtype=torch.float64) * 2
    lengths = torch.randint(0, 9, (50,))
    gaps = torch.randint(0, 5, (50, 9)) * (torch.arange(9) <= lengths[:, None])
    gaps = gaps.double()
    g = share_out(z, lengths).exp()
    total = z[torch.arange(50), lengths, 0].exp()  # read at the end slot
    torch.testing.assert_close(g.sum(1), total)
    assert not g[torch.arange(9) > lengths[:, None]].any()
    x, pi = gaps.sum(1), g / total[:, None]
    divergence = torch.xlogy(gaps, gaps / x.clamp(min=1)[:, None] / pi).nan_to_num(0).sum(1)
    whole = torch.where(g > 0, phi(gaps, g), 0).sum(1)
    torch.testing.assert_close(whole, phi(x, total) + divergence)
    # what training computes of it, in fp32
    torch.testing.assert_close(
        (gap_loss(gaps, g.log()) * (g > 0)).sum(1).double(), whole, rtol=1e-4, atol=1e-4
    )


def test_training_computes_the_split_loss():
    """flexmdm_losses of a network with a "total" head, from its own total and shares."""
    model = head_of("total")
    batch = FlexMDMCollator(model.config)(batch_items([9, 14, 5, 20]))
    law = interpolant_of(model.config)
    losses = flexmdm_losses(model, batch, law)
    real = torch.arange(batch["input_ids"].shape[1]) < batch["xt_length"][:, None]
    g = model(batch["input_ids"], batch["timesteps"], attention_mask=real)["length"].double()
    gaps, total = batch["gaps"].double(), g.sum(1)
    x = gaps.sum(1)
    split = phi(x, total) + torch.where(
        gaps > 0, gaps * (gaps * total[:, None] / g / x[:, None]).log(), 0
    ).sum(1)
    weight = law.insertion_schedule.rate_scale_factor(batch["timesteps"])
    torch.testing.assert_close(losses["insertion"].double(), split * weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attend_to_padding", [False, True])
@torch.no_grad()
def test_packed_rows_equal_padded_rows(head, attend_to_padding):
    """Rows are packed in training; the numbers of each are those of the row by itself. A network
    that attends to padding has rows of one width, and an end slot within them.
    """
    model = head_of(head, attend_to_padding=attend_to_padding)
    lengths = torch.tensor([0, 1, 7, 12, 5])
    ids, t = torch.randint(0, 58, (5, 12)), torch.rand(5)
    real = torch.arange(12) < lengths[:, None]
    ids = torch.where(real, ids, tiny.PAD)
    padded = model(ids, t, attention_mask=real)["length"]
    packed = model.train()(ids, t, attention_mask=real)["length"]
    model.eval()
    for row, length in enumerate(lengths.tolist()):
        found = padded[row, : length + 1]
        torch.testing.assert_close(packed[row, : length + 1], found, rtol=1e-4, atol=1e-5)
        if not attend_to_padding:
            alone = model(ids[row : row + 1, :length], t[row : row + 1])["length"][0]
            torch.testing.assert_close(alone, found, rtol=1e-4, atol=1e-5)
    if head == "total":
        again = model(ids, t, attention_mask=real)
        assert not again["length"][:, 1:][~real].any()


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_a_head_gets_a_gradient(head):
    model = head_of(head).train()
    batch = FlexMDMCollator(model.config)(batch_items([9, 14, 5, 20]))
    losses = flexmdm_losses(model, batch, interpolant_of(model.config))
    (losses["insertion"] + losses["missing"]).sum().backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    heads = {
        name for name, _ in model.named_parameters() if name.startswith(("scalar_", "length_"))
    }
    assert heads and heads <= found


def test_an_unknown_head_is_refused():
    content = tiny.flexmdm().config.to_json()
    with pytest.raises(InputError, match="length_head is 'tanh', not one of 'log_rate'"):
        FlexMDMConfig.from_json({**content, "length_head": "tanh"})
    with pytest.raises(ValueError, match="length_head is 'tanh', not one of log_rate"):
        tiny.flexmdm(length_head="tanh")
