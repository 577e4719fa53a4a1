"""LLaDA's sampler: the loop that unmasks a fixed number of masks (arXiv 2502.09992).

One step for all rows: find the masks of each row's current block, evaluate the network, draw a
token for each, and keep the most confident (or random) ones. Prompts and infills differ only in
where the masks are. Every row follows its own plan, so rows of different lengths share a batch,
finished rows leave it and waiting rows take their places.

All bookkeeping stays on the CPU: it is cheap, and CPUs always have float64. Only the network's
input and logits are on its device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sampling.frames import Frames
from sampling.llada_blocks import Plan
from sampling.options import LLaDAOptions
from sampling.prefix_cache import PrefixCache
from sampling.results import GenerationResult, OnFrame
from sampling.row_random import row_uniforms
from sampling.token_choice import (
    check_tokens,
    draw_tokens,
    evaluate,
    excluded_tokens,
    log_probability,
    to_cpu,
)

TOKEN, CONFIDENCE = 0, 1  # purposes of a step's random numbers


def most_confident(confidence: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Bool [B, L]: in each row the count[b] eligible places of highest confidence; of equals the
    leftmost.

    confidence: float64 [B, L]; eligible: bool [B, L] with at least count[b] places a row; count:
    long [B].
    """
    # (B, L)
    order = confidence.masked_fill(~eligible, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    first = torch.arange(eligible.shape[1], device="cpu") < count[:, None]  # (B, L)
    return torch.zeros_like(eligible).scatter(1, order, first) & eligible


class LLaDASampler:
    """B rows, each with its plan (llada_blocks.unmasking_plan). `run` steps until all are done.

    rows: for each row (ids before the masks, number of masks, ids after them); seeds: long (B,);
    the rest is generate_mdm's.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[tuple[list[int], int, list[int]]],
        plans: Sequence[Plan],
        seeds: Tensor,
        options: LLaDAOptions,
        *,
        mask_id: int,
        pad_id: int,
        num_tokens: int | None,
        return_trace: bool,
        on_frame: OnFrame | None,
    ):
        self.model, self.plans, self.seeds, self.options = model, plans, seeds, options
        self.mask_id, self.num_tokens = mask_id, num_tokens
        batch = len(rows)
        # (B,) each
        self.begin, self.masks = (
            torch.tensor(numbers, dtype=torch.long, device="cpu")
            for numbers in ([len(row[0]) for row in rows], [row[1] for row in rows])
        )
        self.lengths = torch.tensor(
            [len(before) + masks + len(after) for before, masks, after in rows],
            dtype=torch.long,
            device="cpu",
        )
        width = int(self.lengths.max()) if batch else 0
        self.canvas = torch.full((batch, width), pad_id, device="cpu")  # (B, L)
        for row, (before, masks, after) in enumerate(rows):
            ids = [*before, *[mask_id] * masks, *after]
            self.canvas[row, : len(ids)] = torch.tensor(ids, dtype=torch.long, device="cpu")
        self.place = torch.arange(width, device="cpu")  # (L,)
        begin = self.begin[:, None]
        # (B, L) each
        self.masked = (self.place >= begin) & (self.place < begin + self.masks[:, None])
        self.real = self.place < self.lengths[:, None]
        self.given = self.real & ~self.masked
        self.cost = 2 if options.cfg_scale else 1  # evaluations of a step
        self.cache = None
        if options.cache_refresh is not None:
            self.cache = PrefixCache(model, options.cache_refresh)
        self.excluded: Tensor | None = None
        self.step = [0] * batch
        self.positions = torch.zeros(batch, dtype=torch.long, device="cpu")
        self.frames = Frames(batch, return_trace, on_frame)

    @torch.no_grad()
    def run(self) -> GenerationResult:
        """Unmask every row's masks. Returns the result, on the CPU. Raises ValueError if the
        network leaves no token to choose.
        """
        everything = range(len(self.plans))
        self._record(everything)
        # neighbours of like length
        waiting = sorted(
            (row for row in everything if self.plans[row]), key=lambda row: -int(self.lengths[row])
        )
        live: list[int] = []
        at_once = self.options.rows_at_once
        while live or waiting:
            room = len(waiting) if at_once is None else at_once - len(live)
            live, waiting = live + waiting[:room], waiting[room:]
            self._step(live)
            self._record(live)
            ended = [row for row in live if self.step[row] == len(self.plans[row])]
            if self.cache is not None:
                self.cache.drop(self._names(ended))
            live = [row for row in live if self.step[row] < len(self.plans[row])]
        return GenerationResult(
            self.canvas,
            self.lengths,
            self.cost * torch.tensor(self.step, dtype=torch.long, device="cpu"),
            torch.zeros(len(self.plans), dtype=torch.bool, device="cpu"),
            self.frames.trace,
            positions=self.positions,
        )

    def _step(self, live: list[int]) -> None:
        """One step of each row of live (R rows, L columns)."""
        L = int(self.lengths[live].max())
        low_confidence = self.options.remasking == "low_confidence"
        # (R,) each
        start, end, count = torch.tensor(
            [self.plans[row][self.step[row]] for row in live], device="cpu"
        ).T
        event = torch.tensor([self.step[row] for row in live], device="cpu")
        # (R, L), place counted from the first mask
        offset = self.place[:L] - self.begin[live, None]
        eligible = self.masked[live, :L] & (offset >= start[:, None]) & (offset < end[:, None])
        # the choice does not look at the network, so only the chosen places need logits
        if not low_confidence:
            random = torch.from_numpy(row_uniforms(self.seeds[live], event, CONFIDENCE, L))
            eligible = most_confident(random, eligible, count)
        logits = self._logits(live, eligible, start)  # (n, V)
        if self.excluded is None:
            # (V,); end of text may be drawn
            self.excluded = excluded_tokens(
                logits.shape[1], self.mask_id, None, self.num_tokens, logits.device
            )
        u = torch.from_numpy(row_uniforms(self.seeds[live], event, TOKEN, L))[eligible]  # (n,)
        tokens = draw_tokens(logits, self.excluded, self.options.temperature, u)  # (n,)
        log_p = log_probability(logits, tokens, self.excluded) if low_confidence else None  # (n,)
        # the one place where the device is waited for
        tokens, log_p = to_cpu(tokens, log_p)
        check_tokens(tokens)
        drawn = self.canvas[live, :L]  # (R, L)
        drawn[eligible] = tokens
        if low_confidence:
            confidence = torch.zeros(eligible.shape, dtype=torch.float64, device="cpu")  # (R, L)
            confidence[eligible] = log_p
            eligible = most_confident(confidence, eligible, count)
        self.canvas[live, :L] = torch.where(eligible, drawn, self.canvas[live, :L])
        self.masked[live, :L] &= ~eligible
        for row in live:
            self.step[row] += 1

    def _logits(self, live: list[int], wanted: Tensor, start: Tensor) -> Tensor:
        """Logits (n, V) at the wanted places (R, L), guided if the options say so. start: (R,), of
        each row's block, counted from its first mask.
        """
        L = wanted.shape[1]
        ids, real = self.canvas[live, :L], self.real[live, :L]
        if self.cost == 2:  # both halves in one batch; in the second all that was given is hidden
            hidden = ids.masked_fill(self.given[live, :L], self.mask_id)
            ids = torch.cat([ids, hidden])  # (2R, L)
            real, wanted = real.repeat(2, 1), wanted.repeat(2, 1)
        if self.cache is not None:
            blocks = (self.begin[live] + start).tolist() * self.cost
            logits = self.cache.logits(self._names(live), ids, real, wanted, blocks)
            self.positions[live] += self.cache.computed.view(self.cost, len(live)).sum(0)
        else:
            logits = evaluate(self.model, ids, real, wanted)
            self.positions[live] += self.cost * self.lengths[live]
        if self.cost == 2:
            conditional, unconditional = logits.chunk(2)  # (n, V) each
            logits = unconditional + (self.options.cfg_scale + 1) * (conditional - unconditional)
        return logits

    def _names(self, rows: list[int]) -> list[int]:
        """The names of rows in the cache: guidance has two of each."""
        return [row + half * len(self.plans) for half in range(self.cost) for row in rows]

    def _record(self, rows: Sequence[int]) -> None:
        """A frame of each row for the trace and for whoever watches."""
        if not self.frames.wanted:
            return
        for row in rows:
            length = int(self.lengths[row])
            self.frames.add(
                row,
                {
                    "t": 1 - int(self.masked[row].sum()) / max(int(self.masks[row]), 1),
                    "evaluations": self.cost * self.step[row],
                    "ids": self.canvas[row, :length].tolist(),
                    "slots": list(range(length)),
                },
            )
