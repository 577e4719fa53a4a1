r"""Sample from a FlexMDM: a library (generate_flexmdm, generate_flexmdm_infilling), and a command
for one's own prompt or infill.

Laptop, a prompt:     python flexmdm_inference.py --checkpoint_path C --prompt "Once upon a time"
A GSM8K question:     python flexmdm_inference.py --checkpoint_path C --task math --prompt "Tom has 3 apples ..." --unmasking confidence
An infill:            python flexmdm_inference.py --checkpoint_path C --prefix $'def add(a, b):\n    return ' --suffix $'\n' \
                          --unmasking confidence --confidence_method top_prob --use_sliding_window --alpha 15
Exact sampling:       ... --sampler event_driven --temperature 1        (no discretisation; about four evaluations a token)
Nothing given:        ... --prompt ""                                   (free generation)
Watch it:             ... --watch, or --trace page.html (plays the generation) or --trace curves.png
One GPU:              the same command (--device auto takes it, in bfloat16)
Slurm:                srun --gpus 1 python flexmdm_inference.py ...

The answer goes to stdout, its length and cost to stderr. The sampler's one step is in
flexmdm_sampler.py.
"""

import sys
from pathlib import Path

from common.command_line import ArgumentParser
from common.errors import InputError, run
from common.files import require_writable
from common.gpu_memory import ONE_PROMPT, out_of_memory_advice
from generation_run import item_seed
from sampler_flags import (
    add_flexmdm_flags,
    add_model_flags,
    flexmdm_sampler_arguments,
    refuse_mask_tokens,
    refuse_trailing_padding,
)


def generate_flexmdm(
    model,
    prompts=None,
    *,
    steps=None,
    max_length=None,
    mask_id,
    pad_id,
    sampler="tau_leaping",
    unmasking="random",
    confidence_method="position",
    use_sliding_window=False,
    alpha=5.0,
    max_window=32,
    temperature=0.0,
    insertion_schedule=None,
    unmask_schedule=None,
    generator=None,
    return_trace=False,
    seeds=None,
    rows_at_once=None,
    num_tokens=None,
    batch_size=None,
    on_frame=None,
    events_per_evaluation=1,
    bound_inflation=None,
    confidence_threshold=None,
    cache_refresh=None,
):
    """Continue prompts, or generate freely, with a FlexMDM. t runs from 0 (nothing but the prompt)
    to 1 (clean).

    model: `model(input_ids, timesteps, attention_mask)` -> {"logits": (B, L, V), "length": (B,
    L+1)} with a `device`; used when there:
        `supports_logits_mask`, and `config` with its schedules, time_epsilon, max_length and
        attend_to_padding.
    prompts: long (B, P), right-padded with pad_id (only trailing padding counts), or None with
    batch_size=B.
    steps: tau_leaping: its grid, uniform in t. event_driven: None, or a cap on a row's evaluations;
    a row that reaches it stops
        inserting, reveals all its masks at once and is marked `truncated`.
    max_length: tokens of a row, prompt included; None: the model's own. Masks that do not fit are
    refused, favouring no gap.
        A network that attends to padding gets rows padded to its own max_length, as in training,
        whatever this limit.
    sampler: "tau_leaping" (first order in 1/steps) or "event_driven" (no discretisation error; what
    a config's time_epsilon leaves is
        one tau-leap for both: its tokens come in a Poisson number, right on average).
    unmasking: "random" order, or "confidence": the surest first by confidence_method "position"
    (leftmost), "top_prob", "prob_diff"
        or "entropy". use_sliding_window: only the first K = min(int(alpha * number to reveal),
        max_window, number of masks) compete.
    temperature: 0 writes the most probable token, 1 draws from the posterior. Never written:
    mask_id, pad_id, ids >= num_tokens.
    insertion_schedule, unmask_schedule: None: the model's own, or linear where it has no config. A
    model with a config whose insertion
        schedule is another is asked at the matching time tau(t) = alpha_own^-1(alpha(t)); without a
        config it is asked at t.
    seeds: long (B,); every random number of a row is a function of (its seed, its evaluation,
    purpose): results do not depend on what
        shares the batch. Seeds that are not given are drawn from `generator` (None: torch's global
        one).
    rows_at_once: most rows in the network's batch; waiting ones enter as others finish.
    return_trace: `trace[b]` is a list of frames {"t": float, "evaluations": int, "ids": list[int],
    "slots": list[int]}: the initial
        state, the state after each evaluation that changed it, and the result. `slots[i]` is the
        lasting identity of position i: the prompt (or prefix and suffix) has 0 ... P-1, every
        inserted mask the next number. on_frame(row, frame) gets them as they are made.
    Approximations, off by default (what each costs is measured in
    tests/test_sampler_approximations.py):
        events_per_evaluation: event_driven proposes this many events at once, reveals that many of
        the surest, inserts what is accepted;
            never more than a quarter of what is left to do, so that rows which miss few tokens are
            sampled as without it.
        bound_inflation c >= 1: event_driven does not measure G again after an event, but proposes
        from c times what it was before.
            tau_leaping draws what may happen from c times the G it last saw, and leaves out the
            evaluations of steps in which nothing
            may: the law of its grid is kept wherever G stays below that, at the cost of its events
            instead of its steps.
        confidence_threshold: whenever masks may be revealed, all that are at least this sure are
        (in the units of confidence_method: a probability, a difference of two, or negative nats).
        Needs unmasking="confidence" by anything but position. event_driven
            then takes fewer evaluations; tau_leaping takes its grid's all the same, so there it
            changes the order alone.
        cache_refresh r: keys and values of the prompt (or prefix) are kept for r evaluations; what
        comes behind it is computed every time.

    Returns a GenerationResult (generation_result.py). Raises ValueError for bad arguments and when
    the network returns no numbers.
    """
    if prompts is None:
        if batch_size is None:
            raise ValueError("without prompts, batch_size says how many rows to generate")
        prompts = _no_tokens(batch_size)
    elif batch_size is not None and batch_size != len(prompts):
        raise ValueError(f"batch_size is {batch_size}, but there are {len(prompts)} prompts")
    return _generate(
        model,
        prompts,
        _no_tokens(len(prompts)),
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        sampler=sampler,
        unmasking=unmasking,
        confidence_method=confidence_method,
        use_sliding_window=use_sliding_window,
        alpha=alpha,
        max_window=max_window,
        temperature=temperature,
        insertion_schedule=insertion_schedule,
        unmask_schedule=unmask_schedule,
        generator=generator,
        return_trace=return_trace,
        seeds=seeds,
        rows_at_once=rows_at_once,
        num_tokens=num_tokens,
        on_frame=on_frame,
        events_per_evaluation=events_per_evaluation,
        bound_inflation=bound_inflation,
        confidence_threshold=confidence_threshold,
        cache_refresh=cache_refresh,
    )


