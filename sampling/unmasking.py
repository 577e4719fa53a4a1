"""Unmasking: which masks compete, the order in which they are unmasked, and the tokens written.

How many masks a row unmasks never depends on the evaluation (unless a confidence threshold is set);
in random order and by position, neither does which ones. This is why vocabulary logits are needed
at only a few positions.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sampling.clock import ORDER, TOKEN, Clock, Flags, Rows
from sampling.options import SamplerOptions
from sampling.sequences import Sequences
from sampling.token_choice import (
    check_tokens,
    confidence,
    draw_tokens,
    excluded_tokens,
    log_probability,
)

# tokens, confidences, log probabilities, (n,) each, on one device; None where not needed
Drawn: TypeAlias = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def first_of_each_row(rows: Rows, value: NDArray[np.float64] | Rows, number: Rows) -> Flags:
    """Bool (n,): in each row the number[row] entries of largest value (n,); of equals the first.
    rows: (n,), ascending.
    """
    order = np.argsort(-value, kind="stable")
    order = order[np.argsort(rows[order], kind="stable")]  # by row, within it by value
    sorted_rows = rows[order]
    row_start = np.searchsorted(sorted_rows, sorted_rows)  # index of the row's first entry
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[order] = np.arange(len(rows)) - row_start < number[sorted_rows]
    return chosen


class Unmasking:
    """The unmasking of a sampler's rows. clock: says how many masks; num_tokens: ids from it on are
    never written; scored: whether the log probability of each token written is kept (it costs a
    pass over the logits).
    """

    def __init__(
        self,
        sequences: Sequences,
        clock: Clock,
        options: SamplerOptions,
        num_tokens: int | None,
        scored: bool,
    ):
        self.sequences, self.clock, self.options = sequences, clock, options
        self.num_tokens, self.scored = num_tokens, scored
        confident = options.unmasking == "confidence"
        self.order = options.confidence_method if confident else "random"
        self.asks_confidence = self.order not in ("random", "position")
        self.excluded: torch.Tensor | None = None

    def candidates(self, live: Rows, masks: Flags) -> tuple[Rows, Rows, Rows]:
        """Before the evaluation: how many masks each row unmasks, (R,), and the masks whose logits
        are needed, (index into live, position), (n,) each, row-major. masks: (R, W).
        """
        number, competing = self._competing(live, masks)
        rows, places = np.nonzero(competing)  # (n,) each
        if not self.asks_confidence:
            random = self.clock.random
            first = random.at(live[rows], ORDER, places) if self.order == "random" else -places
            chosen = first_of_each_row(rows, first, number)
            rows, places = rows[chosen], places[chosen]
        return number, rows, places

    def _competing(self, live: Rows, masks: Flags) -> tuple[Rows, Flags]:
        """How many masks each row unmasks, (R,), and which compete for it, bool (R, W): all of
        them, or with a sliding window the first few.
        """
        number, considered, everything = self.clock.to_unmask(live, masks)
        available = masks.sum(1)
        competing = np.where(considered > 0, available, 0)
        if self.options.use_sliding_window:
            window = considered * np.float32(self.options.alpha)
            window = np.clip(window.astype(np.int64), 1, self.options.max_window)
            competing = np.where(everything, competing, np.minimum(competing, window))
            number = np.minimum(number, competing)
        return number, masks & (masks.cumsum(1) <= competing[:, None])

    def draw(self, live: Rows, rows: Rows, places: Rows, logits: torch.Tensor) -> Drawn:
        """A token for each candidate from its logits (n, V), on their device, without waiting for
        it.
        """
        if not len(rows):
            return None, None, None
        if self.excluded is None:
            ids = self.sequences.mask_id, self.sequences.pad_id
            self.excluded = excluded_tokens(logits.shape[-1], *ids, self.num_tokens, logits.device)
        confidences = log_p = None
        if self.asks_confidence:
            confidences = confidence(logits, self.excluded, self.order)
        u = torch.from_numpy(self.clock.random.at(live[rows], TOKEN, places))
        tokens = draw_tokens(logits, self.excluded, self.options.temperature, u)
        if self.scored:
            log_p = log_probability(logits, tokens, self.excluded)
        return tokens, confidences, log_p

    def write(self, live: Rows, number: Rows, rows: Rows, places: Rows, drawn: Drawn) -> Rows:
        """Write the tokens of the most confident candidates. drawn: on the CPU. Returns how many
        masks each row has unmasked, (R,): number, or more by a threshold. Raises ValueError if
        there was no token to choose.
        """
        tokens, confidences, log_p = drawn
        if tokens is None:
            return number
        check_tokens(tokens)
        chosen: Flags | slice = slice(None)
        if confidences is not None:
            value, threshold = confidences.numpy(), self.options.confidence_threshold
            if threshold is not None:
                above = np.bincount(rows[value >= threshold], minlength=len(live))
                number = np.maximum(number, above)
            chosen = first_of_each_row(rows, value, number)
        at = live[rows[chosen]], places[chosen]
        if log_p is not None:
            self.sequences.log_probs[at] = log_p.numpy()[chosen]
        self.sequences.ids[at] = tokens.numpy()[chosen]
        return number
