"""Count first and its rivals: the chains counting_SEED and rivals_SEED, the same and the comparison
with more training (budget_SEED), and choices of the training (training_SEED).
"""

import statistics

from results_page.tables import (
    Chains,
    Evaluation,
    by_seed,
    correct,
    difference,
    markdown,
    nfe,
    scores,
)

COUNTING = [
    ("word problems", "math", "FlexMDM, event-driven", "flexmdm_event"),
    ("word problems", "math", "FlexMDM, count first", "flexmdm_count1"),
    ("word problems", "math", "... 2 lengths", "flexmdm_count2"),
    ("word problems", "math", "... 3 lengths", "flexmdm_count3"),
    ("word problems", "math", "... 2 tokens per evaluation", "flexmdm_count1_by2"),
    ("word problems", "math", "... a share placed, the rest inserted", "flexmdm_share"),
    ("word problems", "math", "FlexMDM, event-driven, corrected", "flexmdm_corrected"),
    ("word problems", "math", "LLaDA, blocks of 8", "llada_blocks"),
    ("word problems", "math", "LLaDA, length counted", "llada_counted"),
    ("infilling", "code", "FlexMDM, event-driven", "flexmdm_event"),
    ("infilling", "code", "FlexMDM, count first", "flexmdm_count1"),
    ("infilling", "code", "... 2 lengths", "flexmdm_count2"),
    ("infilling", "code", "... 3 lengths", "flexmdm_count3"),
    ("infilling", "code", "... 4 lengths", "flexmdm_count4"),
    ("infilling", "code", "... 6 lengths", "flexmdm_count6"),
    ("infilling", "code", "... a share placed, the rest inserted", "flexmdm_share"),
    ("infilling", "code", "FlexMDM, event-driven, corrected", "flexmdm_corrected"),
    ("infilling", "code", "... the least confident tokens", "flexmdm_guided"),
    ("infilling", "code", "FlexMDM, count first, the same twice", "flexmdm_count_guided"),
    ("infilling", "code", "LLaDA, tuned to infill, blocks of 8", "llada_blocks"),
    ("infilling", "code", "LLaDA, in place, length counted", "llada_counted"),
    ("infilling", "code", "LLaDA, in place, length searched", "llada_searched"),
    ("infilling", "code", "LLaDA, in place, length known", "llada_in_place"),
]
BUDGET = [
    ("word problems", "math", "FlexMDM, tau-leaping, 40 steps", "flexmdm_tau40"),
    ("word problems", "math", "LLaDA, one block", "llada_one_block"),
    ("infilling", "code", "FlexMDM, tau-leaping, 32 steps", "flexmdm_tau32"),
    ("infilling", "code", "LLaDA, tuned to infill, one block", "llada_one_block"),
    *COUNTING,
]


def counting(chains: Chains) -> str:
    """Every arm of count first and its rivals: score, what it costs, and its differences to the
    event-driven sampler and to the LLaDA that counts, over the same items. The interval of a
    difference is the wider of those over seeds and over items.
    """
    seeds = list(by_seed(chains, "counting", "rivals").values())
    lines = []
    for task, data, name, arm in COUNTING:
        tried = [seed for seed in seeds if f"{data}_{arm}" in seed]
        if not tried:
            continue
        found = [seed[f"{data}_{arm}"] for seed in tried]
        positions = statistics.fmean(each["positions"]["mean"] for each in found)
        differences = []
        for other in ("flexmdm_event", "llada_counted"):
            pairs = [(a, seed[f"{data}_{other}"]) for a, seed in zip(found, tried)]
            differences.append("" if arm == other else difference(pairs))
        lines.append(
            f"| {task} | {name} | {correct(found)} | {nfe(found):.1f} | {positions:,.0f} |"
            f" {' | '.join(differences)} |"
        )
    return markdown(
        "| task | sampler | correct %, mean (seeds) | NFE per sample | positions per sample |"
        " less event-driven, points | less LLaDA, length counted |",
        lines,
    )


