#!/usr/bin/env python
r"""Check the code at LLaDA-8B's real size: write a random checkpoint with its exact config, tensor
names, shapes and six shards, then use it as a run would.

    16 GB of disk, 17 GiB of memory, CPU:
        python scripts/check_8b.py --scratch /big/disk --tokenizer llada_tokenizer
    Seconds:
        python scripts/check_8b.py --scratch scratch --tokenizer llada_tokenizer \
            --n_layers 1 --d_model 64 --n_heads 2 --mlp_hidden_size 96

Each stage is a process of its own, so that its peak memory is its own; every line says seconds and
peak resident memory:
    write     six safetensors shards and their index, one shard in memory at a time
    use       load in bf16, attach the FlexMDM parts (402,657,281 trained parameters at full size),
              four network evaluations, save the trained part
    reload    load base and trained part again, compare every trained tensor, one evaluation
What it wrote is deleted at the end, unless --keep.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmark_training import status_mib

from common.command_line import ArgumentParser
from common.errors import run
from common.files import require_writable

if TYPE_CHECKING:
    from torch import Tensor

    from llada_dit import LLaDADiT
    from network.config import LLaDAConfig
    from sampling.results import GenerationResult

SHARDS, LIMIT_GIB = 6, 18.0
SIZES = ("n_layers", "d_model", "n_heads", "mlp_hidden_size")


def peak_gib() -> float:
    """Peak resident memory of this process, mapped files included."""
    return status_mib("VmHWM") / 1024


class Clock:
    """Says after each step how long it took, and the peak memory so far."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def say(self, text: str) -> None:
        """Print the seconds since the last line, or since the beginning."""
        now = time.perf_counter()
        print(f"{text:<78}{now - self.started:8.1f} s   peak {peak_gib():5.2f} GiB", flush=True)
        self.started = now


def config_of(args: argparse.Namespace) -> LLaDAConfig:
    """LLaDA-8B's config, with the sizes that were given."""
    from network.config import LLaDAConfig

    config = LLaDAConfig()  # LLaDA-8B's
    for size in SIZES:
        if getattr(args, size):
            setattr(config, size, getattr(args, size))
    config.n_kv_heads = config.n_heads
    return config


def write(args: argparse.Namespace, base: Path) -> None:
    """Random bf16 weights of LLaDA's scale, in the order of its tensors, cut into six shards of
    about the same size.
    """
    import torch
    from safetensors.torch import save_file

    from data.tokenizer import load_tokenizer
    from llada_dit import LLaDAModelLM

    clock, config = Clock(), config_of(args)
    with torch.device("meta"):
        shapes = {
            name: parameter.shape for name, parameter in LLaDAModelLM(config).named_parameters()
        }
    total = sum(shape.numel() for shape in shapes.values())
    so_far = 0
    shard = 1
    weight_map: dict[str, str] = {}
    content: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    base.mkdir(parents=True)

    def flush():
        file = f"model-{shard:05d}-of-{SHARDS:05d}.safetensors"
        save_file(content, base / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(content, file))
        clock.say(f"write: {file}, {len(content)} tensors")
        content.clear()

    for name, shape in shapes.items():
        content[name] = (
            torch.ones(shape, dtype=torch.bfloat16)
            if "norm" in name or "ln_f" in name
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        )
        so_far += shape.numel()
        if so_far >= total * shard / SHARDS:
            flush()
            shard += 1
    if content:
        flush()
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 2 * total}, "weight_map": weight_map})
    )
    (base / "config.json").write_text(json.dumps(config.to_json()))
    load_tokenizer(args.tokenizer).save_pretrained(str(base))
    print(f"write: {len(shapes)} tensors, {total:,} parameters, {2 * total / 2**30:.2f} GiB")


