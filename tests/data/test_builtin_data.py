"""scripts/builtin_data.py: splits that share nothing, right answers, functions that do what their
instruction says, holes, the tokenizer.

python -m pytest tests/data/test_builtin_data.py
"""

import ast
import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import builtin_data
import pytest
from conftest import ROOT

from common.errors import InputError
from data import (
    function_templates,
    functions,
    library_code,
    pretraining_text,
    splits,
    word_problems,
)
from data.math_prompts import math_prompt, math_target


@pytest.fixture(scope="module")
def math():
    return {
        "train": word_problems.math_rows("train", 6000, 0),
        "test": word_problems.math_rows("test", 500, 0),
    }


@pytest.fixture(scope="module")
def code():
    return {
        "train": functions.code_rows("train", 3000, 0),
        "test": functions.code_rows("test", 300, 0),
    }


@pytest.fixture(scope="module")
def holes():
    return functions.code_infill_rows("test", 400, 0)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    pretraining_text.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)


def equations(row):
    return [
        (int(a), sign, int(b), int(r))
        for a, sign, b, r in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", row["answer"])
    ]


def combination(a, sign, b):
    return (sign, *sorted((a, b))) if sign == "+" else (sign, a, b)


# Runs each program in one fresh process; one that raises, exits or uses more than 0.2 s of CPU time
# has failed.
JUDGE = """
import json, signal, sys
def stop(*_): raise TimeoutError
signal.signal(signal.SIGPROF, stop)
results = []
for program in json.load(sys.stdin):
    signal.setitimer(signal.ITIMER_PROF, 0.2)
    try:
        exec(program, {})
        results.append(True)
    except BaseException:
        results.append(False)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
print(json.dumps(results))
"""


def judge(programs):
    answer = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(answer.stdout)


# --------------------------------------------------------------------------------------------------


def test_every_equation_is_right_and_the_last_one_gives_the_answer(math):
    apply = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    for row in math["train"] + math["test"]:
        steps = equations(row)
        assert steps and all(apply[sign](a, b) == result for a, sign, b, result in steps), row
        assert row["answer"].endswith(f"\n#### {steps[-1][3]}")


def test_equations_use_the_numbers_of_the_question_in_their_order(math):
    for row in math["train"] + math["test"]:
        asked = [int(number) for number in re.findall(r"\d+", row["question"])]
        steps = equations(row)
        assert asked == [steps[0][0], steps[0][2]] + [step[2] for step in steps[1:]], row
        assert all(second[0] == first[3] for first, second in zip(steps, steps[1:]))


def test_no_held_out_sum_or_difference_is_trained_on(math):
    trained = {
        combination(*step[:3]) for row in math["train"] for step in equations(row) if step[1] != "*"
    }
    asked = {combination(*equations(row)[-1][:3]) for row in math["test"]}
    assert not trained & asked and len(trained) > 900 and len(asked) > 150


def test_every_product_is_trained_on_with_several_third_numbers(math):
    thirds = {}
    for row in math["train"]:
        steps = equations(row)
        if steps[0][1] == "*":
            thirds.setdefault(tuple(sorted((steps[0][0], steps[0][2]))), set()).add(
                (steps[1][1], steps[1][2])
            )
    assert len(thirds) == 15 and min(map(len, thirds.values())) >= 5


def test_templates_and_answers_are_varied(math):
    assert (
        len(word_problems.MATH_TEMPLATES) >= 12
        and sum(" " in template[0] for template in word_problems.MATH_TEMPLATES) >= 2
    )
    for rows in math.values():
        answers = Counter(row["answer"].rsplit("#### ", 1)[1] for row in rows)
        assert len(answers) >= 40 and answers.most_common(1)[0][1] < 0.08 * len(rows)


def test_baselines_without_arithmetic_score_near_zero(math):
    scores = word_problems.trivial_math_baselines(math["train"][:3000], math["test"][:100])
    assert set(scores) == {"commonest_answer", "nearest_question"} and max(scores.values()) < 0.08


