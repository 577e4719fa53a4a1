"""The page that replays generations, side by side.

The inference scripts make it (--trace FILE.html; --trace FILE.png draws the curves instead);
scripts/trace_page.py shows several. A page (trace_page.html is its template) is one self-contained
file: it opens from a disk, an e-mail, a web server. It holds its panels as JSON that this script
can read back. Nothing here imports torch or transformers.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import parse_json, write_text
from sampling.results import TraceFrame
from sampling.trace_curves import write_trace_png
from sampling.trace_panel import Panel, make_panel, panel_fault

TEMPLATE = Path(__file__).with_name("trace_page.html")


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
