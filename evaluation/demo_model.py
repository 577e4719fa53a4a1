"""A checkpoint that answers what a visitor of demo.py typed, state by state.

    model = load_demo_model(checkpoint, "flexmdm", args)        # args: demo.py's flags
    request = Request(prompt="...")
    for shown in filter(None, model.answer_live(request, values, seed=1)):
        shown.text, shown.numbers                               # HTML, a line of text

`values` are the sampler's options by name, from the page; `demo_options` lists them. Nothing here
imports torch before a model is loaded.
"""

import argparse
import contextlib
import copy
import dataclasses
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from evaluation.model import AnsweringModel, Given, Ids
from sampling.flags import options_from
from sampling.live import LiveText, live_frames
from sampling.option_fields import flag_of
from sampling.options import LLaDAOptions, SamplerOptions, SharedOptions, shared_names
from sampling.results import OnFrame
from sampling.trace_panel import Panel, make_panel

ROOT = Path(__file__).resolve().parent.parent
# shipped: for prompts, for infills
SHIPPED = {
    "flexmdm": [str(ROOT / "FlexMDM-tiny-Math"), str(ROOT / "FlexMDM-tiny-Code")],
    "llada": [str(ROOT / "LLaDA-tiny-Base")],
}
TITLES = {"flexmdm": "FlexMDM", "llada": "LLaDA"}
KINDS: dict[str, type[SharedOptions]] = {"flexmdm": SamplerOptions, "llada": LLaDAOptions}
# what differs from the commands: the quickstart's settings, which answer at once
DEFAULTS: dict[str, dict[str, Any]] = {
    "flexmdm": {
        "sampler": "event_driven",
        "unmasking": "confidence",
        "confidence_method": "top_prob",
    },
    "llada": {"gen_length": 40, "block_length": 8},
}
# a visitor must not be able to fill the memory
AT_MOST = {"steps": 4096, "length_candidates": 16, "corrector_rounds": 100}
UNTRAINED = (
    "{} is a LLaDA: here it is a FlexMDM whose insertion head is untrained, so how much it inserts"
    " and where means nothing."
)
NOT_TUNED = (
    "{} is fine-tuned on neither task. `bash scripts/quickstart.sh` makes LLaDAs that are;"
    " `--llada_checkpoint` names them."
)


@dataclass(frozen=True)
class Request:
    """A prompt to continue, or a prefix and a suffix to fill the middle of. math: the prompt is a
    question, formatted as in fine-tuning.
    """

    prompt: str | None = None
    math: bool = False
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class Shown:
    """One state of an answer. text: HTML (sampling/live.py); numbers: a line of text; panel: at the
    end, what a trace page replays.
    """

    text: str
    numbers: str
    panel: Panel | None = None


def demo_options(kind: str) -> list[tuple[dataclasses.Field[Any], Any]]:
    """(field, default) of the options that the page offers, the sampler's own first: all that the
    text depends on, but no file of this machine.
    """
    offered = [
        each
        for each in dataclasses.fields(KINDS[kind])
        if each.metadata["help"] is not None
        and each.metadata.get("in_settings", True)
        and each.metadata.get("metavar") != "FILE"
    ]
    offered.sort(key=lambda each: each.name in shared_names())
    return [(each, DEFAULTS[kind].get(each.name, each.default)) for each in offered]


def options_of(kind: str, values: dict[str, Any], seed: int) -> SharedOptions:
    """A sampler's options from values by name, numbers and schedules as text; "" is the default of
    the commands, what is missing that of the page. Raises InputError naming the flag.
    """
    args = argparse.Namespace(seed=seed, rows_at_once=None, length_drift=None)
    for each, default in demo_options(kind):
        flag, rule = flag_of(each), each.metadata
        value = values.get(each.name, default)
        if value == "":
            value = each.default
        elif isinstance(value, str) and rule.get("type") in (int, float):
            try:
                value = rule["type"](value)
            except ValueError:
                wanted = "a whole number" if rule["type"] is int else "a number"
                raise InputError(f"{flag} {value}: must be {wanted}") from None
        if each.name in AT_MOST and value is not None and value > AT_MOST[each.name]:
            raise InputError(f"{flag} {value}: must be at most {AT_MOST[each.name]} on this page")
        setattr(args, flag.removeprefix("--"), value)
    return options_from(args, KINDS[kind], default_steps=256)


