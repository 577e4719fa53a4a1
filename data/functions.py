"""Generated functions with tests: templates, and the rows and infills drawn from them.
scripts/builtin_data.py is the command.

A function has a comment that says what it does, a name, constants and variables' names, each drawn.
What the test split asks never occurs in
training: the combination of template, function name and constants.
"""

import random
import re
from collections.abc import Iterator
from string import Template
from typing import Any

from common.rows import Row
from data.splits import held_out, take_distinct

CODE_TEST_SHARE = 0.15
# fields of the templates
DIGITS = [(c,) for c in range(2, 10)]
COMPARE = [
    (">", "above", "above"),
    ("<", "below", "below"),
    (">=", "at least", "from"),
    ("<=", "at most", "upto"),
]
ARITHMETIC = [
    ("+", "Add $c to", "plus"),
    ("-", "Subtract $c from", "minus"),
    ("*", "Multiply by $c", "times"),
]
EXTREME = [(">", "largest", "max"), ("<", "smallest", "min")]
PARITY = [("0", "even", "even"), ("1", "odd", "odd")]
LETTERS = [(letter,) for letter in "abdeort"]
CASE = [
    ("upper", "upper case", "upper"),
    ("lower", "lower case", "lower"),
    ("title", "title case", "title"),
]
QUANTIFIER = [("all", "all", "all"), ("any", "any", "any")]
POWER = [("2", "squares", "squares"), ("3", "cubes", "cubes")]
VARIABLES = {
    "xs": ["numbers", "values", "items", "data"],
    "x": ["x", "v", "item", "num"],
    "t": ["total", "result", "count"],
    "out": ["out", "result", "found"],
    "s": ["text", "line", "name"],
    "ws": ["words", "names", "lines"],
    "w": ["word", "w"],
    "n": ["n", "k", "limit"],
    "i": ["i", "j"],
}

