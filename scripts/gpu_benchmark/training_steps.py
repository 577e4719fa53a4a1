"""Training steps: loss and gradients of one micro-batch, and the Trainer's whole step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpu_benchmark.bench import CANVAS, Bench
from gpu_benchmark.random_network import LORA, batch_of, batches, flexmdm

if TYPE_CHECKING:
    from torch import Tensor


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
) -> None:
    """Time a step of that many tokens, `flops` each."""
    from training.estimate import peak_flops

    bench.forget()
    try:
        seconds = bench.seconds(step, 5, warm)
    except bench.torch.OutOfMemoryError:
        bench.say(part, name, out_of_memory=True)
        return
    peak = peak_flops(bench.device)
    bench.say(
        part,
        name,
        ms=seconds * 1e3,
        tokens_per_second=tokens / seconds,
        mfu=tokens * flops / seconds / peak if peak else float("nan"),
        peak_GiB=bench.peak_gib(),
    )


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

    model = flexmdm(bench, LORA).train()
    flops = flops_per_token(model)
    small, large = batches(bench).items()
    for compiled in (False, True):
        if compiled:
            compile_network(model)
        for (name, lengths), layers in ((small, 0), (small, 1), (large, 1), (large, 2), (large, 4)):
            if not compiled and (name, layers) not in ((small[0], 0), (small[0], 1), (large[0], 1)):
                continue
            checkpoint_every(model, layers)
            kept = {0: "", 1: ", checkpointing"}.get(layers, f", checkpointing every {layers}")
            title = f"{name}{kept}{', compiled' if compiled else ''}"
            step, warm = step_of(bench, model, batch_of(bench, lengths)), 3 if compiled else 2
            say_training(bench, "training", title, step, sum(lengths), flops, warm)
    model.zero_grad(set_to_none=True)


def measure_trainer(bench: Bench) -> None:
    """The training scripts' Trainer, with a fixed number of rows and with a token budget."""
    from network.fast_blocks import compile_network

    model = flexmdm(bench, LORA).train()
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
        split = [collator(items)] if budget is None else collate_micro_batches(collator, items)
        for batch in split:
            batch = {name: value.to(bench.device) for name, value in batch.items()}
            times.append(bench.seconds(step_of(bench, model, batch), 2, 1))
    alone = sum(times) / (steps - steps // 2)
    update: Any = trainer.optimizer
    optimizer = bench.seconds(lambda: update.step(), 3, 1)
    values = {name: fastest[name] for name in ("mfu", "micro_batches_per_step") if name in fastest}
    limit = "" if budget is None else f", {budget:,} tokens a micro-batch"
    bench.say(
        "trainer",
        f"{step_rows} x {length:,}{limit}, checkpointing, compiled",
        ms=through * 1e3,
        step_alone_ms=alone * 1e3,
        optimizer_ms=optimizer * 1e3,
        over_alone_and_optimizer=through / (alone + optimizer) - 1,
        xt_length=fastest["xt_length"],
        flops_per_token=float(flops_per_token(model)),
        **values,
    )
