r"""Generation tasks of EleutherAI's lm-evaluation-harness with a FlexMDM or a LLaDA (pip install
lm-eval==0.4.13; optional).

Laptop:
    python scripts/lm_evaluation.py --checkpoint_path runs/math/flexmdm --tasks gsm8k \
        --num_fewshot 0 --limit 20
One GPU:
    python scripts/lm_evaluation.py --checkpoint_path CHECKPOINT --tasks gsm8k,ifeval \
        --apply_chat_template --batch_size 32
Own tasks:
    ... --tasks my_task --include_path folder_with_yaml
Slurm:
    srun --gpus 1 python scripts/lm_evaluation.py --checkpoint_path CHECKPOINT --tasks gsm8k

Only tasks that ask for generated text: neither model gives the likelihood of a given continuation
from one evaluation, so tasks that rank answers are refused. A request's `until` cuts the text;
FlexMDM finds its own length, LLaDA takes --gen_length, else the request's own `max_gen_toks`.
Everything else (sampler, steps, seeds) comes from the flags that eval_gsm8k.py has too. One
process.

Without a network: a data set on the Hub is read from a folder of the same name (openai/gsm8k) in
the working directory if there is one; docs/evaluation.md has an example. Tasks that run programs
need --confirm_run_unsafe_code: the harness then runs them itself, outside the sandbox of
evaluation/sandbox/. eval_humaneval_infill.py runs them inside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, require_positive
from common.errors import InputError, run
from common.files import require_writable, write_json
from common.gpu_memory import MANY_PROMPTS, out_of_memory_advice
from common.progress import add_quiet_flag
from evaluation.lm_eval_adapter import ONLY_GENERATED, make_lm
from sampling.flags import add_flexmdm_flags, add_llada_flags, add_model_flags

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


def make_parser() -> ArgumentParser:
    """The harness's flags and the samplers'."""
    parser = ArgumentParser(description=__doc__)
    group = parser.add_argument_group("lm-evaluation-harness")
    group.add_argument(
        "--tasks", required=True, help="names of its tasks, with commas between them"
    )
    group.add_argument("--include_path", help="folder with further tasks' YAML files")
    group.add_argument(
        "--num_fewshot", type=int, help="examples before each question (default: the task's)"
    )
    group.add_argument("--limit", type=int, help="only the first N items of each task")
    group.add_argument(
        "--apply_chat_template",
        action="store_true",
        help="prompts in the tokenizer's chat template",
    )
    group.add_argument(
        "--confirm_run_unsafe_code",
        action="store_true",
        help="let the harness run the programs of code tasks, outside our sandbox",
    )
    group.add_argument(
        "--batch_size", type=int, default=16, help="rows generated at once (default: 16)"
    )
    group.add_argument(
        "--output_dir", help="where lm_eval_results.json goes (default: only printed)"
    )
    add_quiet_flag(parser)
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(unmasking="confidence", confidence_method="prob_diff", remasking="random")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of a command line, this process's by default."""
    args = make_parser().parse_args(argv)
    args.variable_length = False  # the kind is read from the checkpoint
    require_positive(args, "limit", "batch_size")
    if args.num_fewshot is not None and args.num_fewshot < 0:
        raise InputError(f"--num_fewshot: {args.num_fewshot} is below 0")
    if args.include_path and not Path(args.include_path).is_dir():
        raise InputError(f"--include_path: folder {args.include_path} does not exist")
    return args


def load_tasks(manager: TaskManager, names: list[str], run_code: bool) -> list[Task | Group]:
    """The named tasks and groups with their data. Raises InputError for one that does not exist,
    whose data cannot be read, that ranks answers, or that runs programs without run_code.
    """
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(f"--tasks: the harness has no task {unknown[0]!r}")
    try:
        loaded = manager.load(names)
    except Exception as error:  # the hub's clients raise a dozen kinds
        raise InputError(
            f"--tasks: the harness cannot load {', '.join(names)} ({type(error).__name__}: {error})"
        ) from None
    for name, task in loaded["tasks"].items():
        if task.OUTPUT_TYPE != "generate_until":
            raise InputError(f"--tasks: {name}: {ONLY_GENERATED}")
        if getattr(task, "UNSAFE_CODE", False) and not run_code:
            raise InputError(
                f"--tasks: {name} runs the model's programs without a sandbox; allow it with"
                " --confirm_run_unsafe_code"
            )
    members = {name for children in loaded["group_map"].values() for name in children}
    found = {**loaded["groups"], **loaded["tasks"]}
    return [each for name, each in found.items() if name not in members]


@out_of_memory_advice(MANY_PROMPTS)
def main() -> None:
    """Run the tasks, print the harness's table, write its results."""
    args = parse_args()
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError as error:
        raise InputError(
            f"lm-evaluation-harness is not installed ({error}): pip install lm-eval==0.4.13"
        ) from None
    from evaluation.driver import note_unused_flags
    from evaluation.model import EvaluatedModel

    if args.output_dir:
        require_writable(args.output_dir, "--output_dir")
    manager = TaskManager(include_path=args.include_path)
    tasks = load_tasks(manager, args.tasks.split(","), args.confirm_run_unsafe_code)
    model = EvaluatedModel(args, default_steps=256)
    note_unused_flags(model.kind, sys.argv[1:])
    result = lm_eval.simple_evaluate(
        make_lm(model),
        tasks=tasks,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        apply_chat_template=args.apply_chat_template,
        task_manager=manager,
        bootstrap_iters=0,
        confirm_run_unsafe_code=args.confirm_run_unsafe_code,
    )
    print(make_table(result))
    if args.output_dir:
        write_json(
            Path(args.output_dir) / "lm_eval_results.json",
            {
                "results": result["results"],
                "versions": result["versions"],
                "settings": model.settings,
            },
        )


if __name__ == "__main__":
    run(main)
