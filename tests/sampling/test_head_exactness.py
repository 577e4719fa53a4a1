"""The other forms of the insertion head, given exact numbers, are exact too: rates by a total and
its shares, and by the means of distributions.

pytest tests/sampling/test_head_exactness.py                             seconds
"""

import numpy as np
import pytest
import torch
from exact_posterior import PAD, VOCABULARY, ExactPosterior
from test_sampler_exactness import LAWS, is_exact

from flexmdm_interpolant import PowerSchedule
from llada_dit import LengthDistribution, share_out


@pytest.fixture
def rng():
    return np.random.default_rng(int(torch.randint(2**31, ())))


def states(model):
    """Every state of a law: (ids (S, W), lengths (S,))."""
    base = VOCABULARY + 1  # ExactPosterior._keys
    digits = model.keys[:, None] // base ** torch.arange(model.width) % base
    return torch.where(digits > 0, digits - 1, PAD), (digits > 0).sum(1)


@pytest.mark.parametrize("law", LAWS)
def test_the_mean_of_an_exact_distribution_is_the_exact_rate(law, rng):
    model = ExactPosterior(LAWS[law](rng), PowerSchedule(1.7))
    ids, lengths = states(model)
    real = torch.arange(model.width) < lengths[:, None]
    gaps = model.allowed.flatten().nonzero()[:, 0]
    output = model(ids, torch.rand(len(ids)), real, missing_at=gaps)
    head = LengthDistribution(1, output["missing_log_probs"].shape[1] - 1)
    head.bins = lambda log_p: log_p  # few numbers: a bin is one of them
    mean = head.log_mean(output["missing_log_probs"]).exp()
    torch.testing.assert_close(mean, output["length"].flatten()[gaps])


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
