"""The options of both samplers: each is a field of a frozen dataclass, with its default, help text,
range and label in the results table. Nothing here imports torch.

Flags (flags.py), checks, arguments of the library calls, the entries of settings.json and the
sampler's name in a table are all derived from the fields:

    generate_flexmdm(model, prompts, options=SamplerOptions(sampler="event_driven"))
    generate_flexmdm(model, prompts, sampler="event_driven")    # the same
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexmdm_interpolant import Schedule


SEED = 42
TAU_LEAPING_STEPS = 256  # where none are given; the paper's for GSM8K


def unnamed_sampler(steps: int | None) -> str:
    """FlexMDM's sampler where none is named: a number of steps is of tau-leaping's grid."""
    return "event_driven" if steps is None else "tau_leaping"


class OptionError(ValueError):
    """An invalid value of an option. name: the option's; wanted: what the value must be."""

    def __init__(self, name: str, value: object, wanted: str):
        super().__init__(f"{name} ({value}) must be {wanted}")
        self.name, self.value, self.wanted = name, value, wanted


def option(default: Any, help: str | None, **more: Any) -> Any:
    """A dataclass field that is an option of a sampler.

    Args:
        default: of the flag and of the library calls.
        help: of the flag, or None for an option without a flag.
        more: type (float, int, bool or str), choices, at_least, above, at_most: allowed values;
            flag: its name, if not the option's; parse: converts the flag's text; metavar;
            in_settings=False: the generated text does not depend on it; words: label of a value in
            the results table, a format string or a function of all settings, None for no label.
    """
    return field(default=default, metadata={"help": help, **more})


def flag_of(which: Any) -> str:
    """The flag of a dataclass field."""
    return which.metadata.get("flag", f"--{which.name}")