def budget(chains: Chains) -> str:
    """Every arm at the larger budget, beside the same seeds at 1 x and compared with them where the
    items are the same.
    """
    small = by_seed(chains, "comparison", "counting", "rivals")  # at 1 x
    seeds = by_seed(chains, "budget")
    scale = ", ".join(sorted({f"{each['scale']:g}" for each in chains["budget"]}))
    lines = []
    for task, data, name, arm in BUDGET:
        key, rival = f"{data}_{arm}", f"{data}_llada_counted"
        found = {seed: arms[key] for seed, arms in seeds.items() if key in arms}
        if not found:
            continue
        gains = [
            (large, small[seed][key])
            for seed, large in found.items()
            if small.get(seed, {}).get(key, {}).get("items_hash") == large["items_hash"]
        ]
        leads = [
            (large, seeds[seed][rival])
            for seed, large in found.items()
            if seeds[seed].get(rival, {}).get("items_hash") == large["items_hash"] and key != rival
        ]
        before = [100 * share for share in scores(there for _, there in gains)]
        lines.append(
            f"| {task} | {name} | {f'{statistics.fmean(before):.1f}' if before else ''} |"
            f" {correct(found.values())} | {nfe(found.values()):.1f} |"
            f" {difference(gains)} | {difference(leads)} |"
        )
    made_on = {
        f"{each.get('card', each['processor'])}, {each['date']}" for each in chains["budget"]
    }
    of = f"Seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    table = markdown(
        f"| task | sampler | 1 x, % | {scale} x, %, mean (seeds) | NFE per sample | {scale} x"
        f" less 1 x, points | {scale} x, less LLaDA, length counted |",
        lines,
    )
    return f"{table}\n\n{of}: {'; '.join(sorted(made_on))}."


TRAINING = {
    "flexmdm": "default: power:5, constant learning rate in the transfer",
    "power_3": "insertion power:3",
    "power_8": "insertion power:8",
    "power_12": "insertion power:12",
    "cosine": "cosine learning rate in the transfer",
    "ema": "weights of the transfer averaged, decay 0.99",
    "total": "head for the total, shared out",
    "distribution": "head for distributions, rates by their means",
    "total_cosine": "head for the total and cosine",
    "llada": "LLaDA that counts: constant learning rate",
    "llada_cosine": "LLaDA that counts: cosine",
}
TRAINING_ARMS = {
    "math_{}_event": "word problems, event-driven",
    "math_{}_count1": "word problems, count first",
    "code_{}_event": "infilling, event-driven",
    "code_{}_count1": "infilling, count first",
    "code_{}_count4": "infilling, 4 lengths",
}
AGAINST_INSERTING = (
    ("less 4 lengths, the same network", "code_total_cosine_count4"),
    ("less 4 lengths, default training", "code_flexmdm_count4"),
    ("less LLaDA, in place, length counted, cosine", "code_llada_cosine_counted"),
    ("less LLaDA, in place, length searched, constant", "code_llada_searched"),
)


def training(chains: Chains) -> str:
    """Accuracy and evaluations with one choice of the training changed, and the difference to the
    default's in counting_SEED with the same sampler, over the same items and seeds; then what
    inserting gains over counting. Intervals as in `counting`.
    """
    seeds = by_seed(chains, "training")
    found = by_seed(chains, "counting", "rivals", "training")

    def pairs_of(one: str, other: str) -> list[tuple[Evaluation, Evaluation]]:
        """Both evaluations of every seed that has them."""
        return [
            (found[seed][one], found[seed][other])
            for seed in seeds
            if {one, other} <= set(found[seed])
        ]

    lines = []
    for name, title in TRAINING.items():
        default, cells = "llada" if name.startswith("llada") else "flexmdm", []
        for arm in TRAINING_ARMS:
            if default == "llada":
                arm = arm.replace("count1", "counted")
            pairs = pairs_of(arm.format(name), arm.format(default))
            ours = [a for a, _ in pairs]
            cell = f"{correct(ours)} at {nfe(ours):.1f}" if pairs else ""
            cells.append(f"{cell}, {difference(pairs)}" if pairs and name != default else cell)
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    gains = [
        f"| {title} | {difference(pairs_of('code_total_cosine_event', arm))} |"
        for title, arm in AGAINST_INSERTING
    ]
    return (
        markdown(f"| one choice changed | {' | '.join(TRAINING_ARMS.values())} |", lines)
        + "\n\n"
        + markdown("| head for the total and cosine, infilling, event-driven | points |", gains)
    )
