r"""Where a FlexMDM goes wrong: in the number of tokens, or in the tokens. For data with known
answers it compares three things.

    sampled          how many answers are right, have the right length, and are right given that
    length known     the true number of masks is put in place and only unmasked (count_first)
    complete states  nothing is missing, some tokens are masks: how many tokens the insertion head
                     still expects to insert from a time t on. All of them would be surplus

Laptop:
    python scripts/count_study.py --checkpoint_path runs/quickstart/flexmdm_math/final --task math \
        --data_path runs/quickstart/math_test.jsonl --output_dir runs/count_study
    python scripts/count_study.py --checkpoint_path runs/quickstart/flexmdm_code/final --task code \
        --data_path runs/quickstart/code_test.jsonl --output_dir runs/count_study_code
One GPU:
    ... --checkpoint_path CHECKPOINT --batch_size 64
Slurm:
    srun --gpus 1 python scripts/count_study.py ...

Answers are sampled as the sampler flags say (default: event-driven, most confident first). An
answer of --task math is right by the strict rule of evaluation/answer_rules.py, one of --task code
where it is the reference itself. Writes count_study.json, count_study.md and count_study.png to
--output_dir.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, require_positive
from common.errors import run
from common.progress import add_quiet_flag, ending
from sampling.flags import add_flexmdm_flags, add_model_flags
from sampling.options import SamplerOptions

if TYPE_CHECKING:
    from evaluation.driver import Evaluation
    from evaluation.model import EvaluatedModel, Given

TIMES = 20  # of complete states, evenly spread
LATE = 0.97
SHOWN_TIMES = (0.0, 0.3, 0.5, 0.7)


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    group = parser.add_argument_group("study")
    add = group.add_argument
    add("--task", choices=("math", "code"), required=True, help="how --data_path is read")
    add("--data_path", required=True, help="as of eval_gsm8k.py or eval_humaneval_infill.py")
    add("--benchmark", default="single-line", help="code: the set in a folder of official ones")
    add("--subsample", type=int, metavar="N", help="only the first N items (default: all)")
    add("--batch_size", type=int, default=50, help="rows in the network's batch (default: 50)")
    add("--output_dir", required=True, help="where table and plot go")
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    parser.set_defaults(
        sampler="event_driven", unmasking="confidence", confidence_method="top_prob"
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags, with what an evaluation needs besides. Raises InputError."""
    args = make_parser().parse_args(argv)
    require_positive(args, "subsample", "batch_size")
    args.answer_rule, args.allow_code_execution, args.variable_length = "strict", False, True
    args.llada_infill, args.num_samples = "paper", 1
    return args


def sampled(
    evaluation: "Evaluation", model: "EvaluatedModel", given: "Given", truth: list[int]
) -> dict[str, Any]:
    """Counts of what the sampler made: right, length right, right given either, errors by sign."""
    rows = answers(evaluation, model, given)
    right = [evaluation.is_right(row) for row in rows]
    errors = [row["length"] - n for row, n in zip(rows, truth)]
    fits = [error == 0 for error in errors]
    return {
        "right": sum(right),
        "length_right": sum(fits),
        "right_where_length_right": sum(a and b for a, b in zip(right, fits)),
        "right_where_length_wrong": sum(a and not b for a, b in zip(right, fits)),
        "length_errors": {str(error): errors.count(error) for error in sorted(set(errors))},
        "evaluations": sum(row["evaluations"] for row in rows) / len(rows),
    }


def answers(
    evaluation: "Evaluation", model: "EvaluatedModel", given: "Given"
) -> list[dict[str, Any]]:
    """A row for each item, in order, by the model's sampler."""
    from tqdm import tqdm

    tasks = [{"item": number, "sample": 0} for number in range(len(evaluation.items))]
    rows = []
    for start in tqdm(range(0, len(tasks), model.rows_per_call), desc="sampling", file=sys.stderr):
        part = tasks[start : start + model.rows_per_call]
        for task, (text, fields) in zip(part, model.respond(given, part)):
            rows.append({**evaluation.row(task["item"], text), **fields})
    return rows


