"""Generation tasks of EleutherAI's lm-evaluation-harness with a FlexMDM or a LLaDA (pip install
lm-eval==0.4.13; optional).

Laptop:      python lm_eval_adapter.py --checkpoint_path runs/math/flexmdm --tasks gsm8k --num_fewshot 0 --limit 20
One GPU:     python lm_eval_adapter.py --checkpoint_path CHECKPOINT --tasks gsm8k,ifeval --apply_chat_template --batch_size 32
Own tasks:   ... --tasks my_task --include_path folder_with_yaml
Slurm:       sbatch --gpus-per-node=1 --wrap "python lm_eval_adapter.py --checkpoint_path CHECKPOINT --tasks gsm8k --output_dir OUT"

Only tasks that ask for generated text: neither model gives the likelihood of a given continuation
from one evaluation, so tasks that rank answers are refused. A request's `until` cuts the text;
FlexMDM finds its own length, LLaDA takes --gen_length, else the request's own `max_gen_toks`.
Everything else (sampler, steps, seeds) comes from the flags that eval_gsm8k.py has too. One
process.
"""

import sys
from pathlib import Path

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import write_json
from common.gpu_memory import MANY_PROMPTS, out_of_memory_advice
from sampling.options import add_flexmdm_flags, add_llada_flags, add_model_flags


def cut_at(text, stops):
    """The text before the first of some stop strings."""
    return text[
        : min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))
    ]


def make_lm(model):
    """An lm_eval LM around an EvaluatedModel."""
    from lm_eval.api.model import LM
    from tqdm import tqdm

    class DiffusionLM(LM):
        tokenizer_name = "own"  # names the chat template in the harness's caches

        def generate_until(self, requests, disable_tqdm=False):
            prompts = [model.encode(request.args[0]) for request in requests]
            lengths = None
            if model.kind == "llada" and not model.arguments["gen_length"]:
                # 256: the harness's own default
                lengths = [request.args[1].get("max_gen_toks", 256) for request in requests]
            names = [f"{request.task_name}/{request.doc_id}" for request in requests]
            model.check_room(names, [[prompt] for prompt in prompts], "--tasks", lengths)
            tasks, seen = [], {}
            for name in names:  # a request that is to be repeated is in the list several times
                tasks.append({"item": name, "sample": seen.get(name, 0)})
                seen[name] = seen.get(name, 0) + 1
            texts = [None] * len(requests)
            order = sorted(range(len(requests)), key=lambda number: -len(prompts[number]))
            with tqdm(
                total=len(order), desc="generating", disable=disable_tqdm, file=sys.stderr
            ) as bar:
                for start in range(0, len(order), model.rows_a_call):
                    batch = order[start : start + model.rows_a_call]
                    made = model.answer(
                        [prompts[number] for number in batch],
                        [tasks[number] for number in batch],
                        lengths and [lengths[number] for number in batch],
                    )
                    for number, (text, _) in zip(batch, made):
                        stops = requests[number].args[1].get("until") or []
                        texts[number] = cut_at(text, [stops] if isinstance(stops, str) else stops)
                    bar.update(len(batch))
            return texts

        def loglikelihood(self, requests, **_):
            raise InputError(
                "--tasks: this task ranks given answers by likelihood; only generation tasks can be"
                " run here"
            )

        loglikelihood_rolling = loglikelihood

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return model.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )

    return DiffusionLM()


def make_parser():
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
        "--batch_size", type=int, default=16, help="rows generated at once (default: 16)"
    )
    group.add_argument(
        "--output_dir", help="where lm_eval_results.json goes (default: only printed)"
    )
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(unmasking="confidence", confidence_method="prob_diff", remasking="random")
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    args.variable_length = False  # the kind is read from the checkpoint
    return args


@out_of_memory_advice(MANY_PROMPTS)
def main():
    args = parse_args()
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError as error:
        raise InputError(
            f"lm-evaluation-harness is not installed ({error}): pip install lm-eval==0.4.13"
        ) from None
    from evaluated_model import EvaluatedModel

    manager = TaskManager(include_path=args.include_path)
    names = args.tasks.split(",")
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise InputError(f"--tasks: the harness has no task {unknown[0]!r}")
    model = EvaluatedModel(args, default_steps=256)
    result = lm_eval.simple_evaluate(
        make_lm(model),
        tasks=names,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        apply_chat_template=args.apply_chat_template,
        task_manager=manager,
        bootstrap_iters=0,
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
