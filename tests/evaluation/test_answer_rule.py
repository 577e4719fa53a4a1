r"""eval_gsm8k.py's two answer rules, against the published generations of LLaDA-8B-Instruct and
GSM8K's own answers.

FLEXMDM_DATA=... pytest tests/evaluation/test_answer_rule.py             seconds
"""

import json
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from data.math_prompts import math_target
from evaluation.answer_rules import (
    gold_answer,
    gold_number,
    is_right,
    paper_answer,
    read_number,
    strict_answer,
)


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "eval_gsm8k.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


# ---- the paper's rule ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"\boxed{18}", 18),
        (r"\boxed{ 18.50 }", 18.5),
        (r"\boxed{-7}", -7),
        (r"\boxed{1e3}", 1000),
        (r"\boxed{120\text{ minutes}}", 120),
        (r"\boxed{$5 and 6}", 5),
        (r"\boxed{1,234}", 1),  # commas are not removed
        (
            r"\boxed{} \boxed{...} \boxed{ . } \boxed{4} \boxed{5}",
            4,
        ),  # the first that holds a number
        (r"\boxed{x} \boxed{4}", 4),
        (r"\boxed{nan} \boxed{inf} \boxed{-Infinity} \boxed{8}", 8),
        (r"\boxed{nan}", None),
        (r"\boxed{x \boxed{4}", 4),
        ("\\boxed{1\n2} \\boxed{3}", 3),
        ("\\boxed{" + "9" * 400 + "} \\boxed{2}", 2),
        (r"\boxed{x} <answer>3 of 4</answer>", 4),  # ... then the answer's last number
        ("<answer>\n 12.5 \n</answer> <answer>13</answer>", 12.5),
        ("<answer>1,234</answer>", 234),
        ("<answer></answer>", None),
        ("<answer>12", None),
        ("the answer is 12", None),
        ("#### 12", None),
        ("\\boxed{\n12}", None),
        (r"\boxed{\frac{3}{4}}", 3),
    ],
)
def test_the_papers_rule_is_followed_exactly(text, answer):
    assert paper_answer(text) == answer


def test_a_null_ground_truth_is_wrong_under_both_rules():
    assert not is_right(r"\boxed{3}", None, "paper") and not is_right(r"\boxed{3}", None, "strict")


def test_783_of_1130_published_generations_are_right(data_dir):
    files = sorted((data_dir / "llada_generations").glob("*.json"))
    rows = [row for file in files for row in json.loads(file.read_text())["generations"]]
    assert len(rows) == 1130
    assert sum(is_right(row["generations"], row["ground_truth"], "paper") for row in rows) == 783
    done = run_script("--score_only", *files)
    assert done.returncode == 0 and "783 of 1130" in done.stdout