def length_known(
    evaluation: "Evaluation",
    model: "EvaluatedModel",
    given: "Given",
    references: list[list[int]],
    query_time: float | None,
) -> dict[str, Any]:
    """How many answers are right where the true number of masks is put in place."""
    from sampling.flexmdm import generate_flexmdm_infilling

    suffixes = given.suffixes or [[]] * len(given.prefixes)
    options = SamplerOptions(**model.arguments).to_count_first(
        query_time=query_time, events_per_evaluation=1
    )
    result = generate_flexmdm_infilling(
        model.model,
        given.prefixes,
        suffixes,
        middle_lengths=[len(ids) for ids in references],
        options=options,
        **model.ids,
    )
    starts, ends = list(map(len, given.prefixes)), list(map(len, suffixes))
    rows = model.answers_of(result, starts, ends, given.texts)
    right = [
        evaluation.is_right(evaluation.row(number, text)) for number, (text, _) in enumerate(rows)
    ]
    return {"right": sum(right), "evaluations": result.evaluations.double().mean().item()}


def surplus(
    model: "EvaluatedModel", given: "Given", references: list[list[int]], seed: int
) -> list[dict[str, float]]:
    """[{"t", "expected"}]: the mean number of tokens that the insertion head expects to insert
    after t into states in which nothing is missing: the integral of G alpha' / (1 - alpha) up to
    1 - time_epsilon. Its states are those of the interpolant given that everything has been
    inserted. G is taken at the middle of each of TIMES steps, the rate's integral is exact.
    """
    import torch
    from tqdm import tqdm

    from flexmdm_trainer import interpolant_of

    network: Any = model.model
    interpolant = interpolant_of(network.config)
    edges = torch.linspace(0, 1 - network.config.time_epsilon, TIMES + 1, dtype=torch.float64)
    weights = -(1 - interpolant.insertion_schedule.at(edges)).log().diff()  # of each step
    random = torch.Generator().manual_seed(seed)
    suffixes = given.suffixes or [[]] * len(given.prefixes)
    expected = []
    for t in tqdm((edges[1:] + edges[:-1]) / 2, desc="complete states", file=sys.stderr):
        total = 0.0
        masked = 1 - float(interpolant.unmask_schedule.at(t))
        for start in range(0, len(references), model.arguments["rows_at_once"]):
            part = range(start, min(start + model.arguments["rows_at_once"], len(references)))
            rows = []
            for number in part:
                hidden = torch.rand(len(references[number]), generator=random) < masked
                reference = torch.tensor(references[number], dtype=torch.long)
                middle = reference.masked_fill(hidden, model.ids["mask_id"])
                rows.append([*given.prefixes[number], *middle.tolist(), *suffixes[number]])
            width = max(map(len, rows))
            ids = torch.full((len(rows), width), model.ids["pad_id"])
            keep = torch.zeros((len(rows), width + 1), dtype=torch.bool)
            for place, (number, row) in enumerate(zip(part, rows)):
                ids[place, : len(row)] = torch.tensor(row)
                keep[place, len(given.prefixes[number]) : len(row) - len(suffixes[number]) + 1] = 1
            mask = torch.arange(width) < torch.tensor(list(map(len, rows)))[:, None]
            with torch.no_grad():
                output = network(
                    ids.to(network.device),
                    torch.full((len(rows),), float(t)).to(network.device),
                    attention_mask=mask.to(network.device),
                    logits_mask=torch.zeros_like(ids, dtype=torch.bool).to(network.device),
                )
            total += float((output["length"].cpu() * keep).sum())
        expected.append(total / len(references))
    later = (torch.tensor(expected, dtype=torch.float64) * weights).flip(0).cumsum(0).flip(0)
    return [{"t": t, "expected": left} for t, left in zip(edges.tolist(), later.tolist())]


