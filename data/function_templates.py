"""The templates of the generated functions: their text, names, constants, names of variables, and
the words that are their arguments. The order of CODE_TEMPLATES counts: the split depends on it.
"""

from typing import Any

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
