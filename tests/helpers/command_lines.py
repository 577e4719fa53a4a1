"""The command lines that the documentation shows, and whether the programs they name take them.

    for line in shown(): reason = refused(line)         # None, or why not; nothing is run

A command begins at python, torchrun, bash, sbatch or srun. It ends with its line (a backslash joins
the next one), its code span, two spaces, a bracket or a mark of punctuation. `...` stands for what
is left out: `... --flag` goes on with the last script named before it.
"""

import argparse
import ast
import contextlib
import functools
import importlib
import inspect
import io
import re
import shlex
import sys
import typing
from typing import NamedTuple

from conftest import ROOT

START = re.compile(
    r"(?<![^\s`'\"(|])(?:(?:[A-Z_]+=\S+ )*(?:python|torchrun|bash|sbatch|srun)" r"|\.\.\.) +(?=\S)"
)
STOP = re.compile(r"  |[,;](?:\s|$)|(?<!\.)\.(?:\s|$)| [#(|>&]")
LEFT_OUT = re.compile(r"(?<!\S)\.\.\.(?!\S)")
SCRIPT = re.compile(r"[\w/.-]+\.(?:py|sh)(?![\w.])")
ANYWHERE = {"CUDA_VISIBLE_DEVICES"}  # variables that no script of ours reads
TRAINING = {
    "flexmdm_transfer_openwebtext": "RunArguments",
    "instruction_finetuning": "InstructionArguments",
}


class Line(NamedTuple):
    source: str
    text: str


def python_files():
    return sorted({*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")})


def module_of(script):
    for folder in (str(ROOT), str(ROOT / "scripts")):
        if folder not in sys.path:
            sys.path.append(folder)
    return importlib.import_module(script.removesuffix(".py").rpartition("/")[2])


def parser_of(script):
    """The parser of a script, by its path in the repository; None where it takes no flags."""
    from training import arguments
    from training.command_line import make_parser

    if '__name__ == "__main__"' not in (ROOT / script).read_text():
        return None
    module = module_of(script)
    if module.__name__ in TRAINING:
        return make_parser(getattr(arguments, TRAINING[module.__name__]))
    return module.make_parser() if hasattr(module, "make_parser") else None


def parsers_in(parser):
    """A parser and those of its commands, of their commands, and so on."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers_in(command)


def boolean_fields(cls):
    """Names of a dataclass's fields that may be true or false."""
    hints = typing.get_type_hints(cls)
    return [
        name
        for name in inspect.signature(cls).parameters
        if hints[name] is bool or bool in typing.get_args(hints[name])
    ]


# ---- finding them


def end_of(text, start):
    """Where a command that goes on at `start` ends; quotes may hold anything."""
    quote = None
    for place in range(start, len(text)):
        sign = text[place]
        if quote:
            quote = None if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif STOP.match(text, place):
            return place
    return len(text)


def commands_in(text, last=None):
    """(command, last script named so far) of one logical line. last: named before this line."""
    place = 0
    while match := START.search(text, place):
        place = match.end()
        if not match[0].startswith("..."):
            place = end_of(text, place)
            if named := SCRIPT.search(text[match.start() : place]):
                last = named[0]
                yield text[match.start() : place], last
        elif last and text.startswith("-", place):
            program = "python" if last.endswith(".py") else "bash"
            while place is not None:  # ... --watch, --trace FILE
                end = end_of(text, place)
                yield f"{program} {last} ... {text[place:end]}", last
                again = re.compile(r", (?:or )?(?=--)").match(text, end)
                place = again and again.end()
            place = end


def logical_lines(text):
    return re.sub(r"\\\n\s*", "", text).splitlines()


def code_spans(text):
    return "  ".join(re.findall(r"`([^`]+)`", text))


def markdown_lines(text):
    """Code lines as they are, and the code spans of each row of a table and each paragraph."""
    paragraph = []
    for line in [*logical_lines(text), ""]:
        if line.startswith(("    ", "|")) or not line.strip():
            yield code_spans(" ".join(paragraph))
            paragraph = []
            yield line if line.startswith("    ") else code_spans(line)
        else:
            paragraph.append(line.strip())


def python_lines(text):
    """Lines of a file's head and of the texts that --help shows."""
    tree = ast.parse(text)
    texts = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("help", "description") and isinstance(keyword.value, ast.Constant)
    ]
    return logical_lines("\n".join([ast.get_docstring(tree) or "", *map(str, texts)]))


def shell_lines(text):
    return logical_lines(
        "\n".join(line.lstrip("# ") if line.startswith("#") else "" for line in text.splitlines())
    )


def shown():
    """Every command line of the README files, RESULTS.md, and the scripts' heads and helps."""
    sources = [
        (ROOT / name, markdown_lines) for name in ("README.md", "RESULTS.md", "scripts/README.md")
    ]
    sources += [(path, python_lines) for path in python_files()]
    sources += [(path, shell_lines) for path in sorted(ROOT.glob("scripts/*.sh"))]
    for path, lines_of in sources:
        name = str(path.relative_to(ROOT))
        last = None if name.endswith(".md") else name
        for text in lines_of(path.read_text()):
            for command, script in commands_in(text, last):
                last = script
                yield Line(name, command)


# ---- judging them


def words_of(text):
    """Its words, without [what may be left out]; CAPITALS become a value that any flag takes."""
    text = LEFT_OUT.sub("", re.sub(r"\[[^\]]*\]", "", text)).replace("$'", "'")
    return ["1" if re.fullmatch(r"[A-Z][A-Z_]*", word) else word for word in shlex.split(text)]


def accepts(parser, words, partial):
    """None, or why the parser refuses. partial: what is required may be missing."""
    if partial:
        for each in parsers_in(parser):
            for action in each._actions:
                action.required = False
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):
            parser.parse_args(words)
    except SystemExit:
        return (written.getvalue().strip().splitlines() or ["it ends at once"])[-1]
    except Exception as error:  # InputError, or what transformers raises
        return f"{type(error).__name__}: {error}"


