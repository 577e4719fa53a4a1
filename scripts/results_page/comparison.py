"""FlexMDM against LLaDA with equal training: the chains comparison_SEED, and early_budget_SEED with
12.5 times the rows.
"""

import statistics

from results_page.intervals import over_items, over_seeds, signed
from results_page.tables import Chains, correct, difference, markdown, nfe, scores

PAIRS = [
    ("word problems, no prior", "math_flexmdm_tau40", "math_llada_one_block"),
    ("word problems, window and blocks of 8", "math_flexmdm_tau40_narrow", "math_llada_blocks"),
    ("infilling, no prior", "code_flexmdm_tau32", "code_llada_one_block"),
    ("infilling, window and blocks of 8", "code_flexmdm_tau32_narrow", "code_llada_blocks"),
    ("word problems, event-driven against blocks", "math_flexmdm_event", "math_llada_blocks"),
    ("infilling, event-driven against blocks", "code_flexmdm_event", "code_llada_blocks"),
    (
        "infilling, event-driven with bound and threshold, against blocks",
        "code_flexmdm_fast",
        "code_llada_blocks",
    ),
]


def headline(chains: Chains) -> str:
    """FlexMDM and LLaDA with matched settings, and their difference."""
    lines = []
    for name, *arms in PAIRS:
        ours, theirs = ([seed["evaluations"][arm] for seed in chains["comparison"]] for arm in arms)
        seeds = over_seeds([a - b for a, b in zip(scores(ours), scores(theirs))])
        items = over_items([(a["right"], b["right"]) for a, b in zip(ours, theirs)])
        lines.append(
            f"| {name} | {correct(ours)} | {nfe(ours):.0f} | {correct(theirs)} |"
            f" {nfe(theirs):.0f} | {signed(seeds)} | {signed(items)} |"
        )
    return markdown(
        "| | FlexMDM %, mean (seeds) | evaluations | LLaDA %, mean (seeds) | evaluations |"
        " difference, points: over seeds | over items |",
        lines,
    )


def settings(chains: Chains) -> str:
    """Every evaluation of the comparison."""
    seeds, lines = [each["evaluations"] for each in chains["comparison"]], []
    for name in sorted({name for seed in seeds for name in seed}):
        found = [seed[name] for seed in seeds if name in seed]
        task = {"math": "word problems", "code": "infilling"}[name.split("_")[0]]
        seconds = statistics.fmean(each["seconds"] / each["rows"] for each in found)
        errors = [
            each["metrics"]["length_error_tokens"]
            for each in found
            if "length_error_tokens" in each["metrics"]
        ]
        lines.append(
            f"| {task} | {found[0]['label']}, {found[0]['sampler']} | {correct(found)} |"
            f" {nfe(found):.1f} | {f'{statistics.fmean(errors):.1f}' if errors else ''} |"
            f" {seconds:.2f} |"
        )
    return markdown(
        "| task | model and sampler | %, mean (seeds) | evaluations | mean absolute length"
        " error (tokens) | seconds per row |",
        lines,
    )


EARLY_BUDGET = [
    ("word problems", "FlexMDM, event-driven", "math_flexmdm_event"),
    ("word problems", "FlexMDM, tau-leaping, 40 steps", "math_flexmdm_tau40"),
    ("word problems", "linear insertion schedule, event-driven", "math_linear_event"),
    ("word problems", "LLaDA, one block", "math_llada_one_block"),
    ("infilling", "FlexMDM, event-driven", "code_flexmdm_event"),
    ("infilling", "FlexMDM, tau-leaping, 32 steps", "code_flexmdm_tau32"),
    ("infilling", "linear insertion schedule, event-driven", "code_linear_event"),
    ("infilling", "LLaDA, tuned to infill, blocks of 8", "code_llada_blocks"),
    ("infilling", "LLaDA, tuned to infill, one block", "code_llada_one_block"),
]


def early_budget(chains: Chains) -> str:
    """The first measurement with 12.5 times the rows; at 1 x the means of comparison_SEED."""
    large, small = (
        [each["evaluations"] for each in chains[chain]] for chain in ("early_budget", "comparison")
    )
    lines = []
    for task, name, arm in EARLY_BUDGET:
        rival = f"{arm.split('_')[0]}_llada_one_block"
        before = scores(seed[arm] for seed in small if arm in seed)
        seeds = [seed for seed in large if arm in seed]
        found = [seed[arm] for seed in seeds]
        pairs = [(seed[arm], seed[rival]) for seed in seeds if arm != rival]
        lines.append(
            f"| {task} | {name} | {f'{100 * statistics.fmean(before):.1f}' if before else ''} |"
            f" {correct(found)} | {nfe(found):.1f} | {difference(pairs)} |"
        )
    return markdown(
        "| task | model and sampler | 1 x, % | 12.5 x, %, mean (seeds) | NFE per sample |"
        " 12.5 x, less LLaDA in one block, points |",
        lines,
    )