def test_trivial_baselines_on_a_case_counted_by_hand():
    train = [
        {"question": q, "answer": f"x\n#### {a}"}
        for q, a in (("tom has 3 cows", 1), ("mia has 4 hens", 2), ("leo has 4 hens", 2))
    ]
    test = [
        {"question": q, "answer": f"x\n#### {a}"}
        for q, a in (("tom has 9 cows", 1), ("mia has 4 cows", 1), ("leo had 4 hens", 2))
    ]
    assert word_problems.trivial_math_baselines(train, test) == {
        "commonest_answer": 1 / 3,
        "nearest_question": 2 / 3,
    }


# --------------------------------------------------------------------------------------------------

COMPARISONS = {
    "above": lambda a, b: a > b,
    "below": lambda a, b: a < b,
    "at least": lambda a, b: a >= b,
    "at most": lambda a, b: a <= b,
}
HOW = "(above|below|at least|at most)"
# What an instruction asks for, computed without the generated code: pattern, function of (argument,
# groups of the pattern).
ORACLES = [
    (
        rf"Count the \w+ that are {HOW} (\d)",
        lambda v, h, c: len([x for x in v if COMPARISONS[h](x, int(c))]),
    ),
    (
        rf"Add up the \w+ that are {HOW} (\d)",
        lambda v, h, c: sum(x for x in v if COMPARISONS[h](x, int(c))),
    ),
    (
        rf"(?:Keep|List) the \w+ that are {HOW} (\d)",
        lambda v, h, c: [x for x in v if COMPARISONS[h](x, int(c))],
    ),
    (r"Add (\d) to each of the \w+", lambda v, c: [x + int(c) for x in v]),
    (r"Subtract (\d) from each of the \w+", lambda v, c: [x - int(c) for x in v]),
    (r"Multiply by (\d) each of the \w+", lambda v, c: [x * int(c) for x in v]),
    (r"Count the \w+ that are divisible by (\d)", lambda v, c: sum(x % int(c) == 0 for x in v)),
    (r"Add up the multiples of (\d) up to \w+", lambda v, c: sum(range(0, v + 1, int(c)))),
    (r"Multiply (\d) by all the \w+", lambda v, c: __import__("math").prod(v) * int(c)),
    (r"Add all the \w+ to (\d)", lambda v, c: sum(v) + int(c)),
    (r"Find the largest of the \w+()", lambda v, _: max(v)),
    (r"Find the smallest of the \w+()", lambda v, _: min(v)),
    (r"Count the letter (\w) in the \w+", lambda v, c: v.count(c)),
    (r"Remove the letter (\w) from the \w+", lambda v, c: "".join(x for x in v if x != c)),
    (r"Keep the \w+ that start with (\w)", lambda v, c: [x for x in v if x[0] == c]),
    (
        rf"List the \w+ of length {HOW} (\d)",
        lambda v, h, c: [x for x in v if COMPARISONS[h](len(x), int(c))],
    ),
    (r"Return the first (\d) of the \w+", lambda v, c: [x for i, x in enumerate(v) if i < int(c)]),
    (
        r"Return the last (\d) of the \w+",
        lambda v, c: [x for i, x in enumerate(v) if i >= len(v) - int(c)],
    ),
    (r"Return \w+, but at most (\d)", lambda v, c: min(v, int(c))),
    (r"Multiply \w+ by (\d) and add (\d)", lambda v, c, d: v * int(c) + int(d)),
    (r"Count the even \w+()", lambda v, _: len([x for x in v if x % 2 == 0])),
    (r"Count the odd \w+()", lambda v, _: len([x for x in v if x % 2])),
    (
        r"Count how often \w+ can be divided by (\d)",
        lambda v, c: next(k for k in range(99) if v < int(c) ** (k + 1)),
    ),
    (
        r"List \w+ and the numbers below it in steps of (\d)",
        lambda v, c: list(range(v, 0, -int(c))),
    ),
    (r"Add (\d) and the digits of \w+", lambda v, c: int(c) + sum(map(int, str(v)))),
    (r"Put the \w+ in (upper|lower|title) case", lambda v, h: [getattr(str, h)(x) for x in v]),
    (
        rf"Check if all of the \w+ are {HOW} (\d)",
        lambda v, h, c: not [x for x in v if not COMPARISONS[h](x, int(c))],
    ),
    (
        rf"Check if any of the \w+ are {HOW} (\d)",
        lambda v, h, c: bool([x for x in v if COMPARISONS[h](x, int(c))]),
    ),
    (r"Add (\d) and the squares of the \w+", lambda v, c: int(c) + sum(x * x for x in v)),
    (r"Add (\d) and the cubes of the \w+", lambda v, c: int(c) + sum(x * x * x for x in v)),
    (
        r"Find the index of (\d) in the \w+, or -1",
        lambda v, c: v.index(int(c)) if int(c) in v else -1,
    ),
    (
        rf"Put (\d) for the \w+ that are {HOW} (\d)",
        lambda v, d, h, c: [int(d) if COMPARISONS[h](x, int(c)) else x for x in v],
    ),
]


