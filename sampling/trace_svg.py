"""A generation that plays in a picture: an animated SVG, for a README or a slide. No script is in
it, and what cannot play shows the last frame.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from common.files import write_text
from sampling.shown_text import MASK_SIGN, screen_lines
from sampling.trace_panel import Panel

COLUMNS, MOST_FRAMES = 76, 80  # characters of a line; frames shown, evenly spread
SECONDS_PER_FRAME, SECONDS_AT_END = 0.12, 3.0
CELL, LINE, MARGIN, FONT = 8.4, 19, 16, 14  # pixels
STYLE = """
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328 }
rect { fill: #f6f8fa } .title { font-weight: 600 } .given, .note { fill: #656d76 }
.mask { fill: #afb8c1 } .new { fill: #1a7f37; font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } rect { fill: #161b22 } .given, .note { fill: #8d96a0 }
.mask { fill: #484f58 } .new { fill: #3fb950 } }
"""


def frame_pieces(panel: Panel, frame: int, before: int) -> Iterator[tuple[str, str]]:
    """(text, style) of the tokens that a panel has in a frame. New is what was unmasked since the
    frame `before`; of what is given only the last line is shown.
    """
    given = "".join(panel["tokens"][slot[0]][0] for slot in panel["slots"] if slot[3])
    tail = given.rstrip().rpartition("\n")[2]
    if tail:
        yield tail + "\n", "given"
    for index, first, shown, is_given, *removed in panel["slots"]:
        text, special = panel["tokens"][index]
        if is_given or first > frame or special or (removed and removed[0] <= frame):
            continue
        if shown < 0 or shown > frame:
            yield MASK_SIGN, "mask"
        else:
            yield text, "new" if before < shown else "old"


def _line(cells: Sequence[tuple[str, str]], y: float) -> str:
    """One line as text; equal styles share an element."""
    spans: list[tuple[str, str]] = []
    for character, style in cells:
        if spans and spans[-1][1] == style:
            spans[-1] = spans[-1][0] + character, style
        else:
            spans.append((character, style))
    body = "".join(
        f'<tspan class="{style}">{escape(text)}</tspan>' if style != "old" else escape(text)
        for text, style in spans
    )
    return f'<text x="{MARGIN}" y="{y:g}" xml:space="preserve">{body}</text>'


def panel_svg(panel: Panel, top: float) -> tuple[str, float]:
    """The elements of one panel, and where the next begins."""
    last = len(panel["t"]) - 1
    number = min(last + 1, MOST_FRAMES)
    frames = [round(last * place / max(1, number - 1)) for place in range(number)]
    length = number * SECONDS_PER_FRAME + SECONDS_AT_END
    drawn, most = [], 0
    for place, frame in enumerate(frames):
        before = frames[place - 1] if place else frame
        lines = screen_lines(frame_pieces(panel, frame, before), COLUMNS)
        most = max(most, len(lines))
        note = f"t = {panel['t'][frame]:.2f}   {panel['evaluations'][frame]} network evaluations"
        rows = [_line([(note, "note")], top + 2 * LINE)]
        rows += [_line(line, top + (3 + row) * LINE) for row, line in enumerate(lines) if line]
        begin, end = place * SECONDS_PER_FRAME / length, (place + 1) * SECONDS_PER_FRAME / length
        is_last = place == number - 1
        values, times = ("hidden;visible", f"0;{begin:.4f}")
        if not is_last:
            values, times = values + ";hidden", times + f";{end:.4f}"
        if place == 0:
            values, times = ("visible;hidden", f"0;{end:.4f}") if not is_last else ("visible", "0")
        drawn.append(
            f'<g visibility="{"visible" if is_last else "hidden"}"><animate'
            f' attributeName="visibility" values="{values}" keyTimes="{times}" dur="{length:g}s"'
            f' calcMode="discrete" repeatCount="indefinite"/>{"".join(rows)}</g>'
        )
    title = "".join(c for c in panel["title"] if unicodedata.category(c) != "Cc")
    heading = f'<text class="title" x="{MARGIN}" y="{top + LINE:g}">{escape(title)}</text>'
    return heading + "\n" + "\n".join(drawn), top + (3 + most) * LINE


def write_trace_svg(path: str | Path, panels: Sequence[Panel]) -> None:
    """An animated picture of the panels (make_panel), one below the other. Raises InputError where
    it cannot be written.
    """
    parts, top = [], MARGIN / 2
    for panel in panels:
        part, top = panel_svg(panel, top)
        parts.append(part)
    width, height = COLUMNS * CELL + 2 * MARGIN, top + MARGIN / 2
    body = "\n".join(parts)
    write_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" rx="8"/>\n{body}\n</svg>\n',
    )
