"""Generated functions with tests: the rows and infills drawn from function_templates.py.
scripts/builtin_data.py is the command.

A function has a comment that says what it does, a name, constants and variables' names, each drawn.
What the test split asks never occurs in training: the combination of template, function name and
constants.
"""

import random
import re
from collections.abc import Iterator
from string import Template
from typing import Any

from common.rows import Row
from data.function_templates import CODE_TEMPLATES, VARIABLES, WORDS
from data.splits import held_out, take_distinct

CODE_TEST_SHARE = 0.15


def sample_argument(rng: random.Random, kind: str, constant: Any) -> Any:
    """One argument of the kind "ints", "n", "text" or "words"; numbers at and beside the constant
    are always among `ints`.
    """
    if kind == "n":
        return rng.choice([rng.randint(1, 9), rng.randint(10, 99), rng.randint(100, 300)])
    if kind == "ints":
        near = int(constant) if str(constant).isdigit() else 5
        values: list[Any] = [near - 1, near, near + 1] + [
            rng.randint(1, 20) for _ in range(rng.randint(2, 4))
        ]
    else:
        values = [rng.choice(WORDS) for _ in range(6)] + [
            word for word in WORDS if word[0] == constant
        ][:1]
    rng.shuffle(values)
    return " ".join(values) if kind == "text" else values


def draw_code(rng: random.Random, split: str) -> Iterator[Row]:
    """Functions without end, repeats included: {"instruction", "code", "text" (both),
    "entry_point", "calls": [(argument, result)]}.
    """
    while True:
        number = rng.randrange(len(CODE_TEMPLATES))
        names, choices, kind, template = CODE_TEMPLATES[number]
        constants: dict[str, Any] = {}
        for keys, options in choices.items():
            constants.update(zip(keys.split(), rng.choice(options)))
        name = Template(rng.choice(names.split())).substitute(constants)
        if held_out(
            CODE_TEST_SHARE,
            number,
            name,
            sorted((key, str(value)) for key, value in constants.items()),
        ) != (split == "test"):
            continue
        if "phrase" in constants:
            constants["phrase"] = Template(constants["phrase"]).substitute(constants)
        variables = {key: rng.choice(options) for key, options in VARIABLES.items()}
        text = Template(template).substitute({**variables, **constants, "f": name})
        instruction, code = text.split("\n", 1)
        space: dict[str, Any] = {}
        exec(code, space)  # our own template, nothing from outside
        calls = [
            (argument, space[name](argument))
            for argument in [sample_argument(rng, kind, constants.get("c", "")) for _ in range(4)]
        ]
        yield {
            "instruction": instruction + "\n",
            "code": code,
            "text": text,
            "entry_point": name,
            "calls": calls,
        }


def code_rows(split: str, n: int, seed: int | str) -> list[Row]:
    """n training rows in opc-sft-stage2's fields; output is the code, and instruction (a comment) +
    output is a whole program.
    """
    items = take_distinct(draw_code(random.Random(f"code {split} {seed}"), split), n, "text")
    return [
        {
            "seq_id": number,
            "instruction": item["instruction"],
            "output": item["code"],
            "code": item["code"],
            "entry_point": item["entry_point"],
            "testcase": [
                f"assert {item['entry_point']}({argument!r}) == {result!r}"
                for argument, result in item["calls"]
            ],
        }
        for number, item in enumerate(items)
    ]


# The tokenizer's pre-tokens (GPT-2's, digits single): a hole cut between two of them is cut between
# tokens.
PIECES = re.compile(r" ?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def cut_hole(rng: random.Random, body: str, max_pieces: int) -> tuple[int, int]:
    """(start, end) of a random hole in body: 4 % are empty, the others 1 to max_pieces pieces long
    (uniform as far as body allows).

    A hole of white space alone is drawn again: left open it passes too often.
    """
    edges = [0] + [match.end() for match in PIECES.finditer(body)]
    while True:
        length = 0 if rng.random() < 0.04 else rng.randint(1, min(max_pieces, len(edges) - 2))
        starts = range(len(edges) - 1 - length)  # the last newline stays
        line_starts = [start for start in starts if body[: edges[start]].rstrip(" ").endswith("\n")]
        start = rng.choice(line_starts if line_starts and rng.random() < 0.4 else starts)
        if length == 0 or body[edges[start] : edges[start + length]].strip():
            return edges[start], edges[start + length]


def infill_row(item: Row, task_id: str, prompt: str, middle: str, suffix: str) -> Row:
    """A row in HumanEval-infilling's fields: prompt + middle + suffix is the item's program,
    check(candidate) tests it.
    """
    checks = "".join(
        f"    assert candidate({argument!r}) == {result!r}\n" for argument, result in item["calls"]
    )
    return {
        "task_id": task_id,
        "entry_point": item["entry_point"],
        "prompt": prompt,
        "suffix": suffix,
        "canonical_solution": middle,
        "test": f"def check(candidate):\n{checks}",
    }


def code_infill_rows(split: str, n: int, seed: int | str, max_pieces: int = 20) -> list[Row]:
    """n infill items in HumanEval-infilling's fields, each with a random hole of at most
    max_pieces pieces.
    """
    rng, rows = random.Random(f"code_infill {split} {seed}"), []
    items = take_distinct(draw_code(rng, split), n, "text")
    for number, item in enumerate(items):
        head, body = item["code"].split(":", 1)
        start, end = cut_hole(rng, body, max_pieces)
        rows.append(
            infill_row(
                item,
                f"BuiltinInfilling/{split}/{seed}/{number}",
                f"{item['instruction']}{head}:{body[:start]}",
                body[start:end],
                body[end:],
            )
        )
    return rows
