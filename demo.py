r"""A page on which FlexMDM and LLaDA answer side by side, token by token: prompts and infills, all
options of both samplers, evaluations and speed.

Laptop, on the shipped tiny models:
    pip install gradio==6.31.0
    python demo.py                      then open http://127.0.0.1:7860
On those of bash scripts/quickstart.sh; of two checkpoints the second is the infill tab's:
    python demo.py \
        --flexmdm_checkpoint runs/quickstart/flexmdm_math/final runs/quickstart/flexmdm_code/final \
        --llada_checkpoint runs/quickstart/llada_math/final runs/quickstart/llada_code/final
One GPU: the same command (--device auto uses it, in bfloat16). Slurm, on a node that your browser
reaches through a tunnel (ssh -L 7860:NODE:7860):
    srun --gpus 1 python demo.py --host 0.0.0.0 --flexmdm_checkpoint C --llada_checkpoint D

Generations run one after the other, so that the speed of one is its own; their states are shown at
the pace that the page asks for. Nothing is sent anywhere: no telemetry, no share link, no fonts
from elsewhere. The answers come from evaluation/demo_model.py, their look from sampling/live.py.
"""

import argparse
import contextlib
import html
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from common.command_line import ArgumentParser, finite_number
from common.errors import InputError, run
from common.files import local_folder
from evaluation.demo_model import (
    SHIPPED,
    TITLES,
    DemoModel,
    Request,
    Shown,
    demo_options,
    load_demo_model,
)
from sampling.flags import add_device_flags
from sampling.trace_page import trace_page
from sampling.trace_panel import Panel

if TYPE_CHECKING:
    import gradio

GRADIO = "gradio==6.31.0"
Column: TypeAlias = Generator[tuple[str, Panel | None] | None, None, None]
Models: TypeAlias = dict[str, list[DemoModel]]  # kind: of the prompt tab, of the infill tab
# prompt, task; the first is shown at the start
PROMPTS = [
    ["A bus has 62 people. Then 4 people get off. How many people are on the bus now?", "math"],
    ["Tom has 14 apples. Mia gives Tom 5 more apples.", "text"],
]
# prefix, suffix
INFILLS = [
    [
        "# Count the letter b in the name.\ndef tally_letter(name):",
        '\n        if letter == "b":\n            result += 1\n    return result\n',
    ],
    ["def add(a, b):\n    return ", "\n"],
]
# the colours of the trace page (sampling/trace_page.html)
CSS = """
:is(.answer, .numbers) { --soft: #5f6570; --mask: #c9ccd3; --accent: #2f5fd0; --fresh: #bfe8d3 }
.dark :is(.answer, .numbers) { --soft: #a0a7b4; --mask: #4a505c; --accent: #85abff;
  --fresh: #1d5b40 }
.answer { font: .875rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; min-height: 9em; max-height: 26rem;
  overflow-y: auto; padding: .5rem .7rem; border: 1px solid var(--border-color-primary);
  border-radius: 8px; background: var(--background-fill-primary); color: var(--body-text-color) }
.head code { white-space: normal; overflow-wrap: anywhere }
.answer .given, .numbers { color: var(--soft) }
.answer .new { background: var(--fresh); border-radius: 3px }
.answer i, .numbers i { display: inline-block; width: 1.15em; height: 1.05em; margin: 0 1.5px;
  vertical-align: -.15em; border-radius: 3px; background: var(--mask) }
.answer .inserted, .numbers .inserted { background: var(--accent) }
.numbers .new { background: var(--fresh); border-radius: 3px; padding: 0 .3em }
.numbers { font-size: .875rem; font-variant-numeric: tabular-nums; min-height: 1.5em }
.problem { color: var(--error-text-color); font-size: .875rem; overflow-wrap: anywhere }
iframe.replay { width: 100%; height: 46rem; border: 0; border-radius: 8px }
"""
LEGEND = (
    '<p class="numbers">grey text: given &nbsp; <i></i> mask &nbsp; <i class="inserted"></i> mask'
    ' just inserted &nbsp; <span class="new">just unmasked</span></p>'
)


# ---- what the columns show -----------------------------------------------------------------------


def column_html(text: str, numbers: str, problem: str = "") -> str:
    """One column's answer. text: HTML; numbers, problem: plain text."""
    line = f'<p class="numbers">{html.escape(numbers)}</p>'
    if problem:
        line = f'<p class="problem" role="alert">{html.escape(problem)}</p>'
    return f'<div class="answer">{text}</div>{line}'


def replay_html(panels: Sequence[Panel | None] | None) -> str:
    """A frame with the trace page of the answers that have ended."""
    ended = [panel for panel in panels or [] if panel]
    if not ended:
        return column_html("", "", "nothing to replay yet: generate first")
    page = html.escape(trace_page(ended))
    return (
        f'<iframe class="replay" title="Replay" sandbox="allow-scripts" srcdoc="{page}"></iframe>'
    )