# ---- the strict rule -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, number",
    [
        ("18", 18),
        ("-18", -18),
        ("\u221218", -18),
        ("- 18", -18),
        ("+18", 18),
        ("$18.50", "18.5"),
        ("-$5", -5),
        ("$-5", -5),
        (r"\$1,234.50", "1234.5"),
        ("1,234,567", 1234567),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("12 345", 12345),
        ("385\\,000", 385000),
        ("50%", 50),
        (r"50\%", 50),
        ("18 dollars", 18),
        (r"120\text{ minutes}", 120),
        (r"\text{18 eggs}", 18),
        ("18 km/h", 18),
        ("18.", 18),
        (".5", "1/2"),
        (r"\frac{3}{4}", "3/4"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"\frac34", "3/4"),
        ("3/4", "3/4"),
        (r"2\frac{1}{2}", "5/2"),
        ("2 1/2 hours", "5/2"),
        ("3 + 4 = 7", 7),
        ("x = 7", 7),
        (r"\approx 7", 7),
        ("20^\\circ", 20),
        ("(7)", 7),
        ("7.0", 7),
        ("about 7", 7),
        ("", None),
        ("...", None),
        ("x", None),
        ("3 or 4", None),
        ("4, 6", None),
        ("3 + 4", None),
        ("5 hours 30 minutes", None),
        ("1/0", None),
        ("1,23", None),
        ("1.2.3", None),
        # notation
        ("1e3", 1000),
        ("2.5E-2", "1/40"),
        ("1_000", 1000),
        (r"1.5 \times 10^6", 1500000),
        (r"3\cdot10^{2}", 300),
        ("4 \u00d7 10^2", 400),
        ("1\u2009234", 1234),
        ("1\u00a0234\u00a0567", 1234567),
        ("\uff11\uff18", 18),
        ("\u00bd", "1/2"),
        ("5\u00bd", "11/2"),
        ("2 \u00be cups", "11/4"),
        (r"\frac1{2}", "1/2"),
        (r"\frac{1}2", "1/2"),
        (r"{1 \over 2}", "1/2"),
        (r"\frac{1}{-2}", "-1/2"),
        ("-2\u00bd", "-5/2"),
        ("1" * 400, "1" * 400),
        ("9" * 5001, None),
        # signs
        ("minus 5", -5),
        ("negative 5 degrees", -5),
        ("\u20135", -5),
        ("\uff0d5", -5),
        ("\ufe635", -5),
        ("-(5)", -5),
        ("x-5", None),
        # scale words are read; what cannot be read is no number, never another one
        ("$1.5 million", 1500000),
        (r"\$1.5 \text{ million}", 1500000),
        ("2 thousand", 2000),
        ("5 hundred people", 500),
        ("18 millions", None),
        ("2 dozen", None),
        ("18k", None),
        ("5 and a half", None),
        ("twice 5", None),
        ("5 or more", None),
        ("two 5", None),
        ("less than 5", None),
        (r"\sqrt{16}", None),
        ("x^2", None),
        ("5^2", None),
        ("5\u00b2", None),
        (r"2\pi", None),
        ("2\u03c0", None),
        ("2pi", None),
        ("3!", None),
        ("2x", None),
        ("2 x", None),
        ("2 xy", None),
        (r"\le 5", None),
        ("\u2264 5", None),
        ("> 5", None),
        ("<5", None),
        ("5?", None),
        ("2*3", None),
        ("\u00b15", None),
        ("3-5", None),
        ("3\u20135", None),
        ("3:30", None),
        (r"\frac{x}{2}", None),
        (r"\frac{4}{x}", None),
        ("2.5 1/2", None),
        ("5 \u4e07", None),
        ("0x10", None),
        # units
        ("5 m^2", 5),
        ("5 m\u00b2", 5),
        ("60 km/h", 60),
        ("18 square feet", 18),
        ("USD50", 50),
        ("50 USD", 50),
        ("18cm", 18),
        ("18eggs", 18),
        ("50\u00a2", 50),
        ("$18$", 18),
        ("**18**", 18),
        ("18-year-old", 18),
        ("Total: 18 eggs.", 18),
    ],
)
def test_strict_numbers(text, number):
    assert read_number(text) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    "text, number",
    [
        (r"so \boxed{4}, no, \boxed{5}", 5),
        (r"\boxed{\text{5} }", 5),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        ("<answer>5</answer>", 5),
        ("<answer>5", 5),
        (r"<answer>\boxed{36></answer>", 36),
        (r"<answer>\boxed{}101</answer>", 101),
        ("rationale 5 #### 1,234", 1234),
        ("it is 5", None),
        (r"\boxed{...}", None),
        (r"<answer>4</answer> <answer>5</answer>", 5),
        (r"\boxed {7}", 7),
        (r"\boxed{42} so \boxed{}", 42),
        (r"\boxed{\boxed{6}}", 6),
        (r"\boxed{4} or \boxed{5", None),
        ("#### 18 eggs\nShe had 3 ducks.", 18),
        ("#### 18<|eot_id|>", 18),
        ("<answer>\n18\nfor 3 ducks", 18),
        ("<answer>145</answer}<|eot_id|>", 145),
    ],
)
def test_strict_answers(text, number):
    assert strict_answer(text) == (None if number is None else Fraction(number))


