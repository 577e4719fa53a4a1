"""Sampler flags that would have no effect because another one is missing are refused. A flag that
is left alone is never refused: the evaluations have the paper's values as defaults.
"""

import argparse
from collections.abc import Callable
from typing import Any

from common.errors import InputError

# name of the flag: (whether it has an effect, what it needs)
NEEDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "alpha": (lambda options: options.use_sliding_window, "--use_sliding_window"),
    "max_window": (lambda options: options.use_sliding_window, "--use_sliding_window"),
    "confidence_method": (
        lambda options: options.unmasking == "confidence",
        "--unmasking confidence",
    ),
    "length_choice": (
        lambda options: options.sampler == "count_first" or options.placed_share is not None,
        "--sampler count_first or --placed_share",
    ),
}


def refuse_unused_flags(args: argparse.Namespace, options: Any) -> None:
    """Refuse typed flags of FlexMDM's samplers that have no effect. args: of our ArgumentParser;
    options: the SamplerOptions that they lead to. Raises InputError naming flag and need.
    """
    for flag, (works, needed) in NEEDS.items():
        if flag in getattr(args, "typed", ()) and not works(options):
            raise InputError(f"--{flag}: no effect without {needed}")
