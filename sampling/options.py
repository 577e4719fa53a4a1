"""The command line flags of both samplers, defined once for the inference and evaluation scripts.
Nothing here imports torch.

    parser = ArgumentParser(description=...)
    add_model_flags(parser)          # which checkpoint, where it runs, and what every sampler takes
    add_flexmdm_flags(parser)        # FlexMDM's own
    add_llada_flags(parser)          # LLaDA's own; a script may add both, no flag is defined twice
    args = parser.parse_args()
    generate_flexmdm(model, prompts, mask_id=..., pad_id=..., **flexmdm_sampler_arguments(args))
    generate_mdm(model, prompts, mask_id=..., pad_id=..., **llada_sampler_arguments(args))

A script with other defaults than these says so with parser.set_defaults(...) before it parses.
"""

import argparse
import math

from common.errors import InputError


def add_model_flags(parser, checkpoint_required=True):
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
    group.add_argument(
        "--diffusion_steps",
        type=int,
        metavar="N",
        help=(
            "FlexMDM tau_leaping: steps of its grid (default: 256, the paper's for GSM8K; for"
            " HumanEval infilling 4096); event_driven: most evaluations a row may take (default: no"
            " limit); LLaDA: steps over all blocks (default: one a token)"
        ),
    )
    group.add_argument(
        "--max_length",
        type=int,
        metavar="L",
        help=(
            "tokens a row may have, prompt included (default: the model's own; evaluations and "
            "LLaDA: 1024 at most, the paper's canvas)"
        ),
    )
    group.add_argument(
        "--rows_at_once",
        type=int,
        metavar="R",
        help=(
            "rows in the network's batch; waiting ones enter as others finish "
            "(default: all; evaluations: --batch_size)"
        ),
    )
    group.add_argument(
        "--cache_refresh",
        type=int,
        metavar="R",
        help=(
            "approximation: keep keys and values of the prompt (LLaDA: of all that is left of the "
            "current block) for R evaluations (default: no cache)"
        ),
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0: most probable token; 1: draw from the posterior (default: 0)",
    )


def add_flexmdm_flags(parser):
    """FlexMDM's sampler (docs/sampling.md)."""
    group = parser.add_argument_group("FlexMDM sampler")
    group.add_argument(
        "--sampler",
        choices=("tau_leaping", "event_driven"),
        default="tau_leaping",
        help=(
            "tau_leaping: a grid of --diffusion_steps; event_driven: exact, about four evaluations"
            " a token"
        ),
    )
    group.add_argument(
        "--unmasking",
        choices=("random", "confidence"),
        default="random",
        help="which masks are unmasked first",
    )
    group.add_argument(
        "--confidence_method",
        choices=("position", "top_prob", "prob_diff", "entropy"),
        default="prob_diff",
        help="what --unmasking confidence goes by (default: prob_diff, the paper's for GSM8K)",
    )
    group.add_argument(
        "--use_sliding_window",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="only the first masks compete (the paper's for code)",
    )
    group.add_argument(
        "--alpha",
        type=float,
        default=5.0,
        help="window: masks that compete for each one to unmask (default: 5)",
    )
    group.add_argument(
        "--max_window", type=int, default=32, help="window: most masks that compete (default: 32)"
    )
    group.add_argument(
        "--insertion_schedule",
        metavar="S",
        help=(
            "linear, power:P or geometric:MIN,MAX, if not the trained one; the network is queried at"
            " the matching time"
        ),
    )
    group.add_argument(
        "--events_per_evaluation",
        type=int,
        default=1,
        metavar="K",
        help=(
            "event_driven, approximation: K events to an evaluation, the most confident masks first, but"
            " never more than a quarter of what is left to do (default: 1, exact)"
        ),
    )
    group.add_argument(
        "--bound_inflation",
        type=float,
        metavar="C",
        help=(
            "event_driven, approximation: keep a stale rate bound over events, C >= 1 times as"
            " large (default: measure); tau_leaping: leave out the evaluations of steps in which,"
            " by that bound, nothing can happen"
        ),
    )
    group.add_argument(
        "--confidence_threshold",
        type=float,
        metavar="P",
        help=(
            "approximation: also unmask every mask at least this sure (default: off); needs"
            " --unmasking confidence; saves evaluations with event_driven, with tau_leaping it"
            " changes the order alone"
        ),
    )


def add_llada_flags(parser):
    """LLaDA's sampler (docs/sampling.md)."""
    group = parser.add_argument_group("LLaDA sampler")
    group.add_argument(
        "--gen_length",
        type=int,
        metavar="L",
        help="tokens after the prompt (default: --max_length less the prompt)",
    )
    group.add_argument(
        "--block_length",
        type=int,
        metavar="L",
        help="tokens a block, blocks go left to right (default: one block)",
    )
    group.add_argument(
        "--remasking",
        choices=("low_confidence", "random"),
        default="low_confidence",
        help="unmask the most confident tokens, or random ones (the paper's: random)",
    )
    group.add_argument(
        "--cfg_scale",
        type=float,
        default=0.0,
        help="classifier-free guidance; above 0 it doubles the evaluations",
    )


def _require(true, flag, value, wanted):
    if not true:
        raise InputError(f"{flag} {value}: must be {wanted}")


