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

import argparse
import gc
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from common.errors import InputError, run
from common.files import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FULL: dict[str, Any] = dict(
    d_model=4096, n_layers=32, n_heads=32, mlp_hidden_size=12288, vocab_size=126464
)
TINY: dict[str, Any] = dict(d_model=64, n_layers=2, n_heads=4, mlp_hidden_size=128, vocab_size=1000)
LORA = {"r": 128, "lora_alpha": 128, "lora_dropout": 0.0}
PROMPT, ANSWER, CANVAS = 100, 150, 1024
PARTS = ("limits", "training", "trainer", "sampling", "float8", "peer")


def card(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: the card, its driver, the versions."""
    import peft
    import torch
    import transformers

    facts: dict[str, Any] = {
        "card": platform.processor() or "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        facts |= {
            "card": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "driver": asked.stdout.strip().splitlines()[0],
        }
    return facts


class Bench:
    """Device, sizes and results of one run; every part writes what it found at once."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        from network.devices import pick_device

        self.torch, self.device, self.small = torch, pick_device(args.device), args.small
        self.size, self.output = (TINY if args.small else FULL), args.output
        self.vocabulary = self.size["vocab_size"]
        self.ids = dict(
            mask_id=self.vocabulary - 1, pad_id=self.vocabulary - 2, num_tokens=self.vocabulary - 2
        )
        self.facts = card(self.device)
        self.results: list[dict[str, Any]] = []
        self.limits: dict[str, float] = {}
        self.flops_forward = 0  # a token's, in the network that say_forward is given
        if self.output is None and self.device.type == "cuda" and not args.small:
            self.output = (
                ROOT / "results/gpu" / f"benchmark_{self.facts['card'].replace(' ', '_')}.json"
            )

    def sync(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, function: Callable[[], object], repeat: int = 5, warm: int = 2) -> float:
        """Median seconds of a call, over `repeat` calls after `warm` that are not counted."""
        for _ in range(warm):
            function()
        times = []
        for _ in range(1 if self.small else repeat):
            self.sync()
            started = time.perf_counter()
            function()
            self.sync()
            times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 2]

    def forget(self) -> None:
        """Free what is no longer used, and let the peak of memory begin anew."""
        gc.collect()
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """Largest GPU memory since forget(), in GiB; nan on a CPU."""
        return (
            self.torch.cuda.max_memory_allocated() / 2**30
            if self.device.type == "cuda"
            else float("nan")
        )

    def say(self, part: str, name: str, **values: Any) -> None:
        """Print one measurement and write all so far; numbers to four digits, nan left out."""
        values = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in values.items()
            if value == value
        }
        self.results.append({"part": part, "name": name, **values})
        print(
            f"{part:<9} {name:<58} " + "  ".join(f"{key} {value}" for key, value in values.items()),
            flush=True,
        )
        if self.output:
            Path(self.output).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.output, {**self.facts, "limits": self.limits, "results": self.results})

    # ---- models and batches

    def fill(self, model: nn.Module, base_dtype: torch.dtype) -> nn.Module:
        """Random numbers for a model built on the meta device: base in base_dtype, everything that
        trains in fp32.
        """
        torch = self.torch
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    made = torch.empty_like(
                        parameter,
                        dtype=torch.float32 if parameter.requires_grad else base_dtype,
                        device=self.device,
                    )
                    (
                        made.normal_(std=0.02)
                        if made.ndim > 1
                        else made.fill_(1.0 if "weight" in name else 0.0)
                    )
                    module._parameters[name] = torch.nn.Parameter(
                        made, requires_grad=parameter.requires_grad
                    )
        return model

    def flexmdm(self, lora: dict[str, Any] | None = None) -> Any:
        """A FlexMDM with random weights, on the device; without lora everything but the newly
        initialised modules is frozen.
        """
        from llada_utils import build_flexmdm
        from network.config import FlexMDMConfig, LLaDAConfig

        v, size = self.vocabulary, self.size
        backbone = LLaDAConfig(
            **size,
            n_kv_heads=size["n_heads"],
            embedding_size=v,
            mask_token_id=v - 1,
            pad_token_id=v - 2,
            eos_token_id=v - 2,
        )
        model = build_flexmdm(
            FlexMDMConfig(
                backbone=backbone.to_json(),
                mask_token_id=v - 1,
                pad_token_id=v - 2,
                lora=lora,
                max_length=CANVAS,
            )
        )
        if lora is None:
            model.backbone.requires_grad_(False)
        return self.fill(model, self.torch.bfloat16)

    def batch(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """Rows of CANVAS tokens of which noising left that many, as FlexMDMCollator gives them; the
        share of masks is the linear schedules'.
        """
        torch, v = self.torch, self.vocabulary
        random = torch.Generator().manual_seed(1)
        left = torch.tensor(lengths)
        width, t = int(left.max()), left / CANVAS
        masked = torch.where(t < 1, -(1 - t) * torch.log1p(-t) / t, 0.0)  # P(mask | kept)
        kept = torch.arange(width) < left[:, None]
        masks = kept & (torch.rand(len(left), width, generator=random) < masked[:, None])
        targets = torch.randint(0, v - 2, (len(left), width), generator=random)
        gaps = torch.zeros(len(left), width + 1, dtype=torch.long).scatter(
            1, left[:, None], (CANVAS - left)[:, None]
        )
        gaps_mask = torch.arange(width + 1) <= left[:, None]
        batch = {
            "input_ids": torch.where(kept, torch.where(masks, v - 1, targets), v - 2),
            "timesteps": t.clamp(max=0.999),
            "xt_length": left,
            "mask_indices": masks,
            "targets": targets,
            "gaps": gaps,
            "gaps_mask": gaps_mask,
            "mask_places": masks.flatten().nonzero()[:, 0],
            "token_places": gaps_mask.flatten().nonzero()[:, 0],
        }
        return {name: value.to(self.device) for name, value in batch.items()}

    def batches(self) -> dict[str, tuple[int, ...]]:
        """{name: lengths}: the small micro-batch of earlier measurements, and one of 16,384
        tokens.
        """
        if self.small:
            return {"2 rows": (3, 20), "4 rows": (5, 10, 15, 20)}
        return {
            "4 x 1,024, 2,391 tokens": (10, 475, 901, 1005),
            "32 x 1,024, 16,384 tokens": tuple(range(16, 1024, 32)),
        }


def measure_limits(bench: Bench) -> None:
    """Copy bandwidth and rate of a matrix product."""
    torch = bench.torch
    size, side = (2**20, 256) if bench.small else (2**31, 8192)
    x = torch.empty(size, dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    copy = 2 * size / bench.seconds(lambda: y.copy_(x), 10)
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * side**3 / bench.seconds(lambda: a @ b, 10)
    bench.limits = {"copy_bytes_per_second": copy, "matmul_flops_per_second": rate}
    bench.say("limits", "copy, matrix product", TB_per_s=copy / 1e12, TFLOP_per_s=rate / 1e12)


def step_of(bench: Bench, model: Any, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A call that computes a batch's loss and gradients."""
    from flexmdm_trainer import flexmdm_losses, interpolant_of

    law, torch = interpolant_of(model.config), bench.torch

    def step():
        model.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16):
            losses = flexmdm_losses(model, batch, law)
        ((losses["unmask"] + losses["insertion"]).sum() / CANVAS).backward()

    return step


def say_training(
    bench: Bench,
    part: str,
    name: str,
    step: Callable[[], None],
    tokens: int,
    flops: float,
    warm: int = 2,
) -> float | None:
    """Time a step of that many tokens, `flops` each. Returns seconds, or None if memory ran out."""
    from training.estimate import peak_flops

    bench.forget()
    try:
        seconds = bench.seconds(step, 5, warm)
    except bench.torch.OutOfMemoryError:
        bench.say(part, name, out_of_memory=True)
        return None
    peak = peak_flops(bench.device)
    bench.say(
        part,
        name,
        ms=seconds * 1e3,
        tokens_per_second=tokens / seconds,
        mfu=tokens * flops / seconds / peak if peak else float("nan"),
        peak_GiB=bench.peak_gib(),
    )
    return seconds


def checkpoint_every(model: Any, layers: int) -> None:
    """Gradient checkpointing of every so many blocks, 0: of none."""
    model.gradient_checkpointing_disable()
    if layers:
        model.gradient_checkpointing_enable()
        for index, block in enumerate(model.backbone.model.transformer.blocks):
            block.gradient_checkpointing = index % layers == 0


def measure_training(bench: Bench) -> None:
    """Loss and gradients, eager and compiled, with and without gradient checkpointing."""
    from network.fast_blocks import compile_network
    from training.estimate import flops_per_token

    model = bench.flexmdm(LORA).train()
    flops = flops_per_token(model)
    (small, large), sizes = bench.batches().items(), {}
    for compiled in (False, True):
        if compiled:
            compile_network(model)
        for (name, lengths), layers in ((small, 0), (small, 1), (large, 1), (large, 2), (large, 4)):
            if not compiled and (name, layers) not in ((small[0], 0), (small[0], 1), (large[0], 1)):
                continue
            checkpoint_every(model, layers)
            kept = {0: "", 1: ", checkpointing"}.get(layers, f", checkpointing every {layers}")
            title = f"{name}{kept}{', compiled' if compiled else ''}"
            seconds = say_training(
                bench,
                "training",
                title,
                step_of(bench, model, bench.batch(lengths)),
                sum(lengths),
                flops,
                3 if compiled else 2,
            )
            sizes[title] = seconds
    model.zero_grad(set_to_none=True)


def measure_trainer(bench: Bench) -> None:
    """The training scripts' Trainer, with a fixed number of rows and with a token budget."""
    from network.fast_blocks import compile_network

    model = bench.flexmdm(LORA).train()
    compile_network(model)
    for rows, steps, budget in (
        ((4, 3, None), (8, 3, 50)) if bench.small else ((8, 12, None), (60, 6, 16384))
    ):
        say_trainer(bench, model, rows, steps, budget)


def say_trainer(bench: Bench, model: Any, step_rows: int, steps: int, budget: int | None) -> None:
    """The Trainer over random rows, and the micro-batches of its steps alone: what data, optimizer,
    log and skipping cost.
    """
    import numpy as np

    from data.noise_stream import NoiseStream
    from flexmdm_trainer import FlexMDMCollator, FlexMDMTrainer
    from training.arguments import RunArguments
    from training.estimate import flops_per_token
    from training.micro_batches import collate_micro_batches

    random, length = np.random.default_rng(0), 20 if bench.small else CANVAS
    rows = [{"input_ids": random.integers(0, bench.vocabulary - 2, length)} for _ in range(64)]
    collator = FlexMDMCollator(model.config)
    with tempfile.TemporaryDirectory() as folder:
        words: dict[str, Any] = dict(
            output_dir=folder,
            variable_length=True,
            train_data="random",
            per_device_train_batch_size=step_rows,
            tokens_per_batch=budget,
            max_steps=steps,
            logging_steps=steps // 3,
            save_strategy="no",
            bf16=True,
            gradient_checkpointing=True,
            sft_max_length=CANVAS,
            disable_tqdm=True,
            use_cpu=bench.device.type == "cpu",
        )
        args = RunArguments(**words)
        stream = NoiseStream(
            rows,
            step_rows,
            steps,
            0,
            expected_cost=collator.expected_cost,
            tokens=collator.tokens,
            micro_batch=step_rows,
            tokens_per_batch=budget,
        )
        trainer = FlexMDMTrainer(
            model=model, args=args, train_dataset=stream, data_collator=collator
        )
        trainer.train()
        log = [line for line in trainer.state.log_history if "tokens_per_second" in line]
    fastest = max(log[1:] or log, key=lambda line: line["sequences_per_second"])
    through = step_rows / fastest["sequences_per_second"]
    times = []
    for step in range(steps // 2, steps):  # the same rows, noised alike, without the Trainer
        items = [stream[place] for place in range(step * step_rows, (step + 1) * step_rows)]
        batches = [collator(items)] if budget is None else collate_micro_batches(collator, items)
        for batch in batches:
            batch = {name: value.to(bench.device) for name, value in batch.items()}
            times.append(bench.seconds(step_of(bench, model, batch), 2, 1))
    alone = sum(times) / (steps - steps // 2)
    update: Any = trainer.optimizer
    optimizer = bench.seconds(lambda: update.step(), 3, 1)
    values = {name: fastest[name] for name in ("mfu", "micro_batches_per_step") if name in fastest}
    split = "" if budget is None else f", {budget:,} tokens a micro-batch"
    bench.say(
        "trainer",
        f"{step_rows} x {length:,}{split}, checkpointing, compiled",
        ms=through * 1e3,
        step_alone_ms=alone * 1e3,
        optimizer_ms=optimizer * 1e3,
        over_alone_and_optimizer=through / (alone + optimizer) - 1,
        xt_length=fastest["xt_length"],
        flops_per_token=float(flops_per_token(model)),
        **values,
    )


class KnownLength:
    """A FlexMDM whose insertion head says what a text of PROMPT + ANSWER tokens lacks. Counts
    calls, and the network's seconds where told to.
    """

    supports_logits_mask = supports_places = True

    def __init__(self, bench: Bench, model: Any, timed: bool = False) -> None:
        self.bench, self.model, self.device, self.config = bench, model, model.device, model.config
        self.timed, self.calls, self.seconds, self.positions = timed, 0, 0.0, 0

    def key_stores(self, size: int) -> list[Tensor]:
        """The network's own stores of keys and values."""
        return self.model.key_stores(size)

    def __call__(
        self, ids: Tensor, t: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Tensor]:
        """The network's output for ids (B, L), with `length` (B, L+1) the oracle's."""
        torch = self.bench.torch
        assert attention_mask is not None  # the sampler always gives one
        if self.timed:
            self.bench.sync()
            started = time.perf_counter()
        output = self.model(ids, t, attention_mask=attention_mask, **options)
        if self.timed:
            self.bench.sync()
            self.seconds += time.perf_counter() - started
        self.calls += 1
        self.positions += len(options["places"].tokens) if "places" in options else ids.numel()
        have = attention_mask.sum(1, keepdim=True)
        gap = torch.arange(ids.shape[1] + 1, device=self.device)
        allowed = (gap >= PROMPT) & (gap <= have)
        return {
            **output,
            "length": (
                allowed / allowed.sum(1, keepdim=True) * (PROMPT + ANSWER - have).clamp(min=0)
            ),
        }


def say_forward(
    bench: Bench, name: str, model: nn.Module, rows: int, length: int, part: str = "sampling"
) -> None:
    """One network evaluation of rows of a length, in which 8 places of each row get logits."""
    from network.packed_rows import Places

    torch = bench.torch
    ids = torch.randint(0, bench.vocabulary - 2, (rows, length), device=bench.device)
    text = torch.ones_like(ids, dtype=torch.bool)
    wanted = torch.zeros_like(text)
    wanted[:, -8:] = True
    tokens = torch.arange(rows * (length + 1), device=bench.device)
    options = dict(attention_mask=text, logits_mask=wanted)
    if bench.device.type == "cuda":
        options["places"] = Places(tokens, wanted.flatten().nonzero()[:, 0])
    t = torch.full((rows,), 0.5, device=bench.device)
    with torch.no_grad():
        seconds = bench.seconds(lambda: model(ids, t, **options), 10, 3)
    bench.say(
        part,
        name,
        ms=seconds * 1e3,
        TFLOP_per_s=rows * (length + 1) * bench.flops_forward / seconds / 1e12,
        peak_GiB=bench.peak_gib(),
    )


def say_sampler(bench: Bench, name: str, model: Any, rows: int, **options: Any) -> None:
    """One generation by the event-driven sampler, and the share of it that is not the network's."""
    from sampling.flexmdm import generate_flexmdm

    torch = bench.torch
    prompts = torch.randint(
        0, bench.vocabulary - 2, (rows, PROMPT), generator=torch.Generator().manual_seed(1)
    )
    settings = dict(
        max_length=CANVAS,
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="prob_diff",
        use_sliding_window=True,
        bound_inflation=1.25,
        events_per_evaluation=4,
        seeds=torch.arange(rows),
        **bench.ids,
        **options,
    )
    # captures what is to be captured
    generate_flexmdm(KnownLength(bench, model), prompts, **settings)
    bench.sync()
    started, network = time.perf_counter(), KnownLength(bench, model)
    result = generate_flexmdm(network, prompts, **settings)
    seconds = time.perf_counter() - started
    timed, started = KnownLength(bench, model, timed=True), time.perf_counter()
    generate_flexmdm(timed, prompts, **settings)
    own = time.perf_counter() - started - timed.seconds
    tokens = int(result.lengths.sum()) - rows * PROMPT
    bench.say(
        "sampling",
        name,
        calls=network.calls,
        ms_per_call=seconds / network.calls * 1e3,
        network_ms=timed.seconds / timed.calls * 1e3,
        own_ms=own / timed.calls * 1e3,
        positions=network.positions / network.calls,
        tokens_per_second=tokens / seconds,
    )


def say_llada(bench: Bench, name: str, model: Any, rows: int, **options: Any) -> None:
    """One generation by LLaDA's sampler, 96 tokens after each prompt."""
    from sampling.llada import generate_mdm

    torch = bench.torch
    prompts = torch.randint(
        0, bench.vocabulary - 2, (rows, PROMPT), generator=torch.Generator().manual_seed(1)
    )
    settings = dict(
        steps=24, gen_length=96, block_length=32, seeds=torch.arange(rows), **bench.ids, **options
    )
    generate_mdm(model, prompts, **settings)
    bench.sync()
    started = time.perf_counter()
    result = generate_mdm(model, prompts, **settings)
    seconds = time.perf_counter() - started
    calls = int(result.evaluations.max())
    bench.say(
        "sampling",
        name,
        evaluations=calls,
        ms_per_evaluation=seconds / calls * 1e3,
        tokens_per_second=rows * 96 / seconds,
    )


def measure_sampling(bench: Bench) -> None:
    """One forward at several sizes, then both samplers."""
    from sampling.network_graphs import speed_up_sampling

    model = bench.flexmdm().eval()
    blocks = model.backbone.model.transformer.blocks
    bench.flops_forward = 2 * sum(parameter.numel() for parameter in blocks.parameters())
    sizes = ((1, 20),) if bench.small else ((1, 100), (1, 256), (1, 512), (8, 193), (32, 179))
    for rows, length in sizes[:2]:
        say_forward(bench, f"forward {rows} x {length}, eager", model, rows, length)
    speed_up_sampling(model)
    for rows, length in sizes[1:2]:
        say_forward(bench, f"forward {rows} x {length}, graphs", model, rows, length)
    speed_up_sampling(model, torch_compile=True)
    for rows, length in sizes:
        say_forward(bench, f"forward {rows} x {length}, graphs, compiled", model, rows, length)
    for rows in (1,) if bench.small else (1, 8):
        say_sampler(bench, f"event-driven, {rows} rows, 4 events", model, rows)
        say_sampler(
            bench,
            f"event-driven, {rows} rows, 4 events, cache_refresh 4",
            model,
            rows,
            cache_refresh=4,
        )
    llada = model.backbone
    if model.graphs is not None:
        llada.graphs = type(model.graphs)(llada.trunk)
    for rows in (1,) if bench.small else (1, 8):
        say_llada(bench, f"LLaDA, {rows} rows, blocks of 32", llada, rows)
        for refresh in (4, 8):
            say_llada(
                bench,
                f"LLaDA, {rows} rows, blocks of 32, cache_refresh {refresh}",
                llada,
                rows,
                cache_refresh=refresh,
            )


def measure_float8(bench: Bench) -> None:
    """One forward at several sizes with float8 weights, where they are possible."""
    from network.float8 import require_float8, to_float8
    from sampling.network_graphs import speed_up_sampling

    try:
        require_float8(bench.device)
    except InputError as reason:
        bench.say("float8", "skipped", reason=str(reason))
        return
    model = to_float8(bench.flexmdm().eval(), bench.device)
    bench.flops_forward = 2 * sum(
        parameter.numel() for parameter in model.backbone.model.transformer.blocks.parameters()
    )
    bench.forget()
    for compiled in (False,) if bench.small else (False, True):
        speed_up_sampling(model, compiled)
        how = f"graphs{', compiled' if compiled else ''}"
        for rows, length in ((1, 20),) if bench.small else ((1, 256), (8, 193)):
            say_forward(bench, f"forward {rows} x {length}, {how}", model, rows, length, "float8")


def measure_peer(bench: Bench) -> None:
    """transformers' Llama of the same shape: rows padded to their longest, logits of every
    position, as its own loss wants them.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch, size = bench.torch, bench.size
    config = LlamaConfig(
        hidden_size=size["d_model"],
        num_hidden_layers=size["n_layers"],
        num_attention_heads=size["n_heads"],
        intermediate_size=size["mlp_hidden_size"],
        vocab_size=size["vocab_size"],
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.requires_grad_(False)
    bench.fill(model, torch.bfloat16)
    # its buffers were on the meta device
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(bench.device)
    for rows, length in ((1, 20),) if bench.small else ((1, 256), (32, 180)):
        ids = torch.randint(0, bench.vocabulary - 2, (rows, length), device=bench.device)
        with torch.no_grad():
            seconds = bench.seconds(lambda: model(ids, logits_to_keep=8, use_cache=False), 10, 3)
        bench.say("peer", f"Llama forward {rows} x {length}", ms=seconds * 1e3)
    inject_adapter_in_model(
        LoraConfig(r=128, lora_alpha=128, target_modules=["q_proj", "k_proj", "v_proj", "lm_head"]),
        model,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.to(bench.device).float()
    model.train()
    from training.estimate import flops_per_token

    flops = flops_per_token(model)
    small, _ = bench.batches().items()
    full = (
        ("2 x 20", (20,) * 2) if bench.small else (f"16 x {CANVAS:,}, no padding", (CANVAS,) * 16)
    )
    for name, lengths in (small, full):
        ids = torch.randint(
            0, bench.vocabulary - 2, (len(lengths), max(lengths)), device=bench.device
        )
        text = (
            torch.arange(max(lengths), device=bench.device)
            < torch.tensor(lengths, device=bench.device)[:, None]
        )
        labels = torch.where(text & (torch.rand(ids.shape, device=bench.device) < 0.5), ids, -100)
        model.gradient_checkpointing_enable()

        def step():
            model.zero_grad(set_to_none=True)
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = model(
                    ids,
                    attention_mask=None if text.all() else text.long(),
                    labels=labels,
                    use_cache=False,
                ).loss
            loss.backward()

        say_training(bench, "peer", f"Llama {name}, checkpointing", step, sum(lengths), flops)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument(
        "--small", action="store_true", help="a tiny network, to see that everything runs"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--output", help="JSON file (default on a GPU: results/gpu/benchmark_CARD.json)"
    )
    return parser


def main() -> None:
    """Measure the chosen parts; exit code 1 if one failed."""
    args = make_parser().parse_args()
    unknown = set(args.only.split(",")) - set(PARTS)
    if unknown:
        raise InputError(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    bench, failed = Bench(args), False
    print(", ".join(f"{key} {value}" for key, value in bench.facts.items()), flush=True)
    measures = {
        "limits": measure_limits,
        "training": measure_training,
        "trainer": measure_trainer,
        "sampling": measure_sampling,
        "float8": measure_float8,
        "peer": measure_peer,
    }
    for part in args.only.split(","):
        started = time.perf_counter()
        try:
            measures[part](bench)
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
