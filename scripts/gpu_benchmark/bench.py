"""One run of the benchmark: its device, sizes and clock, and its results as they come."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_runs import default_output
from machine import card

from common.files import write_json

FULL: dict[str, Any] = dict(
    d_model=4096, n_layers=32, n_heads=32, mlp_hidden_size=12288, vocab_size=126464
)
TINY: dict[str, Any] = dict(d_model=64, n_layers=2, n_heads=4, mlp_hidden_size=128, vocab_size=1000)
PROMPT, ANSWER, CANVAS = 100, 150, 1024


class Bench:
    """Device, sizes and results of one run; every part writes what it found at once."""

    def __init__(self, device: str, small: bool, output: str | Path | None) -> None:
        import torch

        from network.devices import pick_device

        self.torch, self.device, self.small = torch, pick_device(device), small
        self.size, self.output = (TINY if small else FULL), output
        self.vocabulary = self.size["vocab_size"]
        self.ids = dict(
            mask_id=self.vocabulary - 1, pad_id=self.vocabulary - 2, num_tokens=self.vocabulary - 2
        )
        self.facts = card(self.device)
        self.results: list[dict[str, Any]] = []
        self.limits: dict[str, float] = {}
        if self.output is None and self.device.type == "cuda" and not small:
            self.output = default_output("benchmark", self.facts)

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
            write_json(self.output, {**self.facts, "limits": self.limits, "results": self.results})
