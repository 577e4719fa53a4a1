"""The samplers with each of their options, against the CPU's answers; the inference and evaluation
scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_checks.work import BASE, Work

FLEXMDM_OPTIONS: dict[str, dict[str, Any]] = {
    "event-driven": dict(sampler="event_driven"),
    "event-driven, prob_diff, window": dict(
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="prob_diff",
        use_sliding_window=True,
    ),
    "event-driven, 3 events, carried bound": dict(
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="top_prob",
        bound_inflation=1.25,
        events_per_evaluation=3,
    ),
    "event-driven, threshold": dict(
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="entropy",
        confidence_threshold=-0.5,
    ),
    "event-driven, cached prompts": dict(
        sampler="event_driven",
        unmasking="confidence",
        confidence_method="top_prob",
        cache_refresh=3,
    ),
    "event-driven, two at once": dict(
        sampler="event_driven", unmasking="confidence", confidence_method="position", rows_at_once=2
    ),
    "tau-leaping": dict(sampler="tau_leaping", steps=24),
    "tau-leaping, idle steps left out": dict(
        sampler="tau_leaping",
        steps=48,
        bound_inflation=2.0,
        unmasking="confidence",
        confidence_method="prob_diff",
    ),
}
LLADA_OPTIONS: dict[str, dict[str, Any]] = {
    "blocks": dict(block_length=8),
    "random": dict(remasking="random"),
    "guidance": dict(cfg_scale=0.5),
    "cache": dict(block_length=8, cache_refresh=3),
    "two at once": dict(block_length=12, rows_at_once=2),
}


def compare_samplers(
    work: Work,
    options: dict[str, dict[str, Any]],
    models: tuple[Any, Any, Any],
    generate: Callable[..., Any],
    infill: Callable[..., Any],
) -> str:
    """Share of the CPU's answers that the device gives in fp32 at temperature 0; bf16 and
    temperature 1 must run.
    """
    import torch

    from sampling.network_graphs import speed_up_sampling

    on_cpu, on_device, half = models
    speed_up_sampling(half)
    prompts, same, rows = work.prompts(), 0, 0
    for name, chosen in options.items():
        results = [
            generate(model, prompts, seeds=torch.arange(len(prompts)), **work.ids, **chosen)
            for model in (on_cpu, on_device)
        ]
        results += [
            infill(model, prompts, prompts, seeds=torch.arange(len(prompts)), **work.ids, **chosen)
            for model in (on_cpu, on_device)
        ]
        for ours, theirs in zip(results[1::2], results[::2]):
            rows += len(prompts)
            same += sum(
                int(n) == int(m) and torch.equal(a[:n], b[:n])
                for a, b, n, m in zip(
                    ours.sequences.cpu(), theirs.sequences, ours.lengths, theirs.lengths
                )
            )
        for temperature in (0.0, 1.0):
            result = generate(
                half,
                prompts,
                seeds=torch.arange(len(prompts)),
                **work.ids,
                **{**chosen, "temperature": temperature},
            )
            assert not (result.sequences == work.ids["mask_id"]).any(), f"{name}: masks are left"
    assert same >= 0.9 * rows, f"only {same} of {rows} answers are the CPU's"
    return f"{same} of {rows} answers are the CPU's, token for token; bf16 runs"


def flexmdm_samplers(work: Work) -> str:
    """FlexMDM's samplers with each of FLEXMDM_OPTIONS."""
    import torch

    from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling

    models = work.flexmdm(device="cpu"), work.flexmdm(), work.flexmdm(torch.bfloat16)
    options = {name: {"max_length": 30, **chosen} for name, chosen in FLEXMDM_OPTIONS.items()}
    return compare_samplers(work, options, models, generate_flexmdm, generate_flexmdm_infilling)


def llada_samplers(work: Work) -> str:
    """LLaDA's sampler with each of LLADA_OPTIONS."""
    import torch

    from sampling.llada import generate_mdm, generate_mdm_infilling

    models = work.llada(device="cpu"), work.llada(), work.llada(torch.bfloat16)

    def infill(model, before, after, **options):
        return generate_mdm_infilling(
            model,
            before,
            after,
            middle_lengths=12,
            **{name: value for name, value in options.items() if name != "gen_length"},
        )

    options = {
        name: {"gen_length": 24, "steps": None, **chosen} for name, chosen in LLADA_OPTIONS.items()
    }
    return compare_samplers(work, options, models, generate_mdm, infill)


def compiled_sampling(work: Work) -> str:
    """--torch_compile, through the command."""
    where = ["--checkpoint_path", work.trained_flexmdm(), "--device", work.device]
    flags = "--prompt 2+3= --torch_compile --sampler event_driven --max_length 40".split()
    assert work.script("flexmdm_inference.py", *where, *flags).strip() != "", "no answer"
    return "one prompt"


def evaluations(work: Work) -> str:
    """Both evaluation scripts, on built-in items."""
    checkpoints: dict[str, tuple[Path, str]] = {
        "flexmdm": (work.trained_flexmdm(), "--sampler event_driven --diffusion_steps 40"),
        "llada": (BASE, "--gen_length 16 --block_length 8"),
    }
    for script, kind in (("eval_gsm8k.py", "math"), ("eval_humaneval_infill.py", "code_infill")):
        items = work.items(kind, "test", 6, 1)
        for model, (checkpoint, flags) in checkpoints.items():
            output = work.folder / f"results_{kind}_{model}"
            places = ["--checkpoint_path", checkpoint, "--data_path", items, "--output_dir", output]
            flags += f" --device {work.device} --max_length 128 --batch_size 4"
            work.script(script, *places, *flags.split())
            assert (output / "results.json").exists(), f"{script} wrote no results"
    return "both tasks, both models"