def parse_schedule_flag(text: str) -> Schedule:
    """A schedule from a flag. Raises ValueError if it is not a schedule or has numbers that are not
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
        " infilling 4096); event_driven: maximum evaluations per row (default: no limit);"
        " LLaDA: steps over all blocks (default: one per token)",
        type=int,
        flag="--diffusion_steps",
        metavar="N",
        at_least=1,
        words=_steps_words,
    )
    max_length: int | None = option(
        None,
        "maximum tokens per row, prompt included (default: the model's own; evaluations and LLaDA:"
        " 1024 at most, the paper's canvas)",
        type=int,
        metavar="L",
        at_least=1,
    )
    rows_at_once: int | None = option(
        None,
        "rows in the network's batch; waiting rows take the places of finished ones (default: all;"
        " evaluations: --batch_size)",
        type=int,
        metavar="R",
        at_least=1,
        in_settings=False,
    )
    cache_refresh: int | None = option(
        None,
        "approximation: reuse keys and values of the prompt (LLaDA: of everything to the left of"
        " the current block) for R evaluations (default: no cache)",
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
        """Checks that involve several fields. Raises OptionError."""

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


def _length_words(settings: dict[str, Any]) -> str | None:
    if settings.get("llada_length") == "searched":
        return f"best of {len(settings['length_drift'])} lengths"
    length = settings.get("llada_length")
    return f"length {length}" if length in ("counted", "grown") else None


def _read_drift(path: str) -> dict[str, float]:
    """{length: mean confidence at it} of a file that scripts/length_drift.py wrote. Raises
    InputError or ValueError for anything else.
    """
    from common.files import read_json

    content = read_json(path)
    try:
        drift = {str(int(n)): float(value) for n, value in content.items()}
    except (AttributeError, TypeError, ValueError):
        drift = {}
    if not drift or not all(int(n) >= 1 and math.isfinite(value) for n, value in drift.items()):
        raise ValueError("not a file of scripts/length_drift.py")
    return drift


def _candidates_words(candidates: int | None) -> str | None:
    return f"{candidates} lengths tried" if candidates not in (None, 1) else None


def _bound_words(settings: dict[str, Any]) -> str | None:
    event_driven = settings.get("sampler") == "event_driven"
    if settings.get("bound_inflation") in (None, 1):
        return None
    words = "bound x {}" if event_driven else "no-op steps skipped, bound x {}"
    return words.format(settings["bound_inflation"])


CORRECTOR = ("corrector_time", "corrector_rounds", "corrector_spread", "corrector_choice")


def _corrector_words(settings: dict[str, Any]) -> str | None:
    if settings.get("corrector_time") is None:
        return None
    words = "{corrector_rounds} x corrected from t {corrector_time:g}".format(**settings)
    words += ", spread" if settings.get("corrector_spread") else ""
    guided = settings.get("corrector_choice") == "least_confident"
    return words + (", least confident" if guided else "")


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(SharedOptions):
    """The options of FlexMDM's samplers (docs/sampling.md)."""

    sampler: str = option(
        "tau_leaping",
        "tau_leaping: a grid of --diffusion_steps; event_driven: exact, about four evaluations per"
        " token; count_first: first the number of tokens, then one evaluation per token",
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
        "prob_diff",
        "confidence measure of --unmasking confidence (default: prob_diff, the paper's for GSM8K)",
        choices=("position", "top_prob", "prob_diff", "entropy"),
    )
    use_sliding_window: bool = option(
        False,
        "only the leftmost masks compete (the paper's setting for code)",
        type=bool,
        words=_window_words,
    )
    alpha: float = option(
        5.0,
        "window: competing masks per mask to unmask (default: 5)",
        type=float,
        above=0,
    )
    max_window: int = option(
        32, "window: maximum number of competing masks (default: 32)", type=int, at_least=1
    )
    length_choice: str = option(
        "likeliest",
        "count_first, --placed_share: the likeliest number of tokens (default), or one drawn from"
        " p(n)",
        choices=("likeliest", "drawn"),
    )
    length_candidates: int = option(
        1,
        "count_first: try the K likeliest numbers of tokens and keep the answer with the highest"
        " joint probability of number and tokens (default: 1)",
        type=int,
        metavar="K",
        at_least=1,
        words=lambda settings: _candidates_words(settings.get("length_candidates")),
    )
    placed_share: float | None = option(
        None,
        "event_driven: take the number of tokens first, put a share of them in place at once and"
        " insert the rest: P to the power of the entropy of p(n), so all of them where the number"
        " is settled (default: insert all)",
        type=float,
        metavar="P",
        above=0,
        at_most=1,
        words="share {:g} placed",
    )
    query_time: float | None = option(
        None,
        "count_first: the t at which the network is queried for tokens (default: the time at which"
        " training has as many masks, but late enough that almost nothing is missing)",
        type=float,
        metavar="T",
        at_least=0,
        at_most=1,
        words="queried at {:g}",
    )
    events_per_evaluation: int = option(
        1,
        "event_driven and count_first, approximation: K events per evaluation, the most confident"
        " masks first; event_driven never more than a quarter of the remaining events (default: 1,"
        " exact)",
        type=int,
        metavar="K",
        at_least=1,
        words="{} events per evaluation",
    )
    bound_inflation: float | None = option(
        None,
        "event_driven, approximation: keep a stale rate bound across events, C >= 1 times as large"
        " (default: measure again); tau_leaping: skip the evaluations of steps in which, by that"
        " bound, nothing can happen",
        type=float,
        metavar="C",
        at_least=1,
        words=_bound_words,
    )
    confidence_threshold: float | None = option(
        None,
        "approximation: also unmask every mask at least this confident (default: off); needs"
        " --unmasking confidence; saves evaluations with event_driven, changes only the order with"
        " tau_leaping",
        type=float,
        metavar="P",
        words="threshold {}",
    )
    leap_counts: str = option(
        "poisson",
        "tau_leaping, and the last leap of event_driven: how many masks a leap puts into a gap:"
        " poisson, by the expected number of missing tokens; drawn: a number of missing tokens is"
        " drawn from the network's length distribution, and each is inserted with the leap's"
        " probability",
        choices=("poisson", "drawn"),
        words="counts {}",
    )
    corrector_time: float | None = option(
        None,
        "event_driven and tau_leaping: once done, noise the answer back to time S and sample on"
        " from there, which gives errors a second chance (default: off)",
        type=float,
        metavar="S",
        above=0,
        words=_corrector_words,
    )
    corrector_rounds: int = option(
        1, "corrector: how often (default: 1)", type=int, metavar="K", at_least=1
    )
    corrector_spread: bool = option(
        False,
        "corrector: spread the rounds over the run, at t = 1/K, 2/K, ..., 1, each back to S times"
        " t",
        type=bool,
    )
    corrector_choice: str = option(
        "random",
        "corrector: the tokens that are noised: random ones, which keeps the distribution, or"
        " (approximation) as many of those that were least probable when written",
        choices=("random", "least_confident"),
    )
    insertion_schedule: Schedule | None = option(
        None,
        "linear, power:P or geometric:MIN,MAX (default: the trained one); the network is queried at"
        " the matched time",
        parse=parse_schedule_flag,
        metavar="S",
        words="insertions {}",
    )
    unmask_schedule: Schedule | None = option(None, None)

    def to_count_first(self, **changes: Any) -> SamplerOptions:
        """The same options for the sampler count_first, those that it refuses at their defaults."""
        refused = {"steps", "bound_inflation", "placed_share", "leap_counts", *CORRECTOR}
        left_out: dict[str, Any] = {
            each.name: each.default for each in fields(self) if each.name in refused
        }
        return replace(self, sampler="count_first", **left_out, **changes)

    def check(self) -> None:
        """Refuse options that do not go together. Raises OptionError."""
        event_driven, threshold = self.sampler == "event_driven", self.confidence_threshold
        if self.events_per_evaluation > 1 and self.sampler == "tau_leaping":
            wanted = "1, except with the samplers event_driven and count_first"
            raise OptionError("events_per_evaluation", self.events_per_evaluation, wanted)
        if self.bound_inflation is not None and threshold is not None and not event_driven:
            # skipped steps could unmask nothing
            wanted = "used with the sampler event_driven when a confidence_threshold is set"
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
        if self.placed_share is not None and (not event_driven or self.corrector_spread):
            # spread rounds assume that unmasking began at t = 0
            wanted = "used with event_driven and without corrector_spread"
            raise OptionError("placed_share", self.placed_share, wanted)
        leaps_by_rate = self.sampler == "count_first" or (
            self.sampler == "tau_leaping" and self.bound_inflation is not None
        )
        if self.leap_counts == "drawn" and leaps_by_rate:
            wanted = "poisson, except with event_driven, or tau_leaping without bound_inflation"
            raise OptionError("leap_counts", self.leap_counts, wanted)
        if self.query_time is not None and self.sampler != "count_first":
            raise OptionError("query_time", self.query_time, "used with the sampler count_first")
        self._check_corrector()
        by_confidence = self.unmasking == "confidence" and self.confidence_method != "position"
        if threshold is not None and not by_confidence:
            wanted = "used with unmasking confidence by top_prob, prob_diff or entropy"
            raise OptionError("confidence_threshold", threshold, wanted)

    def _check_corrector(self) -> None:
        time = self.corrector_time
        if time is None:
            for each in fields(self):
                if each.name in CORRECTOR and getattr(self, each.name) != each.default:
                    wanted = f"{each.default}, except with a corrector_time"
                    raise OptionError(each.name, getattr(self, each.name), wanted)
            return
        if not time < 1:
            raise OptionError("corrector_time", time, "below 1, the time of the clean text")
        if self.sampler == "count_first":
            wanted = "used with the samplers tau_leaping and event_driven"
            raise OptionError("corrector_time", time, wanted)
        if self.sampler == "event_driven" and self.steps is not None:
            # a row that is cut off would be left as the noise made it
            wanted = "left out where event_driven has a corrector_time"
            raise OptionError("steps", self.steps, wanted)
        if self.corrector_spread and self.corrector_rounds == 1:
            wanted = "used with more than one of corrector_rounds"
            raise OptionError("corrector_spread", True, wanted)


