#!/usr/bin/env python
"""The cost of a sampler evaluation, and the number of evaluations per token.

    Four minutes on one core, up to 8 GB of memory:
        python scripts/benchmark_sampling.py
    The second table alone, two minutes:
        python scripts/benchmark_sampling.py --only evaluations
    One GPU, bfloat16; memory is then the GPU's:
        python scripts/benchmark_sampling.py --device cuda

First table: a network of d 256, 8 layers, vocabulary 126,464 with random weights; 4 prompts of 100
tokens; the insertion head is overridden by an oracle that knows of answers of 150 tokens. At 16
states spread over one trajectory of the event-driven sampler:
    plain     canvas of 1,024, logits and probabilities of the whole vocabulary at every position
    ours      the sampler's own step, everything included: canvas as long as the longest row, logits
              where masks compete
    compiled  ours with --torch_compile (with --compiled; the first step at each canvas length then
              compiles, and is not counted)
Memory: the process's peak minus its size once the model was ready. Each row of the table is a
process of its own.

Second table: evaluations per token for answers of 150 tokens, exact and approximate, and each
setting's distance from the truth: from an enumerable distribution over short strings
(tests/helpers/exact_posterior.py), total variation of 20,000 samples, next to pure sampling noise;
and from a distribution over lengths, 10 or 40 tokens with equal probability
(tests/helpers/length_law.py), of 5,000 samples: there, several events per evaluation do occur,
while short strings always have one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests/helpers")]
from benchmark_training import in_process, status_mib

from common.command_line import ArgumentParser
from common.errors import run
from common.gpu_memory import out_of_memory_advice

if TYPE_CHECKING:
    from torch import Tensor

    from llada_dit import LLaDADiT
    from sampling.results import GenerationResult

ROWS, PROMPT, ANSWER, CANVAS, STATES = 4, 100, 150, 1024, 16
VOCABULARY, MASK, PAD = 126464, 126336, 126081
SAMPLER: dict[str, Any] = dict(
    mask_id=MASK,
    pad_id=PAD,
    num_tokens=126349,
    max_length=CANVAS,
    sampler="event_driven",
    unmasking="confidence",
    confidence_method="prob_diff",
    use_sliding_window=True,
)
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {},
    "bound_inflation 2": {"bound_inflation": 2.0},
    "bound_inflation 1.25": {"bound_inflation": 1.25},
    "1.25, 2 events": {"bound_inflation": 1.25, "events_per_evaluation": 2},
    "1.25, 4 events": {"bound_inflation": 1.25, "events_per_evaluation": 4},
}


def network(device: str) -> LLaDADiT:
    """The first table's network, random weights; bfloat16 on a GPU, fp32 on a CPU."""
    import torch

    from llada_dit import LLaDADiT
    from network.config import FlexMDMConfig, LLaDAConfig

    backbone = LLaDAConfig(
        d_model=256,
        n_layers=8,
        n_heads=8,
        n_kv_heads=8,
        mlp_hidden_size=768,
        vocab_size=VOCABULARY,
        embedding_size=VOCABULARY,
        mask_token_id=MASK,
        pad_token_id=PAD,
        eos_token_id=PAD,
    )
    torch.manual_seed(0)
    model = LLaDADiT(
        FlexMDMConfig(
            backbone=backbone.to_json(), max_length=CANVAS, mask_token_id=MASK, pad_token_id=PAD
        )
    ).eval()
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


class Oracle:
    """The network's call with a `length` that knows the answer has ANSWER tokens. `states` are the
    inputs of the wanted evaluations, and with `ask` the network is asked there, only there."""

    supports_logits_mask = True

    def __init__(self, model: LLaDADiT, wanted: Collection[int] = (), ask: bool = True) -> None:
        self.model = model
        self.device = model.device
        self.config = model.config
        self.wanted = set(wanted)
        self.ask = ask
        self.calls = 0
        self.states: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(
        self,
        ids: Tensor,
        t: Tensor,
        attention_mask: Tensor | None = None,
        logits_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """{"logits" (masks, V), "length" (B, L+1)} of ids (B, L)."""
        import torch

        # the sampler always gives both
        assert attention_mask is not None and logits_mask is not None
        wanted = self.calls in self.wanted
        self.calls += 1
        if wanted:
            self.states.append((ids, t, attention_mask))
        if wanted and self.ask:
            output = self.model(ids, t, attention_mask=attention_mask, logits_mask=logits_mask)
        else:
            output = {
                "logits": (
                    torch.zeros(1, VOCABULARY, device=self.device).expand(
                        int(logits_mask.sum()), VOCABULARY
                    )
                )
            }
        have = attention_mask.sum(1, keepdim=True)
        gap = torch.arange(ids.shape[1] + 1, device=self.device)
        allowed = (gap >= PROMPT) & (gap <= have)
        output["length"] = (
            allowed / allowed.sum(1, keepdim=True) * (PROMPT + ANSWER - have).clamp(min=0)
        )
        return output


def generate(model: Any) -> GenerationResult:
    """One run of the event-driven sampler over the first table's prompts."""
    import torch

    from sampling.flexmdm import generate_flexmdm

    prompts = torch.randint(0, 1000, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1))
    return generate_flexmdm(model, prompts, seeds=torch.arange(ROWS), **SAMPLER)


