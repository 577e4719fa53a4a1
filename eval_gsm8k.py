r"""GSM8K (or any set with its fields question and answer): generate, score, report.

Laptop, local data, one process:    python eval_gsm8k.py --checkpoint_path runs/math/flexmdm --data_path test.jsonl --diffusion_steps 64
One GPU, the paper's settings:      python eval_gsm8k.py --checkpoint_path CHECKPOINT --variable_length --batch_size 32
Several GPUs:                       torchrun --nproc_per_node 4 eval_gsm8k.py ...              (the same rows as one process)
Slurm:                              sbatch scripts/inference_math.sh --checkpoint_path CHECKPOINT
The baseline as the paper ran it:   ... --gen_length 1024 --block_length 1024 --remasking random; a left-to-right prior: --block_length 32
Score what exists already:          python eval_gsm8k.py --score_only runs/eval_gsm8k/flexmdm other_program.json --answer_rule strict
Check data and rule:                python eval_gsm8k.py --check_references --data_path gsm8k/test.jsonl --answer_rule strict

Writes to --output_dir: generations-NNN.jsonl (one file a process), settings.json, results.json, verdicts.jsonl. A run that was stopped
goes on when the same command is given again. Answer rules:
  paper   the paper's code to the letter: the first \boxed{...} that is neither empty nor dots, as a float or its first number (commas are
          not removed); else the first <answer>...</answer>, its last number. A null ground truth is wrong. (The default.)
  strict  the last answer given, read whole: sign, thousands commas, $, units, percent, LaTeX fractions; two numbers are no answer.
Defaults are the paper's for GSM8K: tau_leaping, prob_diff, no window, 256 steps; LLaDA: one block, a step a
token, random remasking.
"""
import math
import re
import sys
from fractions import Fraction
from pathlib import Path

from evaluated_model import EvaluatedModel
from generation_run import (GenerationRun, Stop, add_run_flags, check_run_flags, content_hash, first_items, make_tasks, merge_rows,
                            note_unused_flags, read_generations)
from gpu_memory import EVALUATION, out_of_memory_advice
from records import DATA_SUFFIXES, InputError, process_rank, read_rows, run, write_json, write_rows
from results_table import describe, make_result, pass_at_k, share_of
from sampler_flags import ArgumentParser, add_flexmdm_flags, add_llada_flags, add_model_flags

HUB_DATA = ("openai/gsm8k", "main")
NUMBER = r"-?\d+\.?\d*"


# ---- the paper's rule ----------------------------------------------------------------------------------------------------

def float_or_number(text, which):
    """float(text), else the float of the first (which=0) or last (-1) number in it, else None."""
    try:
        return float(text)
    except ValueError:
        numbers = re.findall(NUMBER, text)
        return float(numbers[which]) if numbers else None


def paper_answer(text):
    """The answer in a generation by the paper's rule (paper.md, "Evaluation"), a float or None."""
    answer = None
    for content in re.findall(r"\\boxed{(.*?)}", text):
        content = content.strip()
        if content and not re.fullmatch(r"\.+", content):
            answer = float_or_number(content, 0)
            break
    if answer is None:
        match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        if match and match.group(1).strip():
            answer = float_or_number(match.group(1).strip(), -1)
    return answer


# ---- the strict rule -----------------------------------------------------------------------------------------------------

def last_boxed(text):
    r"""Content of the last \boxed{...} with its braces balanced, or None."""
    start = text.rfind("\\boxed{")
    depth, begin = 0, start + len("\\boxed{")
    for place in range(begin, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth < 0:
            return text[begin:place]
    return None


def read_number(text):
    r"""The one number that a text states, as a Fraction, or None where it states none or several.

    Reads signs (also the minus sign U+2212, and before a currency sign), thousands separators (, {,} \, and spaces), $ and other
    currencies, percent signs (50 % is 50), units and other words, \frac, \dfrac, \tfrac and a/b, mixed numbers, and what follows
    the last equals sign.
    """
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s*{([^{}]*)}", r" \1 ", text)
    text = text.replace("\u2212", "-").replace("\\!", "").replace("{,}", ",").replace("\\,", " ").replace("\\ ", " ").replace("~", " ")
    text = re.sub(r"\\[dtc]?frac\s*{\s*([^{}]*?)\s*}\s*{\s*([^{}]*?)\s*}", r" \1/\2 ", text)
    text = re.sub(r"\\[dtc]?frac\s*(\d)\s*(\d)", r" \1/\2 ", text)
    text = re.split(r"=|\\approx|≈", text)[-1]
    text = re.sub(r"\\[%$]|[$€£¥%{}()\[\]*°]|\\circ|\\left|\\right", " ", text)
    text = re.sub(r"-\s+(?=[\d.])", "-", text)                             # "-$5", "- 5"
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)                     # 1,234,567
    text = re.sub(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d.,])", lambda match: match.group().replace(" ", ""), text)
    one = r"\d+(?:\.\d+)?|\.\d+"
    mixed, ratio = r"(?P<whole>\d+)\s+(?P<a>\d+)\s*/\s*(?P<b>\d+)", rf"(?P<top>{one})\s*/\s*(?P<bottom>{one})"
    matches = list(re.finditer(rf"(?<![\w.])(?P<sign>[-+]?)(?:{mixed}|{ratio}|(?P<plain>{one}))(?![\d,/])", text))
    if len(matches) != 1 or len(re.findall(r"\d+", text)) != len(re.findall(r"\d+", matches[0].group())):
        return None
    parts = matches[0].groupdict()
    try:
        if parts["whole"]:
            value = int(parts["whole"]) + Fraction(int(parts["a"]), int(parts["b"]))
        elif parts["top"]:
            value = Fraction(parts["top"]) / Fraction(parts["bottom"])
        else:
            value = Fraction(parts["plain"])
    except ZeroDivisionError:
        return None
    return -value if parts["sign"] == "-" else value


