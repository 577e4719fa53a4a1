"""When things happen in the FlexMDM samplers: survival of the two schedules, tau-leaping's grid,
Poisson counts.

The clock is `left` = 1 - t, float64: near the end t has no digits left. Nothing here knows a
network. `survival` and `left_at` take torch tensors and numpy arrays.
"""

import numpy as np
import torch

from flexmdm_interpolant import LinearSchedule, PowerSchedule


def survival(schedule, left, starts_at_zero=False):
    """1 - schedule.at(1 - left) without the detour over t. starts_at_zero: P(T > t) of insertion
    times, where what a schedule already has at t = 0 has not happened yet in the empty sequence
    that sampling starts from."""
    if isinstance(schedule, LinearSchedule):
        return left
    if isinstance(schedule, PowerSchedule):
        return left**schedule.p
    if isinstance(left, np.ndarray):
        return survival(schedule, torch.from_numpy(left), starts_at_zero).numpy()
    value = 1 - schedule.at(1 - left)
    return torch.where(left == 1, 1.0, value) if starts_at_zero else value


def left_at(schedule, value):
    """The inverse of `survival`, at most 1; zero or negative where the schedule ends before it gets
    there.
    """
    if isinstance(schedule, LinearSchedule):
        return value
    if isinstance(schedule, PowerSchedule):
        return value ** (1 / schedule.p)
    if isinstance(value, np.ndarray):
        return left_at(schedule, torch.from_numpy(value)).numpy()
    return (1 - schedule.inv(1 - value)).clamp(max=1)


def poisson_quantile(u, rate):
    """Smallest k with P(Poisson(rate) <= k) >= u, float64 in, long out, any shape: the law's exact
    inverse, at any rate.
    """
    count = torch.zeros_like(rate, dtype=torch.long)
    some = u > torch.exp(-rate)
    u, rate = u[some], rate[some]
    # P(k <= low) < u <= P(k <= high)
    low, high = torch.zeros_like(rate), torch.ceil(rate + 40 * rate.sqrt() + 40)
    while bool((high - low > 1).any()):
        middle = torch.floor((low + high) / 2)
        enough = torch.special.gammaincc(middle + 1, rate) >= u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    count[some] = high.long()
    return count


def share_of_waiting(schedule, left, after, insertions=False):
    """The probability that what still waits at `left` happens until `after`."""
    waiting = survival(schedule, left, insertions)
    return torch.where(waiting > 0, 1 - survival(schedule, after, insertions) / waiting, 1.0)


class Grid:
    """Tau-leaping's steps, uniform in t: `start`, `end` (left at both ends), `last` (everything is
    revealed, nothing inserted), each (K,).

    Where the grid is finer than the network's time reaches (left_end), it is cut there: `cut`, and
    a final leap follows.
    `reveal`, `insert`: the shares of waiting masks and missing tokens that a step reveals and
    inserts, (K,).
    """

    def __init__(self, steps, left_end, insertion, unmasking):
        start = 1 - torch.arange(steps, dtype=torch.float64, device="cpu") / steps
        self.cut = not bool(start[-1] >= left_end * (1 - 1e-9))
        self.start = start[start > left_end * (1 + 1e-9)] if self.cut else start
        self.end = torch.cat(
            [
                self.start[1:],
                torch.tensor([left_end if self.cut else 0.0], dtype=torch.float64, device="cpu"),
            ]
        )
        self.last = torch.zeros(len(self.start), dtype=torch.bool, device="cpu")
        self.last[-1] = not self.cut
        self.reveal = torch.where(self.last, 1.0, share_of_waiting(unmasking, self.start, self.end))
        self.insert = torch.where(
            self.last, 0.0, share_of_waiting(insertion, self.start, self.end, insertions=True)
        )
        none = torch.zeros(1, dtype=torch.float64, device="cpu")
        # (K+1,): -log P(a mask stands until step k)
        self.reveal_hazard = torch.cat([none, -torch.log1p(-self.reveal).cumsum(0)])
        # (K+1,): insertions until k for each missing token
        self.insert_hazard = torch.cat([none, self.insert.cumsum(0)])

    def __len__(self):
        return len(self.start)

    def next_step(self, step, masks, bound, u, u_masks):
        """The first step from `step` on in which something is proposed, when G is at most `bound`,
        and what: (step, reveals, proposals), (R,).

        step, masks: long (R,); bound: (R,); u: (R, 4); u_masks: (R, most masks). The step is K
        where nothing is. Counts have the law that drawing Binomial(masks, reveal[k]) and
        Poisson(bound * insert[k]) in every step would give: the first step by inverting the chance
        that nothing was drawn before, then both counts, given that they are not both zero.
        """
        # the first step at whose end the hazard reaches this has something; by bisection
        wanted = -u[:, 0].log()
        before, reached = step, torch.full_like(step, len(self) + 1)  # hazard(before) < wanted
        while bool((reached - before > 1).any()):
            middle = (before + reached) // 2
            at = middle.clamp(max=len(self))
            hazard = bound * (self.insert_hazard[at] - self.insert_hazard[step])
            hazard = hazard + torch.where(
                masks > 0, masks * (self.reveal_hazard[at] - self.reveal_hazard[step]), 0.0
            )
            enough = (hazard >= wanted) | (middle > len(self))
            before = torch.where(enough, before, middle)
            reached = torch.where(enough, middle, reached)
        found = reached - 1
        nothing = found >= len(self)
        at = found.clamp(max=len(self) - 1)
        share, rate = self.reveal[at], bound * self.insert[at]
        log_none = masks * torch.log1p(-share)  # of masks' staying
        log_none = torch.where(masks > 0, log_none, 0.0)
        some = -torch.expm1(log_none)  # P(a reveal)
        reveals_some = u[:, 1] * -torch.expm1(log_none - rate) < some
        # the first mask that is revealed, given that one is; each later one on its own
        first = torch.where(
            share < 1, torch.floor(torch.log1p(-u[:, 2] * some) / torch.log1p(-share)), 0.0
        )
        first = first.nan_to_num(0.0).long().minimum((masks - 1).clamp(min=0))
        index = torch.arange(u_masks.shape[1], device=u_masks.device)
        later = (
            (index > first[:, None]) & (index < masks[:, None]) & (u_masks < share[:, None])
        ).sum(1)
        reveals = torch.where(reveals_some, 1 + later, 0)
        quiet = torch.exp(-rate)  # P(no proposal)
        given_some = poisson_quantile(quiet + u[:, 3] * -torch.expm1(-rate), rate).clamp(min=1)
        proposals = torch.where(reveals_some, poisson_quantile(u[:, 3], rate), given_some)
        return found, torch.where(nothing, 0, reveals), torch.where(nothing, 0, proposals)