def generate_flexmdm_infilling(
    model,
    prefixes,
    suffixes,
    *,
    steps=None,
    max_length=None,
    mask_id,
    pad_id,
    sampler="tau_leaping",
    unmasking="random",
    confidence_method="position",
    use_sliding_window=False,
    alpha=5.0,
    max_window=32,
    temperature=0.0,
    insertion_schedule=None,
    unmask_schedule=None,
    generator=None,
    return_trace=False,
    seeds=None,
    rows_at_once=None,
    num_tokens=None,
    on_frame=None,
    events_per_evaluation=1,
    bound_inflation=None,
    confidence_threshold=None,
    cache_refresh=None,
):
    """Fill the middle between prefixes (long (B, P)) and suffixes (long (B, S)), both right-padded
    with pad_id; the rest is as in generate_flexmdm. Boundary tokens belong to prefix and suffix.
    Row b's middle is `sequences[b, P_b : lengths[b] - S_b]`.
    """
    if len(prefixes) != len(suffixes):
        raise ValueError(f"{len(prefixes)} prefixes, but {len(suffixes)} suffixes")
    return _generate(
        model,
        prefixes,
        suffixes,
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        sampler=sampler,
        unmasking=unmasking,
        confidence_method=confidence_method,
        use_sliding_window=use_sliding_window,
        alpha=alpha,
        max_window=max_window,
        temperature=temperature,
        insertion_schedule=insertion_schedule,
        unmask_schedule=unmask_schedule,
        generator=generator,
        return_trace=return_trace,
        seeds=seeds,
        rows_at_once=rows_at_once,
        num_tokens=num_tokens,
        on_frame=on_frame,
        events_per_evaluation=events_per_evaluation,
        bound_inflation=bound_inflation,
        confidence_threshold=confidence_threshold,
        cache_refresh=cache_refresh,
    )


