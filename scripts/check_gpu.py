#!/usr/bin/env python
"""Check that everything that touches a device works on this GPU. One line per check; all of them
run, even if one fails; exit code 1 if any failed.

    One GPU, at most four minutes; writes results/gpu/check_CARD.json:
        python scripts/check_gpu.py
    The same on a CPU:
        python scripts/check_gpu.py --device cpu
    Some of the checks (--list names them):
        python scripts/check_gpu.py --only golden,samplers
    With numbers of the original LLaDA code, skipped without:
        FLEXMDM_GOLDEN=... python scripts/check_gpu.py

Networks are small (LLaDA-tiny-Base, 1.3 M parameters) and the data is built in: this checks
correctness; scripts/benchmark_gpu.py measures speed. The reference for the GPU is the CPU in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from common.errors import InputError, run
from common.files import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BASE = ROOT / "LLaDA-tiny-Base"
CHECKS: dict[str, Callable[[Work], str]] = {}


class Skipped(Exception):
    """A check that cannot be made here; its text says why."""


def check(function: Callable[[Work], str]) -> Callable[[Work], str]:
    """Make a function one of the checks, under its name."""
    CHECKS[function.__name__] = function
    return function


class Work:
    """One run: its device, its scratch folder, built-in data, and trained checkpoints that later
    checks read.
    """

    def __init__(self, device: torch.device, folder: str | Path, golden: Path | None) -> None:
        self.device, self.folder, self.golden = device, Path(folder), golden
        self.on_cpu = ["--use_cpu"] if device.type == "cpu" else []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false",
            **({"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}),
        }

    def python(self, *words: object, timeout: float = 200) -> str:
        """What a script prints, in a process of its own. Raises RuntimeError with its last lines,
        TimeoutExpired after that many seconds.
        """
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(
                f"{words[0]} ended with {done.returncode}: "
                + " / ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            )
        return done.stdout

    def script(self, name: str, *words: object) -> str:
        """main() of a script in this process; what it prints."""
        printed = io.StringIO()
        before, sys.argv = sys.argv, [name, *map(str, words)]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(Path(name).stem).main()
        finally:
            sys.argv = before
        return printed.getvalue()

    def data(self, kind: str) -> Path:
        """Folder of training rows: text, math or code."""
        output = self.folder / kind
        if not output.exists():
            rows = self.folder / f"{kind}.jsonl"
            self.script(
                "scripts/builtin_data.py",
                kind,
                "--split",
                "train",
                "--n",
                120,
                "--seed",
                3,
                "--output",
                rows,
            )
            script = {
                "text": "flexmdm_transfer_preprocess.py",
                "math": "preprocess_math.py",
                "code": "preprocess_code_infilling.py",
            }[kind]
            self.script(
                script,
                "--data_path",
                rows,
                "--tokenizer",
                BASE,
                "--max_length",
                136,
                "--output_dir",
                output,
                *(["--prompt_field", "prompt"] if kind == "text" else []),
            )
        return output

    def train(self, name: str, kind: str, model: str, *flags: object, steps: int = 3) -> Path:
        """The final folder of a short training, which runs where it is not there yet. kind: text,
        math or code; model: flexmdm or llada.
        """
        output = self.folder / name
        if not (output / "final").exists():
            self.script(*self.training(name, kind, model, *flags, steps=steps))
        lines = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert (
            losses
            and all(loss is not None and loss < 1e6 for loss in losses)
            and not lines[-2].get("nonfinite_steps")
        ), f"losses {losses}"
        return output / "final"

    def training(
        self, name: str, kind: str, model: str, *flags: object, steps: int = 3
    ) -> list[Any]:
        """The script and flags of that training."""
        source: list[object] = [] if "--init_from" in flags else ["--model_name_or_path", BASE]
        task = (
            ["flexmdm_transfer_openwebtext.py"]
            if kind == "text"
            else ["instruction_finetuning.py", "--task", kind]
        )
        return [
            *task,
            "--train_data",
            self.data(kind),
            "--output_dir",
            self.folder / name,
            "--max_steps",
            steps,
            "--sft_max_length",
            136,
            "--logging_steps",
            1,
            "--per_device_train_batch_size",
            4,
            "--learning_rate",
            1e-3,
            "--disable_tqdm",
            "true",
            *source,
            *self.on_cpu,
            *flags,
            *(["--variable_length"] if model == "flexmdm" else []),
        ]

    def flexmdm(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Any:
        """A FlexMDM that was trained a little; fp32 and the run's device unless told otherwise."""
        import torch

        from llada_utils import load_flexmdm

        final = self.train(
            "text_flexmdm",
            "text",
            "flexmdm",
            "--all_parameters",
            "--insertion_schedule",
            "power:5",
            "--time_epsilon",
            0.02,
        )
        return load_flexmdm(final, dtype=dtype or torch.float32, device=device or self.device)

    def llada(
        self, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Any:
        """LLaDA-tiny-Base, in fp32 on the run's device unless told otherwise."""
        import torch

        from llada_utils import load_llada

        return load_llada(BASE, dtype=dtype or torch.float32, device=device or self.device)

    def prompts(self, n: int = 6) -> Tensor:
        """(n, 9) token ids; every other row ends in three of padding."""
        import torch

        generator = torch.Generator().manual_seed(4)
        ids = torch.randint(5, 900, (n, 9), generator=generator)
        ids[::2, 6:] = self.ids["pad_id"]
        return ids

    @property
    def ids(self) -> dict[str, int]:
        """The tokenizer's numbers that samplers ask for."""
        from data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(BASE)
        return dict(
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
            num_tokens=len(tokenizer),
        )


def relative(ours: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((ours.float().cpu() - reference.float()).norm() / reference.float().norm())


@check
def golden(work: Work) -> str:
    """LLaDA's logits against those of the original code."""
    import torch
    from safetensors.torch import load_file

    from llada_utils import load_llada

    if not work.golden or not (work.golden / "llada_tiny/golden.safetensors").exists():
        raise Skipped("FLEXMDM_GOLDEN does not name a folder of golden numbers")
    numbers = load_file(str(work.golden / "llada_tiny/golden.safetensors"))
    found = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        model = load_llada(work.golden / "llada_tiny", dtype=dtype, device=work.device)
        with torch.no_grad():
            found[str(dtype)] = relative(
                model(numbers["input_ids"].to(work.device)).logits, numbers["logits"]
            )
        assert found[str(dtype)] < limit, (
            f"LLaDA in {dtype}: relative error {found[str(dtype)]:.2e}"
        )
    return "LLaDA: " + ", ".join(
        f"{name.removeprefix('torch.')} {error:.1e}" for name, error in found.items()
    )


@check
def network(work: Work) -> str:
    """FlexMDM against the CPU: padded and packed rows, places named or found, graphs and fused
    projections, bf16.
    """
    import torch

    from network.packed_rows import Places
    from sampling.network_graphs import speed_up_sampling

    lengths, width = torch.tensor([5, 0, 40, 33]), 48
    ids = torch.where(
        torch.arange(width) < lengths[:, None],
        torch.randint(5, 900, (4, width)),
        work.ids["pad_id"],
    )
    text, t = torch.arange(width) < lengths[:, None], torch.rand(4)
    wanted = text & (torch.rand(4, width) < 0.5)
    ends = torch.arange(width + 1) <= lengths[:, None]
    places = Places(
        ends.flatten().nonzero()[:, 0].to(work.device),
        wanted.flatten().nonzero()[:, 0].to(work.device),
    )
    on_cpu = work.flexmdm(device="cpu")
    with torch.no_grad():
        reference = on_cpu(ids, t, attention_mask=text, logits_mask=wanted)
        errors = {}
        for dtype, limit in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            model = work.flexmdm(dtype)
            given = dict(attention_mask=text.to(work.device), logits_mask=wanted.to(work.device))
            outputs = [
                model(ids.to(work.device), t.to(work.device), **given, **options)
                for options in ({}, {"places": places})
            ]
            speed_up_sampling(model)
            outputs += [
                model(ids.to(work.device), t.to(work.device), **given, places=places)
                for _ in range(2)
            ]
            errors[dtype] = max(
                max(
                    relative(output["logits"], reference["logits"]),
                    relative(output["length"].cpu()[ends], reference["length"][ends]),
                )
                for output in outputs
            )
            assert errors[dtype] < limit, f"{dtype}: relative error {errors[dtype]:.2e}"
    return ", ".join(
        f"{str(dtype).removeprefix('torch.')} {error:.1e}" for dtype, error in errors.items()
    )


@check
def training(work: Work) -> str:
    """Every script, both models, with and without LoRA; gradients on the device against the
    CPU's.
    """
    for kind in ("text", "math", "code"):
        for model in ("flexmdm", "llada"):
            for how, flags in (("lora", ["--lora_r", 8]), ("all", ["--all_parameters"])):
                work.train(f"{kind}_{model}_{how}", kind, model, *flags)
    return "12 short runs"


@check
def gradients(work: Work) -> str:
    """Loss and gradient of one batch, fp32: the device against the CPU."""
    import torch

    from data.noise_stream import NoiseStream
    from data.token_rows import load_rows
    from flexmdm_trainer import FlexMDMCollator, flexmdm_losses

    found = {}
    for device in ("cpu", work.device):
        model = work.flexmdm(device=device).train()
        collator = FlexMDMCollator(model.config)
        stream = NoiseStream(load_rows(work.data("text"))["train"], 8, 1, seed=1)
        batch = {
            name: value.to(device)
            for name, value in collator([stream[place] for place in range(8)]).items()
        }
        losses = flexmdm_losses(model, batch, collator.interpolant)
        (losses["unmask"] + losses["insertion"]).sum().backward()
        found[str(device)] = torch.cat(
            [parameter.grad.flatten().cpu() for parameter in model.parameters()]
        )
    error = relative(found[str(work.device)], found["cpu"])
    assert error < 1e-3, f"relative error {error:.2e}"
    return f"relative error {error:.1e}"


@check
def checkpointing_and_compile(work: Work) -> str:
    """Both models, with gradient checkpointing, alone and compiled."""
    for model in ("flexmdm", "llada"):
        work.train(
            f"checkpointed_{model}", "text", model, "--lora_r", 8, "--gradient_checkpointing"
        )
        work.train(
            f"compiled_{model}",
            "text",
            model,
            "--lora_r",
            8,
            "--gradient_checkpointing",
            "--torch_compile",
        )
    return "with --gradient_checkpointing, and with --torch_compile besides"


@check
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


@check
def kill_and_resume(work: Work) -> str:
    """SIGKILL in the middle; the result equals that of an uninterrupted run (up to rounding on a
    GPU, whose sums have no fixed order).
    """
    import torch
    from safetensors.torch import load_file

    work.data("text")
    flags, steps = ["--all_parameters", "--save_steps", 2], 12
    whole = subprocess.Popen(
        [sys.executable, *map(str, work.training("whole", "text", "flexmdm", *flags, steps=steps))],
        cwd=ROOT,
        env=work.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    command = work.training(
        "killed", "text", "flexmdm", *flags, "--resume_from_checkpoint", "auto", steps=steps
    )
    killed = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=work.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while (
        not (work.folder / "killed/checkpoint-4").exists()
        and killed.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (work.folder / "killed/checkpoint-4").exists() and not (
        work.folder / "killed/final"
    ).exists(), "not killed in its middle"
    work.python(*command)
    assert whole.wait(timeout=120) == 0
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


@check
def evaluate_only(work: Work) -> str:
    """--evaluate_only prints a bound for both models."""
    work.flexmdm()
    text = work.folder / "held_out.txt"
    text.write_text("Tom has 3 apples and 4 pears.\n" * 20)
    for model, flags in (
        ("flexmdm", ["--init_from", work.folder / "text_flexmdm/final"]),
        ("llada", ["--eval_data", text]),
    ):
        printed = work.script(
            *work.training(
                f"only_{model}", "text", model, *flags, "--evaluate_only", "--eval_draws", 2
            )
        )
        values = json.loads(printed.strip().splitlines()[-1])
        assert values["nats_per_token"] > 0, printed
    return "both models"


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


@check
def flexmdm_samplers(work: Work) -> str:
    """FlexMDM's samplers with each of FLEXMDM_OPTIONS."""
    import torch

    from sampling.flexmdm import generate_flexmdm, generate_flexmdm_infilling

    models = work.flexmdm(device="cpu"), work.flexmdm(), work.flexmdm(torch.bfloat16)
    options = {name: {"max_length": 30, **chosen} for name, chosen in FLEXMDM_OPTIONS.items()}
    return compare_samplers(work, options, models, generate_flexmdm, generate_flexmdm_infilling)


@check
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


@check
def compiled_sampling(work: Work) -> str:
    """--torch_compile, through the command."""
    work.flexmdm()
    printed = work.script(
        "flexmdm_inference.py",
        "--checkpoint_path",
        work.folder / "text_flexmdm/final",
        "--prompt",
        "2+3=",
        "--device",
        work.device,
        "--torch_compile",
        "--sampler",
        "event_driven",
        "--max_length",
        40,
    )
    assert printed.strip() != "", "no answer"
    return "one prompt"


@check
def float8(work: Work) -> str:
    """Weights in float8 against fp32 on the CPU, before and after graphs and compiled blocks."""
    import torch

    from network.float8 import require_float8
    from sampling.network_graphs import speed_up_sampling

    try:
        require_float8(work.device)
    except InputError as reason:
        raise Skipped(str(reason)) from None
    ids, t, on_gpu = torch.randint(5, 900, (4, 48)), torch.rand(4), work.device.type == "cuda"
    model, errors = work.flexmdm(torch.float8_e4m3fn), []
    with torch.no_grad():
        reference = work.flexmdm(device="cpu")(ids, t)["logits"]
        for _ in range(2):
            logits = model(ids.to(work.device), t.to(work.device))["logits"]
            errors.append(relative(logits, reference))
            assert errors[-1] < 0.1, f"relative error {errors[-1]:.2e}"
            speed_up_sampling(model, torch_compile=on_gpu)
    return "relative error " + ", ".join(f"{error:.1e}" for error in errors)


@check
def evaluations(work: Work) -> str:
    """Both evaluation scripts, on built-in items."""
    work.flexmdm()
    where = ["--device", work.device, "--max_length", 128, "--batch_size", 4]
    checkpoints: dict[str, list[object]] = {
        "flexmdm": [
            work.folder / "text_flexmdm/final",
            "--sampler",
            "event_driven",
            "--diffusion_steps",
            40,
        ],
        "llada": [BASE, "--gen_length", 16, "--block_length", 8],
    }
    for task, script, kind in (
        ("math", "eval_gsm8k.py", "math"),
        ("infill", "eval_humaneval_infill.py", "code_infill"),
    ):
        rows = work.folder / f"{task}_test.jsonl"
        work.script(
            "scripts/builtin_data.py",
            kind,
            "--split",
            "test",
            "--n",
            6,
            "--seed",
            1,
            "--output",
            rows,
        )
        for model, (checkpoint, *flags) in checkpoints.items():
            output = work.folder / f"results_{task}_{model}"
            work.script(
                script,
                "--checkpoint_path",
                checkpoint,
                "--data_path",
                rows,
                "--output_dir",
                output,
                *where,
                *flags,
            )
            assert (output / "results.json").exists() or list(output.glob("*.json")), (
                f"{script} wrote no results"
            )
    return "both tasks, both models"


@check
def fsdp2(work: Work) -> str:
    """FSDP2 over one process (NCCL on a GPU): a step equals the step of the model that is not
    sharded.
    """
    import torch

    from training.sharding import shard_by_fsdp2, whole_tensor

    if torch.distributed.is_initialized():
        raise Skipped("a process group exists already")
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
    torch.distributed.init_process_group(
        "nccl" if work.device.type == "cuda" else "gloo", store=store, rank=0, world_size=1
    )
    try:
        ids = torch.randint(5, 900, (2, 12), device=work.device)
        weights = []
        for sharded in (False, True):
            model = work.llada().train()
            if sharded:
                shard_by_fsdp2(model, work.device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            model(ids).logits.float().logsumexp(-1).sum().backward()
            optimizer.step()
            weights.append(
                torch.cat([whole_tensor(parameter).flatten() for parameter in model.parameters()])
            )
        error = relative(weights[1], weights[0].cpu())
        assert error < 1e-5, f"relative error {error:.2e}"
    finally:
        torch.distributed.destroy_process_group()
    return f"relative error {error:.1e}"


@check
def zero(work: Work) -> str:
    """A short training with each of DeepSpeed's stages 2 and 3, over one process."""
    if not importlib.util.find_spec("deepspeed"):
        raise Skipped("deepspeed is not installed (requirements-cluster.txt)")
    for stage in (2, 3):
        command = work.training(
            f"zero{stage}",
            "text",
            "flexmdm",
            "--lora_r",
            8,
            "--deepspeed",
            ROOT / f"scripts/ds_zero{stage}.json",
        )
        work.python("-m", "torch.distributed.run", "--nproc_per_node", 1, "--standalone", *command)
        assert (work.folder / f"zero{stage}/final").is_dir()
    return "stages 2 and 3"


@check
def four_bits(work: Work) -> str:
    """A short training over a base of 4 bits."""
    if work.device.type != "cuda" or not importlib.util.find_spec("bitsandbytes"):
        raise Skipped(
            "needs a CUDA GPU" if work.device.type != "cuda" else "bitsandbytes is not installed"
        )
    work.train("four_bits", "text", "flexmdm", "--lora_r", 8, "--load_in_4bit")
    return "a short run with --load_in_4bit"


def main() -> None:
    """Run the chosen checks; exit code 1 if one failed."""
    parser = make_parser()
    args = parser.parse_args()
    if args.list:
        print("\n".join(CHECKS))
        return
    chosen = args.only.split(",") if args.only else list(CHECKS)
    if set(chosen) - set(CHECKS):
        raise InputError(
            f"--only: {', '.join(sorted(set(chosen) - set(CHECKS)))} is none of {', '.join(CHECKS)}"
        )
    from benchmark_gpu import card

    from network.devices import pick_device

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    device = pick_device(args.device)
    facts, outcomes = card(device), {}
    golden_folder = args.golden or os.environ.get("FLEXMDM_GOLDEN")
    output = args.output or (
        ROOT / "results/gpu" / f"check_{facts['card'].replace(' ', '_')}.json"
        if device.type == "cuda" and not args.only
        else None
    )
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(device, folder, Path(golden_folder) if golden_folder else None)
        for name in chosen:
            torch.manual_seed(0)
            # fp32 is then compared in fp32; training turns TF32 on
            torch.set_float32_matmul_precision("highest")
            started = time.perf_counter()
            try:
                outcome, said = "ok", CHECKS[name](work) or ""
            except Skipped as reason:
                outcome, said = "skipped", str(reason)
            except (Exception, SystemExit) as error:
                outcome = "failed"
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
                print(traceback.format_exc()[-2500:], file=sys.stderr, flush=True)
            seconds = round(time.perf_counter() - started, 1)
            outcomes[name] = {"outcome": outcome, "said": said, "seconds": seconds}
            if output:
                Path(output).parent.mkdir(parents=True, exist_ok=True)
                write_json(output, {**facts, "checks": outcomes})
            print(f"{name:<28}{outcome:<9}{seconds:7.1f} s  {said}", flush=True)
    failed = [name for name, each in outcomes.items() if each["outcome"] == "failed"]
    print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} checks are well"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    if failed:
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    parser.add_argument("--only", help="names of checks, with commas between")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--golden", help="folder of golden numbers (default: $FLEXMDM_GOLDEN)")
    parser.add_argument(
        "--output", help="JSON file (default on a GPU: results/gpu/check_CARD.json)"
    )
    return parser


if __name__ == "__main__":
    run(main)