class DemoModel(AnsweringModel):
    """A network in memory that answers one request at a time. lock: held while it does; notice:
    what a visitor should know of it; checkpoint: its name.
    """

    def __init__(
        self,
        kind: str,
        model: Any,
        tokenizer: Any,
        lock: threading.Lock,
        checkpoint: str,
        notice: str = "",
        time_limit: float | None = None,
    ) -> None:
        super().__init__(kind, model, tokenizer)
        self.lock, self.checkpoint, self.notice = lock, checkpoint, notice
        self.time_limit = time_limit

    def given(self, request: Request) -> tuple[Ids, Ids]:
        """(ids before what is generated, ids after it), in the format of fine-tuning."""
        if request.prompt is not None:
            from data.math_prompts import math_prompt

            text = request.prompt
            return self.encode(math_prompt(self.tokenizer, text) if request.math else text), []
        from data.infills import flexmdm_infill_ids, llada_infill_prompt

        if self.kind == "flexmdm":
            return flexmdm_infill_ids(self.tokenizer, request.prefix, request.suffix)
        return llada_infill_prompt(self.tokenizer, request.prefix, request.suffix), []

    def answer_live(
        self, request: Request, values: dict[str, Any], seed: int | None
    ) -> Generator[Shown | None, None, None]:
        """The states of one answer, None while there is no new one; the last has a panel. Raises
        InputError for anything that cannot be answered.
        """
        if seed is None:
            raise InputError("--seed: is empty")
        from sampling.length_law import check_network_serves

        options = options_of(self.kind, values, seed)
        model = copy.copy(self)  # another visitor has other options
        model.use(options, seed)
        if model.max_length > self.own_length:
            raise InputError(
                f"--max_length {model.max_length}: the model takes {self.own_length} tokens"
            )
        check_network_serves(self.model, options, self.checkpoint)
        before, after = self.given(request)
        flags = "--prompt" if request.prompt is not None else "--prefix and --suffix"
        masks = None if model.finds_lengths else model.arguments.get("gen_length")
        model.check_fits(["your text"], Given([before], [after], [masks] if masks else None), flags)
        answers: list[dict[str, Any]] = []

        @out_of_memory_advice(ONE_PROMPT)
        def sample(on_frame: OnFrame) -> None:
            model.arguments["on_frame"] = on_frame
            ((_, fields),) = model.infill([before], [after], [{"item": 0, "sample": 0}])
            answers.append(fields)

        mask_id = self.ids["mask_id"]
        said = (request.prompt or request.prefix) + "\n" * request.math
        view = LiveText(self.tokenizer, mask_id, said, request.suffix)
        trace, seconds = [], 0.0
        frames = live_frames(self.model, sample, self.lock, self.time_limit)
        with contextlib.closing(frames):
            for new in frames:
                if new is None:
                    yield None
                    continue
                seconds, frame = new
                trace.append(frame)
                masks = frame["ids"].count(mask_id)
                written = len(frame["ids"]) - len(before) - len(after) - masks
                yield Shown(
                    view.html(frame),
                    f"{frame['evaluations']} evaluations, {written} tokens, {masks} masks,"
                    f" {seconds:.2f} s",
                )
        (fields,) = answers
        panel = make_panel(
            TITLES[self.kind],
            self.tokenizer.decode,
            trace,
            mask_id,
            set(self.tokenizer.all_special_ids),
        )
        yield Shown(view.html(trace[-1]), end_words(fields, seconds), panel)


def end_words(fields: dict[str, Any], seconds: float) -> str:
    """The line below a finished answer. fields: of a row (AnsweringModel.answers_of)."""
    evaluations, length = fields["evaluations"], fields["length"]
    parts = [f"{evaluations} evaluations", f"{length} tokens", f"{seconds:.2f} s"]
    if seconds > 0:
        parts += [f"{evaluations / seconds:.0f} evaluations/s", f"{length / seconds:.0f} tokens/s"]
    if fields.get("truncated"):
        parts.append("stopped at --diffusion_steps")
    for name in ("dropped_insertions", "rate_bound_violations"):
        if fields.get(name):
            parts.append(f"{fields[name]} {name.replace('_', ' ')}")
    return ", ".join(parts)


def load_demo_model(
    checkpoint: str, kind: str, args: argparse.Namespace, lock: threading.Lock
) -> DemoModel:
    """The checkpoint of a column, `kind` "flexmdm" or "llada", on --device. A LLaDA in FlexMDM's
    becomes a FlexMDM with an untrained insertion head, and the notice says so. Raises InputError.
    """
    from data.tokenizer import load_tokenizer
    from llada_utils import load_flexmdm, load_llada, new_flexmdm
    from network.checkpoint_folder import checkpoint_kind
    from network.devices import pick_device, pick_dtype
    from sampling.network_graphs import speed_up_sampling

    flag = f"--{kind}_checkpoint"
    name = Path(checkpoint).name if checkpoint in SHIPPED[kind] else checkpoint
    found = checkpoint_kind(checkpoint, flag)
    if kind == "llada" and found != "llada":
        raise InputError(f"{flag}: {checkpoint} is a FlexMDM; a LLaDA is needed here")
    device = pick_device(args.device)
    dtype, notice = pick_dtype(args.dtype, device), ""
    model: Any
    if kind == "llada":
        model = load_llada(checkpoint, dtype=dtype, device=device)
        notice = NOT_TUNED.format(name) if checkpoint in SHIPPED[kind] else ""
    elif found == "flexmdm":
        model = load_flexmdm(checkpoint, dtype=dtype, device=device)
    else:
        model, notice = new_flexmdm(checkpoint, dtype, device), UNTRAINED.format(name)
    speed_up_sampling(model, args.torch_compile)
    tokenizer = load_tokenizer(checkpoint)
    return DemoModel(kind, model, tokenizer, lock, name, notice, args.time_limit)
