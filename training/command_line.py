"""The command line of the training scripts: flags from dataclasses, by the parser of transformers.
Nothing here imports torch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from common.command_line import typed_flags, unknown_flags
from common.errors import InputError
from common.files import local_folder
from training.flags import RunFlags

OTHERS = """Every flag of transformers.TrainingArguments works; --help_all shows them. Often used:
  --max_steps N  --gradient_accumulation_steps N  --gradient_checkpointing  --torch_compile
  --resume_from_checkpoint auto  --deepspeed FILE.json  --report_to wandb
Boolean flags: --flag, --flag true, --flag false.
"""


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The script's manual with its line breaks, and each flag with its default."""


class Parser(HfArgumentParser):
    """transformers' parser, whose refusals are InputErrors."""

    def add_argument(self, *flags: Any, **options: Any) -> Any:
        """argparse's."""
        # transformers allows a `bool` without a value, but not a `bool | None`
        if options.get("type") is string_to_bool:
            options |= {"nargs": "?", "const": True}
        return super().add_argument(*flags, **options)

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(message)  # argparse would print some 300 lines of usage first


def make_parser(cls: Any, description: str | None = None) -> Parser:
    """The parser of a training script, whose flags are the fields of a dataclass, cls. Every
    boolean flag may be given without a value (`--bf16`) or with one (`--bf16 false`).
    """
    parser = Parser(
        cls,
        description=description,
        epilog=OTHERS,
        usage="%(prog)s [flags]",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--help_all", action="help", help="also show transformers' own flags")
    return parser


def first_look(flags: type[RunFlags], description: str | None) -> None:
    """Before torch is imported: answer --help, and refuse impossible values and wrong paths among
    our own flags. Raises InputError.
    """
    if "--help_all" in sys.argv:
        return  # parse_arguments answers it
    given, _ = make_parser(flags, description).parse_known_args()
    for name in ("init_from", "model_name_or_path"):
        if getattr(given, name):
            local_folder(getattr(given, name), f"--{name}")
    rows = given.train_data or given.cache_path
    if rows and not Path(rows).is_dir():
        raise InputError(f"--train_data: {rows} is not a folder written by a preprocessing script")


def check_json(words: Sequence[str]) -> None:
    """Raises InputError naming the flag whose value begins as JSON does and is none."""
    split = [part for word in words for part in word.split("=", 1 if "={" in word else 0)]
    for flag, value in zip(split, split[1:]):
        if value.startswith("{"):
            try:
                json.loads(value)
            except ValueError as error:
                raise InputError(f"{flag}: {value} is no JSON: {error}") from None


def parse_dataclass(cls: type[Any], description: str | None) -> Any:
    """An instance of the dataclass from the command line; `typed`: the names of the flags that were
    given. Raises InputError for a flag that it does
    not have, with a suggestion, and for a value that cannot be read.
    """
    parser = make_parser(cls, description)
    check_json(sys.argv[1:])
    try:
        parsed, rest = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    except ValueError as error:
        raise InputError(str(error)) from None
    if rest:
        raise InputError(unknown_flags(rest, parser._option_string_actions))
    parsed.typed = typed_flags(parser, sys.argv[1:])
    return parsed
