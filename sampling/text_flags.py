"""The flags of both inference scripts that say what to write, and how it is shown. Nothing here
imports torch.
"""

import argparse
from typing import Any

from common.errors import InputError
from common.files import local_folder


def add_text_flags(parser: argparse.ArgumentParser) -> Any:
    """A prompt or an infill, the number of samples, --trace and --watch. Returns their group."""
    group = parser.add_argument_group("what to write")
    group.add_argument("--prompt", help="text to continue; may be empty")
    group.add_argument(
        "--task",
        choices=("text", "math"),
        default="text",
        help="math: the prompt is a question, formatted as in fine-tuning",
    )
    group.add_argument("--prefix", help="infill: text before the gap")
    group.add_argument("--suffix", help="infill: text after the gap")
    group.add_argument("--num_samples", type=int, default=1, help="samples to draw (default: 1)")
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="FILE.html: a page that replays the generation; FILE.png: its curves",
    )
    group.add_argument(
        "--watch", action="store_true", help="show the first sample's text as it is written"
    )
    return group


def check_text_flags(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together, and folders that do not exist. Raises InputError."""
    if (args.prompt is None) == (args.prefix is None and args.suffix is None):
        raise InputError("give either --prompt, or --prefix and --suffix")
    if args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be at least 1")
    if args.task == "math" and args.prompt is None:
        raise InputError("--task math: needs --prompt")
    for name in ("checkpoint_path", "base_model"):
        if getattr(args, name):
            local_folder(getattr(args, name), f"--{name}")
    if args.trace and not args.trace.endswith((".html", ".png")):
        raise InputError(f"--trace {args.trace}: must end in .html or .png")
