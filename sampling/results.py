"""What a sampler returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

if TYPE_CHECKING:
    import torch


class TraceFrame(TypedDict):
    """One state of a row: the time, the evaluations so far, its token ids, and the lasting identity
    of each position.
    """

    t: float
    evaluations: int
    ids: list[int]
    slots: list[int]


# called as on_frame(row, frame)
OnFrame: TypeAlias = Callable[[int, TraceFrame], None]


@dataclass
class GenerationResult:
    """Result of a sampler for B rows.

    sequences: long (B, L), right-padded with pad_id: prompt + answer, or prefix + middle + suffix.
    lengths: long (B,), tokens of each row; the middle is `sequences[b, P_b : lengths[b] - S_b]`.
    evaluations: long (B,), network evaluations that each row took part in.
    truncated: bool (B,), the row was ended by a cap on evaluations.
    trace: None, or for each row a list of frames: the first is the initial state, the last the
        result.
    dropped_insertions: long (B,), FlexMDM only: masks for which a row had no room.
    rate_bound_violations: long (B,), FlexMDM only: events at which the insertion rate exceeded the
        bound from which they were proposed, so that sampling is not exact.
    positions: long (B,), token positions that the network computed for each row: its length, summed
        over its evaluations (FlexMDM: with the end slot; with a cache: only what was recomputed).
    log_probs: float (B,), if several lengths were tried: log p(n) plus that of each token written.
    """

    sequences: torch.Tensor
    lengths: torch.Tensor
    evaluations: torch.Tensor
    truncated: torch.Tensor
    trace: list[list[TraceFrame]] | None = None
    dropped_insertions: torch.Tensor | None = None
    rate_bound_violations: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> GenerationResult:
        """The same result with its tensors on a device."""
        moved = {
            name: value.to(device) if hasattr(value, "to") else value
            for name, value in vars(self).items()
        }
        return GenerationResult(**moved)
