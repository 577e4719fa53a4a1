"""Built-in data: word problems, small functions with tests, library functions, and the tokenizer of
the tiny base.

    python builtin_data.py math --split train --n 7000 --seed 0 --output runs/data/math_train.jsonl
    python builtin_data.py code_infill --split test --n 200 --seed 0 --output runs/data/code_test.jsonl
    python builtin_data.py text --split train --n 40000 --seed 0 --output runs/data/text.jsonl
    python builtin_data.py tokenizer --output_dir runs/tokenizer
    srun --mem=2G python builtin_data.py ...            (Slurm; seconds on one CPU core, no GPU, no network)

kind           fields of a row                                                   the same fields as
math           question, answer                                                  GSM8K
code, stdlib   seq_id, instruction, output, code, entry_point, testcase          OpenCoder-LLM/opc-sft-stage2 educational_instruct
code_infill    task_id, entry_point, prompt, suffix, canonical_solution, test    HumanEval-infilling
stdlib_infill  the same; test is empty: scored by exact match and by parsing     HumanEval-infilling
text           text, prompt (its beginning that stays clean, or "")              a pretraining corpus

Everything is a function of (kind, split, n, seed); where library functions come in, also of the
Python version that runs this.
What the test split asks never occurs in training: in math the last sum or difference, in code the
combination of template, function name and constants, in stdlib the module.
"""

import argparse
import ast
import random
import re
import sysconfig
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from string import Template

from builtin_functions import (
    code_infill_rows,
    code_rows,
    draw_code,
    held_out,
    take_distinct,
)
from common.errors import InputError, run
from common.files import write_json, write_text
from common.rows import write_rows
from preprocess_math import SYSTEM_PROMPT, math_target

MATH_TEST_SHARE, STDLIB_TEST_SHARE = 0.2, 0.1
# share of documents
TEXT_WEIGHTS = {
    "math": 0.30,
    "chat": 0.10,
    "equations": 0.20,
    "code": 0.30,
    "stdlib": 0.10,
    "functions": 0.0,
}


# --------------------------------------------------------------------------------------------------

NAMES = ["Tom", "Mia", "Ben", "Ana", "Sam", "Eva", "Leo", "Zoe", "Max", "Amy", "Jack", "Nora"]
THINGS = [
    "apples",
    "books",
    "coins",
    "cards",
    "shells",
    "stamps",
    "pens",
    "eggs",
    "beads",
    "balls",
    "keys",
    "stars",
]
PLACES = ["box", "bag", "shop", "room", "garden", "drawer"]

# operation, question, rationale. The first number is $a; p is the result of the first of two steps,
# r the answer. "add|swap" also states the one-digit number first; the equation keeps the order of
# the question, so that its numbers are copied from it.
MATH_TEMPLATES = [
    (
        "add",
        "$A has $a $o. $B gives $A $b more $o. How many $o does $A have now?",
        "$A has $a + $b = $r $o.",
    ),
    (
        "add",
        "There are $a $o in a $l. $A puts $b more $o in the $l. How many $o are in the $l now?",
        "The $l has $a + $b = $r $o.",
    ),
    (
        "add",
        "$A has $a $o. $B has $b more $o than $A. How many $o does $B have?",
        "$B has $a + $b = $r $o.",
    ),
    (
        "add|swap",
        "$A has $a red $o and $b blue $o. How many $o does $A have?",
        "$A has $a + $b = $r $o.",
    ),
    (
        "add|swap",
        "$A finds $a $o and $B finds $b $o. How many $o do they find?",
        "They find $a + $b = $r $o.",
    ),
    (
        "add",
        "$A is $a years old. How old will $A be in $b years?",
        "$A will be $a + $b = $r years old.",
    ),
    (
        "add",
        "A bus has $a people. Then $b more people get on. How many people are on the bus now?",
        "The bus has $a + $b = $r people.",
    ),
    (
        "sub",
        "$A has $a $o. $A gives $b $o to $B. How many $o does $A have left?",
        "$A has $a - $b = $r $o.",
    ),
    (
        "sub",
        "There are $a $o in a $l. $A takes $b $o. How many $o are left in the $l?",
        "The $l has $a - $b = $r $o.",
    ),
    (
        "sub",
        "$A has $a $o. $B has $b fewer $o than $A. How many $o does $B have?",
        "$B has $a - $b = $r $o.",
    ),
    (
        "sub",
        "$A is $a years old. $B is $b years younger. How old is $B?",
        "$B is $a - $b = $r years old.",
    ),
    (
        "sub",
        "$A has $a dollars. A $l costs $b dollars. How many dollars are left after $A buys it?",
        "$A has $a - $b = $r dollars.",
    ),
    (
        "sub",
        "A bus has $a people. Then $b people get off. How many people are on the bus now?",
        "The bus has $a - $b = $r people.",
    ),
    (
        "sub",
        "$A needs $a $o and has $b $o. How many more $o does $A need?",
        "$A needs $a - $b = $r $o.",
    ),
    (
        "mul add",
        "$A has $a bags with $b $o each and $c more $o. How many $o does $A have?",
        "The bags have $a * $b = $p $o. $A has $p + $c = $r $o.",
    ),
    (
        "mul add",
        "A $l has $a rows of $b $o. $A puts $c more $o in the $l. How many $o are in the $l now?",
        "The rows have $a * $b = $p $o. The $l has $p + $c = $r $o.",
    ),
    (
        "mul sub",
        "$A buys $a bags with $b $o each. $A gives $c $o to $B. How many $o does $A have left?",
        "The bags have $a * $b = $p $o. $A has $p - $c = $r $o.",
    ),
    (
        "add sub",
        "$A has $a $o. $A finds $b $o and then gives $c $o to $B. How many $o does $A have now?",
        "$A has $a + $b = $p $o. Then $A has $p - $c = $r $o.",
    ),
    (
        "sub add",
        (
            "A bus has $a people. Then $b people get off and $c people get on. How many people are"
            " on the bus now?"
        ),
        "The bus has $a - $b = $p people. Then it has $p + $c = $r people.",
    ),
]
SIGN = {"add": "+", "sub": "-", "mul": "*"}
APPLY = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}


