"""The argument parser of every script, and checks that their flags share. Nothing here imports
torch.
"""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from common.errors import InputError


def process_rank() -> tuple[int, int]:
    """(rank, world size) from the environment, as set by torchrun or srun; (0, 1) without a
    launcher.
    """
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def finite_number(text: str) -> float:
    """argparse type of a number that is neither nan nor inf. Raises ArgumentTypeError."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def seed_number(text: str) -> int:
    """argparse type of a seed that every generator of random numbers takes. Raises
    ArgumentTypeError.
    """
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 ... 2147483647")
    return value


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Raises InputError for the first of the named flags that is given but below 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name}: {getattr(args, name)} is not at least 1")


TRUE, FALSE = ("true", "yes", "y", "t", "1"), ("false", "no", "n", "f", "0")


def refuse_without(needed: str, given: Any, args: argparse.Namespace, *names: str) -> None:
    """Refuse typed flags that have no effect without another one, `needed`, whose value is given.
    One typed as off says what holds. Raises InputError naming both.
    """
    for name in names:
        if name in args.typed and getattr(args, name) and not given:
            raise InputError(f"--{name}: no effect without {needed}")


class Switch(argparse.Action):
    """A boolean flag that can be turned off, too: --flag, --no_flag, argparse's own --no-flag."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        (flag,) = option_strings
        off = [flag.replace("--", prefix, 1) for prefix in ("--no_", "--no-")]
        super().__init__([flag, *off], dest, nargs=0, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Set the value: argparse calls it for each of the three flags."""
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def unknown_flags(words: Sequence[str], known: Iterable[str]) -> str:
    """The refusal of words that a parser does not know, with the flags that may have been meant.
    known: all its flags.
    """
    message = f"unrecognized arguments: {' '.join(words)}"
    flags, known = [word.partition("=")[0] for word in words if word.startswith("--")], list(known)
    near = [difflib.get_close_matches(flag, known, n=1, cutoff=0.7) for flag in flags]
    meant = dict.fromkeys(found for (found,) in filter(None, near))  # in order, each once
    return f"{message}; did you mean {' and '.join(meant)}?" if meant else message


def typed_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> frozenset[str]:
    """The names (`dest`) of the flags among the words of a command line."""
    flags = [word.partition("=")[0] for word in words]
    known = parser._option_string_actions
    return frozenset(known[flag].dest for flag in flags if flag in known)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong flag raises InputError (one line, exit code 2 under
    common.errors.run), the description keeps its line breaks, and a boolean flag may be given with
    a value (`--flag true`), as in the training scripts.
    """

    def __init__(self, **options: Any) -> None:
        """options: those of argparse.ArgumentParser."""
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's; `typed` of the result: the names of the flags that were given. Raises
        InputError for a word that is not UTF-8.
        """
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if any("\ud800" <= character <= "\udfff" for character in word):
                raise InputError(f"the command line is not UTF-8: {ascii(word)}")
        parsed, rest = super().parse_known_args(list(self._without_values(words)), namespace)
        parsed.typed = typed_flags(self, words)
        return parsed, rest

    def _without_values(self, words: list[str]) -> Iterator[str]:
        """The words, in which boolean flags have lost their values: `--flag false` is no flag."""
        values, place = dict.fromkeys(TRUE, True) | dict.fromkeys(FALSE, False), 0
        while place < len(words):
            word, place = words[place], place + 1
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag)
            if not isinstance(action, (argparse._StoreTrueAction, Switch)):
                yield word
                continue
            if not equals and place < len(words) and words[place].lower() in values:
                value, place = words[place], place + 1
            value = value.lower() or "true"
            if value not in values:
                raise InputError(f"{flag}: {value} is neither true nor false")
            if values[value]:
                yield flag
            elif isinstance(action, Switch):
                yield action.option_strings[flag == action.option_strings[0]]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, with a suggestion for a mistyped flag. Raises InputError."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise InputError(unknown_flags(rest, self._flags()))
        return parsed

    def _flags(self) -> Iterator[str]:
        yield from self._option_string_actions
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._flags()

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of printing the usage and exiting."""
        raise InputError(message)
