"""Held-out losses and NLL bounds: the arms of the transfer (comparison_SEED), and one choice
changed at a time (ablations_SEED).
"""

import statistics
from typing import Any

from results_page.intervals import mean_and_seeds, over_seeds, signed
from results_page.tables import Chains, markdown

ARMS = {
    "transfer": "FlexMDM, transfer, all parameters",
    "transfer_lora": "FlexMDM, transfer, LoRA + new parts",
    "scratch": "FlexMDM, from random weights",
    "continued": "LLaDA, continued (its own loss)",
}
CHOICES = {
    "default": (
        "default: log-rate head, t x 1000, padding masked, AdaLN shared by 8 blocks, insertion"
        " linear"
    ),
    "softplus": "softplus head x 1024",
    "time_1": "t x 1",
    "padding": "padding attended to",
    "per_block": "AdaLN for each block",
    "power_3": "insertion power:3",
    "power_5": "insertion power:5",
    "geometric": "insertion geometric:10,0.01",
}


def bounds(chains: Chains, chain: str, arm: str) -> list[dict[str, Any]]:
    """What --evaluate_only said of an arm, of each seed."""
    return [seed["training"][arm]["bound"] for seed in chains[chain]]


def mean(found: list[dict[str, Any]], key: str, digits: int = 3) -> str:
    """The mean of a loss over seeds."""
    return f"{statistics.fmean(each[key] for each in found):.{digits}f}"


def loss_less(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> str:
    """A loss less another, over seeds."""
    return signed(over_seeds([a[key] - b[key] for a, b in zip(ours, theirs)]), 1, 3)


def transfer(chains: Chains) -> str:
    """Held-out losses of the arms of the transfer."""
    lines = []
    for arm, name in ARMS.items():
        found, default = (bounds(chains, "comparison", each) for each in (arm, "transfer"))
        cells = [
            (
                mean_and_seeds([bound[key] for bound in found], 1, 3)
                if all(key in bound for bound in found)
                else ""
            )
            for key in ("loss", "unmask_loss", "insertion_loss", "nats_per_token")
        ]
        comparable = arm in ("transfer_lora", "scratch")
        cells.append(loss_less(found, default, "loss") if comparable else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return markdown(
        "| | held-out loss, mean (seeds) | of it at masks | of it in gaps | NLL upper bound"
        " (nats/token) | delta loss vs transfer, over seeds |",
        lines,
    )


def ablations(chains: Chains) -> str:
    """Held-out losses with one choice changed at a time."""
    quarters = [f"loss_quarter_{quarter}" for quarter in range(1, 5)]
    lines = []
    for arm, name in CHOICES.items():
        found, default = (bounds(chains, "ablations", each) for each in (arm, "default"))
        cells = [mean(found, key) for key in ("loss", *quarters)]
        cells += [mean(found, key, 2) for key in ("insertion_loss", "unmask_loss")]
        comparable = arm in ("softplus", "time_1", "padding", "per_block")
        cells.append(loss_less(found, default, "loss") if comparable else "")
        cells.append(mean(found, "nats_per_token") if "nats_per_token" in found[0] else "")
        comparable = arm not in ("default", "geometric")
        cells.append(loss_less(found, default, "nats_per_token") if comparable else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return markdown(
        "| one choice changed | held-out loss | t < 1/4 | < 1/2 | < 3/4 | < 1 | gaps (full phi)"
        " | masks | delta loss vs default, over seeds | NLL upper bound (nats/token) | delta vs"
        " default, over seeds |",
        lines,
    )
