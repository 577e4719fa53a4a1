"""Both losses: golden numbers and gradients of the original code, exact posteriors as minimisers,
float64, batch independence.

Run: FLEXMDM_GOLDEN=... pytest tests/network/test_losses.py
"""

import itertools
import json

import numpy as np
import pytest
import tiny
import torch

from data.noise_stream import NoiseStream
from flexmdm_interpolant import (
    AnyOrderMaskInsertionInterpolant,
    GeometricSchedule,
    LinearSchedule,
    PowerSchedule,
)
from flexmdm_trainer import FlexMDMCollator, flexmdm_losses, gap_loss, interpolant_of
from llada_trainer import LLaDACollator, llada_losses
from llada_utils import load_flexmdm
from network.cross_entropy import cross_entropy


class Fixed(torch.nn.Module):
    """A "network" that answers with given logits (B, L, V) and log lengths, through the network's
    call.
    """

    def __init__(self, logits, log_length):
        super().__init__()
        self.logits, self.log_length = logits, log_length

    def forward(self, input_ids, timesteps, attention_mask=None, logits_mask=None):
        return {
            "logits": self.logits[logits_mask],
            "length": self.log_length.exp(),
            "log_length": self.log_length,
        }


def golden_batch(numbers):
    gaps_mask = numbers["gaps_mask"]
    return {
        "input_ids": numbers["xt"],
        "timesteps": numbers["t"],
        "xt_length": numbers["xt_length"],
        "x1_length": numbers["x1_length"],
        "mask_indices": numbers["mask_indices"],
        "targets": numbers["unmasked"],
        "gaps": numbers["gaps"],
        "gaps_mask": gaps_mask,
    }


GOLDEN_LAW = AnyOrderMaskInsertionInterpolant(
    GeometricSchedule(10.0, 0.01), LinearSchedule(), 300, 298, 299, 1024
)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_golden_loss_and_gradients(golden, accumulation):
    """Given logits and lengths; the sum is divided by rows x 1024, and by the accumulation
    steps.
    """
    batch = golden_batch(golden("flexmdm_tiny/interpolant.safetensors"))
    numbers = golden("flexmdm_tiny/loss_arithmetic.safetensors")
    logits, length = numbers["logits"].requires_grad_(), numbers["length"].requires_grad_()
    losses = flexmdm_losses(Fixed(logits, length.log()), batch, GOLDEN_LAW)
    unmask, insertion = (losses[name].sum() / (4 * 1024) for name in ("unmask", "insertion"))
    # 1e-4: the paper's code adds 1e-6 to 1 - beta in the unmasking weight
    torch.testing.assert_close(
        unmask, numbers[f"ga{accumulation}.unmask_loss"][0], rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        insertion, numbers[f"ga{accumulation}.insertion_loss"][0], rtol=1e-4, atol=0
    )
    loss = (unmask + insertion) / accumulation
    torch.testing.assert_close(loss, numbers[f"ga{accumulation}.loss"][0], rtol=1e-4, atol=0)
    if accumulation == 1:
        loss.backward()
        torch.testing.assert_close(logits.grad, numbers["ga1.dlogits"], rtol=1e-4, atol=1e-9)
        # The paper's code adds 1e-6 to the true gap inside its log, which changes the slope by
        # weight x 1e-6 / y: visible only below y = 0.01. Where the given length is exactly 0, the
        # gradient is cut off in both.
        y, want = length.detach(), numbers["ga1.dlength"]
        weight = GOLDEN_LAW.insertion_schedule.rate_scale_factor(batch["timesteps"])[:, None] / 4096
        allowed = 1e-4 * want.abs() + 1.01e-6 * weight / y
        assert ((length.grad - want).abs()[y > 0] <= allowed[y > 0]).all()


