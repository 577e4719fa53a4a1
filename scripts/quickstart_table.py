"""The quickstart's last step: its results as one table, with trivial baselines, and a few sample
answers.

python scripts/quickstart_table.py runs/quickstart          (writes table.md there, and prints it)
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common.errors import InputError, run
from common.files import write_text
from common.progress import command, ending
from common.rows import read_file, read_finished, read_rows
from data.word_problems import trivial_math_baselines
from evaluation.results import wilson

TASKS = [
    ("math", "word problems, held-out numbers: right answers"),
    ("code", "generated functions: pass@1"),
    ("stdlib", "library functions, held-out modules: exact match"),
    ("stdlib parses", "the same: prefix + middle + suffix parses"),
]


def cell(share: dict[str, Any]) -> str:
    """A share and its interval in percent, as "62.0 % [55.1, 68.4]"."""
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def result(folder: Path, metric: str | None = None) -> tuple[dict[str, Any], float]:
    """(share of a metric, mean NFE per sample) of a results.json."""
    content = read_file(folder / "results.json", "WORK")[0]
    share = content["metrics"][metric or next(iter(content["metrics"]))]
    return share, (content["evaluations"] or {"mean": 0})["mean"]


def plain(right: float, n: int) -> str:
    """cell of right of n."""
    low, high = wilson(right, n)
    return cell({"value": right / n, "low": low, "high": high})


def table(work: Path) -> str:
    """Markdown: FlexMDM with both samplers, LLaDA and what needs no model, with n, 95 % Wilson
    intervals and NFE per sample.
    """
    lines = [
        "| task | n | FlexMDM | evaluations | FlexMDM, count first | evaluations | LLaDA |"
        " evaluations | trivial baselines |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, name in TASKS:
        data, _, metric = task.partition(" ")
        chosen = metric or {"stdlib": "exact_match"}.get(data)
        shares = [
            result(work / "results" / f"{data}_{kind}", chosen)
            for kind in ("flexmdm", "counting", "llada")
        ]
        n = shares[0][0]["n"]
        if task == "math":
            train, test = (
                read_rows(work / f"math_{split}.jsonl", fields=("question", "answer"), flag="WORK")
                for split in ("train", "test")
            )
            baselines = trivial_math_baselines(train, test)
            trivial = (
                f"commonest answer {plain(round(baselines['commonest_answer'] * n), n)}, "
                f"nearest problem's answer {plain(round(baselines['nearest_question'] * n), n)}"
            )
        elif task == "code":
            trivial = f"empty middle {cell(result(work / 'results/code_references/empty')[0])}"
        else:
            trivial = "empty middle: never right" if task == "stdlib" else ""
        row = " | ".join(f"{cell(share)} | {evaluations:.1f}" for share, evaluations in shares)
        lines.append(f"| {name} | {n} | {row} | {trivial} |")
    return "\n".join(lines)


def examples(work: Path, count: int = 3) -> str:
    """The first `count` rows of every evaluation, to be read."""
    lines = []
    for folder in sorted((work / "results").iterdir()):
        rows = [
            row
            for file in sorted(folder.glob("generations-*.jsonl"))
            for row in read_finished(file)
        ]
        if not rows:
            continue
        lines.append(f"\n-- {folder.name}")
        for row in rows[:count]:
            if "question" in row:
                lines.append(
                    f"Q: {row['question']}\nA: {row['generations'].strip()}   (right:"
                    f" {row['ground_truth']})"
                )
            else:
                lines.append(f"{row['prompt']}[[{row['completion']}]]{row['suffix']}")
    return "\n".join(lines)


def main() -> None:
    """Write and print the table of the folder on the command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return
    work = Path(sys.argv[1])
    if not (work / "results").is_dir():
        raise InputError(f"WORK: {work} has no results folder; scripts/quickstart.sh makes it")
    text = table(work)
    write_text(work / "table.md", text + "\n")
    print(examples(work))
    print(f"\n{text}\n\n95 % Wilson intervals.\n")
    asked = read_file(work / "math_test.jsonl", "WORK")[0]["question"]
    following = command(
        "flexmdm_inference.py",
        *("--checkpoint_path", work / "counting_math", "--task", "math", "--prompt", asked),
        "--watch",
    )
    ending("the tuned models, and the table of their scores", f"{work}/table.md", following)


if __name__ == "__main__":
    run(main)
