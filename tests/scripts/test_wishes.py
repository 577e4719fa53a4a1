"""docs/wishes.md: what it names exists, and its counts are those of its table.

pytest tests/scripts/test_wishes.py                                                  seconds
"""

import re
from collections import Counter

from command_lines import parser_of, parsers_in, python_files
from conftest import ROOT

TEXT = (ROOT / "docs/wishes.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if re.match(r"\| \d", line)]


def test_every_wish_has_threads_and_one_of_three_answers():
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, len(ROWS) + 1)]
    assert len(ROWS) >= 20
    thread = re.compile(r"\[(\d+)\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/(\d+)\)")
    for _, _, asked, answer, _ in ROWS:
        links = thread.findall(asked)
        assert links and len(links) == asked.count("](")
        assert all(shown == linked for shown, linked in links)
        assert answer in ("works", "partly", "not")
    counts = Counter(row[3] for row in ROWS)
    said = f"Of these {len(ROWS)} wishes, {counts['works']} work, {counts['partly']} in part, "
    assert said + f"{counts['not']} do not." in TEXT


def test_flags_tests_and_files_that_it_names_exist():
    words = re.findall(r"`([^` ]+)", TEXT)
    parsers = [parser_of(str(path.relative_to(ROOT))) for path in python_files()]
    flags = {
        flag
        for each in filter(None, parsers)
        for parser in parsers_in(each)
        for action in parser._actions
        for flag in action.option_strings
    } | {"--full"}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = Counter()
    for word in words:
        if word.startswith("--"):
            assert word in flags, word
            named["flag"] += 1
        elif word.startswith("test_"):
            assert f"def {word}(" in tests, word
            named["test"] += 1
        elif "/" in word or word.endswith((".py", ".txt", ".sh")):
            assert (ROOT / word).exists(), word
            named["file"] += 1
    assert min(named["flag"], named["test"], named["file"]) >= 5