def refuse_trailing_padding(given, pad_id, flag):
    """Samplers read a row's length from its trailing padding, so given tokens that end in pad_id
    would be dropped: InputError instead.
    """
    if any(row and row[-1] == pad_id for row in given):
        raise InputError(
            f"{flag}: ends in the padding token {pad_id} (end of text), which cannot be told from"
            " padding"
        )


def refuse_mask_tokens(given, mask_id, flag):
    """Given tokens are kept and masks are filled in: one cannot be the other. InputError where a
    given row holds mask_id.
    """
    if any(mask_id in row for row in given):
        raise InputError(
            f"{flag}: holds the mask token {mask_id}, which stands for text that is yet to be"
            " written"
        )


def _check_shared(args):
    for flag, value in (
        ("--diffusion_steps", args.diffusion_steps),
        ("--max_length", args.max_length),
        ("--rows_at_once", args.rows_at_once),
        ("--cache_refresh", args.cache_refresh),
    ):
        _require(value is None or value >= 1, flag, value, "at least 1")
    _require(
        math.isfinite(args.temperature) and args.temperature >= 0,
        "--temperature",
        args.temperature,
        "a number from 0 on",
    )
    _require(0 <= args.seed < 2**31, "--seed", args.seed, "in 0 ... 2147483647")


def flexmdm_sampler_arguments(args):
    """Keyword arguments of generate_flexmdm and generate_flexmdm_infilling from parsed flags.
    Raises InputError naming the flag.
    """
    _check_shared(args)
    _require(math.isfinite(args.alpha) and args.alpha > 0, "--alpha", args.alpha, "above 0")
    _require(args.max_window >= 1, "--max_window", args.max_window, "at least 1")
    event_driven = args.sampler == "event_driven"
    _require(
        args.events_per_evaluation >= 1,
        "--events_per_evaluation",
        args.events_per_evaluation,
        "at least 1",
    )
    _require(
        args.events_per_evaluation == 1 or event_driven,
        "--events_per_evaluation",
        args.events_per_evaluation,
        "1, except with --sampler event_driven",
    )
    _require(
        args.bound_inflation is None or args.bound_inflation >= 1,
        "--bound_inflation",
        args.bound_inflation,
        "at least 1",
    )
    _require(
        args.bound_inflation is None or args.confidence_threshold is None or event_driven,
        "--bound_inflation",
        args.bound_inflation,
        "used with --sampler event_driven where there is a --confidence_threshold",
    )
    _require(
        args.confidence_threshold is None
        or (args.unmasking == "confidence" and args.confidence_method != "position"),
        "--confidence_threshold",
        args.confidence_threshold,
        "used with --unmasking confidence by top_prob, prob_diff or entropy",
    )
    _require(
        args.confidence_threshold is None or math.isfinite(args.confidence_threshold),
        "--confidence_threshold",
        args.confidence_threshold,
        "a finite number",
    )
    insertion_schedule = None
    if args.insertion_schedule is not None:
        from flexmdm_interpolant import parse_schedule

        try:
            numbers = args.insertion_schedule.partition(":")[2]
            if numbers and not all(math.isfinite(float(number)) for number in numbers.split(",")):
                raise ValueError("its numbers must be finite")
            insertion_schedule = parse_schedule(args.insertion_schedule)
        except (ValueError, ArithmeticError) as error:
            raise InputError(f"--insertion_schedule {args.insertion_schedule}: {error}") from None
    steps = args.diffusion_steps
    if steps is None and args.sampler == "tau_leaping":
        steps = 256
    return dict(
        steps=steps,
        max_length=args.max_length,
        sampler=args.sampler,
        unmasking=args.unmasking,
        confidence_method=args.confidence_method,
        use_sliding_window=args.use_sliding_window,
        alpha=args.alpha,
        max_window=args.max_window,
        temperature=args.temperature,
        insertion_schedule=insertion_schedule,
        rows_at_once=args.rows_at_once,
        events_per_evaluation=args.events_per_evaluation,
        bound_inflation=args.bound_inflation,
        confidence_threshold=args.confidence_threshold,
        cache_refresh=args.cache_refresh,
    )


def llada_sampler_arguments(args):
    """Keyword arguments of generate_mdm from parsed flags; None where a default depends on the
    prompt. Raises InputError.
    """
    _check_shared(args)
    for flag, value in (("--gen_length", args.gen_length), ("--block_length", args.block_length)):
        _require(value is None or value >= 1, flag, value, "at least 1")
    _require(
        0 <= args.cfg_scale <= 1e6, "--cfg_scale", args.cfg_scale, "a number in 0 ... 1,000,000"
    )
    if args.gen_length and args.block_length:
        blocks, rest = divmod(args.gen_length, args.block_length)
        _require(
            rest == 0,
            "--block_length",
            args.block_length,
            f"a divisor of --gen_length {args.gen_length}",
        )
        _require(
            args.diffusion_steps is None or args.diffusion_steps % blocks == 0,
            "--diffusion_steps",
            args.diffusion_steps,
            f"a multiple of the {blocks} blocks that --gen_length and --block_length make",
        )
    return dict(
        steps=args.diffusion_steps,
        gen_length=args.gen_length,
        block_length=args.block_length,
        temperature=args.temperature,
        cfg_scale=args.cfg_scale,
        remasking=args.remasking,
        rows_at_once=args.rows_at_once,
        cache_refresh=args.cache_refresh,
    )