def step_held_out(operation, a, b):
    """Whether a sum or difference is kept for the test split; a + b and b + a are the same.
    Products belong to both splits.
    """
    return operation != "mul" and held_out(
        MATH_TEST_SHARE, operation, *(sorted((a, b)) if operation == "add" else (a, b))
    )


def sample_numbers(rng, operations, split):
    """Numbers of one problem, [a, b] or [a, b, c], and the results of its steps, all 1..99.

    Every sum and difference has a one-digit number, so that 2 M parameters can learn the rule
    (digit by digit, one carry) from examples and apply it to pairs they never saw. Factors are
    2..6: all 15 products occur in training, with other third numbers.
    train: no step is held out. test: the last step is, the first of two is not: what is tested is
    the new combination.
    """
    while True:
        low, high = (2, 6) if operations[0] == "mul" else (3, 99)
        numbers = [rng.randint(low, high), rng.randint(2, 6 if operations[0] == "mul" else 9)]
        steps, results = [(operations[0], *numbers)], [APPLY[operations[0]](*numbers)]
        if len(operations) == 2:
            numbers.append(rng.randint(2, 9))
            steps.append((operations[1], results[0], numbers[2]))
            results.append(APPLY[operations[1]](results[0], numbers[2]))
        out = [step_held_out(*step) for step in steps]
        if (
            all(1 <= result <= 99 for result in results)
            and out[-1] == (split == "test")
            and not any(out[:-1])
        ):
            return numbers, results


def draw_math(rng, split):
    """Word problems without end; they may repeat."""
    while True:
        operations, question, rationale = rng.choice(MATH_TEMPLATES)
        operations, _, swap = operations.partition("|")
        numbers, results = sample_numbers(rng, operations.split(), split)
        if swap and rng.random() < 0.5:
            numbers.reverse()
        person = rng.choice(NAMES)
        other = rng.choice([name for name in NAMES if name != person])
        fields = {
            "A": person,
            "B": other,
            "o": rng.choice(THINGS),
            "l": rng.choice(PLACES),
            **dict(zip("abc", numbers)),
            "p": results[0],
            "r": results[-1],
        }
        yield {
            "question": Template(question).substitute(fields),
            "answer": f"{Template(rationale).substitute(fields)}\n#### {results[-1]}",
        }


def draw_equations(rng, split):
    """Sums, differences and products without end: the arithmetic of the word problems, undiluted."""
    while True:
        operation = rng.choice(["add", "add", "sub", "sub", "mul"])
        numbers, results = sample_numbers(
            rng,
            [operation, rng.choice(["add", "sub"])] if operation == "mul" else [operation],
            split,
        )
        a, b = numbers[:2] if operation != "add" or rng.random() < 0.5 else numbers[1::-1]
        yield f"{a} {SIGN[operation]} {b} =", f" {results[0]}"


def math_rows(split, n, seed):
    """n different word problems: [{"question", "answer"}]; the answer is a rationale with its
    equations, then a line `#### N`.
    """
    return take_distinct(draw_math(random.Random(f"math {split} {seed}"), split), n, "question")


