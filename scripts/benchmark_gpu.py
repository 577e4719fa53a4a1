#!/usr/bin/env python
"""Time LLaDA-8B's shapes with random weights on one GPU: training steps and sampling, beside the
card's limits and transformers' Llama.

    One 80 GB GPU, at most five minutes; writes results/gpu/benchmark_CARD.json:
        python scripts/benchmark_gpu.py
        python scripts/benchmark_gpu.py --only limits,sampling
    A tiny network, one minute, to check that everything runs:
        python scripts/benchmark_gpu.py --small --device cpu

limits      copy bandwidth and the rate of an 8,192^3 bf16 product, measured, for comparison with
            the other parts
training    FlexMDM, LoRA r 128 on q, k, v and the head, bf16 base: loss and gradients of one
            micro-batch. Tokens exclude padding; MFU counts 4 operations per frozen and 6 per
            trained weight and token (training/estimate.py), without recomputation
trainer     the same step in the training scripts' Trainer, its data, optimizer and log included;
            then steps of 60 rows in micro-batches of 16,384 tokens (--tokens_per_batch)
sampling    merged LoRA, bf16: one forward; then the event-driven sampler, 4 events per evaluation,
            and LLaDA's, prompts of 100 tokens and answers of 150. The insertion head is replaced by
            an oracle, so that answers have the intended length
float8      that forward with the blocks' matrices in float8 (torchao, Ada or later GPUs)
peer        transformers' Llama of the same shape: its forward, and its LoRA step through peft on as
            many tokens, as its own classes come
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from gpu_benchmark import references, sampling_speed, training_steps
from gpu_benchmark.bench import Bench
from gpu_runs import add_flags

from common.command_line import ArgumentParser
from common.errors import run

PARTS: dict[str, Callable[[Bench], None]] = {
    "limits": references.measure_limits,
    "training": training_steps.measure_training,
    "trainer": training_steps.measure_trainer,
    "sampling": sampling_speed.measure_sampling,
    "float8": sampling_speed.measure_float8,
    "peer": references.measure_peer,
}


def make_parser() -> ArgumentParser:
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    add_flags(parser, "benchmark", PARTS, device="cuda")
    parser.add_argument(
        "--small", action="store_true", help="a tiny network, to see that everything runs"
    )
    return parser


def main() -> None:
    """Measure the chosen parts; exit code 1 if one failed."""
    args = make_parser().parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    bench, failed = Bench(args.device, args.small, args.output), False
    print(", ".join(f"{key} {value}" for key, value in bench.facts.items()), flush=True)
    for part in args.only or PARTS:
        started = time.perf_counter()
        try:
            PARTS[part](bench)
        except Exception as error:  # the other parts are worth having all the same
            import traceback

            traceback.print_exc()
            failed = True
            bench.say(
                part,
                "failed",
                error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            )
        bench.forget()
        bench.torch._dynamo.reset()
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    if bench.output:
        print(f"wrote {bench.output}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