def test_functions_do_what_their_instruction_says(code):
    used = set()
    for row in code["train"] + code["test"]:
        instruction = (
            row["instruction"].removeprefix("# ").removesuffix(".\n").removesuffix(" with a loop")
        )
        matches = [
            (number, match)
            for number, (pattern, _) in enumerate(ORACLES)
            if (match := re.fullmatch(pattern, instruction))
        ]
        assert len(matches) == 1, instruction
        number, match = matches[0]
        used.add(number)
        for test in row["testcase"]:
            argument, result = re.fullmatch(
                rf"assert {row['entry_point']}\((.*)\) == (.*)", test
            ).groups()
            assert ORACLES[number][1](
                ast.literal_eval(argument), *match.groups()
            ) == ast.literal_eval(result), (instruction, test)
    assert used == set(range(len(ORACLES))) and len(function_templates.CODE_TEMPLATES) >= 15


def test_functions_pass_their_tests(code):
    rows = code["train"][:600] + code["test"]
    assert all(
        judge([row["instruction"] + row["output"] + "\n".join(row["testcase"]) for row in rows])
    )
    assert all(
        3 <= (row["instruction"] + row["output"]).count("\n") <= 9 and row["output"] == row["code"]
        for row in rows
    )


def test_no_held_out_function_is_trained_on(code):
    def identity(row):
        """The program with its free names replaced in order: what is left is template, function
        name and constants.
        """
        names = {}
        kept = {
            row["entry_point"],
            *"def for in if return while range len append enumerate all any startswith".split(),
        }
        return re.sub(
            r"[^\W\d]\w*",
            lambda m: m[0] if m[0] in kept else names.setdefault(m[0], f"v{len(names)}"),
            row["code"],
        ) + "".join(re.findall(r'"\w"|\.(?:upper|lower|title)\(', row["code"]))

    assert not {identity(row) for row in code["train"]} & {identity(row) for row in code["test"]}


def test_infills_pass_with_the_canonical_middle_and_rarely_when_empty(holes):
    programs = {
        middle: [
            row["prompt"]
            + (row["canonical_solution"] if middle else "")
            + row["suffix"]
            + "\n"
            + row["test"]
            + f"\ncheck({row['entry_point']})"
            for row in holes
        ]
        for middle in (True, False)
    }
    assert all(judge(programs[True]))
    empty = sum(judge(programs[False])) / len(holes)
    print(f"an empty completion passes {empty:.1%} of {len(holes)} (0-length holes included)")
    assert empty < 0.08 and sum(not row["canonical_solution"] for row in holes) <= 0.06 * len(holes)