@functools.cache
def python_behind(script):
    """Python scripts that a job script hands its flags to."""
    head, sourced, body = (ROOT / script).read_text().partition(". scripts/launch.sh")
    names = re.findall(r"^(?:train|evaluate|alone) (\S+)", body, re.M) if sourced else []
    return re.findall(r"SCRIPT=(\S+)", head) if names == ["$SCRIPT"] else names


def refused(line):
    """None where the programs of a command line are there and take its flags; else the reason."""
    try:
        words = words_of(line.text)
    except ValueError as error:
        return str(error)
    wrapped = [word for word in words if word.startswith("python ")]  # sbatch --wrap "..."
    if wrapped:
        return refused(Line(line.source, wrapped[0]))
    place = next(number for number, word in enumerate(words) if SCRIPT.fullmatch(word))
    before, script, flags = words[:place], words[place], words[place + 1 :]
    if not (ROOT / script).is_file():
        return f"{script} is not there"
    if script.endswith(".sh"):
        return refused_by_shell(script, before, flags)
    if "torchrun" in before:
        from torch.distributed.run import get_args_parser

        launcher = words[before.index("torchrun") + 1 : place + 1]
        if reason := accepts(get_args_parser(), launcher, False):
            return f"torchrun: {reason}"
    parser = parser_of(script)
    if parser is None:
        return f"{script} takes no flags" if any(map(is_flag, flags)) else None
    return accepts(parser, flags, bool(LEFT_OUT.search(line.text)))


def is_flag(word):
    return word.startswith("-")


def refused_by_shell(script, before, flags):
    lines = (ROOT / script).read_text().splitlines()
    code = "\n".join(line for line in lines if not line.startswith("#"))
    shared = [(ROOT / "scripts" / name).read_text() for name in ("launch.sh", "environment.sh")]
    for word in before:
        name, given, _ = word.partition("=")
        if (
            given
            and name.isupper()
            and name not in ANYWHERE
            and not re.search(rf"\$\{{?{name}\b", "".join([code, *shared]))
        ):
            return f"{script} reads no variable {name}"
    if script == "scripts/test.sh":  # its flags are pytest's
        missing = [
            word for word in flags if word.startswith("tests/") and not (ROOT / word).exists()
        ]
        return f"{missing[0]} is not there" if missing else None
    if behind := python_behind(script):
        reasons = [accepts(parser_of(name), flags, True) for name in behind]
        return reasons[0] if all(reasons) else None
    unknown = [
        word
        for word in filter(is_flag, flags)
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", code)
    ]
    return f"{script} does not know {unknown[0]}" if unknown else None