def measure(way: str, device: str) -> dict[str, float]:
    """{"seconds" per evaluation, "mib", "positions" per evaluation} of one way, at the same 16
    states.
    """
    import torch

    from network.fast_blocks import compile_network
    from sampling import flexmdm as flexmdm_sampler

    clock = time.process_time if device == "cpu" else time.perf_counter
    model = network(device)
    counted = Oracle(model)
    generate(counted)  # how many evaluations the trajectory has
    wanted = torch.linspace(0, counted.calls - 1, STATES).long().tolist()
    if way == "compiled":
        compile_network(model)
    held = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else status_mib("VmRSS")
    seconds, whole_step = [], flexmdm_sampler.FlexMDMSampler._step

    def timed(sampler, live):
        chosen = oracle.calls in oracle.wanted
        begun = clock()
        whole_step(sampler, live)
        if device == "cuda":
            torch.cuda.synchronize()
        if chosen:
            seconds.append(clock() - begun)

    if way == "plain":
        oracle = Oracle(model, wanted, ask=False)  # the states alone
        generate(oracle)
        pad = torch.nn.functional.pad
        for ids, t, attention_mask in oracle.states:
            begun = clock()
            with torch.no_grad():
                extra = CANVAS - ids.shape[1]
                logits = model(
                    pad(ids, (0, extra), value=PAD),
                    t,
                    attention_mask=pad(attention_mask, (0, extra)),
                )["logits"]
                torch.softmax(logits, -1).max(-1)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - begun)
        positions: float = ROWS * CANVAS
    else:
        # steps are timed from outside
        flexmdm_sampler.FlexMDMSampler._step = timed  # type: ignore[method-assign]
        for _ in range(2 if way == "compiled" else 1):  # the first time compiles
            seconds.clear()
            oracle = Oracle(model, wanted)
            generate(oracle)
        positions = sum(ids.numel() for ids, _, _ in oracle.states) / len(oracle.states)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else status_mib("VmHWM")
    return {
        "seconds": sum(seconds) / len(seconds),
        "mib": peak - held,
        "positions": positions,
        "evaluations": counted.calls,
    }


def evaluations_table() -> None:
    """Print the second table."""
    import numpy as np
    import torch
    from exact_posterior import (
        MASK as SHORT_MASK,
    )
    from exact_posterior import (
        NUM_TOKENS,
        ExactPosterior,
        law_inputs,
        noise_quantile,
        random_lengths,
        total_variation,
    )
    from exact_posterior import (
        PAD as SHORT_PAD,
    )
    from length_law import TEN_OR_FORTY, distance_of_lengths, lengths_of

    from flexmdm_interpolant import LinearSchedule
    from sampling.flexmdm import generate_flexmdm_infilling

    rng = np.random.default_rng(0)
    contexts = random_lengths(rng)
    which, prefixes, suffixes = law_inputs(contexts, 20_000, rng)
    print(
        f"{'':<24}{'evaluations':>12}{'most':>7}{'mean':>8}{'distance':>10}{'noise':>8}"
        f"{'10 or 40':>10}"
    )
    print(
        f"{'':<24}{'a token':>12}{'a row':>7}{'length':>8}{'strings':>10}{'99.9 %':>8}"
        f"{'tokens':>10}"
    )
    for name, settings in SETTINGS.items():
        result, per_token = lengths_of(np.eye(ANSWER + 1)[ANSWER], 20, quiet=True, **settings)
        short = generate_flexmdm_infilling(
            ExactPosterior(contexts, LinearSchedule()),
            prefixes,
            suffixes,
            max_length=16,
            mask_id=SHORT_MASK,
            pad_id=SHORT_PAD,
            num_tokens=NUM_TOKENS,
            temperature=1.0,
            sampler="event_driven",
            generator=torch.Generator().manual_seed(3),
            **settings,
        )
        distance, judged = total_variation(contexts, which, short)
        lengths, _ = lengths_of(
            TEN_OR_FORTY, 5_000, quiet=True, generator=torch.Generator().manual_seed(4), **settings
        )
        print(
            f"{name:<24}{per_token:>12.2f}{int(result.evaluations.max()):>7}"
            f"{float(result.lengths.double().mean()):>8.1f}"
            f"{distance:>10.4f}{noise_quantile(judged, rng):>8.4f}"
            f"{distance_of_lengths(lengths, TEN_OR_FORTY):>10.4f}",
            flush=True,
        )


def make_parser() -> ArgumentParser:
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU cores")
    parser.add_argument("--only", choices=["cost", "evaluations"])
    parser.add_argument(
        "--compiled", action="store_true", help="also with torch.compile (needs a C++ compiler)"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser


@out_of_memory_advice("the sizes are fixed: it takes a larger GPU, or --device cpu")
def main() -> None:
    """Print the tables, or with --measure one row's numbers as JSON."""
    args = make_parser().parse_args()
    from network.devices import pick_device

    pick_device(args.device)
    if args.measure:
        import torch

        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.measure, args.device)))
        return
    if args.only != "evaluations":
        print(
            f"d 256, 8 layers, V 126,464, {ROWS} prompts of {PROMPT} tokens, answers of {ANSWER}:"
            f" {STATES} states of one trajectory, {args.device}"
        )
        print(
            f"{'':<12}{'s / evaluation':>16}{'positions':>11}{'peak MiB':>10}{'faster':>8}"
            f"{'memory':>8}"
        )
        for way in ["plain", "ours"] + ["compiled"] * args.compiled:
            found = in_process(__file__, args, way)
            if way == "plain":
                plain = found
            print(
                f"{way:<12}{found['seconds']:>16.3f}{found['positions']:>11.0f}"
                f"{found['mib']:>10.0f}{plain['seconds'] / found['seconds']:>7.1f}x"
                f"{found['mib'] / plain['mib']:>8.3f}",
                flush=True,
            )
        print(f"the trajectory has {found['evaluations']} evaluations; its slowest row decides")
    if args.only != "cost":
        evaluations_table()


if __name__ == "__main__":
    run(main)
