"""Show generations side by side: one page that replays them, an animated picture, or their length
curves in one plot.

    python scripts/trace_page.py flexmdm.html llada.html --output both.html
    python scripts/trace_page.py flexmdm.html llada.html --output curves.png
    python scripts/trace_page.py flexmdm.html --output generation.svg

The pages are made by the inference scripts (--trace flexmdm.html). A laptop is enough, and nothing
here needs a GPU or Slurm.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.progress import ending
from sampling.trace_page import read_panels, write_panels
from sampling.trace_svg import write_trace_svg


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "pages", nargs="+", metavar="PAGE", help="pages written by --trace FILE.html"
    )
    parser.add_argument(
        "--output",
        required=True,
        help="FILE.html: all of them side by side; FILE.png: their curves in one plot; FILE.svg:"
        " all of them one below the other, animated",
    )
    parser.add_argument(
        "--titles", nargs="+", help="names of the panels, in order (default: their own)"
    )
    return parser


def main() -> None:
    """Read the pages, write one. Raises InputError."""
    args = make_parser().parse_args()
    panels = [panel for page in args.pages for panel in read_panels(page)]
    if not args.output.endswith((".html", ".png", ".svg")):
        raise InputError(f"--output {args.output}: must end in .html, .png or .svg")
    if args.titles:
        if len(args.titles) != len(panels):
            raise InputError(f"--titles: {len(args.titles)} names for {len(panels)} panels")
        panels = [{**panel, "title": title} for panel, title in zip(panels, args.titles)]
    if args.output.endswith(".svg"):
        write_trace_svg(args.output, panels)
    else:
        write_panels(args.output, panels)
    ending(f"{len(panels)} generations side by side", args.output, "open it in a browser")


if __name__ == "__main__":
    run(main)
