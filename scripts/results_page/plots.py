"""The plots of RESULTS.md."""

from pathlib import Path
from typing import Any

from results_page.held_out_losses import ARMS
from results_page.lengths import KINDS, exact_shares
from results_page.tables import Chains


def pyplot() -> Any:
    """matplotlib's, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def loss_curves(chains: Chains, path: Path) -> None:
    """Training loss of each arm, a line a seed."""
    figure, panels = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (arm, name) in enumerate(ARMS.items()):
        panel = panels[int(arm == "continued")]
        for seed, chain in enumerate(chains["comparison"]):
            curve = chain["training"][arm]["curve"]
            panel.plot(
                curve["step"],
                curve.get("loss", []),
                color=f"C{number}",
                alpha=0.7,
                linewidth=1,
                label=name if seed == 0 else None,
            )
    for panel, title in zip(panels, ("FlexMDM", "LLaDA")):
        panel.set(
            xlabel="step (32 rows each)",
            ylabel="training loss (row's sum / 32), mean of 25 steps",
            yscale="log",
            title=f"{title}, {len(chains['comparison'])} seeds",
        )
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def exact_by_length(chains: Chains, path: Path) -> None:
    """Exact match by true length, running bins, Wilson bars."""
    figure, panel = pyplot().subplots(figsize=(7, 4.4), layout="constrained")
    for number, (kind, name) in enumerate(KINDS.items()):
        rows = chains["lengths"][0]["evaluations"][kind]["infills"]
        found = exact_shares(rows)
        x = [sum(ends) / 2 + 0.25 * number for ends, _ in found]
        y = [100 * share["value"] for _, share in found]
        error = [
            [max(0.0, 100 * sign * (share[end] - share["value"])) for _, share in found]
            for end, sign in (("low", -1), ("high", 1))
        ]
        panel.errorbar(x, y, error, fmt="o-", capsize=2, label=name)
    panel.set(
        xlabel="true length of the middle (tokens)",
        ylabel="exact match (%), 95 % interval",
        title=f"n = {len(rows)} infills a model",
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    figure.savefig(path, dpi=130)