# function names; choices of constants, a tuple filling the fields named by the key; kinds of the
# arguments; instruction and code
CODE_TEMPLATES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "count_$way how_many_$way tally_$way",
        {"op phrase way": COMPARE, "c": DIGITS},
        "ints",
        """\
# Count the $xs that are $phrase $c.
def $f($xs):
    $t = 0
    for $x in $xs:
        if $x $op $c:
            $t += 1
    return $t
""",
    ),
    (
        "sum_$way add_$way total_$way",
        {"op phrase way": COMPARE, "c": DIGITS},
        "ints",
        """\
# Add up the $xs that are $phrase $c.
def $f($xs):
    $t = 0
    for $x in $xs:
        if $x $op $c:
            $t += $x
    return $t
""",
    ),
    (
        "keep_$way select_$way only_$way",
        {"op phrase way": COMPARE, "c": DIGITS},
        "ints",
        """\
# Keep the $xs that are $phrase $c.
def $f($xs):
    $out = []
    for $x in $xs:
        if $x $op $c:
            $out.append($x)
    return $out
""",
    ),
    (
        "list_$way filter_$way find_$way",
        {"op phrase way": COMPARE, "c": DIGITS},
        "ints",
        """\
# List the $xs that are $phrase $c.
def $f($xs):
    return [$x for $x in $xs if $x $op $c]
""",
    ),
    (
        "each_$way all_$way map_$way",
        {"op phrase way": ARITHMETIC, "c": DIGITS},
        "ints",
        """\
# $phrase each of the $xs.
def $f($xs):
    return [$x $op $c for $x in $xs]
""",
    ),
    (
        "change_$way make_$way apply_$way",
        {"op phrase way": ARITHMETIC, "c": DIGITS},
        "ints",
        """\
# $phrase each of the $xs with a loop.
def $f($xs):
    $out = []
    for $x in $xs:
        $out.append($x $op $c)
    return $out
""",
    ),
    (
        "count_multiples how_many_multiples count_divisible tally_multiples",
        {"c": DIGITS},
        "ints",
        """\
# Count the $xs that are divisible by $c.
def $f($xs):
    $t = 0
    for $x in $xs:
        if $x % $c == 0:
            $t += 1
    return $t
""",
    ),
    (
        "sum_multiples add_multiples total_multiples",
        {"c": DIGITS},
        "n",
        """\
# Add up the multiples of $c up to $n.
def $f($n):
    $t = 0
    for $i in range(1, $n + 1):
        if $i % $c == 0:
            $t += $i
    return $t
""",
    ),
    (
        "product multiply_all product_of",
        {"c": DIGITS},
        "ints",
        """\
# Multiply $c by all the $xs.
def $f($xs):
    $t = $c
    for $x in $xs:
        $t *= $x
    return $t
""",
    ),
    (
        "sum_all_to add_all_to total_with",
        {"c": DIGITS},
        "ints",
        """\
# Add all the $xs to $c.
def $f($xs):
    $t = $c
    for $x in $xs:
        $t += $x
    return $t
""",
    ),
    (
        "find_$way get_$way pick_$way ${way}_of my_$way",
        {"op phrase way": EXTREME},
        "ints",
        """\
# Find the $phrase of the $xs.
def $f($xs):
    best = $xs[0]
    for $x in $xs:
        if $x $op best:
            best = $x
    return best
""",
    ),
    (
        "count_letter how_many_letters tally_letter",
        {"c": LETTERS},
        "text",
        """\
# Count the letter $c in the $s.
def $f($s):
    $t = 0
    for letter in $s:
        if letter == "$c":
            $t += 1
    return $t
""",
    ),
    (
        "remove_letter drop_letter without_letter",
        {"c": LETTERS},
        "text",
        """\
# Remove the letter $c from the $s.
def $f($s):
    return $s.replace("$c", "")
""",
    ),
    (
        "starting_with words_with find_starting",
        {"c": LETTERS},
        "words",
        """\
# Keep the $ws that start with $c.
def $f($ws):
    $out = []
    for $w in $ws:
        if $w.startswith("$c"):
            $out.append($w)
    return $out
""",
    ),
    (
        "long_$way words_$way length_$way",
        {"op phrase way": COMPARE, "c": DIGITS[1:5]},
        "words",
        """\
# List the $ws of length $phrase $c.
def $f($ws):
    return [$w for $w in $ws if len($w) $op $c]
""",
    ),
    (
        "first_part take_first head_of",
        {"c": DIGITS[:4]},
        "ints",
        """\
# Return the first $c of the $xs.
def $f($xs):
    return $xs[:$c]
""",
    ),
    (
        "last_part take_last tail_of",
        {"c": DIGITS[:4]},
        "ints",
        """\
# Return the last $c of the $xs.
def $f($xs):
    return $xs[-$c:]
""",
    ),
    (
        "cap limit_to at_most",
        {"c": DIGITS},
        "n",
        """\
# Return $n, but at most $c.
def $f($n):
    if $n > $c:
        return $c
    return $n
""",
    ),
    (
        "linear times_plus scale",
        {"c": DIGITS, "d": DIGITS},
        "n",
        """\
# Multiply $n by $c and add $d.
def $f($n):
    $t = $n * $c
    $t += $d
    return $t
""",
    ),
    (
        "count_$way how_many_$way tally_$way number_of_$way",
        {"op phrase way": PARITY},
        "ints",
        """\
# Count the $phrase $xs.
def $f($xs):
    $t = 0
    for $x in $xs:
        if $x % 2 == $op:
            $t += 1
    return $t
""",
    ),
    (
        "count_steps divide_steps steps_down",
        {"c": DIGITS},
        "n",
        """\
# Count how often $n can be divided by $c.
def $f($n):
    steps = 0
    while $n >= $c:
        $n //= $c
        steps += 1
    return steps
""",
    ),
    (
        "count_down go_down list_down",
        {"c": DIGITS},
        "n",
        """\
# List $n and the numbers below it in steps of $c.
def $f($n):
    $out = []
    while $n > 0:
        $out.append($n)
        $n -= $c
    return $out
""",
    ),
    (
        "digit_sum sum_digits add_digits",
        {"c": DIGITS},
        "n",
        """\
# Add $c and the digits of $n.
def $f($n):
    $t = $c
    while $n > 0:
        $t += $n % 10
        $n //= 10
    return $t
""",
    ),
    (
        "${way}_words make_$way to_$way ${way}_all",
        {"op phrase way": CASE},
        "words",
        """\
# Put the $ws in $phrase.
def $f($ws):
    return [$w.$op() for $w in $ws]
""",
    ),
    (
        "${way}_$side is_${way}_$side check_${way}_$side",
        {"q phrase way": QUANTIFIER, "op rel side": COMPARE, "c": DIGITS},
        "ints",
        """\
# Check if $phrase of the $xs are $rel $c.
def $f($xs):
    return $q($x $op $c for $x in $xs)
""",
    ),
    (
        "sum_$way add_$way total_$way sum_of_$way",
        {"op phrase way": POWER, "c": DIGITS},
        "ints",
        """\
# Add $c and the $phrase of the $xs.
def $f($xs):
    $t = $c
    for $x in $xs:
        $t += $x ** $op
    return $t
""",
    ),
    (
        "find_index index_of where_is",
        {"c": DIGITS},
        "ints",
        """\
# Find the index of $c in the $xs, or -1.
def $f($xs):
    for $i, $x in enumerate($xs):
        if $x == $c:
            return $i
    return -1
""",
    ),
    (
        "replace_$way set_$way swap_$way",
        {"op phrase way": COMPARE, "c": DIGITS, "d": [("0",), ("1",)]},
        "ints",
        """\
# Put $d for the $xs that are $phrase $c.
def $f($xs):
    $out = []
    for $x in $xs:
        if $x $op $c:
            $x = $d
        $out.append($x)
    return $out
""",
    ),
]
WORDS = [
    "apple",
    "bread",
    "door",
    "tree",
    "robot",
    "to",
    "road",
    "egg",
    "Otter",
    "be",
    "dot",
    "rabbit",
    "area",
    "oar",
    "Ted",
    "a",
]


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