def table(study: dict[str, Any]) -> str:
    """The study as Markdown."""
    n, made = study["items"], study["sampled"]
    share = lambda right, of: f"{right} of {of}" + (f" ({right / of:.1%})" if of else "")
    fits = made["length_right"]
    lines = [
        f"| {study['checkpoint']}, {study['benchmark']} | |",
        "|---|---|",
        f"| sampled ({study['sampler']}) | {share(made['right'], n)} right at"
        f" {made['evaluations']:.1f} evaluations |",
        f"| length right | {share(fits, n)} |",
        f"| right where the length is right | {share(made['right_where_length_right'], fits)} |",
        f"| ... where it is wrong | {share(made['right_where_length_wrong'], n - fits)} |",
        "| length errors, tokens: answers | "
        + ", ".join(f"{int(error):+d}: {count}" for error, count in made["length_errors"].items())
        + " |",
    ]
    for name, known in study["length_known"].items():
        lines.append(f"| length known, network queried {name} | {share(known['right'], n)} right |")
    for point in study["surplus"]:
        if any(abs(point["t"] - t) < 0.5 / TIMES for t in SHOWN_TIMES):
            lines.append(
                f"| surplus insertions expected in complete states from t = {point['t']:.2f} on |"
                f" {point['expected']:.3f} |"
            )
    return "\n".join(lines)


def plot(study: dict[str, Any], path: Path) -> None:
    """Length errors, and the surplus that is expected from t on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    errors = {int(error): count for error, count in study["sampled"]["length_errors"].items()}
    left.bar(list(errors), list(errors.values()), color="C0")
    left.set(xlabel="length error (tokens)", ylabel=f"answers (n = {study['items']})")
    points = study["surplus"]
    right.plot([p["t"] for p in points], [p["expected"] for p in points], color="C1")
    right.set(xlabel="time t (1 = clean)", ylabel="surplus insertions expected from t on")
    right.set(xlim=(0, 1), ylim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, write, print. Raises InputError."""
    args = parse_args()
    from common.files import complete_folder, require_replaceable, write_json, write_text
    from data.math_prompts import math_target
    from data.tokenizer import inner_ids
    from eval_gsm8k import Gsm8k
    from eval_humaneval_infill import Infilling
    from evaluation.model import EvaluatedModel

    require_replaceable(args.output_dir, "count study")
    evaluation = Gsm8k(args) if args.task == "math" else Infilling(args)
    items = evaluation.load_items()
    model = EvaluatedModel(args, default_steps=256)
    names = [evaluation.item_name(number) for number in range(len(items))]
    given = evaluation.encode(model)
    model.check_fits(names, given, "--data_path")
    texts = [
        math_target(item["answer"]) if args.task == "math" else item["canonical_solution"]
        for item in items
    ]
    references = [inner_ids(model.tokenizer, text) for text in texts]
    study = {
        "checkpoint": args.checkpoint_path,
        "benchmark": evaluation.benchmark(),
        "items": len(items),
        "sampler": args.sampler,
        "settings": model.settings,
        "sampled": sampled(evaluation, model, given, list(map(len, references))),
        "length_known": {
            "at the matched time": length_known(evaluation, model, given, references, None),
            f"at t = {LATE}": length_known(evaluation, model, given, references, LATE),
        },
        "surplus": surplus(model, given, references, args.seed),
    }
    with complete_folder(args.output_dir, "count study") as folder:
        write_json(folder / "count_study.json", study)
        write_text(folder / "count_study.md", table(study) + "\n")
        plot(study, folder / "count_study.png")
    print(table(study))
    ending(
        f"errors of length and of tokens over {len(items)} items",
        args.output_dir,
        "look at count_study.png there",
    )


if __name__ == "__main__":
    run(main)