def test_infill_rows_look_like_training_rows(holes):
    for row in holes:
        instruction, code = (row["prompt"] + row["canonical_solution"] + row["suffix"]).split(
            "\n", 1
        )
        assert instruction.startswith("# ") and row["prompt"].startswith(instruction + "\n")
        assert code.startswith(f"def {row['entry_point']}(")


# --------------------------------------------------------------------------------------------------


def test_library_functions_parse_and_modules_are_held_out():
    train, test = (
        library_code.stdlib_rows("train", 2000, 0),
        library_code.stdlib_rows("test", 200, 0),
    )
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in test}
    assert not {row["code"] for row in train} & {row["code"] for row in test}
    for row in library_code.stdlib_infill_rows("test", 200, 0):
        code = row["prompt"] + row["canonical_solution"] + row["suffix"]
        assert (
            library_code.parses(code)
            and "\n" not in row["canonical_solution"]
            and row["canonical_solution"].strip()
        )
        assert (
            row["prompt"].endswith("\n")
            and row["suffix"].startswith("\n")
            and row["prompt"].count("\n") >= 2
        )


# --------------------------------------------------------------------------------------------------


def test_pretraining_text_has_the_requested_mixture():
    rows = pretraining_text.text_rows("train", 2000, 0)
    chat = sum(row["text"].startswith("<|startoftext|>") for row in rows)
    math = sum("\n#### " in row["text"] for row in rows)
    equations = [row["text"] for row in rows if "\n" not in row["text"]]
    assert (
        abs(chat / 2000 - 0.1) < 0.03
        and abs(math / 2000 - 0.3) < 0.04
        and abs(len(equations) / 2000 - 0.2) < 0.04
    )
    for line in equations:
        left, right = line.split(" = ")
        a, sign, b = left.split()
        assert int(right) == word_problems.APPLY[
            {v: k for k, v in word_problems.SIGN.items()}[sign]
        ](int(a), int(b))
        assert sign == "*" or not word_problems.step_held_out(
            {"+": "add", "-": "sub"}[sign], int(a), int(b)
        )
    for row in rows:
        asks = (
            row["text"].startswith("<|startoftext|>")
            or "#### " in row["text"]
            or "\n" not in row["text"]
        )
        assert (
            row["text"].startswith(row["prompt"])
            and bool(row["prompt"]) == asks
            and len(row["prompt"]) < len(row["text"])
        )
    only = pretraining_text.text_rows("train", 50, 0, {"code": 1})
    assert all(row["text"].startswith("# ") and "\ndef " in row["text"] for row in only)
    only = pretraining_text.text_rows("train", 50, 0, {"functions": 1})
    assert all(
        re.fullmatch(r"# .*\ndef \w+\(\w+\):\n", row["prompt"])
        and row["text"].startswith(row["prompt"] + "    ")
        for row in only
    )


def test_chat_text_equals_the_fine_tuning_format(tokenizer, math):
    for row in math["test"][:20]:
        assert pretraining_text.chat_text(row) == math_prompt(
            tokenizer, row["question"]
        ) + math_target(row["answer"])


@pytest.mark.parametrize(
    "text",
    [
        "Tom has 23 + 4 = 27 marbles.",
        "\tdef f(x):\n\n        return x  \r\n",
        "é 漢字 🙂 \x00",
        " 1.5e10,007 ",
        "",
        "<reasoning>a</reasoning>\n<answer>\\boxed{-3}</answer>",
        "a <infill-boundary>  <infill-boundary>\n b",
    ],
)
def test_any_text_round_trips_through_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_come_last_and_numbers_are_split_into_digits(tokenizer):
    assert len(tokenizer) == 1024 and tokenizer.convert_tokens_to_ids(
        pretraining_text.SPECIAL_TOKENS
    ) == list(range(1018, 1024))
    assert (
        tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
        and tokenizer.mask_token == "<|mdm_mask|>"
    )
    # nothing added unasked
    assert tokenizer("Tom")["input_ids"] == tokenizer("Tom", add_special_tokens=False)["input_ids"]
    assert all(
        len(tokenizer.tokenize(token)) == 1
        for token in pretraining_text.FORMAT_TOKENS + pretraining_text.SPECIAL_TOKENS
    )
    assert tokenizer.tokenize(" 207") == ["Ġ", "2", "0", "7"] and tokenizer.tokenize(
        "\\boxed{42}"
    ) == ["\\boxed{", "4", "2", "}"]
    assert (
        tokenizer.decode(
            tokenizer("<|eot_id|>a<infill-boundary>")["input_ids"], skip_special_tokens=True
        )
        == "a<infill-boundary>"
    )


