"""The argument parser of every script, and checks that their flags share. Nothing here imports
torch.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable
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


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Raises InputError for the first of the named flags that is given but below 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name}: {getattr(args, name)} is not at least 1")


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong flag raises InputError (one line, exit code 2 under
    common.errors.run) and the description keeps its line breaks.
    """

    def __init__(self, **options: Any) -> None:
        """options: those of argparse.ArgumentParser."""
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's. Raises InputError for a word that is not UTF-8."""
        for word in sys.argv[1:] if args is None else args:
            if any("\ud800" <= character <= "\udfff" for character in word):
                raise InputError(f"the command line is not UTF-8: {ascii(word)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of printing the usage and exiting."""
        raise InputError(message)
