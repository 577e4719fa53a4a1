"""Short runs of the training scripts: every kind of model, checkpointing, compiling, token budgets,
a kill, DeepSpeed, a base of 4 bits.
"""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any

from gpu_checks.work import ROOT, Skipped, Work


def training(work: Work) -> str:
    """Every script, both models, with and without LoRA."""
    for kind in ("text", "math", "code"):
        for model in ("flexmdm", "llada"):
            for how, flags in (("lora", ["--lora_r", 8]), ("all", ["--all_parameters"])):
                work.train(f"{kind}_{model}_{how}", kind, model, *flags)
    return "12 short runs"


def checkpointing_and_compile(work: Work) -> str:
    """Both models, with gradient checkpointing, alone and compiled."""
    for model in ("flexmdm", "llada"):
        flags = ["--lora_r", 8, "--gradient_checkpointing"]
        work.train(f"checkpointed_{model}", "text", model, *flags)
        work.train(f"compiled_{model}", "text", model, *flags, "--torch_compile")
    return "with --gradient_checkpointing, and with --torch_compile besides"


def token_budget(work: Work) -> str:
    """--tokens_per_batch against micro-batches of equal rows: losses and gradient norms of both
    models.
    """
    found = []
    for model in ("flexmdm", "llada"):
        logs = []
        for name, budget in (("rows", []), ("budget", ["--tokens_per_batch", 200])):
            flags = ["--lora_r", 8, "--lora_dropout", 0, "--gradient_accumulation_steps", 4]
            final = work.train(f"{name}_{model}", "text", model, *flags, *budget)
            log = (final.parent / "train_log.jsonl").read_text().splitlines()
            logs.append([line for line in map(json.loads, log) if "loss" in line])
        assert any(line["micro_batches_per_step"] != 4 for line in logs[1])
        for rows, budget in zip(*logs, strict=True):
            found += [abs(budget[value] / rows[value] - 1) for value in ("loss", "grad_norm")]
    assert max(found) < 2e-2, f"relative difference {max(found):.1e}"
    return f"relative difference at most {max(found):.1e}"


def kill_and_resume(work: Work) -> str:
    """SIGKILL in the middle; the result equals that of an uninterrupted run (up to rounding on a
    GPU, whose sums have no fixed order).
    """
    import torch
    from safetensors.torch import load_file

    def command(name: str, *flags: str) -> list[Any]:
        flags = ("--all_parameters", "--save_steps", "2", *flags)
        return work.training(name, "text", "flexmdm", *flags, steps=12)

    resumed = command("killed", "--resume_from_checkpoint", "auto")
    whole, killed = work.start(*command("whole")), work.start(*resumed)
    try:
        until = time.monotonic() + 120
        while (
            not (work.folder / "killed/checkpoint-4").exists()
            and killed.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        assert (work.folder / "killed/checkpoint-4").exists() and not (
            work.folder / "killed/final"
        ).exists(), "not killed in its middle"
        work.python(*resumed)
        assert whole.wait(timeout=120) == 0
    finally:
        for process in (whole, killed):
            process.kill()
            process.wait()
    one, other = (
        load_file(str(work.folder / name / "final/model.safetensors"))
        for name in ("whole", "killed")
    )
    error = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert error <= (0 if work.device.type == "cpu" else 5e-3), (
        f"weights differ by up to {error:.1e}"
    )
    return f"weights differ by at most {error:.1e}" + (
        f" in {torch.get_default_dtype()}" if error else ""
    )


def evaluate_only(work: Work) -> str:
    """--evaluate_only prints a bound for both models."""
    text = work.folder / "held_out.txt"
    text.write_text("Tom has 3 apples and 4 pears.\n" * 20)
    for model, flags in (
        ("flexmdm", ["--init_from", work.trained_flexmdm()]),
        ("llada", ["--eval_data", text]),
    ):
        flags = [*flags, "--evaluate_only", "--eval_draws", 2]
        printed = work.script(*work.training(f"only_{model}", "text", model, *flags))
        values = json.loads(printed.strip().splitlines()[-1])
        assert values["nats_per_token"] > 0, printed
    return "both models"


def zero(work: Work) -> str:
    """A short training with each of DeepSpeed's stages 2 and 3, over one process."""
    if not importlib.util.find_spec("deepspeed"):
        raise Skipped("deepspeed is not installed (requirements-cluster.txt)")
    for stage in (2, 3):
        flags = ["--lora_r", 8, "--deepspeed", ROOT / f"scripts/ds_zero{stage}.json"]
        command = work.training(f"zero{stage}", "text", "flexmdm", *flags)
        work.python("-m", "torch.distributed.run", "--nproc_per_node", 1, "--standalone", *command)
        assert (work.folder / f"zero{stage}/final").is_dir()
    return "stages 2 and 3"


def four_bits(work: Work) -> str:
    """A short training over a base of 4 bits."""
    if work.device.type != "cuda" or not importlib.util.find_spec("bitsandbytes"):
        raise Skipped(
            "needs a CUDA GPU" if work.device.type != "cuda" else "bitsandbytes is not installed"
        )
    work.train("four_bits", "text", "flexmdm", "--lora_r", 8, "--load_in_4bit")
    return "a short run with --load_in_4bit"
