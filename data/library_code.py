"""Functions of Python's standard library as training rows and infills."""

import ast
import random
import sysconfig
import textwrap
from functools import cache
from pathlib import Path
from typing import TypeAlias

from common.errors import InputError
from common.rows import Row
from data.splits import held_out

# (module, name, code)
Function: TypeAlias = tuple[str, str, str]
STDLIB_TEST_SHARE = 0.1
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


def parses(code: str) -> bool:
    """Whether code is valid Python by itself (a method with text at the left margin is not, once
    its indentation is removed).
    """
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


@cache
def stdlib_functions(max_lines: int = 10, max_characters: int = 400) -> tuple[Function, ...]:
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


def split_functions(split: str) -> list[Function]:
    """The standard-library functions of one split. Raises InputError if this Python was installed
    without the sources of its library.
    """
    items = [
        item
        for item in stdlib_functions()
        if held_out(STDLIB_TEST_SHARE, item[0]) == (split == "test")
    ]
    if not items:
        raise InputError(
            f"no standard-library sources under {sysconfig.get_path('stdlib')}: use a Python that"
            " has them, or another kind of data"
        )
    return items


def stdlib_items(split: str, n: int, seed: int | str, view: str) -> list[Function]:
    """n different library functions of the split's modules, in an order drawn from the seed and
    `view`. Raises InputError where there are fewer.
    """
    items = split_functions(split)
    if n > len(items):
        raise InputError(
            f"--n: this Python's library has {len(items)} usable functions in the {split} split,"
            f" {n} were requested"
        )
    random.Random(f"{view} {split} {seed}").shuffle(items)
    return items[:n]


def stdlib_rows(split: str, n: int, seed: int | str) -> list[Row]:
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


def stdlib_infill_rows(split: str, n: int, seed: int | str) -> list[Row]:
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
