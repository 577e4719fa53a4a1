r"""How a number is read from an answer: the paper's rule, the strict rule, and gold answers.
Nothing here is slow to import.

    is_right(generation, ground_truth, "paper")     # exactly as in the paper's code
                                                    # (docs/evaluation.md)
    is_right(generation, ground_truth, "strict")    # the last answer given, read as a whole
    gold_answer("rationale #### 1,234")             # 1234.0

The strict reader splits a text into numbers, signs, currencies, units and words, and reads it only
if it knows all of them: what it cannot read is no answer, never another number. It reads
thousands separators (comma, space, underscore, {,} and \,), decimals, 1e3 and 1.5 \times 10^6,
fractions (1/2, \frac{1}{2}, {1 \over 2}, the one-character ones) and mixed numbers, signs of any
typography and the words "minus" and "negative", currencies, percent (50 % is 50), units, and
hundred ... trillion. Ranges, roots, powers, factorials, unknowns, inequalities, dozens, halves and
number words are no answer. All rules run in time linear in the text.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

NUMBER = r"-?\d+\.?\d*"
LONGEST = 5000  # characters of one answer that the strict reader looks at


# ---- the paper's rule ----------------------------------------------------------------------------


def finite_float(text: str) -> float | None:
    """float(text), or None where that is no number or not finite ("nan", "inf", 5,000 digits)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def float_or_number(text: str, which: int) -> float | None:
    """float(text), else the float of the first (which=0) or last (-1) number in it, else None."""
    value = finite_float(text)
    if value is None:
        numbers = re.findall(NUMBER, text)
        value = finite_float(numbers[which]) if numbers else None
    return value


def flat_boxes(text: str) -> Iterator[str]:
    r"""The matches of \\boxed{(.*?)} in order. Without a regular expression, which would take
    quadratic time on boxes that are never closed.
    """
    for line in text.split("\n"):
        start = line.find("\\boxed{")
        while start >= 0 and (end := line.find("}", start)) >= 0:
            yield line[start + len("\\boxed{") : end]
            start = line.find("\\boxed{", end)


def paper_answer(text: str) -> float | None:
    """The answer in a generation by the paper's rule (docs/evaluation.md), a float or None."""
    for content in flat_boxes(text):
        content = content.strip()
        if content.strip(".") and (answer := float_or_number(content, 0)) is not None:
            return answer
    _, _, behind = text.partition("<answer>")
    content, closed, _ = behind.partition("</answer>")
    return float_or_number(content.strip(), -1) if closed else None


# ---- the strict rule: one number -----------------------------------------------------------------

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
UNITS = set(
    "m s h g l L C F km cm mm ft yd mi kg mg lb lbs oz ml mL hr hrs min mins sec secs mph kmh kph"
    " kWh Wh kW W V A pm am sq cu pts USD EUR GBP CNY JPY CAD AUD".split()
)
SMALL_WORDS = {"a", "A", "I", "by", "my", "why"}  # words without a vowel, or of one letter
# words that change the number beside them; a text with one of them is not read at all
CHANGING = set(
    "half halves quarter quarters third thirds fourth fourths fifth fifths tenth tenths hundredth"
    " hundredths thousandth thousandths dozen dozens pair pairs score scores gross double triple"
    " twice thrice couple few several pi sqrt root square-root squared cubed power times plus"
    " divided multiplied factorial log ln exp mod or than least most not no none without except"
    " under over between to two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy"
    " eighty ninety hundreds thousands millions billions trillions lakh lakhs crore crores".split()
)
PLAIN = (
    r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?! ?\d)|\d+(?:_\d+)+|\d+)(?:\.\d+)?|\.\d+"
)
TOKEN = re.compile(
    rf"""(?P<space>\s+)
    |(?P<number>(?:{PLAIN.replace(" ", "[ ]")})(?:[eE][-+]?\d{{1,3}}(?![\w.]))?)
    |(?P<word>[A-Za-z]+(?:[/'\u2019-][A-Za-z]+)*)(?P<power>\^(?:\d|\{{\d\}}))?
    |(?P<currency>[$\u20ac\u00a3\u00a5\u20b9\u00a2]+)
    |(?P<sign>[-+])|(?P<other>[/%.,:;])""",
    re.VERBOSE | re.ASCII,
)
# a sign and a currency in either order, then one number: plain, a ratio, or a whole number and a
# ratio
SHAPE = re.compile(r"[w.]*(?P<sign>(?:[-+]c?|c[-+]?)?)(?P<number>nn/[-]?n|n/[-]?n|n)M?[%c]*[w.%c]*")