def trivial_math_baselines(train, test):
    """Accuracy of two answers that need no arithmetic: {"commonest_answer", "nearest_question"}.

    train, test: rows with question and answer. Nearest: largest Jaccard overlap of word sets
    (numbers are words); the first such row wins.
    """

    def final(row):
        return row["answer"].rsplit("####", 1)[1].strip()

    def words(row):
        return frozenset(re.findall(r"\w+", row["question"]))

    answers = [final(row) for row in train]
    commonest = Counter(answers).most_common(1)[0][0]
    train_words = [words(row) for row in train]
    right = 0
    for row in test:
        asked = words(row)
        overlaps = [len(asked & known) / len(asked | known) for known in train_words]
        right += answers[overlaps.index(max(overlaps))] == final(row)
    return {
        "commonest_answer": sum(final(row) == commonest for row in test) / len(test),
        "nearest_question": right / len(test),
    }


# --------------------------------------------------------------------------------------------------

SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "__pycache__",
    "encodings",
    "ensurepip",
    "pydoc_data",
    "msilib",
    "idle_test",
    "_pyrepl",
}


def parses(code):
    """Whether code is Python on its own (a method with text at the margin is not, once its
    indentation is taken away).
    """
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


@cache
def stdlib_functions(max_lines=10, max_characters=400):
    """((module, name, code), ...) of the running Python's library: functions and methods of
    2..max_lines lines, by path and line.
    """
    root, found, seen = Path(sysconfig.get_path("stdlib")), [], set()
    paths = [
        path
        for path in root.rglob("*.py")
        if not SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1])
    ]
    for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        lines = source.splitlines()
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in sorted(functions, key=lambda node: node.lineno):
            code = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
            if (
                1 < code.count("\n") <= max_lines
                and len(code) <= max_characters
                and code.isascii()
                and code not in seen
                and parses(code)
            ):
                seen.add(code)
                found.append((module, node.name, code))
    return tuple(found)


def split_functions(split):
    """The library functions of one split. Raises InputError where Python came without the sources
    of its library.
    """
    items = [
        item
        for item in stdlib_functions()
        if held_out(STDLIB_TEST_SHARE, item[0]) == (split == "test")
    ]
    if not items:
        raise InputError(
            f"no library sources under {sysconfig.get_path('stdlib')}: use a Python that has them,"
            " or another kind of data"
        )
    return items


def stdlib_items(split, n, seed, view):
    """n different library functions of the split's modules, in an order drawn from the seed."""
    items = split_functions(split)
    if n > len(items):
        raise InputError(
            f"--n: this Python's library has {len(items)} usable functions in the {split} split,"
            f" {n} were asked for"
        )
    random.Random(f"{view} {split} {seed}").shuffle(items)
    return items[:n]


def stdlib_rows(split, n, seed):
    """n library functions in opc-sft-stage2's fields; the instruction names the module, testcase is
    empty.
    """
    return [
        {
            "seq_id": number,
            "instruction": f"# {module}\n",
            "output": code,
            "code": code,
            "entry_point": name,
            "testcase": [],
        }
        for number, (module, name, code) in enumerate(stdlib_items(split, n, seed, "stdlib"))
    ]


def stdlib_infill_rows(split, n, seed):
    """n infill items with one whole line missing, never the first; the suffix begins with the
    line's end.
    """
    rng, rows = random.Random(f"lines {split} {seed}"), []
    for number, (module, name, code) in enumerate(stdlib_items(split, n, seed, "stdlib_infill")):
        lines = code.splitlines(keepends=True)
        hole = rng.choice([index for index in range(1, len(lines)) if lines[index].strip()])
        middle = lines[hole].rstrip("\n")
        rows.append(
            {
                "task_id": f"StdlibInfilling/{split}/{seed}/{number}",
                "entry_point": name,
                "prompt": f"# {module}\n" + "".join(lines[:hole]),
                "suffix": "\n" + "".join(lines[hole + 1 :]),
                "canonical_solution": middle,
                "test": "",
            }
        )
    return rows


# -------------------------------------------------------------------------------------------------


def chat_text(row):
    """A word problem exactly as preprocess_math.py shows it to instruction fine-tuning, special
    tokens written out.
    """
    return (
        f"<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n{SYSTEM_PROMPT}\n\n{row['question']}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>{math_target(row['answer'])}"
    )