def test_rows_are_short_and_infills_are_cut_between_tokens(tokenizer, math, code, holes):
    def lengths(texts):
        return sorted(len(tokenizer(text)["input_ids"]) for text in texts)

    for name, texts in {
        "question": [row["question"] for row in math["train"]],
        "chat": map(pretraining_text.chat_text, math["train"]),
        "function": [row["instruction"] + row["code"] for row in code["train"]],
    }.items():
        counts = lengths(texts)
        print(
            f"{name}: median {counts[len(counts) // 2]}, 95th percentile"
            f" {counts[len(counts) * 95 // 100]}, longest {counts[-1]}"
        )
        assert counts[-1] <= {"question": 45, "chat": 160, "function": 80}[name]
    middles = lengths(row["canonical_solution"] for row in holes)
    assert middles[0] == 0 and middles[-1] <= 20
    assert (
        min(sum(low <= n < low + 5 for n in middles) for low in (1, 6, 11, 16)) > len(middles) / 10
    )
    for row in holes[:100]:
        parts = (row["prompt"], row["canonical_solution"], row["suffix"])
        assert (
            sum((tokenizer(part)["input_ids"] for part in parts), [])
            == tokenizer("".join(parts))["input_ids"]
        )


# --------------------------------------------------------------------------------------------------


def command(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/builtin_data.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("kind", ["math", "code", "code_infill"])
def test_the_command_writes_the_same_rows_in_every_process(tmp_path, kind):
    file = tmp_path / "new" / f"{kind}.jsonl"
    answer = command(kind, "--split", "test", "--n", 40, "--seed", 3, "--output", file)
    assert answer.returncode == 0, answer.stderr
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert (
        rows == builtin_data.MAKERS[kind]("test", 40, 3) != builtin_data.MAKERS[kind]("test", 40, 4)
    )


def test_text_and_tokenizer_commands(tmp_path, tokenizer_folder):
    file, folder = tmp_path / "text.jsonl", tmp_path / "tokenizer"
    assert (
        command("text", "--n", 30, "--weights", 1, 1, 0, 1, 0, 1, "--output", file).returncode == 0
    )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows == pretraining_text.text_rows(
        "train", 30, 0, {"math": 1, "chat": 1, "code": 1, "functions": 1}
    )
    assert command("tokenizer", "--output_dir", folder).returncode == 0
    for made in tokenizer_folder.iterdir():
        assert made.read_bytes() == (folder / made.name).read_bytes()


def test_more_rows_than_there_are_is_an_error():
    with pytest.raises(InputError, match="hardly more than 3"):
        splits.take_distinct(({"text": number % 3} for number in itertools.count()), 4, "text")
    with pytest.raises(InputError, match="--n"):
        library_code.stdlib_rows("train", 10**6, 0)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("math", "--n", 0, "--output", "x"), "--n"),
        (("math", "--output", "."), "--output"),
        (("text", "--weights", 0, 0, 0, 0, 0, 0, "--output", "x"), "--weights"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    answer = command(*arguments)
    assert (
        answer.returncode == 2
        and answer.stderr.count("\n") == 1
        and named in answer.stderr
        and not list(tmp_path.iterdir())
    )
