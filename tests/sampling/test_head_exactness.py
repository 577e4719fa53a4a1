"""The insertion head of kind "total", given exact numbers, is exact too.

pytest tests/sampling/test_head_exactness.py                             seconds
"""

import numpy as np
import pytest
import torch
from exact_posterior import ExactPosterior
from test_sampler_exactness import LAWS, is_exact

from flexmdm_interpolant import PowerSchedule
from network.length_heads import share_out


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


class SharedOut(ExactPosterior):
    """The exact posterior whose rates come from a total and shares. evenly: all the same."""

    evenly = False

    def forward(self, input_ids, timesteps, attention_mask=None, **masks):
        output = super().forward(input_ids, timesteps, attention_mask, **masks)
        lengths = attention_mask.sum(1)
        there = torch.arange(input_ids.shape[1] + 1) <= lengths[:, None]
        log_g = torch.where(there, output["length"], 0).clamp_min(1e-300).log()
        z = torch.stack([log_g.logsumexp(1, keepdim=True).expand_as(log_g), log_g], -1)
        z[..., 1] = 0 if self.evenly else z[..., 1]
        output["length"] = share_out(z, lengths).exp()
        return output


@pytest.mark.parametrize("law", LAWS)
def test_event_driven_samples_the_exact_law_by_total_and_shares(law, rng):
    contexts, schedule = LAWS[law](rng), PowerSchedule(1.7)
    settings = dict(sampler="event_driven", insertion_schedule=schedule)
    model = SharedOut(contexts, schedule)
    assert is_exact(contexts, model, rng, **settings) and model.unknown == 0


def test_control_even_shares_fail(rng):
    contexts, schedule = LAWS["lengths 0..6"](rng), PowerSchedule(1.7)
    model = SharedOut(contexts, schedule)
    model.evenly = True
    settings = dict(sampler="event_driven", insertion_schedule=schedule)
    assert not is_exact(contexts, model, rng, **settings)