def text_rows(split, n, seed, weights=TEXT_WEIGHTS):
    """n documents [{"text", "prompt"}]: word problems (math: plain, chat: as in fine-tuning),
    equations, generated functions (code; functions: with their comment and head given) and library
    functions (stdlib).

    prompt: the beginning of the text that is given and not learned: the question of a word problem,
    the left side of an equation. With the numbers in sight a small network learns to copy them and
    to calculate; hidden, they teach it nothing, being random.
    weights: share of each kind. Documents are drawn one by one and may repeat.
    """
    rng = random.Random(f"text {split} {seed}")
    math, equations, code = draw_math(rng, split), draw_equations(rng, split), draw_code(rng, split)
    library = split_functions(split) if weights.get("stdlib") else []
    rows = []
    for kind in rng.choices(list(weights), list(weights.values()), k=n):
        prompt = ""
        if kind == "math":
            row = next(math)
            prompt = f"{row['question']}\n"
            text = prompt + row["answer"]
        elif kind == "chat":
            text = chat_text(next(math))
            prompt = text[: text.rindex("<reasoning>") + len("<reasoning>")]
        elif kind == "equations":
            prompt, result = next(equations)
            text = prompt + result
        elif kind in ("code", "functions"):
            text = next(code)["text"]
            prompt = text[: text.index(":\n") + 2] if kind == "functions" else ""
        else:
            module, _, function = rng.choice(library)
            text = f"# {module}\n{function}"
        rows.append({"text": text, "prompt": prompt})
    return rows


SPECIAL_TOKENS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
# ordinary text, one token each
FORMAT_TOKENS = [
    "<infill-boundary>",
    "<reasoning>",
    "</reasoning>",
    "<answer>",
    "</answer>",
    "\\boxed{",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role']"
    " }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if"
    " add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


# Other shares than the text's: word problems have few words, all frequent; the words of the
# functions need the merges.
TOKENIZER_WEIGHTS = {"math": 0.15, "chat": 0.10, "code": 0.65, "stdlib": 0.10}


def train_tokenizer(vocab_size=1024, documents=20000):
    """Byte-level BPE over the built-in text: a tokenizers.Tokenizer of vocab_size entries, LLaDA's
    special tokens last. Lossless.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Digits first: a number is always a space and then single digits, whether it stands in a
    # question, an equation or \boxed{}.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL_TOKENS) + len(FORMAT_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS + FORMAT_TOKENS))
    texts = [
        part
        for row in text_rows("train", documents, "tokenizer", TOKENIZER_WEIGHTS)
        for part in known.split(row["text"])
    ]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in FORMAT_TOKENS])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(output_dir):
    """tokenizer.json and tokenizer_config.json, as transformers.AutoTokenizer reads them."""
    tokenizer, folder = train_tokenizer(), Path(output_dir)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|mdm_mask|>",
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return tokenizer


MAKERS = {
    "math": math_rows,
    "code": code_rows,
    "code_infill": code_infill_rows,
    "stdlib": stdlib_rows,
    "stdlib_infill": stdlib_infill_rows,
    "text": text_rows,
}


def make_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar="KIND", help=f"{', '.join(MAKERS)} or tokenizer"
    )
    for kind in MAKERS:
        command = kinds.add_parser(kind)
        command.add_argument("--split", choices=("train", "test"), default="train")
        command.add_argument("--n", type=int, default=1000, help="number of rows")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--output", required=True, help="JSONL file to write")
        if kind == "text":
            command.add_argument(
                "--weights",
                type=float,
                nargs=6,
                metavar=tuple(map(str.upper, TEXT_WEIGHTS)),
                default=list(TEXT_WEIGHTS.values()),
                help="shares of the six kinds among the documents (default: %(default)s)",
            )
    kinds.add_parser("tokenizer").add_argument(
        "--output_dir", required=True, help="folder for tokenizer.json and tokenizer_config.json"
    )
    return parser


def main():
    args = make_parser().parse_args()
    target, flag = (
        (args.output_dir, "--output_dir") if args.kind == "tokenizer" else (args.output, "--output")
    )
    if args.kind != "tokenizer" and Path(target).is_dir():
        raise InputError(f"--output: {target} is a folder; name a JSONL file")
    try:
        if args.kind == "tokenizer":
            print(f"{target}: {write_tokenizer(target).get_vocab_size()} tokens")
            return
        if args.n < 1:
            raise InputError(f"--n: {args.n} rows were asked for; ask for at least 1")
        options = {}
        if args.kind == "text":
            if min(args.weights) < 0 or sum(args.weights) <= 0:
                raise InputError(f"--weights: {args.weights} must not be negative, nor all zero")
            options["weights"] = dict(zip(TEXT_WEIGHTS, args.weights))
        write_rows(target, MAKERS[args.kind](args.split, args.n, args.seed, **options))
        print(f"{target}: {args.n} rows")
    except OSError as error:
        raise InputError(f"{flag}: cannot write {target}: {error.strerror or error}") from None


if __name__ == "__main__":
    run(main)
