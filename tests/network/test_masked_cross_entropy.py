"""The chunked loss and the packed training pass against the plain computation: float64 to 1e-6,
fp32 to 1e-4, LoRA on the head included.

Run: pytest tests/network/test_masked_cross_entropy.py
"""

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.noise_stream import NoiseStream
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses, interpolant_of
from llada_trainer import LLaDACollator, llada_losses
from network.cross_entropy import chunked_cross_entropy, cross_entropy
from network.lora import add_lora

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


def with_lora(model, dropout=0.0):
    """The same network with LoRA on q, k, v and head, nothing at zero, everything trainable."""
    torch.manual_seed(torch.randint(2**31, (1,)).item())
    backbone = model.backbone if hasattr(model, "backbone") else model
    add_lora(backbone, {"r": 3, "lora_alpha": 6, "lora_dropout": dropout})
    return tiny.stir(model).requires_grad_(True)


def close(found, wanted, dtype, name=""):
    error = (found - wanted).norm() / wanted.norm().clamp_min(1e-12)
    assert error < TOLERANCE[dtype] or wanted.norm() < 1e-9, (name, float(error))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("positions", [0, 1, 7, 50])
def test_chunked_loss_and_gradients_equal_the_unchunked_ones(positions, dtype, monkeypatch):
    """Seven positions a chunk, the last one short: loss, gradient of the hidden states, of LoRA,
    and of the head itself.
    """
    model = with_lora(tiny.llada()).to(dtype)
    monkeypatch.setattr("network.cross_entropy.CHUNK_BYTES", 7 * 4 * 60)
    hidden = torch.randn(positions, 32, dtype=dtype, requires_grad=True)
    targets, weights = torch.randint(0, 60, (positions,)), torch.rand(positions, dtype=dtype)
    found = []
    for losses in (
        lambda: chunked_cross_entropy(model.head, hidden, targets, 60),
        lambda: cross_entropy(model.head(hidden), targets),
    ):
        model.zero_grad()
        hidden.grad = None
        value = losses()
        assert value.shape == (positions,) and value.dtype == dtype
        (value * weights).sum().backward()
        found.append(
            {
                "loss": value.detach(),
                "hidden": hidden.grad.clone(),
                **{
                    name: parameter.grad.clone()
                    for name, parameter in model.named_parameters()
                    if "transformer.ff_out" in name
                },
            }
        )
    assert len(found[0]) == 5
    for name in found[0]:
        close(found[0][name], found[1][name], dtype, name)


def test_the_backward_pass_repeats_the_same_dropout(monkeypatch):
    """Chunks are computed twice; with dropout in LoRA the gradient must be that of the loss that
    was reported.
    """
    model = with_lora(tiny.llada(), dropout=0.5).double().train()
    monkeypatch.setattr("network.cross_entropy.CHUNK_BYTES", 7 * 4 * 60)
    hidden, targets = torch.randn(30, 32, dtype=torch.float64), torch.randint(0, 60, (30,))
    gradients = []
    for again in (True, False):
        torch.manual_seed(5)
        model.zero_grad()
        if again:
            losses = chunked_cross_entropy(model.head, hidden, targets, 60)
        else:
            losses = torch.cat(
                [
                    cross_entropy(model.head(part), target)
                    for part, target in zip(hidden.split(7), targets.split(7))
                ]
            )
        losses.sum().backward()
        gradients.append(
            [
                losses.detach(),
                *(
                    parameter.grad.clone()
                    for name, parameter in model.named_parameters()
                    if "transformer.ff_out" in name
                ),
            ]
        )
    for first, second in zip(*gradients):
        close(first, second, torch.float64)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_full_logits_are_never_materialised(monkeypatch):
    """Forward and backward of 200 positions, 10 a chunk: nothing is larger than the head's weight
    or one chunk's logits.
    """
    model = with_lora(tiny.llada(vocab_size=5000, embedding_size=5000))
    monkeypatch.setattr("network.cross_entropy.CHUNK_BYTES", 10 * 4 * 5000)
    hidden, targets = torch.randn(200, 32, requires_grad=True), torch.randint(0, 5000, (200,))
    with Largest() as seen:
        chunked_cross_entropy(model.head, hidden, targets, 5000).sum().backward()
    assert seen.elements == 5000 * 32 < 200 * 5000
    with Largest() as seen:
        cross_entropy(model.head(hidden), targets).sum().backward()
    assert seen.elements == 200 * 5000


