"""The lengths that models write, against the true ones: the chain lengths."""

import statistics
from collections.abc import Sequence

from evaluation.results import share_of
from results_page.intervals import mean_error, percent
from results_page.tables import Chains, markdown

KINDS = {
    "flexmdm": "FlexMDM",
    "llada_oracle": "LLaDA, true length given",
    "llada_fixed_12": "LLaDA, 12 masks",
    "llada_tuned": "LLaDA tuned, 40 masks",
}
BINS = [(0, 0), (1, 2), (3, 5), (6, 10), (11, 15), (16, 20), (21, 30), (31, 40)]


def histogram(values: Sequence[int], width: int, most: int) -> list[float]:
    """Shares of the values in bins of that width; what is above `most` counts as `most`."""
    counts = [0] * (most // width + 1)
    for value in values:
        counts[min(value, most) // width] += 1
    return [count / len(values) for count in counts]


def total_variation(a: Sequence[int], b: Sequence[int], width: int = 8) -> float:
    """Total variation distance of two samples' lengths in bins of `width` tokens."""
    most = max(*a, *b)
    return sum(abs(x - y) for x, y in zip(histogram(a, width, most), histogram(b, width, most))) / 2


def lengths(chains: Chains) -> str:
    """Lengths that the models write, against the true ones."""
    chain = chains["lengths"][0]
    free, text = chain["free"], chain["free"]["text"]
    n = len(free["flexmdm"])
    kinds = [
        (text[:n], text[n:], f"text without a prompt: {n} rows of it against the others"),
        (free["flexmdm"], text, "FlexMDM, free samples"),
        (free["llada"], text, f"LLaDA, free samples on a canvas of {free['canvas']}"),
    ]
    lines = [
        f"| {name} | {len(written)} | {mean_error(written)} | {statistics.fmean(text):.1f} |"
        f" {total_variation(written, true):.3f} | |"
        for written, true, name in kinds
    ]
    for key, name in (
        ("flexmdm", "FlexMDM, infills of 0 to 40 tokens"),
        ("llada_tuned", "LLaDA tuned, 40 masks, ends itself"),
        ("llada_fixed_12", "LLaDA in place, 12 masks"),
    ):
        true, written = zip(*[row[:2] for row in chain["evaluations"][key]["infills"]])
        lines.append(
            f"| {name} | {len(true)} | {mean_error(written)} | {statistics.fmean(true):.1f} |"
            f" {total_variation(written, true):.3f} |"
            f" {mean_error([abs(x - y) for x, y in zip(true, written)], 2)} |"
        )
    return markdown(
        "| lengths | n | mean, tokens | true mean | total variation, bins of 8 | mean absolute"
        " error |",
        lines,
    )


def exact_shares(
    rows: Sequence[Sequence[int]],
) -> list[tuple[tuple[int, int], dict[str, float]]]:
    """[((low, high), share_of exact)] of a lengths evaluation's infills, for the bins that have
    any.
    """
    bins = [(ends, [row[2] for row in rows if ends[0] <= row[0] <= ends[1]]) for ends in BINS]
    return [(ends, share_of(sum(exact), len(exact))) for ends, exact in bins if exact]


def exact_by_length(chains: Chains) -> str:
    """Exact match by the true length of the middle."""
    evaluations, lines = chains["lengths"][0]["evaluations"], []
    for found in zip(*(exact_shares(evaluations[kind]["infills"]) for kind in KINDS)):
        (low, high), share = found[0]
        lines.append(
            f"| {low if low == high else f'{low} to {high}'} | {share['n']} |"
            f" {' | '.join(percent(share) for _, share in found)} |"
        )
    titles = " | ".join(f"{name}, exact %" for name in KINDS.values())
    return markdown(f"| true length | n | {titles} |", lines)
