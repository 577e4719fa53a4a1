"""The options of both samplers: each is a field of a frozen dataclass, with its default, help text,
range and words in the results table beside it. Nothing here imports torch.

Flags, checks, arguments of the library calls, what a run's settings.json says and the sampler's
name in a table are all made from the fields:

    parser = ArgumentParser(description=...)
    add_model_flags(parser)          # which checkpoint, where it runs, and what both samplers take
    add_flexmdm_flags(parser)        # FlexMDM's own
    add_llada_flags(parser)          # LLaDA's own; a script may add both, no flag is defined twice
    options = options_from(parser.parse_args(), SamplerOptions)
    generate_flexmdm(model, prompts, mask_id=..., pad_id=..., options=options)
    generate_flexmdm(model, prompts, mask_id=..., pad_id=..., sampler="event_driven")    # the same

A script with other defaults than these says so with parser.set_defaults(...) before it parses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import InputError

if TYPE_CHECKING:
    from flexmdm_interpolant import Schedule


class OptionError(ValueError):
    """A value that an option cannot have. name: the option's; wanted: what it must be."""

    def __init__(self, name: str, value: object, wanted: str):
        super().__init__(f"{name} ({value}) must be {wanted}")
        self.name, self.value, self.wanted = name, value, wanted


def option(default: Any, help: str | None, **more: Any) -> Any:
    """A dataclass field that is an option of a sampler.

    Args:
        default: of the library calls.
        help: of the flag, or None for an option without a flag.
        more: type (float, int, bool or str), choices, at_least, above, at_most: what it may be;
            flag: its name where it is not the option's; flag_default: where the flag's is another;
            parse: from the flag's text; metavar; in_settings=False: the text does not depend on it;
            words: how the results table names a value, a format string or a function of all
            settings, None for nothing to say.
    """
    return field(default=default, metadata={"help": help, **more})


def flag_of(which: Any) -> str:
    """The flag of a dataclass field."""
    return which.metadata.get("flag", f"--{which.name}")


def parse_schedule_flag(text: str) -> Schedule:
    """A schedule from a flag. Raises ValueError for what is none, or has numbers that are not
    finite.
    """
    from flexmdm_interpolant import parse_schedule

    numbers = text.partition(":")[2]
    if numbers and not all(math.isfinite(float(number)) for number in numbers.split(",")):
        raise ValueError("its numbers must be finite")
    return parse_schedule(text)


