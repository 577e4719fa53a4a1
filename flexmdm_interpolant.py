"""Schedules and the joint interpolant of FlexMDM: pure tensors, no network.

Source: "Any-Order Flexible Length Masked Diffusion" (arXiv 2509.01025). Time t runs from the empty
sequence (t = 0) to the clean one (t = 1). Two schedules rise from 0 to 1: insertion `alpha(t)` and
unmasking `beta(t)`. Every token of x1 has, independently, an insertion time T1 with P(T1 <= t) =
alpha(t) and an unmasking time T2 > T1 with P(T2 <= t | T1) = (beta(t) - beta(T1)) / (1 - beta(T1));
at t it is deleted (t < T1), a mask (T1 <= t < T2) or clean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

# a schedule as config.json holds it: {"name": ..., its parameters}
ScheduleConfig: TypeAlias = dict[str, Any]


class LinearSchedule:
    """a(t) = t. The paper's schedule for both insertion and unmasking."""

    def at(self, t: Tensor) -> Tensor:
        """a(t): the share of tokens whose time has come at t, of t's shape."""
        return t

    def derivative_at(self, t: Tensor) -> Tensor:
        """a'(t), of t's shape."""
        return torch.ones_like(t)

    def inv(self, a: Tensor) -> Tensor:
        """The t at which the schedule reaches a."""
        return a

    def rate_scale_factor(self, t: Tensor) -> Tensor:
        """a'(t) / (1 - a(t)): the rate at which pending events happen, and the weight of their
        loss.
        """
        return 1 / (1 - t)

    def to_config(self) -> ScheduleConfig:
        """What `schedule_from_config` reads."""
        return {"name": "linear"}


class PowerSchedule:
    """a(t) = 1 - (1-t)^p. With p > 1 events happen earlier than with a linear schedule."""

    def __init__(self, p: float):
        if not p > 0:
            raise ValueError(f"a power schedule needs p > 0, not {p}")
        self.p = float(p)

    def at(self, t: Tensor) -> Tensor:
        """a(t): the share of tokens whose time has come at t, of t's shape."""
        return 1 - (1 - t) ** self.p

    def derivative_at(self, t: Tensor) -> Tensor:
        """a'(t), of t's shape."""
        return self.p * (1 - t) ** (self.p - 1)

    def inv(self, a: Tensor) -> Tensor:
        """The t at which the schedule reaches a."""
        return 1 - (1 - a) ** (1 / self.p)

    def rate_scale_factor(self, t: Tensor) -> Tensor:
        """a'(t) / (1 - a(t)), of t's shape."""
        return self.p / (1 - t)

    def to_config(self) -> ScheduleConfig:
        """What `schedule_from_config` reads."""
        return {"name": "power", "p": self.p}


class GeometricSchedule:
    """a(t) = exp(-min^(1-t) max^t), with min_val > max_val > 0 (the paper's code: 10, 0.01).

    It starts a little above 0 and ends below 1: tokens with T1 > 1 are never inserted.
    """

    def __init__(self, min_val: float, max_val: float):
        if not min_val > max_val > 0:
            raise ValueError(
                f"a geometric schedule needs min_val > max_val > 0, not {min_val}, {max_val}"
            )
        self.min_val, self.max_val = float(min_val), float(max_val)

    def _total_noise(self, t: Tensor) -> Tensor:
        return self.min_val ** (1 - t) * self.max_val**t

    def at(self, t: Tensor) -> Tensor:
        """a(t): the share of tokens whose time has come at t, of t's shape."""
        return torch.exp(-self._total_noise(t))

    def derivative_at(self, t: Tensor) -> Tensor:
        """a'(t), of t's shape."""
        noise = self._total_noise(t)
        return torch.exp(-noise) * noise * math.log(self.min_val / self.max_val)

    def inv(self, a: Tensor) -> Tensor:
        """The t at which the schedule reaches a: below 0 for a < a(0), above 1 for a > a(1)."""
        return (torch.log(-torch.log(a)) - math.log(self.min_val)) / math.log(
            self.max_val / self.min_val
        )

    def rate_scale_factor(self, t: Tensor) -> Tensor:
        """a'(t) / (1 - a(t)), of t's shape."""
        noise = self._total_noise(t)
        return noise * math.log(self.min_val / self.max_val) / torch.expm1(noise)

    def to_config(self) -> ScheduleConfig:
        """What `schedule_from_config` reads."""
        return {"name": "geometric", "min_val": self.min_val, "max_val": self.max_val}