def _blocks_words(settings: dict[str, Any]) -> str:
    block = settings.get("block_length")
    return f"blocks of {block}" if block else "one block"


@dataclass(frozen=True, kw_only=True)
class LLaDAOptions(SharedOptions):
    """The options of LLaDA's sampler (docs/sampling.md)."""

    gen_length: int | None = option(
        None,
        "tokens after the prompt (default: --max_length minus the prompt's length)",
        type=int,
        metavar="L",
        at_least=1,
    )
    llada_length: str = option(
        "given",
        "number of masks: given by --gen_length (default); counted: the likeliest number under the"
        " network's length distribution (scripts/fit_length_distribution.py); searched: of several"
        " canvases the one filled with most confidence; grown, for prompts: 8 more until the"
        " network expects the text to end before the last 8",
        choices=("given", "counted", "searched", "grown"),
        words=_length_words,
    )
    length_drift: dict[str, float] | None = option(
        None,
        "llada_length searched: the lengths to try, and how confidence changes with length alone"
        " (a file of scripts/length_drift.py)",
        parse=_read_drift,
        metavar="FILE",
    )
    remasking: str = option(
        "low_confidence",
        "unmask the most confident tokens, or random ones (paper: random)",
        choices=("low_confidence", "random"),
        words=lambda settings: f"remasking {settings.get('remasking')}",
    )
    block_length: int | None = option(
        None,
        "tokens per block; blocks are filled left to right (default: one block)",
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

    def check(self) -> None:
        """Refuse blocks that do not divide the answer, and steps that are not a multiple of the
        blocks. Raises OptionError.
        """
        for name in ("gen_length", "steps"):
            if self.llada_length != "given" and getattr(self, name) is not None:
                wanted = f"left out where llada_length is {self.llada_length}"
                raise OptionError(name, getattr(self, name), wanted)
        if (self.llada_length == "searched") != (self.length_drift is not None):
            wanted = "used together with llada_length searched"
            raise OptionError("length_drift", "of some" if self.length_drift else None, wanted)
        if not self.gen_length or not self.block_length:
            return
        blocks, rest = divmod(self.gen_length, self.block_length)
        if rest:
            wanted = f"a divisor of gen_length {self.gen_length}"
            raise OptionError("block_length", self.block_length, wanted)
        if self.steps is not None and self.steps % blocks:
            wanted = f"a multiple of the {blocks} blocks that gen_length and block_length make"
            raise OptionError("steps", self.steps, wanted)


def shared_names() -> set[str]:
    """Names of the options that both samplers have."""
    return {each.name for each in fields(SharedOptions)}


def sampler_words(settings: dict[str, Any], with_steps: bool = True) -> list[str]:
    """Labels that say how a text was sampled, from its run's settings: what a fair comparison must
    state.
    """
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
