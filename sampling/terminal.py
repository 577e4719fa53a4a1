"""A text growing in a terminal. The inference scripts show it with --watch. Nothing here imports
torch.
"""

import shutil
import sys
import time
from typing import Any, TextIO

from sampling.results import OnFrame
from sampling.shown_text import screen_lines, text_pieces


def terminal_watcher(tokenizer: Any, mask_id: int, stream: TextIO | None = None) -> OnFrame:
    """A sampler's on_frame(row, frame) that shows the first row's text as it grows, on stderr.

    On a terminal it redraws in place, at most 25 times a second, with masks dim and new tokens
    green; the end of a long text stays in view. Elsewhere (a file, a pipe) it prints a line
    whenever a quarter more evaluations have gone by, without the given text around.
    """
    stream = stream or sys.stderr
    codes = {"mask": "\x1b[2m", "old": "", "new": "\x1b[1;32m"}
    lines_shown, drawn_at, printed_at, given, known = 0, 0.0, -1, None, None

    def pieces(positions, known):
        style = lambda slot, token: (
            "mask" if token == mask_id else "old" if slot in known else "new"
        )
        styled = [(token, style(slot, token)) for slot, token in positions]
        return text_pieces(styled, tokenizer, mask_id)

    def show(number, frame):
        nonlocal lines_shown, drawn_at, printed_at, given, known
        if number:
            return
        positions = list(zip(frame["slots"], frame["ids"]))
        shown = {slot for slot, token in positions if token != mask_id}
        if given is None:
            given = known = shown
        masks = len(positions) - len(shown)
        head = (
            f"evaluation {frame['evaluations']}  t {frame['t']:.3f}  {len(positions)} tokens,"
            f" {masks} masks"
        )
        if stream.isatty():
            if masks and time.monotonic() - drawn_at < 0.04:
                return
            columns, rows = shutil.get_terminal_size()
            lines = screen_lines(pieces(positions, known), columns)[-max(1, rows - 3) :]
            back = f"\x1b[{lines_shown}F\x1b[J" if lines_shown else ""
            body = "".join(
                "".join(f"{codes[style]}{c}\x1b[0m" if codes[style] else c for c, style in line)
                + "\n"
                for line in lines
            )
            stream.write(f"{back}{head[:columns]}\n{body}")
            lines_shown, drawn_at, known = len(lines) + 1, time.monotonic(), shown
        else:
            if masks and frame["evaluations"] < 1.25 * printed_at:
                return
            written = [index for index, (slot, _) in enumerate(positions) if slot not in given]
            middle = positions[written[0] : written[-1] + 1] if written else []
            text = "".join(text for text, _ in pieces(middle, shown))
            stream.write(f"{head}  {text!r}\n")
            printed_at = frame["evaluations"]
        stream.flush()

    return show
