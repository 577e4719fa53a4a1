"""Make a generation visible: an HTML page that replays it, a plot of its length curves, its text
growing in a terminal.

The inference scripts make them (--trace FILE.html, --trace FILE.png, --watch);
scripts/trace_page.py shows several side by side. Nothing here needs a GPU.

A trace is what the samplers return: frames {"t": float, "evaluations": int, "ids": list[int],
"slots": list[int]}, the first the initial state, the last the result; slots are the lasting
identities of positions. Tokens are only ever inserted as masks, then unmasked, and perhaps removed
by a corrector (which replaces a token it masks by a new position). So a trace is the sequence of
all positions plus two or three numbers each: the frames in which it was inserted, unmasked and
removed. A page holds these (4,096 frames of 1,024 tokens: 100 KB) as JSON that this script can read
back.

The page (trace_page.html is its template) is one self-contained file: it opens from a disk, an
e-mail, a web server. Nothing here imports torch or transformers.
"""

import html
import json
import math
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from common.errors import InputError
from common.files import parse_json, write_text
from sampling.results import OnFrame, TraceFrame

Panel: TypeAlias = dict[str, Any]  # what `make_panel` makes, and a page holds as JSON
TEMPLATE = Path(__file__).with_name("trace_page.html")
MASK_SIGN = "\u2592"


def make_panel(
    title: str,
    decode: Callable[[list[int]], str],
    trace: Sequence[TraceFrame],
    mask_id: int,
    special: Collection[int] = (),
) -> Panel:
    """What a page shows of one generation: a dict of plain lists, ready for JSON.

    decode: list of ids -> text; trace: frames (see above); special: ids that are shown small, such
    as end of text. Returns {"title", "t": [frames], "evaluations": [frames], "tokens": [[text,
    special]], "slots": [[index into tokens, frame of insertion, frame of unmasking or -1, whether
    it was given, and where it was removed the frame of that]]}, slots in the order of the text.
    Raises ValueError if a position moves past another, comes back, or changes after it was
    unmasked: no sampler may do that.
    """
    if not trace:
        raise ValueError(f"{title}: an empty trace")
    first_seen: dict[int, int] = {}
    unmasked: dict[int, int] = {}
    token_of: dict[int, int] = {}
    removed: dict[int, int] = {}
    order: list[int] = []
    for number, frame in enumerate(trace):
        for before, slot in zip([None, *frame["slots"]], frame["slots"]):
            if slot not in first_seen:
                first_seen[slot] = number
                order.insert(0 if before is None else order.index(before) + 1, slot)
        place = {slot: index for index, slot in enumerate(order)}
        where = [place[slot] for slot in frame["slots"]]
        if removed.keys() & frame["slots"] or any(a >= b for a, b in zip(where, where[1:])):
            raise ValueError(f"{title}: positions move or come back in frame {number}")
        for slot in first_seen.keys() - removed.keys() - set(frame["slots"]):
            removed[slot] = number
        for slot, token in zip(frame["slots"], frame["ids"]):
            if slot in unmasked and token != token_of[slot]:
                raise ValueError(
                    f"{title}: position {slot} changes after it was unmasked, in frame {number}"
                )
            if token != mask_id:
                unmasked.setdefault(slot, number)
            token_of[slot] = token
    final = trace[-1]["slots"]
    at = [unmasked.get(slot, -1) for slot in final]
    text_of = {
        slot: _printable(decode([token_of[slot]])) if slot in unmasked else "" for slot in removed
    }
    text_of |= zip(final, _texts([token_of[slot] for slot in final], at, decode))
    index: dict[tuple[str, int], int] = {}
    slots = []
    for slot in order:
        key = text_of[slot], int(token_of[slot] in special)
        when = unmasked.get(slot, -1)
        panel_slot = [index.setdefault(key, len(index)), first_seen[slot], when, int(when == 0)]
        slots.append(panel_slot + ([removed[slot]] if slot in removed else []))
    return {
        "title": title,
        "t": [round(frame["t"], 6) for frame in trace],
        "evaluations": [frame["evaluations"] for frame in trace],
        "tokens": [list(key) for key in index],
        "slots": slots,
    }