def batches(kind, model):
    rows = [
        {"input_ids": torch.randint(0, 58, (n,)).tolist(), "prompt_length": 2}
        for n in (3, 31, 9, 17, 40)
    ]
    stream = NoiseStream(rows, 5, 1, torch.randint(2**31, (1,)).item(), shuffle=False)
    collate = (
        FlexMDMCollator(model.config) if kind == "flexmdm" else LLaDACollator(tiny.MASK, tiny.PAD)
    )
    return collate([stream[place] for place in range(5)])


def plain_losses(kind, model, batch):
    """Every row's loss from logits at every position, by a model in eval mode (nothing packed)."""
    masks, row = batch["mask_indices"], batch["mask_indices"].nonzero()[:, 0]

    class Plain(torch.nn.Module):
        def forward(self, *arguments, logits_mask, **more):
            output = model(*arguments, **more)
            if kind == "llada":
                return type("Output", (), {"logits": output.logits[logits_mask]})
            return {**output, "logits": output["logits"][logits_mask]}

    assert len(row) == masks.sum()
    return losses_of(kind, Plain(), model, batch)


def losses_of(kind, model, config_of, batch):
    if kind == "llada":
        return llada_losses(model, batch)
    losses = flexmdm_losses(model, batch, interpolant_of(config_of.config))
    return losses["unmask"] + losses["insertion"]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "fp32"])
@pytest.mark.parametrize("kind", ["flexmdm", "llada"])
def test_a_packed_training_step_equals_the_unpacked_one(kind, dtype, checkpointing, monkeypatch):
    """Trimmed, packed and chunked, with and without gradient checkpointing: losses of every row and
    the gradient of every parameter.
    """
    model = with_lora(tiny.flexmdm() if kind == "flexmdm" else tiny.llada()).to(dtype)
    monkeypatch.setattr("network.cross_entropy.CHUNK_BYTES", 7 * 4 * 60)
    if dtype == torch.float64:  # the parts that are fp32 by design stand in the way of 1e-6
        monkeypatch.setattr(
            torch.Tensor,
            "float",
            lambda self: self.double() if self.dtype != torch.bool else self.to(torch.float64),
        )
    batch = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in batches(kind, model).items()
    }
    found = []
    for way in ("ours", "plain"):
        model.zero_grad()
        if way == "ours":
            model.train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            losses = losses_of(kind, model, model, batch)
        else:
            losses = plain_losses(kind, model.eval(), batch)
        losses.sum().backward()
        found.append(
            {
                "loss": losses.detach(),
                **{
                    name: parameter.grad.clone()
                    for name, parameter in model.named_parameters()
                    if parameter.grad is not None
                },
            }
        )
    assert found[0].keys() == found[1].keys() and len(found[0]) > 30
    for name in found[0]:
        close(found[0][name], found[1][name], dtype, name)


def test_packed_rows_do_not_attend_to_each_other():
    """In training mode a row alone gives what it gives in a batch, and padding gives zeros."""
    model = tiny.flexmdm().train()
    ids = torch.randint(0, 57, (3, 11))
    lengths, t = torch.tensor([4, 11, 0]), torch.tensor([0.2, 0.9, 0.0])
    keep = torch.arange(11) < lengths[:, None]
    together = model(ids, t, attention_mask=keep)
    for row, n in enumerate(lengths.tolist()):
        alone = model(
            ids[row : row + 1, : max(n, 1)],
            t[row : row + 1],
            attention_mask=keep[row : row + 1, : max(n, 1)],
        )
        torch.testing.assert_close(
            together["logits"][row, :n], alone["logits"][0, :n], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            together["length"][row, : n + 1], alone["length"][0, : n + 1], rtol=1e-4, atol=1e-5
        )


def test_attention_never_falls_back_to_the_math_kernel():
    """With the key mask, a fused kernel must serve: with all others forbidden the training pass
    still runs.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = tiny.flexmdm().train()
    batch = batches("flexmdm", model)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        losses_of("flexmdm", model, model, batch).sum().backward()
