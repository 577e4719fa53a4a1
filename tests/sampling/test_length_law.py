"""p(n | given) as the samplers and the fit ask for it: of the right place in every row of a batch,
whatever shares it.

pytest tests/sampling/test_length_law.py                                 seconds
"""

import random

import pytest
import tiny
import torch

from sampling.length_law import likeliest_lengths, missing_log_probs

MOST = 9


@pytest.fixture(params=["flexmdm", "llada"])
def model(request):
    if request.param == "flexmdm":
        return tiny.flexmdm(length_distribution=MOST)
    return tiny.llada(length_distribution=MOST)


def draw(longest):
    return [random.randint(5, 50) for _ in range(random.randint(0, longest))]


@torch.no_grad()
def test_every_row_s_law_is_that_of_its_own_gap(model):
    """Against the network's own words: at t = 0 the gap behind the prefix, or one mask there."""
    prefixes = [draw(6) + [7] for _ in range(8)]
    suffixes = [draw(4) for _ in range(8)]
    law = missing_log_probs(model, prefixes, suffixes)
    assert law.shape == (8, MOST + 1)
    torch.testing.assert_close(law.exp().sum(1), torch.ones(8))
    for number, (before, after) in enumerate(zip(prefixes, suffixes)):
        if model.config.model_type == "flexmdm":
            ids = torch.tensor([before + after])
            missing = torch.arange(MOST + 1).repeat_interleave(ids.shape[1] + 1)
            rows = ids.repeat(MOST + 1, 1)
            output = model(
                rows, torch.zeros(MOST + 1), missing=missing.view(MOST + 1, ids.shape[1] + 1)
            )
            expected = -output["missing_loss"][:, len(before)]
        else:
            ids = torch.tensor([[*before, tiny.MASK, *after]])
            expected = model(ids, logits_mask=ids == tiny.MASK, missing=True).logits[0]
        torch.testing.assert_close(law[number], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_likeliest_length_fits_and_does_not_depend_on_the_batch(model):
    prefixes, suffixes = [draw(6) + [7] for _ in range(7)], [draw(4) for _ in range(7)]
    law = missing_log_probs(model, prefixes, suffixes)
    for limit in (11, 14, 64):
        found = likeliest_lengths(model, prefixes, suffixes, limit)
        for number, (before, after) in enumerate(zip(prefixes, suffixes)):
            room = limit - len(before) - len(after)
            assert found[number] == int(law[number, : room + 1].argmax())
        for at_once in (1, 3):
            assert likeliest_lengths(model, prefixes, suffixes, limit, at_once) == found


def test_a_network_that_cannot_count_is_refused():
    with pytest.raises(ValueError, match="no length distribution"):
        missing_log_probs(tiny.llada(), [[5]], [[]])
