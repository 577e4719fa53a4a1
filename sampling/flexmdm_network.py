"""A FlexMDM as its sampler queries it: one evaluation gives the expected number of missing tokens
of every gap, vocabulary logits at chosen places only, and the length distributions of chosen gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from network.packed_rows import Places
from sampling.clock import Floats, Rows
from sampling.options import SamplerOptions
from sampling.prefix_cache import PrefixCache
from sampling.schedules import Schedules
from sampling.sequences import Sequences

WIDTH_STEP = 16  # on a GPU rows are padded to a multiple of it: few shapes, so graphs are reused


class FlexMDMNetwork:
    """A model and the sequences that it is asked about. positions: int64 (B,), token positions
    computed for each row so far.
    """

    def __init__(
        self, model: Any, sequences: Sequences, schedules: Schedules, options: SamplerOptions
    ):
        self.model, self.device = model, torch.device(getattr(model, "device", "cpu"))
        self.sequences, self.schedules = sequences, schedules
        # a network that attends to padding gets rows as wide as in training, whatever is asked for
        config = getattr(model, "config", None)
        attended = bool(getattr(config, "attend_to_padding", False))
        trained_width = int(getattr(config, "max_length", 0) or 0)
        self.canvas = max(sequences.max_length, trained_width) if attended else None
        self.cache = None
        if options.cache_refresh is not None:
            self.cache = PrefixCache(model, options.cache_refresh)
        self.positions = np.zeros(len(sequences), dtype=np.int64)

    def ask(
        self, live: Rows, remaining: Floats, places: tuple[Rows, Rows], gaps: tuple[Rows, Rows]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """One evaluation of each row of live (R,) at 1 - t = remaining (R,).

        places: (index into live, position), (n,) each, row-major; gaps: (index into live, gap),
        (m,) each. Returns, on the model's device: expected missing tokens (R, W+1), logits (n, V)
        at the places, and log p(n) (m, N+1) of the gaps, None where m is 0.
        """
        sequences, on_cpu = self.sequences, self.device.type == "cpu"
        longest, lengths = sequences.width(live), sequences.lengths[live]
        width = self._width(longest)
        canvas = np.full((len(live), width), sequences.pad_id)
        canvas[:, :longest] = sequences.ids[live, :longest]
        position, flat = np.arange(width + 1), places[0] * width + places[1]
        options: dict[str, Any] = {
            "attention_mask": self._there(position[:width] < lengths[:, None])
        }
        if getattr(self.model, "supports_logits_mask", False):
            wanted = np.zeros(canvas.shape, dtype=bool)
            wanted[places] = True
            options["logits_mask"] = self._there(wanted)
        computed = lengths + 1 if self.canvas is None else width + 1
        if self.cache is not None:
            options["places"] = self.cache.places(
                live.tolist(),
                torch.from_numpy(lengths + 1),
                sequences.prefix_lengths[live].tolist(),
                width + 1,
                torch.from_numpy(flat),
            )
            computed = self.cache.computed.numpy()
        elif getattr(self.model, "supports_places", False) and not on_cpu and self.canvas is None:
            # the text and one end slot a row
            tokens = np.flatnonzero(position <= lengths[:, None])
            options["places"] = Places(self._there(tokens), self._there(flat))
        self.positions[live] += computed
        time = self.schedules.query_time(remaining)
        if len(gaps[0]):
            options["missing_at"] = self._there(gaps[0] * (width + 1) + gaps[1])
        output = self.model(self._there(canvas), self._there(time), **options)
        logits = output["logits"]  # (n, V)
        if "logits_mask" not in options:
            logits = logits[self._there(places[0]), self._there(places[1])]
        law = output["missing_log_probs"] if len(gaps[0]) else None
        return output["length"][:, : longest + 1], logits, law

    def forget(self, rows: Rows) -> None:
        """Drop what is cached of some rows: they are finished, or were changed."""
        if self.cache is not None:
            self.cache.drop(rows.tolist())

    def _width(self, longest: int) -> int:
        """Columns of a batch whose longest row has so many tokens."""
        if self.canvas is not None:
            return self.canvas
        width = max(1, longest)
        if self.device.type != "cpu":
            width = min(-(-width // WIDTH_STEP) * WIDTH_STEP, self.sequences.max_length)
        return width

    def _there(self, part: torch.Tensor | NDArray[Any]) -> torch.Tensor:
        """On the model's device, without waiting for it."""
        part = torch.from_numpy(part) if isinstance(part, np.ndarray) else part
        return part.to(self.device, non_blocking=True)