def strict_answer(text):
    """The last answer a generation commits itself to, as a Fraction or None: its last box, else its last <answer>, else after ####."""
    content = last_boxed(text)
    if content is None or not content.strip(" .\n"):                       # \boxed{} and \boxed{...} are no answers
        answers = re.findall(r"<answer>(.*?)(?:</answer>|$)", text.replace("\\boxed{}", " "), re.DOTALL)
        content = answers[-1] if answers else text.rpartition("####")[2] if "####" in text else None
    return None if content is None else read_number(content)


def gold_answer(answer):
    """The number after #### of a GSM8K answer, sign and commas read, a float; None where there is none."""
    content = answer.rpartition("####")[2].strip().replace(",", "").replace("$", "")
    try:
        return float(content)
    except ValueError:
        return None


def is_right(generation, ground_truth, rule):
    """Whether a generation's answer is the ground truth (a float or None), by the rule "paper" or "strict"."""
    if ground_truth is None:
        return False
    if rule == "paper":
        return paper_answer(generation) == ground_truth
    answer = strict_answer(generation)
    return answer is not None and math.isclose(answer, ground_truth, rel_tol=1e-9, abs_tol=1e-9)


# ---- data, scoring, wiring -----------------------------------------------------------------------------------------------

def read_items(args):
    """[{"question", "answer"}] from --data_path or the hub."""
    if args.data_path:
        path = Path(args.data_path)
        files = sorted(file for file in path.iterdir() if file.name.endswith(DATA_SUFFIXES)) if path.is_dir() else [path]
        files = [file for file in files if "test" in file.name] or ([path] if path.is_dir() else files)
        rows = [row for file in files for row in read_rows(file, fields=("question", "answer"), flag="--data_path")]
    else:
        import datasets
        try:
            rows = datasets.load_dataset(*HUB_DATA, split="test")
        except Exception as error:                     # the hub's client raises a dozen kinds
            raise InputError(f"cannot get {HUB_DATA[0]} from the hub ({type(error).__name__}); give a local copy by --data_path") from None
    items = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    for number, item in enumerate(items, 1):
        if not isinstance(item["question"], str) or not isinstance(item["answer"], str) or gold_answer(item["answer"]) is None:
            raise InputError(f"--data_path: item {number} has no question, or no number after '####' in its answer")
    return items


def benchmark_name(args, items):
    """gsm8k for the real test set, by its content; else the file's or folder's name."""
    real = len(items) == 1319 and items[0]["question"].startswith("Janet\u2019s ducks lay 16 eggs per day.")
    return "gsm8k" if real or not args.data_path else Path(args.data_path).name.split(".")[0]


def score(rows, rule, gold=None):
    """(metrics, rows with `right`) of rows in order of (item, sample). gold: question -> ground truth instead of the rows' own."""
    rows = [{**row, "right": is_right(row["generations"], (gold or {}).get(row["question"], row["ground_truth"]), rule)} for row in rows]
    by_item = {}
    for row in rows:
        by_item.setdefault(row["question"], []).append(row["right"])
    samples = min(map(len, by_item.values()))
    metrics = {}
    for k in sorted({1, *(k for k in (5, 10, 100) if k <= samples), samples}):
        metrics[f"pass@{k}"] = share_of(sum(pass_at_k(len(right), sum(right), k) for right in by_item.values()), len(by_item))
    read = paper_answer if rule == "paper" else strict_answer
    metrics["answer_found"] = share_of(sum(read(row["generations"]) is not None for row in rows), len(rows))
    return metrics, rows


def report(rows, args, *, benchmark, label, settings, details, gold=None, folder=None):
    """Score, print, and write results.json where there is a folder."""
    metrics, rows = score(rows, args.answer_rule, gold)
    result = make_result(benchmark=benchmark, label=label, metrics=metrics, rows=rows, settings=settings,
                         details={"answer_rule": args.answer_rule, "data_path": args.data_path, **details})
    print(describe(result))
    if folder:
        write_rows(Path(folder) / "verdicts.jsonl", [{"name": row["question"], "sample": row.get("sample", 0), "right": row["right"]}
                                                     for row in rows])
        write_json(Path(folder) / "results.json", result)
        print(f"  written: {Path(folder) / 'results.json'}")