def column(states: Generator[Shown | None, None, None]) -> Column:
    """(HTML of a column, panel at the end) of each state of an answer, None while there is no new
    one. What a sampler refuses is shown in place of the numbers.
    """
    yield column_html("", "waiting for other generations"), None
    shown = Shown("", "")
    try:
        with contextlib.closing(states):
            for new in states:
                shown = new or shown
                yield (column_html(new.text, new.numbers), new.panel) if new else None
    except (InputError, ValueError) as error:
        yield column_html(shown.text, shown.numbers, str(error)), None


def side_by_side(
    columns: Sequence[Column], per_second: float
) -> Generator[tuple[list[str], list[Panel | None]], None, None]:
    """(HTML, panel) of all columns together, at most per_second times per second; each time every
    column shows its next state, if it has one. Closing it ends the generations.
    """
    pages, panels = [""] * len(columns), list[Panel | None]([None] * len(columns))
    going, said_at = dict(enumerate(columns)), 0.0
    with contextlib.ExitStack() as stack:
        for each in columns:
            stack.enter_context(contextlib.closing(each))
        while going:
            began, changed = time.monotonic(), False
            for place, each in list(going.items()):
                try:
                    new = next(each)
                except StopIteration:
                    del going[place]
                    continue
                if new is not None:
                    (pages[place], panels[place]), changed = new, True
            if changed or began - said_at > 1:  # where nobody listens any more, a yield ends this
                said_at = began
                yield pages, panels
            time.sleep(max(0.0, began + 1 / per_second - time.monotonic()))


# ---- the page ------------------------------------------------------------------------------------


def option_inputs(kind: str) -> dict[str, "gradio.components.Component"]:
    """An input for each option of a sampler, by name."""
    import gradio as gr

    made: dict[str, gradio.components.Component] = {}
    for each, default in demo_options(kind):
        rule, shared = each.metadata, dict(label=each.name, info=each.metadata["help"])
        if "choices" in rule:
            made[each.name] = gr.Dropdown(list(rule["choices"]), value=default, **shared)
        elif rule.get("type") is bool:
            made[each.name] = gr.Checkbox(value=default, **shared)
        else:
            text = "" if default is None else f"{default:g}"
            made[each.name] = gr.Textbox(text, placeholder="default", max_lines=1, **shared)
    return made


def build_page(models: Models) -> "gradio.Blocks":
    """The page. Generating starts both columns; each streams its own answer."""
    import gradio as gr

    with gr.Blocks(title="FlexMDM and LLaDA", analytics_enabled=False) as page:
        gr.Markdown(
            "# FlexMDM and LLaDA\nBoth write by unmasking, in any order. LLaDA fills a fixed number"
            " of masks; FlexMDM inserts masks as it goes, so the length is its own choice."
        )
        with gr.Tab("Prompt"):
            prompt = gr.Textbox(PROMPTS[0][0], label="prompt", lines=2)
            task = gr.Radio(
                [("plain text", "text"), ("math question, formatted as in fine-tuning", "math")],
                value=PROMPTS[0][1],
                label="task",
                show_label=False,
            )
            go_prompt = gr.Button("Generate", variant="primary")
            gr.Examples(PROMPTS, [prompt, task], example_labels=["word problem", "plain text"])
        with gr.Tab("Infill"):
            prefix = gr.Textbox(INFILLS[0][0], label="prefix", lines=2)
            suffix = gr.Textbox(INFILLS[0][1], label="suffix", lines=2)
            go_infill = gr.Button("Fill the gap", variant="primary")
            gr.Examples(INFILLS, [prefix, suffix], example_labels=["several lines", "one line"])
        with gr.Accordion("Seed and pace", open=False):
            seed = gr.Number(42, label="seed", precision=0)
            per_second = gr.Slider(
                1,
                60,
                20,
                step=1,
                label="states shown per second",
                info="at most; the times shown are the sampler's own, it does not wait",
            )
        gr.HTML(LEGEND)
        answers, options = [], {}
        with gr.Row():
            for kind, of_kind in models.items():
                with gr.Column(min_width=320):
                    gr.Markdown(column_head(kind, of_kind), elem_classes="head")
                    answers.append(gr.HTML(column_html("", ""), elem_id=kind))
                    with gr.Accordion(f"Sampler options of {TITLES[kind]}", open=False):
                        options[kind] = option_inputs(kind)
        with gr.Row():
            stop = gr.Button("Stop")
            replay = gr.Button("Replay step by step")
        panels, replayed = gr.State(), gr.HTML()
        for button in (go_prompt, go_infill):  # the replay of the answers before goes
            button.click(None, None, replayed, js="() => ''", api_visibility="private")
        names = [(kind, name) for kind, made in options.items() for name in made]
        inputs = [seed, per_second, *(options[kind][name] for kind, name in names)]
        events: list[dict[str, Any]] = [
            button.click(
                handler(models, tab, names),
                [*texts, *inputs],
                [*answers, panels],
                show_progress="hidden",
                trigger_mode="always_last",  # a press during a generation is not lost
                api_visibility="private",
            )
            for tab, button, texts in (
                (0, go_prompt, [prompt, task]),
                (1, go_infill, [prefix, suffix]),
            )
        ]
        stop.click(None, cancels=events, api_visibility="private")
        replay.click(replay_html, panels, replayed, api_visibility="private")
    return page