def _plain_text(text: str) -> str:
    """LaTeX and typography as plain text; any LaTeX that remains (a backslash) is unknown to the
    reader.
    """
    written = []
    for character in text:
        kind = unicodedata.decomposition(character).partition(" ")[0]
        if kind == "<fraction>":  # one character: \u00bd
            written.append(
                f" {unicodedata.normalize('NFKC', character).replace(chr(0x2044), '/')} "
            )
        elif kind in ("<super>", "<sub>"):
            written.append("^" + unicodedata.normalize("NFKC", character))
        elif character in "\u2212\u2013\u2010\u2011\ufe63\uff0d":
            # minus signs, the en dash, hyphens
            written.append("-")
        else:
            written.append(unicodedata.normalize("NFKC", character))
    text = "".join(written).replace("\u2044", "/")
    text = re.sub(
        r"\\(?:text|mathrm|mathbf|mathit|textbf|textit|mbox|operatorname)\s*\{([^{}]*)\}",
        r" \1 ",
        text,
    )
    text = text.replace("\\!", "").replace("{,}", ",")
    text = re.sub(r"\\[,;: \n]|~|\\quad|\\qquad|\\\\", " ", text)
    text = re.sub(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\]]", "", text)
    text = re.sub(r"\\boxed\s*\{", " ", text)
    text = re.sub(
        r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\(?:circ|degree)(?![A-Za-z])|\u00b0", " ", text
    )
    text = (
        re.sub(r"\\([%$])", r"\1", text).replace("\\pounds", "\u00a3").replace("\\euro", "\u20ac")
    )
    part = r"(?:\{\s*(-?[\d.,]+)\s*\}|\s*(\d))"
    text = re.sub(
        rf"\\[dtc]?frac\s*{part}\s*{part}",
        lambda match: " {}/{} ".format(*(found for found in match.groups() if found)),
        text,
    )
    text = re.sub(r"\{\s*(-?[\d.,]+)\s*\\over\s*(-?[\d.,]+)\s*\}", r" \1/\2 ", text)
    text = re.sub(
        r"\s*(?:\\times|\\cdot|\u00d7|\*|(?<=\d)\s*x)\s*10\s*\^\s*"
        r"(?:\{\s*(-?\d{1,3})\s*\}|(-?\d{1,3}))",
        lambda match: f"e{match.group(1) or match.group(2)} ",
        text,
    )
    return re.split(r"=|\\approx|\u2248", text)[-1]


def _tokens(text: str) -> list[tuple[str, str]] | None:
    """[(kind, text)] with kinds n number, w word, M scale word, c currency, and - + / % . as
    themselves; None if something is unknown.
    """
    tokens, place, before = [], 0, " "
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            return None
        kind, word = match.lastgroup, match.group()
        kind = "word" if kind == "power" else kind
        behind = text[match.end() : match.end() + 1]
        if kind == "number":
            # USD50, but not x2
            if before.isalnum() and text[:place].rpartition(" ")[2].upper() not in UNITS:
                return None
            tokens.append(("n", word))
        elif kind == "word":
            if not _is_known(word, match.group("power"), attached=before.isdigit()):
                return None
            lower = word.lower()
            tokens.append(
                ("-" if lower in ("minus", "negative") else "M" if lower in SCALES else "w", lower)
            )
        elif kind == "sign":
            if word == "-" and before.isdigit() and behind.isalpha():  # 18-year-old
                before, place = " ", match.end()
                continue
            if not before.isspace() and before not in "$\u20ac\u00a3\u00a5\u20b9/":
                return None
            tokens.append((word, word))
        elif kind in ("currency", "other"):
            tokens.append(("c" if kind == "currency" else word if word in "/%" else ".", word))
        before, place = word[-1], match.end()
    return tokens


def _is_known(word: str, power: str | None, attached: bool) -> bool:
    """Whether a word leaves the number beside it unchanged: a unit, or an ordinary word that is not
    in CHANGING.
    """
    bare = word[: len(word) - len(power)] if power else word
    lower = bare.lower()
    if power:
        return bare in UNITS
    if any(piece in CHANGING for piece in [lower, *re.split(r"[-/]", lower)]):
        return False
    if bare in UNITS or all(piece in UNITS for piece in bare.split("/")):
        return True
    if attached:  # 18eggs, but neither 2x nor 18k nor 2pi
        return len(bare) >= 4
    return bare in SMALL_WORDS or (len(bare) >= 2 and re.search("[aeiou]", lower) is not None)


