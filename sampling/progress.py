"""A bar for one prompt: how many network evaluations have gone by."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampling.results import OnFrame, TraceFrame


@contextmanager
def evaluations_bar(total: int | None) -> "Iterator[OnFrame]":
    """A sampler's on_frame(row, frame) that counts the first row's evaluations on stderr, from the
    second second on. total: how many there will be, None if that is not known.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc="sampling", unit="evaluation", delay=1, leave=False) as bar:

        def show(row: int, frame: "TraceFrame") -> None:
            if row == 0:
                bar.set_postfix_str(f"{len(frame['ids'])} tokens", refresh=False)
                bar.update(frame["evaluations"] - bar.n)

        yield show
