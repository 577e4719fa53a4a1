"""What a script shows while it works and when it ends, the same for all scripts. Nothing here
imports torch.

Progress is tqdm's, our own bars and those of the libraries. `plain_progress` makes each of them a
plain line every so often where there is no terminal, so that a log holds no carriage returns;
`--quiet` (add_quiet_flag) silences them. `ending` prints a run's last three lines.
"""

import argparse
import functools
import os
import shlex
import sys
from typing import Any

# seconds between two lines of a bar in a log; TQDM_MININTERVAL, tqdm's own variable, changes it
LINE_SECONDS = 30.0
# tqdm's words for a line: without the bar
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} left, {rate_fmt}{postfix}"
OPEN_LINE = "{desc}: {n_fmt}, {elapsed} passed, {rate_fmt}{postfix}"  # no total is known


@functools.cache  # once for a process
def plain_progress() -> None:
    """Where stderr is no terminal, make every tqdm bar of this process a line now and then, without
    carriage returns. Does nothing in a terminal.
    """
    if sys.stderr.isatty():
        return
    from tqdm.std import tqdm

    def print_line(file: Any) -> Any:
        def write(text: str) -> None:
            if text:
                file.write(text.removeprefix(": ") + "\n")
                file.flush()

        return write

    def close(bar: Any) -> None:
        if bar.disable:
            return
        bar.disable = True
        if bar.n != bar.last_print_n and bar.last_print_t >= bar.start_t + bar.delay:
            bar.display()
        bar._decr_instances(bar)

    seconds = float(os.environ.get("TQDM_MININTERVAL", LINE_SECONDS))
    _change_defaults({"mininterval": seconds, "maxinterval": 2 * seconds, "bar_format": LINE})
    # bars of libraries are subclasses: these methods are theirs, too
    for name, method in {
        "status_printer": staticmethod(print_line),
        "close": close,
        "moveto": lambda bar, lines: None,
        "clear": lambda bar, nolock=False: None,
    }.items():
        setattr(tqdm, name, method)


def silence_progress() -> None:
    """No tqdm bar of this process shows anything from now on: what --quiet does."""
    _change_defaults({"disable": True})


def _change_defaults(changed: dict[str, Any]) -> None:
    from tqdm.std import tqdm

    original = tqdm.__init__

    def __init__(bar: Any, *args: Any, **options: Any) -> None:
        original(bar, *args, **(options | changed))
        if not bar.disable and bar.total is None and bar.bar_format == LINE:
            bar.bar_format = OPEN_LINE

    setattr(tqdm, "__init__", __init__)  # noqa: B010  # mypy takes no assignment to a method


class _Quiet(argparse.Action):
    """A flag without a value that silences progress as soon as it is read."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, True)
        silence_progress()


def add_quiet_flag(parser: argparse.ArgumentParser) -> None:
    """--quiet, which works by being given: nobody has to read it."""
    help = "show no progress; results, warnings and the last three lines remain"
    parser.add_argument("--quiet", action=_Quiet, nargs=0, default=False, help=help)


def command(script: str, *words: object) -> str:
    """`python SCRIPT WORDS` as one can paste it: words are quoted where they need it."""
    return " ".join(["python", script, *(shlex.quote(str(word)) for word in words)])


def ending(made: str, where: object, following: str) -> None:
    """Print the last three lines of a run: what was made, where it is, and the command (or the few
    words) for what comes next.
    """
    print(f"made:  {made}\nwhere: {where}\nnext:  {following}", flush=True)
