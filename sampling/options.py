"""The options of both samplers: each is a field of a frozen dataclass, with its default, help text,
range and label in the results table. Nothing here imports torch.

Flags (flags.py), checks, arguments of the library calls, the entries of settings.json and the
sampler's name in a table are all derived from the fields:

    generate_flexmdm(model, prompts, options=SamplerOptions(sampler="event_driven"))
    generate_flexmdm(model, prompts, sampler="event_driven")    # the same
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sampling import option_words
from sampling.option_fields import (
    OptionError,
    check_range,
    option,
    parse_schedule_flag,
    read_drift,
    refuse,
)

if TYPE_CHECKING:
    from flexmdm_interpolant import Schedule


SEED = 42
TAU_LEAPING_STEPS = 256  # where none are given; the paper's for GSM8K


def unnamed_sampler(steps: int | None) -> str:
    """FlexMDM's sampler where none is named: a number of steps is of tau-leaping's grid."""
    return "event_driven" if steps is None else "tau_leaping"


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
        words=option_words.steps,
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
            check_range(each, getattr(self, each.name))
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


CORRECTOR = ("corrector_time", "corrector_rounds", "corrector_spread", "corrector_choice")


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(SharedOptions):
    """The options of FlexMDM's samplers (docs/sampling.md)."""

    sampler: str = option(
        "tau_leaping",
        "tau_leaping: a grid of --diffusion_steps; event_driven: exact, about four evaluations per"
        " token; count_first: first the number of tokens, then one evaluation per token",
        choices=("tau_leaping", "event_driven", "count_first"),
        words=option_words.sampler,
    )
    unmasking: str = option(
        "random",
        "which masks are unmasked first",
        choices=("random", "confidence"),
        words=option_words.order,
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
        words=option_words.window,
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
        words=option_words.candidates,
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
        words=option_words.bound,
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
        words=option_words.corrector,
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
        tau_leaping, event_driven = self.sampler == "tau_leaping", self.sampler == "event_driven"
        count_first, threshold = (
            self.sampler == "count_first",
            self.confidence_threshold is not None,
        )
        if self.events_per_evaluation > 1 and tau_leaping:
            wanted = "1, except with the samplers event_driven and count_first"
            refuse(self, "events_per_evaluation", wanted)
        if self.bound_inflation is not None and threshold and not event_driven:
            # skipped steps could unmask nothing
            wanted = "used with the sampler event_driven when a confidence_threshold is set"
            refuse(self, "bound_inflation", wanted)
        if self.bound_inflation is not None and count_first:
            refuse(self, "bound_inflation", "used with a sampler that inserts masks by their rate")
        if self.steps is not None and count_first:
            refuse(self, "steps", "used with the samplers tau_leaping and event_driven")
        if self.length_candidates > 1 and not (count_first and self.length_choice == "likeliest"):
            wanted = "1, except with the sampler count_first and length_choice likeliest"
            refuse(self, "length_candidates", wanted)
        if self.placed_share is not None:
            if not event_driven or self.corrector_spread:
                # spread rounds assume that unmasking began at t = 0
                wanted = "used with event_driven and without corrector_spread"
                refuse(self, "placed_share", wanted)
            if self.steps == 1:
                refuse(self, "steps", "at least 2 with a placed_share, as one evaluation counts")
        by_rate = count_first or (tau_leaping and self.bound_inflation is not None)
        if self.leap_counts == "drawn" and by_rate:
            wanted = "poisson, except with event_driven, or tau_leaping without bound_inflation"
            refuse(self, "leap_counts", wanted)
        if self.query_time is not None and not count_first:
            refuse(self, "query_time", "used with the sampler count_first")
        self._check_corrector()
        by_confidence = self.unmasking == "confidence" and self.confidence_method != "position"
        if threshold and not by_confidence:
            wanted = "used with unmasking confidence by top_prob, prob_diff or entropy"
            refuse(self, "confidence_threshold", wanted)

    def _check_corrector(self) -> None:
        if self.corrector_time is None:
            for each in fields(self):
                if each.name in CORRECTOR and getattr(self, each.name) != each.default:
                    refuse(self, each.name, f"{each.default}, except with a corrector_time")
            return
        if not self.corrector_time < 1:
            refuse(self, "corrector_time", "below 1, the time of the clean text")
        if self.sampler == "count_first":
            refuse(self, "corrector_time", "used with the samplers tau_leaping and event_driven")
        if self.sampler == "event_driven" and self.steps is not None:
            # a row that is cut off would be left as the noise made it
            refuse(self, "steps", "left out where event_driven has a corrector_time")
        if self.corrector_spread and self.corrector_rounds == 1:
            refuse(self, "corrector_spread", "used with more than one of corrector_rounds")


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
        words=option_words.length,
    )
    length_drift: dict[str, float] | None = option(
        None,
        "llada_length searched: the lengths to try, and how confidence changes with length alone"
        " (a file of scripts/length_drift.py)",
        parse=read_drift,
        metavar="FILE",
    )
    remasking: str = option(
        "low_confidence",
        "unmask the most confident tokens, or random ones (paper: random)",
        choices=("low_confidence", "random"),
        words=option_words.remasking,
    )
    block_length: int | None = option(
        None,
        "tokens per block; blocks are filled left to right (default: one block)",
        type=int,
        metavar="L",
        at_least=1,
        words=option_words.blocks,
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
                refuse(self, name, f"left out where llada_length is {self.llada_length}")
        if (self.llada_length == "searched") != (self.length_drift is not None):
            wanted = "used together with llada_length searched"
            raise OptionError("length_drift", "of some" if self.length_drift else None, wanted)
        if not self.gen_length or not self.block_length:
            return
        blocks, rest = divmod(self.gen_length, self.block_length)
        if rest:
            refuse(self, "block_length", f"a divisor of gen_length {self.gen_length}")
        if self.steps is not None and self.steps % blocks:
            wanted = f"a multiple of the {blocks} blocks that gen_length and block_length make"
            refuse(self, "steps", wanted)


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
    shared = shared_names() - {"steps"}
    known = fields(kinds[settings["kind"]])
    return option_words.words_of(sorted(known, key=lambda each: each.name in shared), settings)
