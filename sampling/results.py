"""What both samplers share: the result they return, and the random numbers of a row.

A row's random numbers come from a counter, not from a stream: each is a function of (seed of the
row, event number, purpose, index). So a row's draws do not depend on what else is in the batch, on
when it entered it, or on how many numbers other purposes used.
"""

from dataclasses import dataclass

import torch


@dataclass
class GenerationResult:
    """Result of a sampler for B rows.

    sequences: long [B, L], right-padded with pad_id: prompt + answer, or prefix + middle + suffix.
    lengths: long [B], tokens of each row; the middle is `sequences[b, P_b : lengths[b] - S_b]`.
    evaluations: long [B], network evaluations that each row took part in.
    truncated: bool [B], the row was ended by a cap on evaluations.
    trace: None, or for each row a list of frames {"t": float, "evaluations": int, "ids": list[int],
    "slots": list[int]};
        the first frame is the initial state, the last the result; a slot number stays with its
        position through insertions.
    refused_insertions, clipped_ratios: long [B], FlexMDM only (flexmdm.md, section 4).
    """

    sequences: torch.Tensor
    lengths: torch.Tensor
    evaluations: torch.Tensor
    truncated: torch.Tensor
    trace: list | None = None
    refused_insertions: torch.Tensor | None = None
    clipped_ratios: torch.Tensor | None = None