def _steps_words(settings: dict[str, Any]) -> str | None:
    if settings.get("kind") != "llada" or "steps" not in settings:  # FlexMDM: with the sampler
        return None
    return f"{settings['steps']} steps" if settings["steps"] else "one step per token"


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """What both samplers take. Raises OptionError, a ValueError, for a value out of range."""

    steps: int | None = option(
        None,
        "FlexMDM tau_leaping: steps of its grid (default: 256, the paper's for GSM8K; for HumanEval"
        " infilling 4096); event_driven: most evaluations a row may take (default: no limit);"
        " LLaDA: steps over all blocks (default: one per token)",
        type=int,
        flag="--diffusion_steps",
        metavar="N",
        at_least=1,
        words=_steps_words,
    )
    max_length: int | None = option(
        None,
        "tokens a row may have, prompt included (default: the model's own; evaluations and LLaDA:"
        " 1024 at most, the paper's canvas)",
        type=int,
        metavar="L",
        at_least=1,
    )
    rows_at_once: int | None = option(
        None,
        "rows in the network's batch; waiting ones enter as others finish (default: all;"
        " evaluations: --batch_size)",
        type=int,
        metavar="R",
        at_least=1,
        in_settings=False,
    )
    cache_refresh: int | None = option(
        None,
        "approximation: keep keys and values of the prompt (LLaDA: of all that is left of the"
        " current block) for R evaluations (default: no cache)",
        type=int,
        metavar="R",
        at_least=1,
        words="cache of {} evaluations",
    )
    temperature: float = option(
        0.0,
        "0: most probable token; 1: draw from the posterior (default: 0)",
        type=float,
        at_least=0,
        words="T {:g}",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value, rule = getattr(self, each.name), each.metadata
            if value is None:
                continue
            if "choices" in rule and value not in rule["choices"]:
                raise OptionError(each.name, repr(value), f"one of {', '.join(rule['choices'])}")
            if rule.get("type") is float and not math.isfinite(value):
                raise OptionError(each.name, value, "a finite number")
            if "at_least" in rule and not value >= rule["at_least"]:
                raise OptionError(each.name, value, f"at least {rule['at_least']}")
            if "above" in rule and not value > rule["above"]:
                raise OptionError(each.name, value, f"above {rule['above']}")
            if "at_most" in rule and not value <= rule["at_most"]:
                raise OptionError(each.name, value, f"at most {rule['at_most']:,}")
        self.check()

    def check(self) -> None:
        """What one field alone does not tell. Raises OptionError."""

    def arguments(self) -> dict[str, Any]:
        """All options, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def settings(self) -> dict[str, Any]:
        """What the generated text depends on, as JSON."""
        return {
            each.name: getattr(value, "to_config", lambda value=value: value)()
            for each in fields(self)
            for value in [getattr(self, each.name)]
            if each.metadata.get("in_settings", each.metadata["help"] is not None)
        }


def _sampler_words(settings: dict[str, Any]) -> str:
    if settings.get("sampler") == "event_driven":
        return "event-driven"
    if settings.get("sampler") == "count_first":
        return f"count first ({settings.get('length_choice')})"
    return f"tau-leaping {settings.get('steps') or ''}".strip()


def _order_words(settings: dict[str, Any]) -> str | None:
    confident = settings.get("unmasking") == "confidence"
    return settings.get("confidence_method") if confident else "random order"


def _window_words(settings: dict[str, Any]) -> str:
    windowed = settings.get("use_sliding_window")
    return f"window {settings.get('max_window')}" if windowed else "no window"


def _candidates_words(candidates: int | None) -> str | None:
    return f"{candidates} lengths tried" if candidates not in (None, 1) else None


def _bound_words(settings: dict[str, Any]) -> str | None:
    event_driven = settings.get("sampler") == "event_driven"
    if settings.get("bound_inflation") in (None, 1):
        return None
    words = "bound x {}" if event_driven else "no-op steps skipped, bound x {}"
    return words.format(settings["bound_inflation"])


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(SharedOptions):
    """The options of FlexMDM's samplers (docs/sampling.md)."""

    sampler: str = option(
        "tau_leaping",
        "tau_leaping: a grid of --diffusion_steps; event_driven: exact, about four evaluations per"
        " token; count_first: the number of tokens first, then one evaluation per token",
        choices=("tau_leaping", "event_driven", "count_first"),
        words=_sampler_words,
    )
    unmasking: str = option(
        "random",
        "which masks are unmasked first",
        choices=("random", "confidence"),
        words=_order_words,
    )
    confidence_method: str = option(
        "position",
        "what --unmasking confidence goes by (default: prob_diff, the paper's for GSM8K)",
        choices=("position", "top_prob", "prob_diff", "entropy"),
        flag_default="prob_diff",
    )
    use_sliding_window: bool = option(
        False,
        "only the first masks compete (the paper's for code)",
        type=bool,
        words=_window_words,
    )
    alpha: float = option(
        5.0,
        "window: masks that compete for each one to unmask (default: 5)",
        type=float,
        above=0,
    )
    max_window: int = option(
        32, "window: most masks that compete (default: 32)", type=int, at_least=1
    )
    length_choice: str = option(
        "drawn",
        "count_first: the likeliest number of tokens (default), or one drawn from its law",
        choices=("likeliest", "drawn"),
        flag_default="likeliest",
    )
    length_candidates: int = option(
        1,
        "count_first: fill in the K likeliest numbers of tokens and keep the most probable answer,"
        " number and tokens together (default: 1)",
        type=int,
        metavar="K",
        at_least=1,
        words=lambda settings: _candidates_words(settings.get("length_candidates")),
    )
    query_time: float | None = option(
        None,
        "count_first: the t at which the network is asked for tokens (default: when in training as"
        " many masks were left, but not before next to nothing is missing)",
        type=float,
        metavar="T",
        at_least=0,
        at_most=1,
        words="asked at {:g}",
    )
    events_per_evaluation: int = option(
        1,
        "event_driven and count_first, approximation: K events to an evaluation, the most confident"
        " masks first; event_driven never more than a quarter of what is left to do (default: 1,"
        " exact)",
        type=int,
        metavar="K",
        at_least=1,
        words="{} events an evaluation",
    )
    bound_inflation: float | None = option(
        None,
        "event_driven, approximation: keep a stale rate bound over events, C >= 1 times as large"
        " (default: measure); tau_leaping: skip the evaluations of steps in which, by that bound,"
        " nothing can happen",
        type=float,
        metavar="C",
        at_least=1,
        words=_bound_words,
    )
    confidence_threshold: float | None = option(
        None,
        "approximation: also unmask every mask at least this sure (default: off); needs --unmasking"
        " confidence; saves evaluations with event_driven, with tau_leaping it changes the order"
        " alone",
        type=float,
        metavar="P",
        words="threshold {}",
    )
    insertion_schedule: Schedule | None = option(
        None,
        "linear, power:P or geometric:MIN,MAX, if not the trained one; the network is queried at"
        " the matched time",
        parse=parse_schedule_flag,
        metavar="S",
        words="insertions {}",
    )
    unmask_schedule: Schedule | None = option(None, None)

    def check(self) -> None:
        """Which options go together. Raises OptionError."""
        event_driven, threshold = self.sampler == "event_driven", self.confidence_threshold
        if self.events_per_evaluation > 1 and self.sampler == "tau_leaping":
            wanted = "1, except with the samplers event_driven and count_first"
            raise OptionError("events_per_evaluation", self.events_per_evaluation, wanted)
        if self.bound_inflation is not None and threshold is not None and not event_driven:
            # skipped steps could unmask nothing
            wanted = "used with the sampler event_driven where there is a confidence_threshold"
            raise OptionError("bound_inflation", self.bound_inflation, wanted)
        if self.bound_inflation is not None and self.sampler == "count_first":
            wanted = "used with a sampler that inserts masks by their rate"
            raise OptionError("bound_inflation", self.bound_inflation, wanted)
        if self.steps is not None and self.sampler == "count_first":
            wanted = "used with the samplers tau_leaping and event_driven"
            raise OptionError("steps", self.steps, wanted)
        by_likeliest = self.sampler == "count_first" and self.length_choice == "likeliest"
        if self.length_candidates > 1 and not by_likeliest:
            wanted = "1, except with the sampler count_first and length_choice likeliest"
            raise OptionError("length_candidates", self.length_candidates, wanted)
        if self.query_time is not None and self.sampler != "count_first":
            raise OptionError("query_time", self.query_time, "used with the sampler count_first")
        by_confidence = self.unmasking == "confidence" and self.confidence_method != "position"
        if threshold is not None and not by_confidence:
            wanted = "used with unmasking confidence by top_prob, prob_diff or entropy"
            raise OptionError("confidence_threshold", threshold, wanted)


def _blocks_words(settings: dict[str, Any]) -> str:
    block = settings.get("block_length")
    return f"blocks of {block}" if block else "one block"


@dataclass(frozen=True, kw_only=True)
class LLaDAOptions(SharedOptions):
    """The options of LLaDA's sampler (docs/sampling.md)."""

    gen_length: int | None = option(
        None,
        "tokens after the prompt (default: --max_length less the prompt)",
        type=int,
        metavar="L",
        at_least=1,
    )
    llada_length: str = option(
        "given",
        "masks to fill: as many as given by --gen_length (default), or the likeliest number by the"
        " network's length distribution (scripts/fit_length_distribution.py)",
        choices=("given", "counted"),
        words=lambda settings: "length counted" if settings["llada_length"] == "counted" else None,
    )
    remasking: str = option(
        "low_confidence",
        "unmask the most confident tokens, or random ones (the paper's: random)",
        choices=("low_confidence", "random"),
        words=lambda settings: f"remasking {settings.get('remasking')}",
    )
    block_length: int | None = option(
        None,
        "tokens per block, blocks go left to right (default: one block)",
        type=int,
        metavar="L",
        at_least=1,
        words=_blocks_words,
    )
    cfg_scale: float = option(
        0.0,
        "classifier-free guidance; above 0 it doubles the evaluations",
        type=float,
        at_least=0,
        at_most=1_000_000,
    )

    def arguments(self) -> dict[str, Any]:
        """All options but those that say how many masks there are: the sampler is told their
        number.
        """
        counted = ("max_length", "llada_length")
        return {name: value for name, value in super().arguments().items() if name not in counted}

    def check(self) -> None:
        """Blocks divide the answer, and steps the blocks. Raises OptionError."""
        for name in ("gen_length", "steps"):
            if self.llada_length == "counted" and getattr(self, name) is not None:
                wanted = "left out where llada_length is counted"
                raise OptionError(name, getattr(self, name), wanted)
        if not self.gen_length or not self.block_length:
            return
        blocks, rest = divmod(self.gen_length, self.block_length)
        if rest:
            wanted = f"a divisor of gen_length {self.gen_length}"
            raise OptionError("block_length", self.block_length, wanted)
        if self.steps is not None and self.steps % blocks:
            wanted = f"a multiple of the {blocks} blocks that gen_length and block_length make"
            raise OptionError("steps", self.steps, wanted)


# ---- flags ---------------------------------------------------------------------------------------


def add_model_flags(parser: argparse.ArgumentParser, checkpoint_required: bool = True) -> None:
    """Which model, on what, and the settings that every sampler takes. A script that can also work
    without a model says so.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint_path",
        required=checkpoint_required,
        help="folder of the checkpoint to sample from; its kind is read from it",
    )
    group.add_argument(
        "--base_model",
        help=(
            "base weights, folder or hub id, when the checkpoint does not name them or they have"
            " moved"
        ),
    )
    group.add_argument(
        "--lora_alpha",
        type=float,
        help="LoRA alpha of a checkpoint that does not store it (default: its rank)",
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 on a GPU, else float32",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    group.add_argument(
        "--torch_compile",
        action="store_true",
        help="compile the network: a minute at the start, then faster steps on a GPU",
    )
    group.add_argument(
        "--seed", type=int, default=42, help="every random number follows from it (default: 42)"
    )
    _add_options(group, SharedOptions, set())


def add_flexmdm_flags(parser: argparse.ArgumentParser) -> None:
    """FlexMDM's own options."""
    _add_options(parser.add_argument_group("FlexMDM sampler"), SamplerOptions, shared_names())


def add_llada_flags(parser: argparse.ArgumentParser) -> None:
    """LLaDA's own options."""
    _add_options(parser.add_argument_group("LLaDA sampler"), LLaDAOptions, shared_names())


def shared_names() -> set[str]:
    """The options that both samplers have."""
    return {each.name for each in fields(SharedOptions)}


def _add_options(group: Any, kind: type[SharedOptions], without: set[str]) -> None:
    for each in fields(kind):
        rule = each.metadata
        if each.name in without or rule["help"] is None:
            continue
        how: dict[str, Any] = {"default": rule.get("flag_default", each.default)}
        if rule.get("type") is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {name: rule[name] for name in ("type", "choices", "metavar") if name in rule}
        group.add_argument(flag_of(each), help=rule["help"].replace("%", "%%"), **how)


Options = TypeVar("Options", bound=SharedOptions)


def options_from(
    args: argparse.Namespace, kind: type[Options], default_steps: int | None = None
) -> Options:
    """A sampler's options from parsed flags. default_steps: tau-leaping's, where --diffusion_steps
    does not say. Raises InputError naming the flag.
    """
    if not 0 <= args.seed < 2**31:
        raise InputError(f"--seed {args.seed}: must be in 0 ... 2147483647")
    values, flags = {}, {}
    for each in fields(kind):
        if each.metadata["help"] is None:
            continue
        flags[each.name] = flag = flag_of(each)
        value = getattr(args, flag.removeprefix("--"))
        if value is not None and "parse" in each.metadata:
            try:
                value = each.metadata["parse"](value)
            except (ValueError, ArithmeticError) as error:
                raise InputError(f"{flag} {value}: {error}") from None
        values[each.name] = value
    if values["steps"] is None and values.get("sampler") == "tau_leaping":
        values["steps"] = default_steps
    try:
        return kind(**values)
    except OptionError as error:
        raise InputError(f"{flags[error.name]} {error.value}: must be {error.wanted}") from None


def sampler_words(settings: dict[str, Any], with_steps: bool = True) -> list[str]:
    """How a text was made, from its run's settings: what a fair comparison has to name."""
    kinds = {"flexmdm": SamplerOptions, "llada": LLaDAOptions}
    if settings.get("kind") not in kinds:
        return [f"T {settings['temperature']:g}"] if settings.get("temperature") else []
    if not with_steps:
        settings = {name: value for name, value in settings.items() if name != "steps"}
    known = {each.name: each for each in fields(kinds[settings["kind"]])}
    shared = shared_names() - {"steps"}
    order = [name for name in known if name not in shared]
    order += [name for name in known if name in shared]
    said = []
    for name in order:
        words: str | Callable[[dict[str, Any]], str | None] | None
        words = known[name].metadata.get("words")
        value = settings.get(name)
        if callable(words):
            said.append(words(settings))
        elif words and value not in (None, known[name].default):
            said.append(words.format(value))
    return [words for words in said if words]


# ---- what is given -------------------------------------------------------------------------------


def refuse_padding(
    given: Iterable[Sequence[int]], pad_id: int, flag: str, start_id: int | None = None
) -> None:
    """Padding ends a text: at the end of given tokens it would be dropped, before the end the model
    has never seen anything follow it. InputError where a given row holds pad_id.

    start_id: the token that a chat template puts first. Some imported tokenizers have one token for
    the start and the end of a text; as a first token with others behind it, it is the start.
    """
    for row in given:
        starts = pad_id == start_id and len(row) > 1
        if pad_id in (row[1:] if starts else row):
            raise InputError(
                f"{flag}: holds the padding token {pad_id} (end of text), which stands only where a"
                " text is over"
            )


def refuse_mask_tokens(given: Iterable[Sequence[int]], mask_id: int, flag: str) -> None:
    """Given tokens are kept and masks are filled in: one cannot be the other. InputError where a
    given row holds mask_id.
    """
    if any(mask_id in row for row in given):
        raise InputError(
            f"{flag}: holds the mask token {mask_id}, which stands for text that is yet to be"
            " written"
        )