def evaluate(model: LLaDADiT, evaluations: int) -> GenerationResult:
    """Generate after a prompt of 16 tokens with that many network evaluations."""
    import torch

    from sampling.flexmdm import generate_flexmdm

    ids = torch.randint(0, 1000, (1, 16), generator=torch.Generator().manual_seed(1))
    return generate_flexmdm(
        model,
        ids,
        steps=evaluations,
        max_length=24,
        mask_id=model.config.mask_token_id,
        pad_id=model.config.pad_token_id,
        temperature=1.0,
        seeds=torch.tensor([3]),
    )


def use(args: argparse.Namespace, base: Path) -> None:
    """Make a FlexMDM of the base, evaluate it, and save its trained part beside the base."""
    import torch

    from data.tokenizer import load_tokenizer
    from llada_utils import new_flexmdm, write_checkpoint

    clock = Clock()
    clock.say("use: imports")
    model = new_flexmdm(
        str(base), dtype=torch.bfloat16, lora={"r": 128, "lora_alpha": 128, "lora_dropout": 0.1}
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    clock.say(f"use: loaded in bf16, FlexMDM parts attached, {trained:,} trained parameters")
    # B and the modulation start at zero: say something, so that reloading is a test
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=1e-3)
    result = evaluate(model, 4)
    clock.say(
        f"use: {int(result.evaluations[0])} network evaluations, {int(result.lengths[0])} tokens"
    )
    folder = base.with_name("trained")
    folder.mkdir()
    write_checkpoint(model, folder, load_tokenizer(str(base)))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30
    clock.say(f"use: trained part saved, {size:.2f} GiB")
    check_memory()


def reload(args: argparse.Namespace, base: Path) -> None:
    """Load what use() saved; every trained tensor must be the file's."""
    import torch

    from llada_utils import load_flexmdm
    from network.tensor_files import read_tensors

    clock = Clock()
    clock.say("reload: imports")
    model = load_flexmdm(str(base.with_name("trained")), dtype=torch.bfloat16, merge=False)
    clock.say("reload: base and trained part loaded")
    parameters, compared = dict(model.named_parameters()), 0
    for name, tensor in read_tensors(base.with_name("trained")):
        assert torch.equal(parameters[name], tensor), name
        compared += tensor.numel()
    result = evaluate(model, 1)
    clock.say(
        f"reload: {compared:,} trained parameters equal, {int(result.evaluations[0])} evaluation"
    )
    check_memory()


def check_memory() -> None:
    """End with exit code 1 where this process has needed more than LIMIT_GIB."""
    if peak_gib() > LIMIT_GIB:
        print(f"error: peak memory {peak_gib():.2f} GiB is above {LIMIT_GIB} GiB", file=sys.stderr)
        sys.exit(1)


def make_parser() -> ArgumentParser:
    """The command's flags."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scratch",
        required=True,
        help="folder on a disk with 18 GB free; a new folder is made in it",
    )
    parser.add_argument("--tokenizer", required=True, help="folder or hub id of LLaDA's tokenizer")
    for size in SIZES:
        parser.add_argument(
            f"--{size}", type=int, help="instead of LLaDA-8B's, to try the script out"
        )
    parser.add_argument("--keep", action="store_true", help="leave what was written")
    parser.add_argument("--stage", choices=["write", "use", "reload"], help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run the three stages, each as a process of its own, or with --stage one of them here."""
    parser = make_parser()
    args = parser.parse_args()
    folder = Path(args.scratch) / "check_8b"
    if args.stage:
        {"write": write, "use": use, "reload": reload}[args.stage](args, folder / "base")
        return
    if folder.exists():
        parser.error(f"--scratch: {folder} exists, remove it first")
    require_writable(args.scratch, "--scratch")
    Path(args.scratch).mkdir(parents=True, exist_ok=True)
    if (
        not any(getattr(args, size) for size in SIZES)
        and shutil.disk_usage(args.scratch).free < 18e9
    ):
        parser.error(f"--scratch: {args.scratch} has less than 18 GB free")
    try:
        for stage in ("write", "use", "reload"):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--stage", stage], check=True)
        print("all of it passed")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(main)
