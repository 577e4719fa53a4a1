"""Reads hostile_programs.txt, and runs all of it at one level of the sandbox as whoever started it:
so tests can run it as another user.

Prints results as JSON:
    CODE=<the repository> python hostile_programs.py LEVEL CANARY PORT MARK PYTHON TIMEOUT
"""

import json
import os
import re
import sys
from pathlib import Path

PLAIN_TEST = "def check(candidate):\n    assert candidate(0) == 1\n"
WRONG = "def f(x):\n    return 0\n"
RIGHT = "def f(x):\n    return 1\n"
TEXT = Path(__file__).with_name("hostile_programs.txt")


def read_programs():
    """({name: (program, test)} of hostile programs, the same of fools, which only equal
    everything).
    """
    hostile, fools = {}, {}
    for part in re.split(
        r"^=== ",
        re.sub(r"^##### .*\n", "", TEXT.read_text(), flags=re.MULTILINE),
        flags=re.MULTILINE,
    )[1:]:
        name, _, content = part.partition("\n")
        program, _, test = content.strip("\n").partition("\n--- test\n")
        group = fools if name.startswith("fool: ") else hostile
        group[name.removeprefix("fool: ")] = (
            re.sub(r"^WRONG$", WRONG.strip(), program, flags=re.MULTILINE),
            test or PLAIN_TEST,
        )
    return hostile, fools


def main():
    level, canary, port, mark, python, timeout = sys.argv[1:]
    sys.path.insert(0, os.environ["CODE"])
    from evaluation.sandbox.runner import CodeRunner

    programs = {}
    for name, (program, test) in read_programs()[0].items():
        for word, value in (("CANARY", canary), ("PORT", port), ("MARK", mark)):
            program = program.replace(word, value)
        programs[name] = (program, test, "f")
    with CodeRunner(levels=(level,), python=python, timeout=float(timeout)) as runner:
        results = dict(zip(programs, runner.run_all(programs.values())))
        honest = runner.run(RIGHT, PLAIN_TEST, "f")
        print(json.dumps({"isolation": runner.isolation, "results": results, "honest": honest}))


if __name__ == "__main__":
    main()
