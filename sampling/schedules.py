"""The two schedules of a sampler, and the time at which the network is queried.

Time is kept as 1 - t ("remaining") in float64, because t loses precision near 1. Nothing here
depends on what the network says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from flexmdm_interpolant import LinearSchedule, PowerSchedule, Schedule, schedule_from_config
from sampling.options import SamplerOptions

Floats: TypeAlias = NDArray[np.float64]


def survival(schedule: Schedule, remaining: Floats, starts_at_zero: bool = False) -> Floats:
    """P(T > t) of a schedule's times at t = 1 - remaining, computed without forming t.

    starts_at_zero: for insertion times: sampling starts from an empty sequence, so mass that the
    schedule already has at t = 0 counts as not yet inserted.
    """
    if isinstance(schedule, LinearSchedule):
        return remaining
    if isinstance(schedule, PowerSchedule):
        return remaining**schedule.p
    value = 1 - schedule.at(1 - torch.from_numpy(np.asarray(remaining))).numpy()
    return np.where(remaining == 1, 1.0, value) if starts_at_zero else value


def remaining_at(schedule: Schedule, value: Floats) -> Floats:
    """The inverse of `survival`, at most 1; zero or negative if the schedule ends before reaching
    the value.
    """
    if isinstance(schedule, LinearSchedule):
        return value
    if isinstance(schedule, PowerSchedule):
        return value ** (1 / schedule.p)
    return (1 - schedule.inv(1 - torch.from_numpy(np.asarray(value)))).clamp(max=1).numpy()


def share_of_waiting(
    schedule: Schedule, remaining: Floats, after: Floats, insertions: bool = False
) -> Floats:
    """The probability that an event still pending at `remaining` happens by `after`."""
    waiting = survival(schedule, remaining, insertions)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(waiting > 0, 1 - survival(schedule, after, insertions) / waiting, 1.0)


@dataclass(frozen=True)
class Schedules:
    """insertion, unmasking: those of the sampling; trained: the network's own insertion schedule
    where it is another one, which is then queried at the matched time; time_epsilon: the network's
    time ends at 1 - time_epsilon.
    """

    insertion: Schedule
    unmasking: Schedule
    trained: Schedule | None = None
    time_epsilon: float = 0.0

    @property
    def end(self) -> float:
        """1 - t of the last time at which the network may be queried."""
        if self.trained is None:
            return self.time_epsilon
        missing = survival(self.trained, np.array([self.time_epsilon]))
        return float(np.maximum(remaining_at(self.insertion, missing), 0)[0])

    def query_time(self, remaining: Floats) -> torch.Tensor:
        """The t at which the network is queried, float (R,): the time at which its own schedule has
        inserted as much as the sampling schedule (the matched time tau(t)).
        """
        if self.trained is None:
            return torch.from_numpy(1 - remaining).float()
        missing = survival(self.insertion, remaining, starts_at_zero=True)
        at = self.trained.inv(1 - torch.from_numpy(missing))
        return at.clamp(0, 1 - self.time_epsilon).float()


def schedules_of(model: Any, options: SamplerOptions) -> Schedules:
    """The schedules of the options, or else of the model's config, or else linear ones. A model
    without a config is queried at t itself.
    """
    config = getattr(model, "config", None)
    own_insertion, own_unmasking = (
        schedule_from_config(schedule) if schedule else LinearSchedule()
        for schedule in (
            getattr(config, "insertion_schedule", None),
            getattr(config, "unmask_schedule", None),
        )
    )
    insertion = options.insertion_schedule or own_insertion
    differs = config is not None and own_insertion.to_config() != insertion.to_config()
    return Schedules(
        insertion,
        options.unmask_schedule or own_unmasking,
        own_insertion if differs else None,
        float(getattr(config, "time_epsilon", 0.0)),
    )
