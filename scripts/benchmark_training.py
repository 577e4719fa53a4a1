#!/usr/bin/env python
"""The cost of a training step: CPU time and peak memory of ours against full logits at every
position, and tokens of x1 per second.

    Two minutes on one core, up to 12 GB of memory:
        python scripts/benchmark_training.py
    The throughput table alone:
        python scripts/benchmark_training.py --only table
    One GPU; memory is then the GPU's:
        python scripts/benchmark_training.py --device cuda

First, one step of d 256, 8 layers, vocabulary 126,464, LoRA r 128 on a batch of 4 x 1,024 of which
noising left 10, 475, 901 and 1,005 tokens:
    plain     padded to 1,024, logits (B, L, V) everywhere, cross-entropy everywhere, then masked
    ours      trimmed and packed (no padding in projections and MLPs), logits at masked positions
              only, chunk by chunk
    ours, gradient checkpointing
Then tokens of x1 per second at the quickstart's size (LLaDA-tiny-Base's config), steps of 32 rows
in micro-batches of 16.
Each measurement is a process of its own. Memory: peak resident size minus the size once the model
was ready.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from common.command_line import ArgumentParser
from common.errors import run
from common.gpu_memory import out_of_memory_advice

if TYPE_CHECKING:
    from torch import Tensor

    from llada_dit import LLaDADiT

LEFT = (10, 475, 901, 1005)
LENGTH = 1024


def status_mib(field: str) -> float:
    """A field of this process's status, as VmRSS or VmHWM, in MiB; nan where it is not there."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")


def build(width: int, layers: int, heads: int, mlp: int, vocabulary: int, device: str) -> LLaDADiT:
    """A FlexMDM with LoRA r 128 and random weights."""
    import torch

    from llada_utils import build_flexmdm
    from network.config import FlexMDMConfig, LLaDAConfig

    torch.manual_seed(0)
    backbone = LLaDAConfig(
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=heads,
        mlp_hidden_size=mlp,
        vocab_size=vocabulary,
        embedding_size=vocabulary,
        mask_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 2,
    )
    model = build_flexmdm(
        FlexMDMConfig(
            backbone=backbone.to_json(),
            mask_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 2,
            lora={"r": 128, "lora_alpha": 128, "lora_dropout": 0.0},
        )
    ).to_empty(device=device)
    for parameter in model.parameters():
        (
            torch.nn.init.normal_(parameter, std=0.02)
            if parameter.ndim > 1
            else torch.nn.init.ones_(parameter)
        )
    return model


def large_batch(vocabulary: int, device: str) -> dict[str, Tensor]:
    """The batch that Shows 2 names: 4 rows of 1,024, of which that many tokens are left; the share
    of masks among them is the linear pair's.
    """
    import torch

    torch.manual_seed(1)
    left = torch.tensor(LEFT)
    t = left / LENGTH  # (B,)
    masked = -(1 - t) * torch.log(1 - t) / t  # P(mask | kept)
    position = torch.arange(LENGTH)
    kept = position < left[:, None]
    masks = kept & (torch.rand(4, LENGTH) < masked[:, None])
    targets = torch.randint(0, vocabulary - 2, (4, LENGTH))
    xt = torch.where(kept, torch.where(masks, vocabulary - 1, targets), vocabulary - 2)
    gaps = torch.zeros(4, LENGTH + 1, dtype=torch.long)
    gaps[range(4), left] = LENGTH - left
    batch = {
        "input_ids": xt,
        "timesteps": t,
        "xt_length": left,
        "mask_indices": masks,
        "targets": targets,
        "gaps": gaps,
        "gaps_mask": torch.arange(LENGTH + 1) <= left[:, None],
    }
    return {name: value.to(device) for name, value in batch.items()}


def trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, cut to its longest row."""
    width = int(batch["xt_length"].max())
    return {
        name: value[:, : width + name.startswith("gaps")] if value.ndim == 2 else value
        for name, value in batch.items()
    }


def plain_step(model: LLaDADiT, batch: dict[str, Tensor]) -> Tensor:
    """Loss with logits at every position."""
    import torch

    from flexmdm_trainer import gap_loss, interpolant_of

    masks = batch["mask_indices"]
    keep = torch.arange(masks.shape[1], device=masks.device) < batch["xt_length"][:, None]
    output = model(batch["input_ids"], batch["timesteps"], attention_mask=keep)
    costs = torch.nn.functional.cross_entropy(
        output["logits"].float().transpose(1, 2), batch["targets"], reduction="none"
    )
    unmask_weight, insert_weight = interpolant_of(model.config).elbo_weight(
        batch["timesteps"], batch["input_ids"]
    )
    return (costs * unmask_weight * masks).sum() + (
        gap_loss(batch["gaps"], output["log_length"]) * insert_weight * batch["gaps_mask"]
    ).sum()


def our_step(model: LLaDADiT, batch: dict[str, Tensor]) -> Tensor:
    """Loss as the training scripts compute it."""
    from flexmdm_trainer import flexmdm_losses, interpolant_of

    losses = flexmdm_losses(model, batch, interpolant_of(model.config))
    return (losses["unmask"] + losses["insertion"]).sum()


def measure_step(way: str, device: str) -> dict[str, float]:
    """Seconds, MiB, loss, norm of the gradients and number of masks of one step on the large batch.
    way: plain, ours, or "ours, gradient checkpointing".
    """
    import torch

    model = build(256, 8, 8, 768, 126464, device)
    batch = large_batch(126464, device)
    if way == "plain":
        model.eval()  # training mode would pack; there is no dropout
    else:
        model.train()
        batch = trimmed(batch)
        if "checkpointing" in way:
            model.gradient_checkpointing_enable()
    before = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else status_mib("VmRSS")
    started = time.process_time() if device == "cpu" else time.perf_counter()
    loss = (plain_step if way == "plain" else our_step)(model, batch)
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.process_time() if device == "cpu" else time.perf_counter()) - started
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else status_mib("VmHWM")
    norm = torch.stack(
        [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    ).norm()
    return {
        "seconds": seconds,
        "mib": peak - before,
        "loss": loss.item(),
        "gradient_norm": float(norm),
        "masks": int(batch["mask_indices"].sum()),
    }


def measure_table(way: str, device: str) -> dict[str, float]:
    """Tokens of x1 a CPU second over some steps of 32 rows of 40 to 160 tokens, at the tiny base's
    size.
    """
    import numpy as np
    import torch

    from data.noise_stream import NoiseStream
    from flexmdm_trainer import FlexMDMCollator

    model = build(128, 5, 4, 352, 1024, device)
    model.train() if way == "ours" else model.eval()
    random = np.random.default_rng(0)
    rows = [
        {"input_ids": random.integers(0, 1000, random.integers(40, 161)).tolist()}
        for _ in range(320)
    ]
    model.config.max_length = 160
    collate = FlexMDMCollator(model.config)
    stream = NoiseStream(rows, 32, 8, seed=0, expected_cost=collate.expected_cost)
    batches = [
        collate([stream[start + place] for place in range(16)]) for start in range(0, 8 * 32, 16)
    ]
    if way == "plain":
        pad = torch.nn.functional.pad
        for batch in batches:
            extra = 160 - batch["input_ids"].shape[1]
            batch["input_ids"] = pad(
                batch["input_ids"], (0, extra), value=model.config.pad_token_id
            )
            for name in ("mask_indices", "targets", "gaps", "gaps_mask"):
                batch[name] = pad(batch[name], (0, extra))
    batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], fused=True
    )
    tokens, clock = 0, time.process_time if device == "cpu" else time.perf_counter
    for number, batch in enumerate(batches):
        if number == 4:  # two steps to warm up
            started = clock()
        (plain_step if way == "plain" else our_step)(model, batch).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
        tokens += int(batch["x1_length"].sum()) if number >= 4 else 0
    if device == "cuda":
        torch.cuda.synchronize()
    return {"tokens_per_second": tokens / (clock() - started)}


def in_process(script: str, args: argparse.Namespace, *what: str) -> dict[str, Any]:
    """What a benchmark script prints for `--measure WHAT...`, in a process of its own."""
    words = [
        sys.executable,
        script,
        "--measure",
        *what,
        "--device",
        args.device,
        "--threads",
        str(args.threads),
    ]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return json.loads(done.stdout.splitlines()[-1])


def make_parser() -> ArgumentParser:
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU cores")
    parser.add_argument("--only", choices=["step", "table"])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    return parser


@out_of_memory_advice("the sizes are fixed: it takes a larger GPU, or --device cpu")
def main() -> None:
    """Print the tables, or with --measure one process's numbers as JSON."""
    args = make_parser().parse_args()
    from network.devices import pick_device

    pick_device(args.device)
    if args.measure:
        import torch

        torch.set_num_threads(args.threads)
        print(
            json.dumps(
                {"step": measure_step, "table": measure_table}[args.measure[0]](
                    args.measure[1], args.device
                )
            )
        )
        return
    if args.only != "table":
        found = {
            way: in_process(__file__, args, "step", way)
            for way in ("plain", "ours", "ours, gradient checkpointing")
        }
        plain = found["plain"]
        print(
            f"one step, d 256, 8 layers, V 126,464, batch 4 x 1,024 with {LEFT} tokens left,"
            f" {plain['masks']} masks, {args.device}"
        )
        print(
            f"{'':<32}{'CPU seconds' if args.device == 'cpu' else 'seconds':>12}{'peak MiB':>10}"
            f"{'faster':>8}{'memory':>8}{'loss':>12}{'|gradient|':>13}"
        )
        for way, each in found.items():
            print(
                f"{way:<32}{each['seconds']:>12.2f}{each['mib']:>10.0f}"
                f"{plain['seconds'] / each['seconds']:>7.1f}x{each['mib'] / plain['mib']:>8.2f}"
                f"{each['loss']:>12.3f}{each['gradient_norm']:>13.5g}"
            )
    if args.only != "step":
        print(
            "tokens of x1 per second, d 128, 5 layers, V 1,024, LoRA r 128, steps of 2 x 16 rows of"
            " 40 to 160 tokens"
        )
        for way, what in {
            "plain": "padded to 160, full logits",
            "trimmed": "trimmed, logits at masks",
            "ours": "trimmed and packed, logits at masks",
        }.items():
            print(
                f"{what:<40}{in_process(__file__, args, 'table', way)['tokens_per_second']:>10,.0f}"
            )


if __name__ == "__main__":
    run(main)