def _no_tokens(batch):
    import torch

    return torch.zeros((batch, 0), dtype=torch.long, device="cpu")


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _generate(
    model, prefixes, suffixes, *, steps, max_length, mask_id, pad_id, generator, seeds, **settings
):
    """Check the arguments, then sample."""
    import torch  # here, so that --help and the flags need no torch

    from flexmdm_interpolant import length_without_trailing
    from flexmdm_sampler import FlexMDMSampler
    from generation_result import draw_seeds

    _one_of("sampler", settings["sampler"], ("tau_leaping", "event_driven"))
    _one_of("unmasking", settings["unmasking"], ("random", "confidence"))
    _one_of(
        "confidence_method",
        settings["confidence_method"],
        ("position", "top_prob", "prob_diff", "entropy"),
    )
    if steps is None and settings["sampler"] == "tau_leaping":
        raise ValueError("tau_leaping needs steps")
    for name, value in (
        ("steps", steps),
        ("rows_at_once", settings["rows_at_once"]),
        ("max_window", settings["max_window"]),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not settings["temperature"] >= 0 or not settings["alpha"] > 0:
        raise ValueError(
            f"temperature ({settings['temperature']}) must not be negative, alpha"
            f" ({settings['alpha']}) must be above 0"
        )
    events, inflation, threshold = (
        settings[name]
        for name in ("events_per_evaluation", "bound_inflation", "confidence_threshold")
    )
    if events < 1 or (inflation is not None and not inflation >= 1):
        raise ValueError(
            f"events_per_evaluation ({events}) and bound_inflation ({inflation}) must be at least 1"
        )
    if settings["sampler"] != "event_driven" and events > 1:
        raise ValueError("events_per_evaluation belongs to the event_driven sampler")
    if settings["sampler"] != "event_driven" and inflation is not None and threshold is not None:
        raise ValueError(
            "tau_leaping takes either bound_inflation or confidence_threshold: steps that are left"
            " out could reveal nothing"
        )
    if threshold is not None and (
        settings["unmasking"] != "confidence" or settings["confidence_method"] == "position"
    ):
        raise ValueError(
            'confidence_threshold needs unmasking="confidence" by top_prob, prob_diff or entropy'
        )
    if mask_id == pad_id:
        raise ValueError(f"mask_id and pad_id are both {mask_id}")
    if max_length is None:
        max_length = getattr(getattr(model, "config", None), "max_length", None)
        if max_length is None:
            raise ValueError("max_length is needed: the model has no config that says it")
    device = (
        prefixes.device
        if prefixes.numel()
        else suffixes.device
        if suffixes.numel()
        else getattr(model, "device", "cpu")
    )
    prefixes, suffixes = prefixes.cpu().long(), suffixes.cpu().long()
    prefix_lengths = length_without_trailing(prefixes, pad_id)
    suffix_lengths = length_without_trailing(suffixes, pad_id)
    longest = int((prefix_lengths + suffix_lengths).max()) if len(prefixes) else 0
    if longest > max_length:
        raise ValueError(f"a row of {longest} given tokens is longer than max_length {max_length}")
    if bool((prefixes == mask_id).any()) or bool((suffixes == mask_id).any()):
        raise ValueError(f"the given tokens contain the mask token {mask_id}")
    result = FlexMDMSampler(
        model,
        prefixes,
        prefix_lengths,
        suffixes,
        suffix_lengths,
        steps=steps,
        max_length=max_length,
        mask_id=mask_id,
        pad_id=pad_id,
        seeds=draw_seeds(len(prefixes), seeds, generator),
        **settings,
    ).run()
    for name, value in vars(result).items():
        if isinstance(value, torch.Tensor):
            setattr(result, name, value.to(device))
    return result


# ---- the command


def make_parser():
    parser = ArgumentParser(description=__doc__)
    text = parser.add_argument_group("what to write")
    text.add_argument("--prompt", help="text to continue; may be empty")
    text.add_argument(
        "--task",
        choices=("text", "math"),
        default="text",
        help="math: the prompt is a question, framed as in fine-tuning",
    )
    text.add_argument("--prefix", help="infill: what stands before the gap")
    text.add_argument("--suffix", help="infill: what stands behind it")
    text.add_argument("--num_samples", type=int, default=1, help="samples to draw (default: 1)")
    text.add_argument(
        "--trace",
        metavar="FILE",
        help="FILE.html: a page that plays the generation; FILE.png: its curves",
    )
    text.add_argument(
        "--watch", action="store_true", help="show the first sample's text as it grows"
    )
    add_model_flags(parser)
    add_flexmdm_flags(parser)
    return parser


def parse_arguments():
    args = make_parser().parse_args()
    if (args.prompt is None) == (args.prefix is None and args.suffix is None):
        raise InputError("give either --prompt, or --prefix and --suffix")
    if args.num_samples < 1:
        raise InputError(f"--num_samples {args.num_samples}: must be at least 1")
    if args.task == "math" and args.prompt is None:
        raise InputError("--task math goes with --prompt")
    if args.trace and not args.trace.endswith((".html", ".png")):
        raise InputError(f"--trace {args.trace}: must end in .html or .png")
    return args


@out_of_memory_advice(ONE_PROMPT)
def main():
    args = parse_arguments()
    settings = flexmdm_sampler_arguments(args)
    if args.trace:
        require_writable(Path(args.trace).parent, "--trace")

    import torch

    from common.files import resolve_folder
    from data.tokenizer import load_tokenizer
    from llada_utils import (
        checkpoint_kind,
        load_flexmdm,
        pick_device,
        pick_dtype,
        speed_up_sampling,
    )

    if checkpoint_kind(args.checkpoint_path) != "flexmdm":
        raise InputError(
            f"--checkpoint_path: {args.checkpoint_path} is a LLaDA; llada_inference.py samples from"
            " those"
        )
    device = pick_device(args.device)
    # the paper code's folders hold none
    beside = (resolve_folder(args.checkpoint_path) / "tokenizer.json").exists()
    tokenizer = load_tokenizer(
        args.checkpoint_path if beside or not args.base_model else args.base_model
    )
    model = load_flexmdm(
        args.checkpoint_path,
        args.base_model,
        args.lora_alpha,
        pick_dtype(args.dtype, device),
        device,
    )
    speed_up_sampling(model, args.torch_compile)
    mask_id, pad_id = model.config.mask_token_id, model.config.pad_token_id
    if args.prompt is None:
        from data.infills import flexmdm_infill_ids

        before, after = flexmdm_infill_ids(tokenizer, args.prefix or "", args.suffix or "")
    else:
        if args.task == "math":
            from data.math_prompts import math_prompt

            args.prompt = math_prompt(tokenizer, args.prompt)
        before, after = tokenizer(args.prompt, add_special_tokens=False)["input_ids"], []
    flags = "--prompt" if args.prompt is not None else "--prefix and --suffix"
    refuse_trailing_padding((before, after), pad_id, flags)
    refuse_mask_tokens((before, after), mask_id, flags)
    limit = settings["max_length"] or model.config.max_length
    if len(before) + len(after) >= limit:
        raise InputError(
            f"{flags}: {len(before) + len(after)} tokens leave no room within --max_length {limit}"
        )
    on_frame = None
    if args.watch:
        from trace_page import terminal_watcher

        on_frame = terminal_watcher(tokenizer, mask_id)
    rows = [
        torch.tensor([ids] * args.num_samples, dtype=torch.long, device="cpu").view(
            args.num_samples, -1
        )
        for ids in (before, after)
    ]
    result = generate_flexmdm_infilling(
        model,
        *rows,
        mask_id=mask_id,
        pad_id=pad_id,
        num_tokens=len(tokenizer),
        seeds=torch.tensor(
            [item_seed(args.seed, 0, sample) for sample in range(args.num_samples)], device="cpu"
        ),
        on_frame=on_frame,
        return_trace=bool(args.trace),
        **settings,
    )
    for row in range(args.num_samples):
        answer = result.sequences[row, len(before) : int(result.lengths[row]) - len(after)].tolist()
        print(tokenizer.decode(answer))
        print(
            f"sample {row + 1}: {len(answer)} tokens, {int(result.evaluations[row])} evaluations"
            f"{', stopped at --diffusion_steps' if result.truncated[row] else ''}"
            f"{f', {int(result.refused_insertions[row])} insertions refused' if result.refused_insertions[row] else ''}"
            f"{f', {int(result.clipped_ratios[row])} times more missing than the bound' if result.clipped_ratios[row] else ''}",
            file=sys.stderr,
        )
    if args.trace:
        from trace_page import write_trace

        write_trace(args.trace, result.trace, tokenizer, mask_id)


if __name__ == "__main__":
    run(main)