@given(
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.sampled_from(["{}", "${}", "{} dollars", "{}%", "x = {}", r"\text{{{}}}"]),
)
def test_strict_reads_every_written_integer(value, commas, frame):
    written = f"{value:,}" if commas else str(value)
    assert read_number(frame.format(written)) == value


@given(
    st.integers(0, 10**6),
    st.text("0123456789 .,-+/^!*xk\u00bd\u2013%$\\{}=<>\u03c0\u00b2", max_size=4),
)
def test_trailing_text_never_makes_the_strict_rule_read_part_of_a_number(value, more):
    """What follows may make it unreadable or, where it continues the number, another one; but a
    mark is never just dropped.
    """
    answer = read_number(f"{value} {more}x")
    assert answer is None


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20000,
        "\\boxed{}" * 20000,
        "<answer>" * 20000,
        "{" * 140000,
        "\\boxed" + " " * 140000,
        "1 " * 70000,
        "-" * 140000,
        "####" * 30000,
    ],
)
def test_both_rules_take_time_in_proportion_to_the_text(text):
    began = time.process_time()
    paper_answer(text)
    strict_answer(text)
    read_number(text[:5000])
    assert time.process_time() - began < 2


@pytest.mark.parametrize("digits", [309, 400, 4000, 6000])
def test_answers_with_thousands_of_digits_do_not_crash(digits):
    text = "\\boxed{" + "9" * digits + "}"
    assert not is_right(text, 9.0, "strict") and not is_right(text, 9.0, "paper")


# ---- gold answers --------------------------------------------------------------------------------


def read_gsm8k(data_dir):
    return [
        json.loads(line)
        for name in ("train", "test")
        for line in open(data_dir / "gsm8k" / f"{name}.jsonl")
    ]


def test_negative_and_comma_gold_answers_are_read(data_dir):
    answers = [row["answer"] for row in read_gsm8k(data_dir)]
    assert len(answers) == 8792 and None not in map(gold_answer, answers)
    assert sum(gold_answer(answer) < 0 for answer in answers) == 5
    assert sum("," in answer.rpartition("####")[2] for answer in answers) == 93
    assert gold_answer("x #### -1,234.5") == -1234.5 and gold_answer("x #### none") is None


@pytest.mark.parametrize(
    "content, number",
    [
        ("3", 3),
        ("1,000", 1000),
        ("so it is #### -2.5", -2.5),
        ("$7", 7),
        (4, 4),
        (2.5, 2.5),
        (" 12\n", 12),
        ("1,5", None),
        ("nan", None),
        ("inf", None),
        ("9" * 5000, None),
        ("", None),
        ("####", None),
        ("none", None),
        (True, None),
        ([3], None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        (None, None),
    ],
)
def test_gold_numbers_are_finite_numbers(content, number):
    assert gold_number(content) == number


def test_a_gold_answer_needs_its_marker():
    assert (
        gold_answer("5") is None
        and gold_answer("#### 5") == 5
        and gold_answer("x #### 1,5") is None
        and gold_answer("#### nan") is None
    )


def test_all_gold_rationales_are_right_under_the_strict_rule(data_dir):
    rows = read_gsm8k(data_dir)
    assert all(
        is_right(math_target(row["answer"]), gold_answer(row["answer"]), "strict") for row in rows
    )
    # as GSM8K writes them
    assert all(is_right(row["answer"], gold_answer(row["answer"]), "strict") for row in rows)
    without_commas = [row for row in rows if "," not in row["answer"].rpartition("####")[2]]
    assert all(
        is_right(math_target(row["answer"]), gold_answer(row["answer"]), "paper")
        for row in without_commas
    )


def test_check_references_counts_references_right_under_each_rule(data_dir):
    path = data_dir / "gsm8k" / "test.jsonl"
    strict = run_script("--check_references", "--data_path", path, "--answer_rule", "strict")
    paper = run_script("--check_references", "--data_path", path)
    assert strict.returncode == 0 and "1319 of 1319" in strict.stdout
    assert (
        paper.returncode == 0
        and "1305 of 1319" in paper.stdout
        and "wrong under rule paper" in paper.stdout
    )