def column_head(kind: str, models: list[DemoModel]) -> str:
    """Markdown above a column: its name, its checkpoints, what to know of them."""
    names = [f"`{model.checkpoint}`" for model in models]
    said = names[0] if names[0] == names[1] else f"prompts: {names[0]}; infills: {names[1]}"
    notices = dict.fromkeys(model.notice for model in models if model.notice)
    return "\n\n".join([f"## {TITLES[kind]}", said, *notices])


def handler(
    models: Models, tab: int, names: Sequence[tuple[str, str]]
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """What a tab's button does. tab: 0 prompt, 1 infill; names: (kind, option) of each value that
    it receives after the two texts, the seed and the pace.
    """

    def answer(first, second, seed, per_second, *values):
        if tab == 0:
            request = Request(prompt=first, math=second == "math")
        else:
            request = Request(prefix=first, suffix=second)
        options = {kind: {} for kind in models}
        for (kind, name), value in zip(names, values):
            options[kind][name] = value
        columns = [
            column(of_kind[tab].answer_live(request, options[kind], seed))
            for kind, of_kind in models.items()
        ]
        with contextlib.closing(side_by_side(columns, per_second)) as states:
            for pages, panels in states:
                yield *pages, panels

    return answer


# ---- the command ---------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    for kind in TITLES:
        parser.add_argument(
            f"--{kind}_checkpoint",
            nargs="+",
            default=SHIPPED[kind],
            metavar="C",
            help="folder or hub id; of two the second is the infill tab's (default: shipped ones)",
        )
    add_device_flags(parser)
    parser.add_argument(
        "--time_limit",
        type=finite_number,
        default=120.0,
        metavar="S",
        help="seconds after which one generation is stopped (default: 120)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only; 0.0.0.0: everybody who"
        " reaches it, without a password)",
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    return parser


def parse_arguments() -> argparse.Namespace:
    """The flags. Raises InputError."""
    args = make_parser().parse_args()
    for kind in TITLES:
        flag, names = f"--{kind}_checkpoint", getattr(args, f"{kind}_checkpoint")
        if len(names) > 2:
            raise InputError(f"{flag}: give one checkpoint, or two: for prompts and for infills")
        for name in names:
            local_folder(name, flag)
    if not args.time_limit > 0:
        raise InputError(f"--time_limit {args.time_limit:g}: must be above 0")
    if not 0 < args.port < 2**16:
        raise InputError(f"--port {args.port}: must be in 1 ... 65535")
    return args


def load_models(args: argparse.Namespace) -> Models:
    """The checkpoints of both columns, each loaded once. Raises InputError."""
    lock, models = threading.Lock(), {}
    for kind in TITLES:
        names = getattr(args, f"{kind}_checkpoint")
        loaded = {name: load_demo_model(name, kind, args, lock) for name in dict.fromkeys(names)}
        models[kind] = [loaded[names[0]], loaded[names[-1]]]
    return models


def serve(models: Models, host: str, port: int) -> "gradio.Blocks":
    """Serve the page from a thread; its close() ends that."""
    import gradio as gr

    page = build_page(models).queue(max_size=64, default_concurrency_limit=16)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        run_history=False,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        css=CSS,
    )
    return page


def main() -> None:
    """Load the checkpoints and serve the page until Ctrl-C. Raises InputError."""
    args = parse_arguments()
    try:
        socket.create_server((args.host, args.port)).close()
    except OSError as error:
        raise InputError(f"--host {args.host} --port {args.port}: {error.strerror}") from None
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError(f"gradio is not installed ({error}): pip install {GRADIO}") from None
    with contextlib.suppress(KeyboardInterrupt):
        serve(load_models(args), args.host, args.port)
        print(f"http://{args.host}:{args.port} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    os._exit(0)  # the interpreter's own end aborts where a sampler's thread still runs


if __name__ == "__main__":
    run(main)
