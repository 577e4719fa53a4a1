"""What both samplers share: the result they return, and the random numbers of a row.

A row's random numbers come from a counter, not from a stream: each is a function of (seed of the row, event number, purpose, index).
So a row's draws do not depend on what else is in the batch, on when it entered it, or on how many numbers other purposes used.
"""
from dataclasses import dataclass

import torch

_GOLDEN = -7046029254386353131           # 0x9E3779B97F4A7C15 as int64: the increment of splitmix64 (Steele, Lea, Flood 2014)
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))      # splitmix64's shifts and multipliers


@dataclass
class GenerationResult:
    """Result of a sampler for B rows.

    sequences: long [B, L], right-padded with pad_id: prompt + answer, or prefix + middle + suffix.
    lengths: long [B], tokens of each row; the middle is `sequences[b, P_b : lengths[b] - S_b]`.
    evaluations: long [B], network evaluations that each row took part in.
    truncated: bool [B], the row was ended by a cap on evaluations.
    trace: None, or for each row a list of frames {"t": float, "evaluations": int, "ids": list[int], "slots": list[int]};
        the first frame is the initial state, the last the result; a slot number stays with its position through insertions.
    refused_insertions, clipped_ratios: long [B], FlexMDM only (flexmdm.md, section 4).
    """
    sequences: torch.Tensor
    lengths: torch.Tensor
    evaluations: torch.Tensor
    truncated: torch.Tensor
    trace: list | None = None
    refused_insertions: torch.Tensor | None = None
    clipped_ratios: torch.Tensor | None = None


def draw_seeds(batch_size, seeds=None, generator=None):
    """One seed a row, long [B] on CPU: `seeds` as given, else drawn from `generator` (None: torch's global one)."""
    if seeds is None:
        return torch.randint(2 ** 62, (batch_size,), generator=generator,
                             device="cpu" if generator is None else generator.device).cpu()
    seeds = torch.as_tensor(seeds, dtype=torch.long).cpu()
    if seeds.shape != (batch_size,):
        raise ValueError(f"seeds must be one number a row, shape ({batch_size},), not {tuple(seeds.shape)}")
    return seeds


def _mix(x):
    """splitmix64's finaliser on int64, whose products wrap as uint64's do; `>>` keeps the sign, so its copies are masked off."""
    for shift, factor in _MIX:
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x


def row_uniforms(seeds, event, purpose, n):
    """Uniform numbers strictly between 0 and 1, float64 [B, n], on the seeds' device.

    seeds: long [B]; event: int or long [B], the row's own event (or step) number; purpose: int, one for each use within an event.
    Column i depends on (seeds[b], event[b], purpose, i) alone.
    """
    state = _mix(seeds + _GOLDEN)                                                       # (B,)
    state = _mix(state + (torch.as_tensor(event, device=seeds.device) + 1) * _GOLDEN)   # (B,)
    state = _mix(state + (torch.as_tensor(purpose, device=seeds.device) + 1) * _GOLDEN) # (B,)
    index = torch.arange(1, n + 1, device=seeds.device) * _GOLDEN                       # (n,)
    bits = (_mix(state[:, None] + index) >> 12) & (2 ** 52 - 1)                         # (B, n)
    return (bits.double() + 0.5) * 2.0 ** -52