def score_only(args):
    rows, settings = read_generations(args.score_only, "question")
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("generations"), str) or "ground_truth" not in row:
            raise InputError(f"--score_only: row {number} has no text under 'generations', or no 'ground_truth'")
    everything = read_items(args) if args.data_path else None
    items = first_items(everything, args) if everything else None
    expected = [item["question"] for item in items] if items else None
    rows, counts = merge_rows(rows, expected, args.num_samples, args.allow_duplicates, args.allow_missing)
    gold = {item["question"]: gold_answer(item["answer"]) for item in items} if items and args.answer_rule == "strict" else None
    benchmark = benchmark_name(args, everything) if everything else settings.get("benchmark", "gsm8k")
    report(rows, args, benchmark=benchmark, label=args.label or kind_label(settings), settings=settings, gold=gold,
           folder=args.output_dir, details={"score_only": args.score_only, **counts})


def kind_label(settings):
    return {"flexmdm": "FlexMDM", "llada": "LLaDA"}.get(settings.get("kind"), Path(str(settings.get("model_path", "given"))).name)


def check_references(args):
    """The gold rationales as if a model had written them: 100 % under the strict rule; the paper's rule cannot read thousands commas."""
    from preprocess_math import math_target
    everything = read_items(args)
    items = first_items(everything, args)
    rows = [{"question": item["question"], "generations": math_target(item["answer"]), "ground_truth": gold_answer(item["answer"])}
            for item in items]
    report(rows, args, benchmark=benchmark_name(args, everything), label="gold rationales", settings={}, details={}, folder=args.output_dir)
    wrong = [row for row in rows if not is_right(row["generations"], row["ground_truth"], args.answer_rule)]
    for row in wrong[:5]:
        print(f"  wrong under rule {args.answer_rule}: {row['generations'].splitlines()[-1]} against {row['ground_truth']}")
    if wrong and args.answer_rule == "strict":
        raise InputError(f"--check_references: {len(wrong)} gold rationales are not read as their own answer")


@out_of_memory_advice(EVALUATION)
def generate(args):
    stop = Stop()
    everything = read_items(args)
    items = first_items(everything, args)
    from preprocess_math import math_prompt
    model = EvaluatedModel(args, default_steps=256)
    note_unused_flags(model.kind, sys.argv[1:])
    texts = [math_prompt(model.tokenizer, item["question"]) for item in items]
    prompts = [model.encode(text) for text in texts]
    costs = list(map(len, prompts))
    model.check_room([f"item {number} ({item['question'][:40]!r}...)" for number, item in enumerate(items)],
                     [[prompt] for prompt in prompts], "--data_path")
    folder = Path(args.output_dir or Path("runs/eval_gsm8k") / Path(args.checkpoint_path).resolve().name)
    benchmark = benchmark_name(args, everything)
    settings = {"benchmark": benchmark, "data_hash": content_hash(everything), **model.settings, "prompts_hash": content_hash(prompts[:1])}
    generation = GenerationRun(folder, settings, make_tasks(costs, args.num_samples), stop)

    def generate_batch(tasks):
        made = model.answer([prompts[task["item"]] for task in tasks], tasks)
        return [{"question": items[task["item"]]["question"], "prompt_input": texts[task["item"]], "generations": text,
                 "ground_truth": gold_answer(items[task["item"]]["answer"]), **fields} for task, (text, fields) in zip(tasks, made)]

    generation.generate(model.rows_a_call, generate_batch, lambda row: is_right(row["generations"], row["ground_truth"], args.answer_rule))
    rows = generation.collect()
    if rows is not None:
        report(rows, args, benchmark=benchmark, label=args.label or kind_label(settings), settings=settings, folder=folder,
               details={"configuration": generation.configuration, "batch_size": args.batch_size, "device": str(model.model.device),
                        "processes": process_rank()[1], "num_samples": args.num_samples,
                        "checkpoint_path": args.checkpoint_path, "base_model": args.base_model})


def make_parser():
    parser = ArgumentParser(description=__doc__)
    add_run_flags(parser, "eval_gsm8k")
    parser.add_argument("--answer_rule", choices=("paper", "strict"), default="paper", help="how answers are read (default: paper)")
    add_model_flags(parser, checkpoint_required=False)
    add_flexmdm_flags(parser)
    add_llada_flags(parser)
    parser.set_defaults(unmasking="confidence", confidence_method="prob_diff", remasking="random")
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    check_run_flags(args)
    return args


def main():
    args = parse_args()
    if args.check_references:
        check_references(args)
    elif args.score_only:
        score_only(args)
    else:
        generate(args)


if __name__ == "__main__":
    run(main)