def _texts(ids, shown, decode):
    """The text of each token of the final sequence. If neighbours together spell one character
    (bytes of UTF-8), it is put at the one unmasked last, and the others are empty. shown: the frame
    in which each was unmasked."""
    alone = {token: decode([token]) for token in set(ids)}
    texts, start = [alone[token] for token in ids], 0
    while start < len(ids):
        end = start
        while end < len(ids) and "\ufffd" in alone[ids[end]]:
            end += 1
            if "\ufffd" not in (together := decode(ids[start:end])):
                texts[start:end] = [""] * (end - start)
                texts[max(range(start, end), key=lambda at: shown[at])] = together
                break
        start = max(end, start + 1)
    return [_printable(text) for text in texts]


def _printable(text):
    """Control characters but the line break and the tab as a visible replacement: a model must not
    steer a terminal or a page.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd"
        for c in text.replace("\r\n", "\n")
    )


def write_trace(
    path: str | Path,
    traces: Sequence[Sequence[TraceFrame]],
    tokenizer: Any,
    mask_id: int,
    title: str = "FlexMDM",
) -> None:
    """Write a sampler's `trace` (a list of frames for each row) to FILE.html or FILE.png, one panel
    per row. tokenizer: any with `decode` and `all_special_ids`. Raises InputError if it cannot be
    written.
    """
    titles = [
        title if len(traces) == 1 else f"{title}, sample {number}"
        for number in range(1, len(traces) + 1)
    ]
    write_panels(
        path,
        [
            make_panel(name, tokenizer.decode, trace, mask_id, set(tokenizer.all_special_ids))
            for name, trace in zip(titles, traces)
        ],
    )


def write_panels(path: str | Path, panels: Sequence[Panel]) -> None:
    """A page or a picture, by the ending of path."""
    (write_trace_png if str(path).endswith(".png") else write_trace_page)(path, panels)


def write_trace_page(
    path: str | Path, panels: Sequence[Panel], title: str = "How the text was written"
) -> None:
    """One self-contained HTML file that plays the panels (make_panel) side by side."""
    write_text(path, trace_page(panels, title))


def trace_page(panels: Sequence[Panel], title: str = "How the text was written") -> str:
    """The text of that file."""
    data = json.dumps(panels, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":  # the data lies inside a script element: nothing may end it
        data = data.replace(character, f"\\u{ord(character):04x}")
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace("@TITLE@", html.escape(title)).replace("@DATA@", data)


def read_panels(path: str | Path) -> list[Panel]:
    """The panels of a page written by write_trace_page. Raises InputError for any other file."""
    try:
        page = Path(path).read_text(encoding="utf-8")
        panels = parse_json(
            page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
        )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (IndexError, ValueError):
        raise InputError(f"{path} is not a page that --trace wrote") from None
    if not isinstance(panels, list) or not panels:
        raise InputError(f"{path} is not a page that --trace wrote: it has no panels")
    for number, panel in enumerate(panels, 1):
        wrong = panel_fault(panel)
        if wrong:
            raise InputError(f"{path} is not a page that --trace wrote: {wrong} of panel {number}")
    return panels


def panel_fault(panel: Any) -> str:
    """What is wrong with a panel, in words; "" if it is as make_panel makes it."""

    def numbers(values: Any) -> bool:
        return isinstance(values, list) and all(
            type(value) in (int, float) and math.isfinite(value) for value in values
        )

    if not isinstance(panel, dict) or not isinstance(panel.get("title"), str):
        return "the title"
    frames = len(panel["t"]) if numbers(panel.get("t")) else 0
    if not frames:
        return "the times"
    if not numbers(panel.get("evaluations")) or len(panel["evaluations"]) != frames:
        return "the evaluations"
    tokens, slots = panel.get("tokens"), panel.get("slots")
    if not isinstance(tokens, list) or not all(
        isinstance(token, list) and len(token) == 2 and isinstance(token[0], str)
        for token in tokens
    ):
        return "the tokens"
    if not isinstance(slots, list):
        return "the list of slots"
    for place, slot in enumerate(slots):
        if not (
            isinstance(slot, list)
            and len(slot) in (4, 5)
            and all(type(value) is int for value in slot)
            and 0 <= slot[0] < len(tokens)
            and 0 <= slot[1] < frames
            and -1 <= slot[2] < frames
            and 0 <= slot[-1] < frames
        ):
            return f"slot {place}"
    return ""


def curves(panel: Panel) -> tuple[list[int], list[int]]:
    """(tokens written, clean tokens among them) in each frame, two lists; given tokens do not
    count.
    """
    length, clean = [0] * len(panel["t"]), [0] * len(panel["t"])
    for _, first, shown, given, *removed in panel["slots"]:
        if not given:
            length[first] += 1
            if shown >= 0:
                clean[shown] += 1
            for frame in removed:
                length[frame] -= 1
                clean[frame] -= shown >= 0
    for counts in (length, clean):
        for frame in range(1, len(counts)):
            counts[frame] += counts[frame - 1]
    return length, clean


def _legend_text(title):
    """A title as matplotlib shows it: no mathematics, and no leading underscore, which would hide
    it from the legend.
    """
    title = " ".join(title.split()).replace("$", r"\$")
    return " " + title if title.startswith("_") else title


def write_trace_png(path: str | Path, panels: Sequence[Panel]) -> None:
    """Length curves: tokens written and clean tokens against network evaluations, and against t.
    Raises InputError where the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, panel in enumerate(panels):
        length, clean = curves(panel)
        for axes, x in ((left, panel["evaluations"]), (right, panel["t"])):
            (line,) = axes.step(
                x,
                length,
                where="post",
                color=f"C{number % 10}",
                label=_legend_text(panel["title"]) if len(panels) <= 8 else None,
            )
            axes.step(x, clean, where="post", color=line.get_color(), linestyle="--", linewidth=1)
    left.set(xlabel="network evaluations", ylabel="tokens written (dashed: clean)", ylim=(0, None))
    right.set(xlabel="time t (1 = clean)", xlim=(0, 1))
    if len(panels) <= 8:
        left.legend(frameon=False, loc="best")
    left.set_title(
        f"{len(panels)} generation{'s' if len(panels) > 1 else ''}", loc="left", fontsize="medium"
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(temporary, dpi=150, format="png")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


# ---- the terminal


def screen_lines(pieces: Iterable[tuple[str, str]], columns: int) -> list[list[tuple[str, str]]]:
    """Lines of at most `columns` cells, each a list of (character, style), broken after a blank
    where there is one. pieces: (text, style).
    """
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0
    for text, style in pieces:
        for character in text.replace("\t", "    "):
            if character == "\n":
                lines.append([])
                used = 0
                continue
            if used + _cells(character) > columns:
                full = lines[-1]
                blanks = [place for place, (sign, _) in enumerate(full, 1) if sign == " "]
                cut = blanks[-1] if blanks else len(full)  # a longer word is cut
                lines[-1:] = [full[:cut], full[cut:]]
                used = sum(_cells(sign) for sign, _ in full[cut:])
            lines[-1].append((character, style))
            used += _cells(character)
    return lines


def _cells(character: str) -> int:
    """How many cells of a terminal a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def text_pieces(
    tokens: Iterable[tuple[int, str]], tokenizer: Any, mask_id: int
) -> list[tuple[str, str]]:
    """(text, style) of tokens (id, style), equal styles joined: a run is decoded whole, so that a
    character that several tokens spell is readable; a mask is MASK_SIGN; a special token that
    repeats (end of text does) is written once, with its count.
    """
    special, runs = set(tokenizer.all_special_ids), list[tuple[str, list[int]]]()
    for token, style in tokens:
        before = runs[-1][1][-1] if runs else None
        if (
            not runs
            or runs[-1][0] != style
            or (token != before and (token in special or before in special))
        ):
            runs.append((style, []))
        runs[-1][1].append(token)
    pieces = []
    for style, ids in runs:
        if ids[0] == mask_id:
            pieces.append((MASK_SIGN * len(ids), style))
        elif ids[0] in special:
            pieces.append(
                (
                    _printable(tokenizer.decode(ids[:1]))
                    + (f"\u00d7{len(ids)}" if len(ids) > 1 else ""),
                    style,
                )
            )
        else:
            pieces.append((_printable(tokenizer.decode(ids)), style))
    return pieces


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
