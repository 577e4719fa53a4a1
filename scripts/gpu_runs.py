"""What the two scripts for GPU machines, check_gpu.py and benchmark_gpu.py, share: their flags and
the file of their results.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError

RESULTS = Path(__file__).resolve().parent.parent / "results/gpu"


def add_flags(
    parser: argparse.ArgumentParser, kind: str, known: Iterable[str], device: str
) -> None:
    """--device, --only and --output of a script that runs the parts `known`, all unless told
    otherwise. kind: check or benchmark; device: the default.
    """
    names = list(known)

    def chosen(text: str) -> list[str]:
        if unknown := sorted(set(text.split(",")) - set(names)):
            raise InputError(f"--only: {', '.join(unknown)} is none of {', '.join(names)}")
        return text.split(",")

    parser.add_argument(
        "--device", default=device, help=f"auto, cpu, cuda or cuda:N (default: {device})"
    )
    parser.add_argument(
        "--only", type=chosen, help=f"some of them, with commas between: {', '.join(names)}"
    )
    parser.add_argument(
        "--output", help=f"JSON file (default on a GPU: results/gpu/{kind}_CARD.json)"
    )


def default_output(kind: str, facts: Mapping[str, Any]) -> Path:
    """Where a run on a GPU writes, unless told otherwise. facts: machine.card's."""
    return RESULTS / f"{kind}_{facts['card'].replace(' ', '_')}.json"