Schedule = LinearSchedule | PowerSchedule | GeometricSchedule


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule described by `to_config`. Raises ValueError for an unknown name or unknown
    parameters.
    """
    kinds = {"linear": LinearSchedule, "power": PowerSchedule, "geometric": GeometricSchedule}
    parameters = dict(config)
    name = parameters.pop("name", None)
    if name not in kinds:
        raise ValueError(f"unknown schedule {name!r}: one of {', '.join(kinds)}")
    try:
        return kinds[name](**parameters)
    except TypeError as error:
        raise ValueError(f"schedule {name}: {error}") from None


def parse_schedule(text: str) -> Schedule:
    """A schedule from the command line: "linear", "power:1.7" (p) or "geometric:10,0.01" (min,
    max). Raises ValueError for any other text.
    """
    name, _, numbers = text.partition(":")
    names = {"linear": (), "power": ("p",), "geometric": ("min_val", "max_val")}
    try:
        values = [float(number) for number in numbers.split(",")] if numbers else []
        if name not in names or len(values) != len(names[name]):
            raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is no schedule: linear, power:P or geometric:MIN,MAX") from None
    return schedule_from_config({"name": name, **dict(zip(names[name], values))})


@dataclass
class JointInterpolantResult:
    """The tokens of x1 that are kept at time t, packed to the left, and the gaps between them."""

    xt: Tensor  # (B, L) kept tokens (clean or mask), then padding
    st: Tensor  # (B, L) index in x1 of each kept token, 0 after the last
    mask_indices: Tensor  # (B, L) True where xt is a mask
    unmasked: Tensor  # (B, L) x1[st]: the targets at masks
    xt_length: Tensor  # (B,)
    x1_length: Tensor  # (B,)
    # gaps (B, L+1): tokens missing before kept token j, or at the end; and where a gap exists
    gaps_and_mask: tuple[Tensor, Tensor]

    def trim(self) -> "JointInterpolantResult":
        """The same, cut to the longest xt of the batch (at least one column, so that a network has
        something to read).
        """
        width = max(1, int(self.xt_length.max()))
        gaps, gaps_mask = self.gaps_and_mask
        return JointInterpolantResult(
            self.xt[:, :width],
            self.st[:, :width],
            self.mask_indices[:, :width],
            self.unmasked[:, :width],
            self.xt_length,
            self.x1_length,
            (gaps[:, : width + 1], gaps_mask[:, : width + 1]),
        )


class AnyOrderMaskInsertionInterpolant:
    """The joint distribution of (xt, st) given x1 (arXiv 2509.01025, section on the joint
    interpolant).
    """

    def __init__(
        self,
        insertion_schedule: Schedule,
        unmask_schedule: Schedule,
        vocab_size: int,
        mask_token: int,
        pad_token: int,
        max_length: int,
    ):
        if mask_token == pad_token:
            raise ValueError(f"mask and padding token are both {mask_token}")
        self.insertion_schedule, self.unmask_schedule = insertion_schedule, unmask_schedule
        self.vocab_size = vocab_size
        self.mask_token = mask_token
        self.pad_token = pad_token
        self.max_length = max_length

    def stopping_times(self, u_insert: Tensor, u_unmask: Tensor) -> tuple[Tensor, Tensor]:
        """Insertion and unmasking times from uniforms in [0, 1), any shape. Tokens that are never
        inserted have T1 >= 1, T2 = inf.
        """
        insertion_time = self.insertion_schedule.inv(u_insert)
        never = insertion_time >= 1  # such a T1 must not reach beta: it is only defined on [0, 1]
        beta = self.unmask_schedule.at(insertion_time.clamp(0, 1))
        unmasking_time = self.unmask_schedule.inv(beta + u_unmask * (1 - beta))
        return insertion_time, torch.where(never, torch.inf, unmasking_time)

    def sample_interpolant(
        self,
        t: Tensor,
        x1: Tensor,
        prompt_indices: Tensor,
        x1_length: Tensor | None = None,
        uniforms: Tensor | Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> JointInterpolantResult:
        """Draw (xt, st) at time t.

        t: (B,) in [0, 1); x1: long (B, L), right-padded; prompt_indices: bool (B, L), tokens that
        stay clean;
        x1_length: long (B,), else the length without *trailing* padding (pad may be a token of the
        text);
        uniforms: pair of (B, L) in [0, 1) for insertion and unmasking, else drawn from `generator`.
        Raises ValueError when x1 is longer than max_length or shapes disagree.
        """
        batch, length = x1.shape
        if length > self.max_length:
            raise ValueError(f"x1 has {length} columns, max_length is {self.max_length}")
        if prompt_indices.shape != x1.shape or t.shape != (batch,):
            raise ValueError(
                f"x1 {tuple(x1.shape)}, prompt_indices {tuple(prompt_indices.shape)} and t"
                f" {tuple(t.shape)} disagree"
            )
        if x1_length is None:
            x1_length = length_without_trailing(x1, self.pad_token)
        if uniforms is None:
            uniforms = torch.rand(
                2, batch, length, dtype=torch.float64, generator=generator, device=x1.device
            )
        insertion_time, unmasking_time = self.stopping_times(*uniforms)  # (B, L) each
        position = torch.arange(length, device=x1.device).expand(batch, length)
        real = position < x1_length[:, None]
        now = t[:, None].to(insertion_time.dtype)
        kept = real & ((now >= insertion_time) | prompt_indices)
        clean = kept & ((now >= unmasking_time) | prompt_indices)

        xt_length = kept.sum(1)
        # kept positions first, in order
        order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)
        live = position < xt_length[:, None]  # (B, L)
        st = torch.where(live, order, 0)
        values = torch.where(clean, x1, self.mask_token)
        xt = torch.where(live, values.gather(1, order), self.pad_token)
        mask_indices = live & (xt == self.mask_token)

        # gaps[j] = st[j] - st[j-1] - 1, with sentinels -1 before the first and x1_length after the
        # last kept token (B, L+1)
        before = torch.cat([torch.full_like(st[:, :1], -1), torch.where(live, st, 0)], 1)
        after = torch.cat([torch.where(live, st, 0), torch.zeros_like(st[:, :1])], 1)  # (B, L+1)
        after.scatter_(1, xt_length[:, None], x1_length[:, None].to(after.dtype))
        gaps_mask = torch.arange(length + 1, device=x1.device) <= xt_length[:, None]  # (B, L+1)
        gaps = torch.where(gaps_mask, after - before - 1, 0)
        return JointInterpolantResult(
            xt, st, mask_indices, x1.gather(1, st), xt_length, x1_length, (gaps, gaps_mask)
        )

    def elbo_weight(self, t: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the two loss terms at t (B,): beta'/(1-beta) for masks (B, L) and
        alpha'/(1-alpha) for gaps (B, L+1).
        """
        batch, length = x1.shape
        return (
            self.unmask_schedule.rate_scale_factor(t)[:, None].expand(batch, length),
            self.insertion_schedule.rate_scale_factor(t)[:, None].expand(batch, length + 1),
        )

    def to_actual_rate(
        self, xt: Tensor, prediction: Mapping[str, Tensor], t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The generator's rates at (xt, t), from a network's {"logits": (B, L, V), "length": (B,
        L+1)}.

        Returns (unmask rates (B, L, V): mask i becomes token v, zero where xt is no mask; insertion
        rates (B, L+1)).
        """
        unmask_rate = (
            torch.softmax(prediction["logits"], -1)
            * self.unmask_schedule.rate_scale_factor(t)[:, None, None]
        )
        unmask_rate = unmask_rate * (xt == self.mask_token)[:, :, None]  # (B, L, V)
        return (
            unmask_rate,
            prediction["length"] * self.insertion_schedule.rate_scale_factor(t)[:, None],
        )


def length_without_trailing(ids: Tensor, pad_token: int) -> Tensor:
    """Lengths (B,) of right-padded rows (B, L). Only trailing padding counts: in LLaDA pad = eos
    may also be text.
    """
    position = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return ((ids != pad_token) * position).amax(1) if ids.shape[1] else ids.new_zeros(ids.shape[0])