def test_golden_end_to_end_gradients(golden, golden_dir, tmp_path):
    """Wrapper and loss together: the gradient of every trainable tensor (LoRA, AdaLN, time,
    insertion head), dropout 0.
    """
    backbone = json.loads((golden_dir / "flexmdm_tiny/config.json").read_text())["backbone"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llada", **backbone}))
    # eval mode: no dropout
    model = load_flexmdm(golden_dir / "flexmdm_tiny", base=tmp_path, lora_alpha=6, merge=False)
    numbers = golden("flexmdm_tiny/grads_end_to_end.safetensors")
    batch = golden_batch(golden("flexmdm_tiny/interpolant.safetensors"))
    losses = flexmdm_losses(model, batch, GOLDEN_LAW)
    loss = (losses["unmask"] + losses["insertion"]).sum() / (4 * 1024)
    torch.testing.assert_close(loss, numbers["__loss"][0], rtol=1e-4, atol=0)
    loss.backward()
    prefix, checked = "backbone.base_model.model.model.transformer.", set()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, want in numbers.items():
        if name.startswith("__"):
            continue
        ours = name.replace(prefix, "backbone.model.transformer.")
        if ".temb_mod." in name:
            block = int(name.split(".blocks.")[1].split(".")[0])
            ours = f"temb_mods.{block // 8}.{name.rsplit('.', 1)[1]}"
        scale = want.abs().max()
        torch.testing.assert_close(
            parameters[ours].grad,
            want,
            rtol=1e-4,
            atol=1e-4 * float(scale),
            msg=lambda m, n=name: f"{n}: {m}",
        )
        checked.add(ours)
    assert checked == set(parameters)


# ---- the loss is least at the exact posterior, found by enumerating every alignment

LAW = {(1, 2, 3): 0.3, (1, 3): 0.25, (2,): 0.1, (): 0.1, (3, 3, 1, 2): 0.25}


def exact_posterior(xt, insertion, t, vocab):
    """(p(x1[st[i]] = v | xt, t) (m, vocab), E[gaps | xt, t] (m + 1,)) by brute force over x1 and
    alignments, in float64.
    """
    deleted = 1 - float(insertion.at(torch.tensor(t, dtype=torch.float64)))
    m, total = len(xt), 0.0
    tokens, gaps = np.zeros((m, vocab)), np.zeros(m + 1)
    for x1, p in LAW.items():
        for st in itertools.combinations(range(len(x1)), m):
            if all(xt[i] == tiny.MASK or xt[i] == x1[st[i]] for i in range(m)):
                weight = p * deleted ** (len(x1) - m)
                total += weight
                gaps += weight * (np.diff([-1, *st, len(x1)]) - 1)
                for i in range(m):
                    tokens[i, x1[st[i]]] += weight
    return tokens / total, gaps / total


@pytest.mark.parametrize(
    "insertion",
    [LinearSchedule(), PowerSchedule(2.0), GeometricSchedule(10.0, 0.01)],
    ids=["linear", "power", "geometric"],
)
def test_exact_posterior_is_the_minimiser(insertion):
    """Every perturbation of the exact posterior costs more, by a margin far above its own sampling
    error.
    """
    law = AnyOrderMaskInsertionInterpolant(insertion, LinearSchedule(), 5, tiny.MASK, tiny.PAD, 8)
    rows, strings = 3000, list(LAW)
    drawn = np.random.default_rng(torch.randint(2**31, (1,)).item()).choice(
        len(strings), rows, p=list(LAW.values())
    )
    x1 = torch.full((rows, 4), tiny.PAD)
    for row, index in enumerate(drawn):
        x1[row, : len(strings[index])] = torch.tensor(strings[index], dtype=torch.long)
    t = torch.full((rows,), 0.5, dtype=torch.float64)
    result = law.sample_interpolant(
        t,
        x1,
        torch.zeros_like(x1, dtype=torch.bool),
        torch.tensor([len(strings[i]) for i in drawn]),
    )
    gaps, gaps_mask = result.gaps_and_mask
    p = torch.zeros(rows, 4, 5, dtype=torch.float64)
    g = torch.full((rows, 5), 1.0, dtype=torch.float64)
    known = {}
    for row in range(rows):
        state = tuple(result.xt[row, : int(result.xt_length[row])].tolist())
        if state not in known:
            known[state] = [
                torch.from_numpy(part) for part in exact_posterior(state, insertion, 0.5, 5)
            ]
        p[row, : len(state)], g[row, : len(state) + 1] = known[state]
    batch = {
        "input_ids": result.xt,
        "timesteps": t,
        "xt_length": result.xt_length,
        "mask_indices": result.mask_indices,
        "targets": result.unmasked,
        "gaps": gaps,
        "gaps_mask": gaps_mask,
    }

    def loss(p, g):
        losses = flexmdm_losses(
            Fixed(p.clamp_min(1e-30).log(), g.clamp_min(1e-6).log()), batch, law
        )
        return losses["unmask"] + losses["insertion"]

    best = loss(p, g)
    uniform = torch.full_like(p, 1 / 5)
    changes = {
        "lengths x 1.5": (p, g * 1.5),
        "lengths / 1.5": (p, g / 1.5),
        "lengths + 0.2": (p, g + 0.2),
        "tokens flatter": (0.8 * p + 0.2 * uniform, g),
        "tokens sharper": (p**3 / (p**3).sum(-1, keepdim=True).clamp_min(1e-30), g),
        "another time": tuple(
            torch.stack(
                [
                    known_at(result.xt[r, : int(result.xt_length[r])], insertion)[k]
                    for r in range(rows)
                ]
            )
            for k in (0, 1)
        ),
    }
    for name, (other_p, other_g) in changes.items():
        worse = loss(other_p, other_g) - best  # paired: the same draws
        assert worse.mean() > 4 * worse.std() / rows**0.5, name


def known_at(state, insertion, t=0.75, cache={}):
    key = (tuple(state.tolist()), type(insertion).__name__)
    if key not in cache:
        p, g = exact_posterior(key[0], insertion, t, 5)
        cache[key] = (torch.zeros(4, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
        cache[key][0][: len(p)], cache[key][1][: len(g)] = torch.from_numpy(p), torch.from_numpy(g)
    return cache[key]


def test_loss_terms_against_float64():
    gaps = torch.randint(0, 40, (200,))
    gaps[:50] = 0
    log_length = torch.randn(200) * 3
    want = (
        log_length.double().exp()
        - gaps
        + torch.where(
            gaps > 0, gaps * (gaps.double().clamp_min(1).log() - log_length.double()), 0.0
        )
    )
    torch.testing.assert_close(gap_loss(gaps, log_length).double(), want, rtol=1e-4, atol=1e-4)
    assert (gap_loss(gaps, log_length) >= -1e-4).all()
    torch.testing.assert_close(
        gap_loss(torch.zeros(50), log_length[:50]), log_length[:50].exp(), rtol=1e-6, atol=0
    )
    wide = log_length.double().requires_grad_()
    narrow = log_length.clone().requires_grad_()
    (wide.exp() - gaps * wide).sum().backward()
    gap_loss(gaps, narrow).sum().backward()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)
    logits, targets = torch.randn(64, 300) * 5, torch.randint(0, 300, (64,))
    exact = torch.logsumexp(logits.double(), -1) - logits.double()[torch.arange(64), targets]
    torch.testing.assert_close(cross_entropy(logits, targets).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["log_rate", "total"])
def test_loss_gradient_against_float64(head):
    """The whole step in fp32 (network and loss) against the same step in float64."""
    model = tiny.flexmdm(length_head=head, length_distribution=9 * (head == "total"))
    items = batch_items([9, 14, 5, 20])
    batch = FlexMDMCollator(model.config)(items)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        model.zero_grad()
        moved = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in batch.items()
        }
        losses = flexmdm_losses(model, moved, interpolant_of(model.config))
        sum(
            losses[name].sum() for name in ("unmask", "insertion", "missing") if name in losses
        ).backward()
        gradients.append({name: p.grad.double().clone() for name, p in model.named_parameters()})
    for name, exact in gradients[1].items():
        error = (gradients[0][name] - exact).norm() / exact.norm().clamp_min(1e-12)
        assert error < 1e-3 or exact.norm() < 1e-4, (name, float(error))


# ---- collators


def batch_items(lengths, prompt=0, seed=None):
    rows = [
        {"input_ids": torch.randint(0, 58, (n,)).tolist(), "prompt_length": min(prompt, n)}
        for n in lengths
    ]
    stream = NoiseStream(
        rows,
        len(rows),
        1,
        torch.randint(2**31, (1,)).item() if seed is None else seed,
        shuffle=False,
    )
    return [stream[index] for index in range(len(rows))]


def test_flexmdm_rows_do_not_depend_on_the_batch():
    """xt and both loss terms of a row: alone, and in a batch of odd lengths."""
    model = tiny.flexmdm(insertion_schedule={"name": "power", "p": 1.5})
    collate = FlexMDMCollator(model.config)
    items = batch_items([3, 31, 1, 17, 8], prompt=4)
    fresh = lambda row: dict(items[row], random=np.random.default_rng(row))
    together = collate([fresh(row) for row in range(5)])
    losses = flexmdm_losses(model, together, collate.interpolant)
    for row in range(5):
        alone = collate([fresh(row)])
        n = int(alone["xt_length"])
        assert torch.equal(alone["input_ids"][0, :n], together["input_ids"][row, :n])
        one = flexmdm_losses(model, alone, collate.interpolant)
        for name in ("unmask", "insertion"):
            torch.testing.assert_close(one[name][0], losses[name][row], rtol=1e-4, atol=1e-5)


def test_llada_rows():
    """Fill belongs to the answer, padding does not; prompts are never masked; a row alone costs
    what it costs in a batch.
    """
    fill = LLaDACollator(tiny.MASK, tiny.PAD, fill_length=24)
    torch.manual_seed(5)
    batch = fill(batch_items([10, 5, 20], prompt=4, seed=1))
    assert batch["input_ids"].shape == (3, 24) and batch["attention_mask"].all()
    assert not batch["mask_indices"][:, :4].any()
    assert ((batch["input_ids"] == tiny.MASK) == batch["mask_indices"]).all()
    many = fill(batch_items([6] * 400, prompt=4, seed=2))
    # also over the 18 filled positions
    share = many["mask_indices"][:, 4:].double().mean(1) - many["mask_ratio"]
    assert abs(share.mean()) < 4 * share.std() / 20 and many["mask_indices"][:, 10:].any()
    pad = LLaDACollator(tiny.MASK, tiny.PAD)
    model = tiny.llada()
    items = batch_items([10, 5, 20], seed=3)
    padded = pad([dict(item, random=np.random.default_rng(row)) for row, item in enumerate(items)])
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    assert (
        torch.equal(padded["attention_mask"].sum(1), lengths)
        and not (padded["mask_indices"] & ~padded["attention_mask"]).any()
    )
    together = llada_losses(model, padded)
    for row, item in enumerate(items):
        alone = llada_losses(model, pad([dict(item, random=np.random.default_rng(row))]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_llada_loss_is_a_bound_in_expectation():
    """E over the mask ratio of the loss of the true independent marginals is sum of their
    entropies: 1/r cancels the masking.
    """
    rows, length = 20000, 4
    p = torch.tensor([0.7, 0.2, 0.1])
    ids = torch.multinomial(p, rows * length, replacement=True).view(rows, length)
    items = [
        {
            "input_ids": row.numpy(),
            "prompt_length": 0,
            "time_uniform": (i + 0.5) / rows,
            "random": np.random.default_rng((9, i)),
        }
        for i, row in enumerate(ids)
    ]
    batch = LLaDACollator(tiny.MASK, tiny.PAD)(items)

    class Marginals(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None, logits_mask=None):
            return type("Output", (), {"logits": p.log().expand(int(logits_mask.sum()), 3)})

    losses = llada_losses(Marginals(), batch)
    entropy = -(p * p.log()).sum() * length
    # mask ratios start at 1e-3, so the bound is exact: every token is masked with probability r and
    # weighted 1/r
    assert abs(losses.mean() - entropy) < 4 * losses.std() / rows**0.5


def test_noise_stream_is_a_function_of_seed_step_and_sample():
    rows = [
        {"input_ids": list(range(n)), "prompt_length": 0}
        for n in torch.randint(1, 40, (37,)).tolist()
    ]
    stream = NoiseStream(rows, 8, 20, seed=11)
    seen = []
    for step in range(20):
        items = [stream[step * 8 + place] for place in range(8)]
        lengths = [len(item["input_ids"]) for item in items]
        assert lengths == sorted(lengths)  # dealt by length
        strata = sorted(int(item["time_uniform"] * 8) for item in items)
        assert strata == list(range(8))  # one time in every stratum of the global batch
        seen += lengths
    again = NoiseStream(rows, 8, 20, seed=11)
    for index in (0, 77, 159, 3):
        a, b = stream[index], again[index]
        assert a["time_uniform"] == b["time_uniform"] and (a["input_ids"] == b["input_ids"]).all()
        assert (a["random"].random(5) == b["random"].random(5)).all()
    other = NoiseStream(rows, 8, 20, seed=12)
    assert any(other[index]["time_uniform"] != stream[index]["time_uniform"] for index in range(8))
    # 4 whole epochs
    counts = np.bincount([len(stream[i]["input_ids"]) for i in range(148)], minlength=40)
    want = 4 * np.bincount([len(row["input_ids"]) for row in rows], minlength=40)
    # the last step straddles its epoch
    assert counts.sum() == want.sum() == 148 and np.abs(counts - want).sum() <= 16
