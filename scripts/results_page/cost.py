"""What each chain of scripts/reproduce_small.sh took."""

from results_page.tables import Chains, markdown


def cost(chains: Chains) -> str:
    """Core minutes of each chain, and on what machine; without those whose runs share a GPU."""
    lines, total = [], [0.0, 0.0]
    alone = [each for kind, found in chains.items() if "budget" not in kind for each in found]
    for each in alone:
        bounds = [run["bound"] for run in each["training"].values() if "bound" in run]
        parts = [
            sum(item.get("seconds", 0) for item in items) / 60
            for items in (each["training"].values(), [*each["evaluations"].values(), *bounds])
        ]
        total = [x + y for x, y in zip(total, parts)]
        lines.append(
            f"| {each['chain']} | {parts[0]:.1f} | {parts[1]:.1f} | {each['date']} |"
            f" {each['commit']} | {each['processor']} |"
        )
    lines.append(f"| all | {total[0]:.1f} | {total[1]:.1f} | | | |")
    return markdown(
        "| chain | training, core minutes | evaluation, core minutes | date | commit | processor |",
        lines,
    )
