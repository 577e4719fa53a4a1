"""Synthetic math word problems with one- and two-digit numbers, and the equations in them."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any

from common.rows import Row
from data.splits import held_out, take_distinct

MATH_TEST_SHARE = 0.2
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


def step_held_out(operation: str, a: int, b: int) -> bool:
    """Whether a sum or difference is kept for the test split; a + b and b + a are the same.
    Products belong to both splits.
    """
    return operation != "mul" and held_out(
        MATH_TEST_SHARE, operation, *(sorted((a, b)) if operation == "add" else (a, b))
    )


def sample_numbers(
    rng: random.Random, operations: Sequence[str], split: str
) -> tuple[list[int], list[int]]:
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
        steps: list[tuple[Any, ...]]  # (operation, a, b)
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


def draw_math(rng: random.Random, split: str) -> Iterator[Row]:
    """Word problems without end, as math_rows has them; they may repeat."""
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


def draw_equations(rng: random.Random, split: str) -> Iterator[tuple[str, str]]:
    """(question, answer) of sums, differences and products without end: the arithmetic of the word
    problems, undiluted.
    """
    while True:
        operation = rng.choice(["add", "add", "sub", "sub", "mul"])
        numbers, results = sample_numbers(
            rng,
            [operation, rng.choice(["add", "sub"])] if operation == "mul" else [operation],
            split,
        )
        a, b = numbers[:2] if operation != "add" or rng.random() < 0.5 else numbers[1::-1]
        yield f"{a} {SIGN[operation]} {b} =", f" {results[0]}"


def math_rows(split: str, n: int, seed: int | str) -> list[Row]:
    """n different word problems: [{"question", "answer"}]; the answer is a rationale with its
    equations, then a line `#### N`.
    """
    return take_distinct(draw_math(random.Random(f"math {split} {seed}"), split), n, "question")


def trivial_math_baselines(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
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
