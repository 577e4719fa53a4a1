"""Write results/*.json from the runs of scripts/reproduce_small.sh, and from them the tables and
plots of RESULTS.md.

    reproduce_small.sh does this itself:
        python scripts/reproduction.py collect comparison_1 --work runs/reproduce
    Fill RESULTS.md, draw results/*.png:
        python scripts/reproduction.py report
Seconds on one CPU core; nothing is trained or sampled. A table in RESULTS.md is between <!--
NAME --> and <!-- /NAME -->. Intervals are 95 %: Wilson's for a share; Student's over seeds; normal
over items, for the given models.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import write_text
from common.rows import read_file, read_finished
from evaluation.results import item_scores, share_of, versions
from evaluation.results_table import sampler_name

Chains: TypeAlias = dict[str, list[dict[str, Any]]]  # by kind, what collect wrote of each seed
Interval: TypeAlias = tuple[float, float | None, float | None]  # mean, low, high
Right: TypeAlias = Sequence[str | float]  # items that were right: "0110", or shares

# 97.5 % quantile of Student's distribution by degrees of freedom; for more than nine: student()
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
NORMAL = 1.96


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution; beyond the table by its expansion in 1 /
    freedom (Abramowitz and Stegun 26.7.5), right to three digits after the point.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return STUDENT.get(freedom) or z + sum(
        term / freedom**power for power, term in enumerate(terms, 1)
    )


# ---- collect


def machine(begun: Path) -> dict[str, Any]:
    """What the numbers were made on: processor, GPU with its driver where there is one, commit (of
    the chain's beginning, from the file begun), date, versions.
    """
    from benchmark_gpu import card

    from network.devices import pick_device

    facts = card(device) if (device := pick_device()).type == "cuda" else {}
    cpu = (
        next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            "",
        )
        if Path("/proc/cpuinfo").exists()
        else ""
    )
    return {
        "processor": cpu,
        **{name: facts[name] for name in ("card", "driver") if name in facts},
        "commit": begun.read_text().strip() if begun.exists() else "",
        "date": date.today().isoformat(),
        "versions": versions(),
    }


def training(folder: Path) -> dict[str, Any]:
    """Steps, seconds, loss curve, and likelihood bound with held-out loss of a finished run."""
    log = read_finished(folder / "train_log.jsonl")
    lines = [row for row in log if "loss" in row]
    names = [
        name
        for name in ("loss", "unmask_loss", "insertion_loss", "gap_error")
        if lines and name in lines[-1]
    ]
    # one a session: a run may have been resumed
    seconds = sum(row.get("train_runtime", 0) for row in log)
    content = {
        "steps": log[-1]["step"],
        "seconds": round(seconds, 1),
        "curve": {
            "step": [row["step"] for row in lines],
            **{name: [round(row[name], 4) for row in lines] for name in names},
        },
    }
    if (folder / "bound.log").exists():
        line = [
            line for line in (folder / "bound.log").read_text().splitlines() if line.startswith("{")
        ][-1]
        content["bound"] = {key: value for key, value in json.loads(line).items() if key != "what"}
    return content


def evaluation(folder: Path, with_rows: bool = False) -> dict[str, Any]:
    """Metrics, evaluations and which items were right (a 0/1 string in the items' order; a list of
    shares with several samples). with_rows: lengths and success of each infill as well.
    """
    result = read_file(folder / "results.json", "--work")[0]
    right = item_scores(folder)
    content = {
        "label": result["label"],
        "sampler": sampler_name(result),
        "metrics": result["metrics"],
        "rows": result["rows"],
        "evaluations": result["evaluations"],
        "positions": result.get("positions"),
        "tokens": result["tokens"],
        "seconds": result["seconds"],
        "items_hash": result["settings"].get("data_hash"),
        "right": (
            "".join(str(int(right[name])) for name in sorted(right))
            if result["rows"] == len(right)
            else [round(right[name], 4) for name in sorted(right)]
        ),
    }
    if with_rows:
        rows = [
            row
            for file in sorted(folder.glob("generations-*.jsonl"))
            for row in read_finished(file)
        ]
        content["columns"] = ["reference tokens", "written tokens", "exact", "passed"]
        content["infills"] = sorted(
            [
                row["reference_length"],
                row["length"],
                int(row["completion"] == row["ground_truth"]),
                int(right[row["task_id"]]),
            ]
            for row in rows
        )
    return content


def collect(args: argparse.Namespace) -> None:
    """RESULTS/CHAIN.json from the work folder. Raises InputError where the chain has not run."""
    chain, work = args.chain, Path(args.work)
    folder = (
        Path("runs/sampler_curve")
        if chain == "samplers"
        else work
        / re.sub(
            r"^(comparison|ablations|counting|rivals|training|budget)_",
            lambda found: {"comparison": "seed"}.get(found[1], found[1]),
            chain,
        )
    )
    if not folder.is_dir():
        raise InputError(
            f"--work: {folder} is missing; scripts/reproduce_small.sh {chain} makes it"
        )
    runs = {
        "_".join(path.parent.relative_to(folder).parts): training(path.parent)
        for path in sorted(folder.glob("**/train_log.jsonl"))
        if (path.parent / "final").is_dir()
    }
    evaluations = {
        path.parent.name: evaluation(path.parent, with_rows=chain == "lengths")
        for path in sorted(folder.glob("**/results.json"))
    }
    content = {
        "chain": chain,
        "scale": args.scale,
        **machine(work / f"{chain}.commit"),
        "training": runs,
        "evaluations": evaluations,
    }
    if (folder / "free.json").exists():
        content["free"] = read_file(folder / "free.json", "--work")[0]
    target = Path(args.results) / f"{chain}.json"
    write_text(target, json.dumps(content, separators=(",", ":")) + "\n")
    print(f"wrote {target}: {len(runs)} trainings, {len(evaluations)} evaluations")


# ---- statistics


def percent(share: dict[str, float]) -> str:
    """ "61.5 [60.0, 62.5]", in percent."""
    return f"{100 * share['value']:.1f} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def over_seeds(values: Sequence[float]) -> Interval:
    """(mean, low, high) by Student's t; the ends are None with a single seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def over_items(pairs: Iterable[tuple[Right, Right]]) -> Interval:
    """(mean, low, high) of right_a - right_b, items being the sample: their differences are
    averaged over the models first.
    """
    columns = [[float(x) - float(y) for x, y in zip(a, b)] for a, b in pairs]
    items = [statistics.fmean(values) for values in zip(*columns)]
    half = NORMAL * statistics.stdev(items) / math.sqrt(len(items))
    return statistics.fmean(items), statistics.fmean(items) - half, statistics.fmean(items) + half


def width(values: Interval) -> float:
    """Of an interval; 0 without ends."""
    _, low, high = values
    return 0.0 if low is None or high is None else high - low


def signed(values: Interval, factor: float = 100, digits: int = 1) -> str:
    """ "+1.5 [-0.3, +3.2]", each times factor."""
    mean, low, high = values
    ends = (
        ""
        if low is None or high is None
        else f" [{factor * low:+.{digits}f}, {factor * high:+.{digits}f}]"
    )
    return f"{factor * mean:+.{digits}f}{ends}"


def mean_and_seeds(values: Sequence[float], factor: float = 100, digits: int = 1) -> str:
    """ "61.5 (60.0, 62.5, 62.0)": the mean, and each seed's value."""
    return (
        f"{factor * statistics.fmean(values):.{digits}f}"
        f" ({', '.join(f'{factor * value:.{digits}f}' for value in values)})"
    )


# ---- tables


def score(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The first of its metrics: the one that its benchmark is about."""
    return next(iter(evaluation["metrics"].values()))


def by_seed(chains: Chains, *kinds: str) -> dict[str, dict[str, Any]]:
    """Evaluations of the chains KIND_SEED: {seed: {name: evaluation}}, all kinds together; of two
    with one name the later kind's.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        for each in chains.get(kind, []):
            found.setdefault(each["chain"].rsplit("_", 1)[1], {}).update(each["evaluations"])
    return found


def difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The first evaluation's score less the second's, over the pairs of all seeds, each on the same
    items; with the wider of the intervals over seeds and over items. "" without pairs.
    """
    if not pairs:
        return ""
    seeds = over_seeds([score(a)["value"] - score(b)["value"] for a, b in pairs])
    return signed(max(over_items([(a["right"], b["right"]) for a, b in pairs]), seeds, key=width))


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


def table_headline(chains: Chains) -> str:
    """FlexMDM and LLaDA with matched settings, and their difference."""
    seeds = chains["comparison"]
    lines = [
        (
            "| | FlexMDM %, mean (seeds) | evaluations | LLaDA %, mean (seeds) | evaluations |"
            " difference, points: over seeds | over items |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name, a, b in PAIRS:
        found = [(seed["evaluations"][a], seed["evaluations"][b]) for seed in seeds]
        shares = [[score(pair[side])["value"] for pair in found] for side in (0, 1)]
        calls = [
            statistics.fmean(pair[side]["evaluations"]["mean"] for pair in found) for side in (0, 1)
        ]
        difference = over_seeds([x - y for x, y in zip(*shares)])
        items = over_items([(pair[0]["right"], pair[1]["right"]) for pair in found])
        lines.append(
            f"| {name} | {mean_and_seeds(shares[0])} | {calls[0]:.0f} | {mean_and_seeds(shares[1])}"
            f" | {calls[1]:.0f} | {signed(difference)} | {signed(items)} |"
        )
    return "\n".join(lines)


def table_settings(chains: Chains) -> str:
    """Every evaluation of the comparison."""
    seeds = chains["comparison"]
    lines = [
        (
            "| task | model and sampler | %, mean (seeds) | evaluations | mean absolute length"
            " error (tokens) | seconds per row |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({name for seed in seeds for name in seed["evaluations"]}):
        found = [seed["evaluations"][name] for seed in seeds if name in seed["evaluations"]]
        task = {"math": "word problems", "code": "infilling"}[name.split("_")[0]]
        seconds = statistics.fmean(each["seconds"] / each["rows"] for each in found)
        wrong = [
            each["metrics"]["length_error_tokens"]
            for each in found
            if "length_error_tokens" in each["metrics"]
        ]
        lines.append(
            f"| {task} | {found[0]['label']}, {found[0]['sampler']} |"
            f" {mean_and_seeds([score(each)['value'] for each in found])} |"
            f" {statistics.fmean(each['evaluations']['mean'] for each in found):.1f} |"
            f" {f'{statistics.fmean(wrong):.1f}' if wrong else ''} | {seconds:.2f} |"
        )
    return "\n".join(lines)


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


def table_counting(chains: Chains) -> str:
    """Every arm of count first and its rivals: score, what it costs, and its differences to the
    event-driven sampler and to the LLaDA that counts, over the same items. The interval of a
    difference is the wider of those over seeds and over items.
    """
    seeds = list(by_seed(chains, "counting", "rivals").values())
    lines = [
        (
            "| task | sampler | correct %, mean (seeds) | NFE per sample | positions per sample |"
            " less event-driven, points | less LLaDA, length counted |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for task, data, name, arm in COUNTING:
        tried = [seed for seed in seeds if f"{data}_{arm}" in seed]
        if not tried:
            continue
        found = [seed[f"{data}_{arm}"] for seed in tried]
        share = mean_and_seeds([score(each)["value"] for each in found])
        calls, positions = (
            statistics.fmean(each[key]["mean"] for each in found)
            for key in ("evaluations", "positions")
        )
        differences = []
        for other in ("flexmdm_event", "llada_counted"):
            pairs = [(a, seed[f"{data}_{other}"]) for a, seed in zip(found, tried)]
            differences.append("" if arm == other else difference(pairs))
        lines.append(
            f"| {task} | {name} | {share} | {calls:.1f} | {positions:,.0f} |"
            f" {' | '.join(differences)} |"
        )
    return "\n".join(lines)


BUDGET = [
    ("word problems", "math", "FlexMDM, tau-leaping, 40 steps", "flexmdm_tau40"),
    ("word problems", "math", "LLaDA, one block", "llada_one_block"),
    ("infilling", "code", "FlexMDM, tau-leaping, 32 steps", "flexmdm_tau32"),
    ("infilling", "code", "LLaDA, tuned to infill, one block", "llada_one_block"),
    *COUNTING,
]


def table_budget(chains: Chains) -> str:
    """Every arm at the larger budget, beside the same seeds at 1 x and compared with them where the
    items are the same.
    """
    small = by_seed(chains, "comparison", "counting", "rivals")  # at 1 x
    seeds = by_seed(chains, "budget")
    scale = ", ".join(sorted({f"{each['scale']:g}" for each in chains["budget"]}))
    lines = [
        (
            f"| task | sampler | 1 x, % | {scale} x, %, mean (seeds) | NFE per sample | {scale} x"
            f" less 1 x, points | {scale} x, less LLaDA, length counted |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
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
        before = [100 * score(there)["value"] for _, there in gains]
        lines.append(
            f"| {task} | {name} | {f'{statistics.fmean(before):.1f}' if before else ''} |"
            f" {mean_and_seeds([score(each)['value'] for each in found.values()])} |"
            f" {statistics.fmean(each['evaluations']['mean'] for each in found.values()):.1f} |"
            f" {difference(gains)} | {difference(leads)} |"
        )
    made_on = {
        f"{each.get('card', each['processor'])}, {each['date']}" for each in chains["budget"]
    }
    of = f"Seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    return "\n".join([*lines, "", f"{of}: {'; '.join(sorted(made_on))}."])


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


def table_early_budget(chains: Chains) -> str:
    """The first measurement with 12.5 times the rows; at 1 x the means of comparison_SEED."""
    large, small = (
        [each["evaluations"] for each in chains[chain]] for chain in ("early_budget", "comparison")
    )
    lines = [
        (
            "| task | model and sampler | 1 x, % | 12.5 x, %, mean (seeds) | NFE per sample |"
            " 12.5 x, less LLaDA in one block, points |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for task, name, arm in EARLY_BUDGET:
        rival = f"{arm.split('_')[0]}_llada_one_block"
        before = [score(seed[arm])["value"] for seed in small if arm in seed]
        found = [seed for seed in large if arm in seed]
        calls = statistics.fmean(seed[arm]["evaluations"]["mean"] for seed in found)
        pairs = [(seed[arm], seed[rival]) for seed in found if arm != rival]
        lines.append(
            f"| {task} | {name} | {f'{100 * statistics.fmean(before):.1f}' if before else ''} |"
            f" {mean_and_seeds([score(seed[arm])['value'] for seed in found])} | {calls:.1f} |"
            f" {difference(pairs)} |"
        )
    return "\n".join(lines)


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


def table_training(chains: Chains) -> str:
    """Accuracy and evaluations with one choice of the training changed, and the difference to the
    default's in counting_SEED with the same sampler, over the same items and seeds; then what
    inserting gains over counting. Intervals as in table_counting.
    """
    arms = {
        "math_{}_event": "word problems, event-driven",
        "math_{}_count1": "word problems, count first",
        "code_{}_event": "infilling, event-driven",
        "code_{}_count1": "infilling, count first",
        "code_{}_count4": "infilling, 4 lengths",
    }
    seeds = by_seed(chains, "training")
    found = by_seed(chains, "counting", "rivals", "training")

    def pairs_of(one: str, other: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Both evaluations of every seed that has them."""
        return [
            (found[seed][one], found[seed][other])
            for seed in seeds
            if {one, other} <= set(found[seed])
        ]

    lines = [f"| one choice changed | {' | '.join(arms.values())} |", "|---" * 6 + "|"]
    for name, title in TRAINING.items():
        default, cells = "llada" if name.startswith("llada") else "flexmdm", []
        for arm in arms:
            if default == "llada":
                arm = arm.replace("count1", "counted")
            pairs = pairs_of(arm.format(name), arm.format(default))
            if not pairs:
                cells.append("")
                continue
            calls = statistics.fmean(a["evaluations"]["mean"] for a, _ in pairs)
            shown = f"{mean_and_seeds([score(a)['value'] for a, _ in pairs])} at {calls:.1f}"
            cells.append(shown if name == default else f"{shown}, {difference(pairs)}")
        if any(cells):
            lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        "| head for the total and cosine, infilling, event-driven | points |",
        "|---|---|",
    ]
    for title, arm in (
        ("less 4 lengths, the same network", "code_total_cosine_count4"),
        ("less 4 lengths, default training", "code_flexmdm_count4"),
        ("less LLaDA, in place, length counted, cosine", "code_llada_cosine_counted"),
        ("less LLaDA, in place, length searched, constant", "code_llada_searched"),
    ):
        pairs = pairs_of("code_total_cosine_event", arm)
        lines.append(f"| {title} | {difference(pairs)} |")
    return "\n".join(lines)


ARMS = {
    "transfer": "FlexMDM, transfer, all parameters",
    "transfer_lora": "FlexMDM, transfer, LoRA + new parts",
    "scratch": "FlexMDM, from random weights",
    "continued": "LLaDA, continued (its own loss)",
}


def table_transfer(chains: Chains) -> str:
    """Held-out losses of the arms of the transfer."""
    seeds = chains["comparison"]
    lines = [
        (
            "| | held-out loss, mean (seeds) | of it at masks | of it in gaps | NLL upper bound"
            " (nats/token) | delta loss vs transfer, over seeds |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for arm, name in ARMS.items():
        bounds = [seed["training"][arm]["bound"] for seed in seeds]
        cells = [
            (
                mean_and_seeds([bound[key] for bound in bounds], 1, 3)
                if all(key in bound for bound in bounds)
                else ""
            )
            for key in ("loss", "unmask_loss", "insertion_loss", "nats_per_token")
        ]
        comparable = arm in ("transfer_lora", "scratch")
        differences = [
            bound["loss"] - seed["training"]["transfer"]["bound"]["loss"]
            for bound, seed in zip(bounds, seeds)
        ]
        lines.append(
            f"| {name} | {' | '.join(cells)} |"
            f" {signed(over_seeds(differences), 1, 3) if comparable else ''} |"
        )
    return "\n".join(lines)


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


def table_ablations(chains: Chains) -> str:
    """Held-out losses with one choice changed at a time."""
    seeds = chains["ablations"]
    quarters = [f"loss_quarter_{quarter}" for quarter in range(1, 5)]
    lines = [
        (
            "| one choice changed | held-out loss | t < 1/4 | < 1/2 | < 3/4 | < 1 | gaps (full phi)"
            " | masks | delta loss vs default, over seeds | NLL upper bound (nats/token) | delta vs"
            " default, over seeds |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, name in CHOICES.items():
        found, default = (
            [seed["training"][each]["bound"] for seed in seeds] for each in (arm, "default")
        )
        cells = [
            f"{statistics.fmean(each[key] for each in found):.3f}" for key in ("loss", *quarters)
        ]
        cells += [
            f"{statistics.fmean(each[key] for each in found):.2f}"
            for key in ("insertion_loss", "unmask_loss")
        ]
        for key, comparable in (
            ("loss", arm in ("softplus", "time_1", "padding", "per_block")),
            ("nats_per_token", arm not in ("default", "geometric")),
        ):
            differences = (
                signed(over_seeds([x[key] - y[key] for x, y in zip(found, default)]), 1, 3)
                if comparable
                else ""
            )
            mean = (
                []
                if key == "loss"
                else [
                    (
                        f"{statistics.fmean(each[key] for each in found):.3f}"
                        if key in found[0]
                        else ""
                    )
                ]
            )
            cells += [*mean, differences]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


LAYOUTS = {
    "flexmdm": "FlexMDM, tuned",
    "llada": "LLaDA, tuned, 32 masks behind the prompt, blocks of 8",
    "llada_oracle": "LLaDA in place, true length given",
    "llada_fixed": "LLaDA in place, 12 masks",
}


def table_real_code(chains: Chains) -> str:
    """Infills of library code and of HumanEval."""
    metrics = ("pass@1", "exact_match", "parses")
    lines = [
        "| | n | pass@1 % | exact match % | parses % | tokens written per row | evaluations |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, shown in (("stdlib", "library lines"), ("humaneval", "HumanEval single-line")):
        for key, layout in LAYOUTS.items():
            found = chains["real_code"][0]["evaluations"][f"{data}_{key}"]
            cells = [
                percent(found["metrics"][metric]) if metric in found["metrics"] else ""
                for metric in metrics
            ]
            lines.append(
                f"| {shown}: {layout} | {found['rows']} | {' | '.join(cells)} |"
                f" {found['tokens'] / found['rows']:.1f} | {found['evaluations']['mean']:.1f} |"
            )
    return "\n".join(lines)


def table_gsm8k(chains: Chains) -> str:
    """GSM8K, and the bound on its answers."""
    chain = chains["gsm8k"][0]
    lines = [
        (
            "| | NLL upper bound (nats/answer token) | test problems | right % | an answer found %"
            " | evaluations |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for kind, name in (("flexmdm", "FlexMDM"), ("llada", "LLaDA")):
        found, bound = chain["evaluations"][kind], chain["training"][kind]["bound"]
        lines.append(
            f"| {name} | {bound['nats_per_token']:.3f} +- {bound['nats_per_token_error']:.3f} |"
            f" {found['rows']} | {percent(score(found))} |"
            f" {percent(found['metrics']['answer_found'])} | {found['evaluations']['mean']:.1f} |"
        )
    return "\n".join(lines)


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


def mean_error(values: Sequence[float], digits: int = 1) -> str:
    """The mean and half its 95 % interval."""
    return (
        f"{statistics.fmean(values):.{digits}f} +-"
        f" {NORMAL * statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"
    )


def table_lengths(chains: Chains) -> str:
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
        (
            "| lengths | n | mean, tokens | true mean | total variation, bins of 8 | mean absolute"
            " error |"
        ),
        "|---|---|---|---|---|---|",
    ]
    lines += [
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
    return "\n".join(lines)


LENGTH_KINDS = {
    "flexmdm": "FlexMDM",
    "llada_oracle": "LLaDA, true length given",
    "llada_fixed_12": "LLaDA, 12 masks",
    "llada_tuned": "LLaDA tuned, 40 masks",
}
LENGTH_BINS = [(0, 0), (1, 2), (3, 5), (6, 10), (11, 15), (16, 20), (21, 30), (31, 40)]


def exact_by_length(
    rows: Sequence[Sequence[int]],
) -> list[tuple[tuple[int, int], dict[str, float]]]:
    """[((low, high), share_of exact)] of a lengths evaluation's infills, for the bins that have
    any.
    """
    bins = [
        (ends, [row[2] for row in rows if ends[0] <= row[0] <= ends[1]]) for ends in LENGTH_BINS
    ]
    return [(ends, share_of(sum(exact), len(exact))) for ends, exact in bins if exact]


def table_exact_by_length(chains: Chains) -> str:
    """Exact match by the true length of the middle."""
    chain = chains["lengths"][0]
    lines = [
        "| true length | n | "
        + " | ".join(f"{name}, exact %" for name in LENGTH_KINDS.values())
        + " |",
        "|---|---" + "|---" * len(LENGTH_KINDS) + "|",
    ]
    for found in zip(
        *(exact_by_length(chain["evaluations"][kind]["infills"]) for kind in LENGTH_KINDS)
    ):
        (low, high), share = found[0]
        lines.append(
            f"| {low if low == high else f'{low} to {high}'} | {share['n']} |"
            f" {' | '.join(percent(share) for _, share in found)} |"
        )
    return "\n".join(lines)


def table_samplers(chains: Chains) -> str:
    """Each sampler's accuracy and cost, on the same items."""
    found = chains["samplers"][0]["evaluations"]
    exact = found["event_driven"]
    rows = sorted(
        found.values(),
        key=lambda each: (
            "event" in each["sampler"],
            "left out" in each["sampler"] or "skipped" in each["sampler"],  # the older words, too
            each["evaluations"]["mean"],
        ),
    )
    lines = [
        (
            "| FlexMDM sampler | items x answers | pass@1 % | NFE per sample | seconds per row |"
            " event-driven minus this, points, paired |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        share = score(each)
        difference = (
            ""
            if each is exact or each["items_hash"] != exact["items_hash"]
            else signed(over_items([(exact["right"], each["right"])]))
        )
        lines.append(
            f"| {each['sampler']} | {share['n']} x {each['rows'] // share['n']} | {percent(share)}"
            f" | {each['evaluations']['mean']:.1f} | {each['seconds'] / each['rows']:.2f} |"
            f" {difference} |"
        )
    return "\n".join(lines)


def table_cost(chains: Chains) -> str:
    """What each chain took, and on what machine; without those whose runs share a GPU."""
    lines = [
        "| chain | training, core minutes | evaluation, core minutes | date | commit | processor |",
        "|---|---|---|---|---|---|",
    ]
    total = [0.0, 0.0]
    alone = {kind: found for kind, found in chains.items() if "budget" not in kind}
    for each in [each for found in alone.values() for each in found]:
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
    return "\n".join([*lines, f"| all | {total[0]:.1f} | {total[1]:.1f} | | | |"])


TABLES: dict[str, tuple[str | None, Callable[[Chains], str]]] = {
    "headline": ("comparison", table_headline),
    "settings": ("comparison", table_settings),
    "transfer": ("comparison", table_transfer),
    "ablations": ("ablations", table_ablations),
    "real_code": ("real_code", table_real_code),
    "gsm8k": ("gsm8k", table_gsm8k),
    "lengths": ("lengths", table_lengths),
    "exact_by_length": ("lengths", table_exact_by_length),
    "samplers": ("samplers", table_samplers),
    "counting": ("counting", table_counting),
    "training": ("training", table_training),
    "budget": ("budget", table_budget),
    "early_budget": ("early_budget", table_early_budget),
    "cost": (None, table_cost),
}


# ---- plots


def plot_curves(chains: Chains, path: Path) -> None:
    """Training loss of each arm, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
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


def plot_exact_by_length(chains: Chains, path: Path) -> None:
    """Exact match by true length, running bins, Wilson bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, panel = pyplot.subplots(figsize=(7, 4.4), layout="constrained")
    for number, (kind, name) in enumerate(LENGTH_KINDS.items()):
        rows = chains["lengths"][0]["evaluations"][kind]["infills"]
        found = exact_by_length(rows)
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


PLOTS: dict[str, tuple[str, Callable[[Chains, Path], None]]] = {
    "loss_curves.png": ("comparison", plot_curves),
    "exact_by_length.png": ("lengths", plot_exact_by_length),
}


def report(args: argparse.Namespace) -> None:
    """Fill the tables of RESULTS.md for which there are results; draw the plots. Raises InputError
    where there are no results, or no place for a table.
    """
    chains: Chains = {}
    for path in sorted(Path(args.results).glob("*.json")):
        chains.setdefault(re.sub(r"_\d+$", "", path.stem), []).append(
            read_file(path, "--results")[0]
        )
    if not chains:
        raise InputError(
            f"--results: {args.results} has no JSON files; scripts/reproduce_small.sh writes them"
        )
    target = ROOT / "RESULTS.md" if args.output is None else Path(args.output)
    text = target.read_text()
    for name, (needed, table) in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise InputError(
                f"--output: {target} has no place for the table {name} ({begin} ... {end})"
            )
        if needed is None or needed in chains:
            text = (
                text[: text.index(begin) + len(begin)]
                + "\n"
                + table(chains)
                + "\n"
                + text[text.index(end) :]
            )
    write_text(target, text)
    drawn = [name for name, (needed, _) in PLOTS.items() if needed in chains]
    for name in drawn:
        PLOTS[name][1](chains, Path(args.results) / name)
    print(f"wrote {target}" + (f" and {', '.join(drawn)}" if drawn else ""))


def make_parser() -> ArgumentParser:
    """The commands and their flags."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help="collect or report"
    )
    first, second = commands.add_parser("collect"), commands.add_parser("report")
    first.add_argument("chain", help="a chain of scripts/reproduce_small.sh")
    first.add_argument(
        "--work", default="runs/reproduce", help="its work folder (default: runs/reproduce)"
    )
    first.add_argument(
        "--scale", type=float, default=1.0, help="the --scale it ran with, for the record"
    )
    for command in (first, second):
        command.add_argument(
            "--results", default="results", help="folder of the JSON files (default: results)"
        )
    second.add_argument("--output", help="file whose tables are filled (default: RESULTS.md)")
    return parser


def main() -> None:
    """Run the command."""
    args = make_parser().parse_args()
    {"collect": collect, "report": report}[args.command](args)


if __name__ == "__main__":
    run(main)
