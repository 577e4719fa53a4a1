"""What a command shows on stderr while it samples: a bar of network evaluations, or the text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sampling.terminal import terminal_watcher

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


@contextmanager
def shown_progress(
    tokenizer: Any, mask_id: int, watch: bool, total: int | None
) -> "Iterator[OnFrame]":
    """A sampler's on_frame that shows the first row's text as it grows (watch), or else a bar of
    `total` evaluations.
    """
    if watch:
        yield terminal_watcher(tokenizer, mask_id)
    else:
        with evaluations_bar(total) as show:
            yield show