def read_number(text: str) -> Fraction | None:
    """The one number that a text states, as a Fraction, or None if it states none, several, or
    something that is not understood.
    """
    if len(text) > LONGEST:
        return None
    text = re.sub(r"[(){}\[\]]", " ", _plain_text(re.sub(r"\s+", " ", text)))
    tokens = _tokens(text.strip(" *_`\"'").rstrip(" >"))
    if tokens is None:
        return None
    kinds = "".join(kind for kind, _ in tokens)
    match = SHAPE.fullmatch(kinds)
    if match is None:
        return None
    parts = [
        word.replace(",", "").replace(" ", "").replace("_", "")
        for _, word in tokens[match.start("number") : match.end("number")]
    ]
    try:
        if "/" not in parts:
            value = Fraction(parts[0])
        else:
            ratio = parts.index("/")
            value = Fraction(parts[ratio - 1]) / Fraction("".join(parts[ratio + 1 :]))
            if ratio == 2:  # 2 1/2; not 2.5 1/2, not 2 3/2
                if not (parts[0].isdigit() and parts[1].isdigit() and 0 <= value < 1):
                    return None
                value += int(parts[0])
    except (ZeroDivisionError, ValueError):  # ValueError: more digits than Python's int takes
        return None
    if "M" in kinds:
        value *= SCALES[tokens[kinds.index("M")][1]]
    return -value if "-" in match.group("sign") else value


# ---- the strict rule: where the answer stands ----------------------------------------------------


def _is_empty(content):
    return not content.strip(" .\n\t")


def last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} that is neither empty nor dots, with balanced braces; None
    without one, or if it is not closed.
    """
    closing, open_braces = {}, []
    for match in re.finditer(r"[{}]", text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif open_braces:
            closing[open_braces.pop()] = match.start()
    for match in reversed(list(re.finditer(r"\\boxed\s{0,9}\{", text))):
        end = closing.get(match.end() - 1)
        if end is None:
            return None
        if not _is_empty(text[match.end() : end]):
            return text[match.end() : end]
    return None


def first_line(text: str) -> str:
    """The first line that is not blank; "" if all are."""
    return text.strip().partition("\n")[0]


def strict_answer(text: str) -> Fraction | None:
    """The last answer a generation commits itself to, as a Fraction or None: its last box, else its
    last <answer>, else after ####.

    An <answer> that is not closed, and what stands after ####, end with their line, or with a tag
    or special token (</..., <|...).
    """
    content = last_boxed(text)
    if content is None:
        text = re.sub(r"\\boxed\s{0,9}\{[\s.]{0,9}\}", " ", text)
        if "<answer>" in text:
            content, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
            content = content if closed else re.split(r"<[/|]", first_line(content))[0]
        elif "####" in text:
            content = re.split(r"<[/|]", first_line(text.rpartition("####")[2]))[0]
        else:
            return None
    return read_number(content)


# ---- gold answers --------------------------------------------------------------------------------


def gold_number(content: Any) -> float | None:
    """A gold answer as a finite number, from a number or from text ("3", "1,000", "... #### 3").
    None if it cannot be read.
    """
    if isinstance(content, str):
        content = read_number(content.rpartition("####")[2])
    if isinstance(content, bool) or not isinstance(content, (int, float, Fraction)):
        return None
    try:
        value = float(content)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def gold_answer(answer: str) -> float | None:
    """The number after #### of a GSM8K answer, a finite float; None if there is no #### or no
    number after it.
    """
    return gold_number(answer) if "####" in answer else None


def is_right(generation: str, ground_truth: float | None, rule: str) -> bool:
    """Whether a generation's answer is the ground truth (a number or None, which is never right),
    by the rule "paper" or "strict".
    """
    if ground_truth is None:
        return False
    if rule == "paper":
        return paper_answer(generation) == ground_truth
    answer, truth = strict_answer(generation), Fraction(ground_truth)
    if answer is None:
        return False
    largest: Any = max(abs(answer), abs(truth), 1)  # a Fraction, or 1
    return abs(answer - truth) <= largest / 10**9
