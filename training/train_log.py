"""The training log: what a process has trained on since its last line, and train_log.jsonl."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from common.rows import RowWriter
from training.checkpoints import named_failure
from training.estimate import flops_per_token, peak_flops


class SinceLastLine:
    """Rows, tokens and time of this process since the last log line. args: RunArguments; model:
    the one that is trained.
    """

    def __init__(self, args: Any, model: Any) -> None:
        self.args, self.flops_per_token = args, flops_per_token(model)
        self.peak_flops = peak_flops(args.device)
        self.sums: dict[str, Any] = defaultdict(float)
        self.rows = self.micro_batches = 0
        self.step_tokens: Any = 0  # a tensor on the device, once there are some
        self.tokens_of_steps: list[Any] = []
        self.paused = 0.0
        self.clock: float | None = None  # when it began; None before the first step

    def start_clock(self) -> None:
        """Training begins: speed is measured from now on."""
        self.clock = time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside does not count as training time in tokens per second."""
        started = time.perf_counter()
        yield
        self.paused += time.perf_counter() - started

    def add(self, rows: int, passed_tokens: Tensor, values: Mapping[str, Tensor]) -> None:
        """Accumulate per-row values (B,) of a micro-batch, of which so many tokens passed through
        the network.
        """
        self.rows += rows
        # on the device, like the sums: nothing waits for it here
        self.step_tokens = self.step_tokens + passed_tokens
        for name, value in values.items():
            self.sums[name] = (
                self.sums[name]
                + torch.nan_to_num(value.detach().double(), nan=0.0, posinf=0.0, neginf=0.0).sum()
            )

    def end_step(self) -> None:
        """A step's micro-batches are complete."""
        self.tokens_of_steps.append(self.step_tokens)
        self.step_tokens = 0

    def values(self, accelerator: Any) -> dict[str, float]:
        """Means over rows, speed and balance of all processes; the next line begins here. Every
        process must call it.
        """
        device, names = self.args.device, sorted(self.sums)
        totals = torch.stack(
            [
                torch.tensor(self.rows, device=device, dtype=torch.float64),
                *(self.sums[name].to(device) for name in names),
            ]
        )
        totals = accelerator.reduce(totals, reduction="sum").tolist()
        values = {name: total / totals[0] for name, total in zip(names, totals[1:])}
        each_step = [torch.as_tensor(tokens, device=device) for tokens in self.tokens_of_steps]
        tokens = accelerator.gather(torch.stack(each_step)[None].double())  # (processes, steps)
        now = time.perf_counter()
        seconds = now - self.clock - self.paused if self.clock is not None else None
        if seconds and len(self.tokens_of_steps):
            values["sequences_per_second"] = totals[0] / seconds
            values["tokens_per_second"] = values["tokens"] * totals[0] / seconds
            if self.peak_flops:
                values["mfu"] = (
                    float(tokens.sum())
                    * self.flops_per_token
                    / seconds
                    / (self.peak_flops * self.args.world_size)
                )
        if self.args.world_size > 1:
            values["process_tokens_max_over_mean"] = float(
                (tokens.max(0).values / tokens.mean(0).clamp_min(1)).mean()
            )
        if self.args.tokens_per_batch is not None:
            values["micro_batches_per_step"] = self.micro_batches / len(self.tokens_of_steps)
        self.sums.clear()
        self.rows = self.micro_batches = 0
        self.tokens_of_steps, self.clock, self.paused = [], now, 0.0
        return values


class JsonlLog(TrainerCallback):
    """Every log line of the Trainer, as a row of train_log.jsonl. Non-finite values are null."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The Trainer calls it with every log line."""
        if state.is_world_process_zero and logs:
            values = {key: float(value) for key, value in logs.items()}
            path = Path(args.output_dir) / "train_log.jsonl"
            with named_failure(path), RowWriter(path) as writer:
                writer.append(
                    {
                        "step": state.global_step,
                        **{
                            key: value if math.isfinite(value) else None
                            for key, value in values.items()
                        },
                    }
                )
