"""Estimate the cost of a training run without its weights: parameters by group, bytes per GPU for
each way of sharding, steps, GPU hours (--dry_run).

The network is built on torch's meta device, so LLaDA-8B costs nothing here. Activation bytes are
measured on a small block of the same code (what autograd saves per token, by width) and scaled up.
GPU hours are floating point operations / (peak x MFU); MFU has its usual meaning, without the
recomputation of gradient checkpointing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.files import read_json
from llada_dit import LLaDABlock, LLaDAModelLM, rope
from llada_utils import build_flexmdm
from network.checkpoint_folder import flexmdm_config, llada_config, named_base
from network.config import FlexMDMConfig, LLaDAConfig
from network.cross_entropy import CHUNK_BYTES
from network.lora import add_lora
from network.packed_rows import PaddedRows

if TYPE_CHECKING:
    from training.arguments import RunArguments

# Dense bf16 peaks in floating point operations per second, from NVIDIA's data sheets; a GPU's name
# contains the key.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
GIB = 2**30


def peak_flops(device: torch.device) -> float | None:
    """Peak of this process's GPU, or None if it is not known (then no MFU is logged)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def size_of(parameter: Tensor) -> int:
    """Number of elements, also if ZeRO-3 holds only a shard, or 4-bit values are packed two per
    byte.
    """
    packed = getattr(parameter, "quant_state", None)
    return (
        packed.shape.numel()
        if packed is not None
        else getattr(parameter, "ds_numel", parameter.numel())
    )


def flops_per_token(model: nn.Module) -> int:
    """Operations per token that passes through the network in training: per weight 2 forward, 2 for
    the gradient of its input, and 2 for its own gradient if it is trained. Matrices only, without
    the embedding (a look-up) and the vocabulary head (masked positions only).
    """
    return sum(
        size_of(parameter) * (6 if parameter.requires_grad else 4)
        for name, parameter in model.named_parameters()
        if "norm" not in name
        and "ln_f" not in name
        and "wte" not in name
        and "transformer.ff_out" not in name
        and not name.endswith("bias")
    )


def parameter_groups(model: nn.Module) -> dict[str, tuple[int, bool]]:
    """{group: (elements, trained)} in the order of the paper's list."""
    groups: dict[str, tuple[int, bool]] = {}
    for name, parameter in model.named_parameters():
        group = (
            "LoRA"
            if ".lora_" in name
            else (
                "time MLP"
                if "time_mlp" in name
                else (
                    "AdaLN"
                    if "temb_mods" in name
                    else "insertion head"
                    if "scalar_length_head" in name or "length_distribution" in name
                    else "base"
                )
            )
        )
        groups[group] = (
            groups.get(group, (0, False))[0] + parameter.numel(),
            parameter.requires_grad,
        )
    return groups


def elements(model: nn.Module) -> tuple[int, int]:
    """(frozen, trained) elements of a model."""
    sizes = [0, 0]
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += size_of(parameter)
    return sizes[0], sizes[1]


def meta_model(args: "RunArguments", folder: str | Path | None = None) -> Any:
    """The model that the flags describe, on the meta device; no weights are read or downloaded.
    Raises InputError.

    folder: local folder of --init_from or --model_name_or_path, if it is a hub id that has been
    downloaded.
    """
    source = folder or args.init_from or args.model_name_or_path
    lora = args.lora_settings()
    if args.init_from and args.variable_length:
        return build_flexmdm(flexmdm_config(Path(source)))
    adapter = Path(source) / "adapter_config.json"
    if adapter.exists():  # LoRA of a LLaDA: the base that it names
        try:
            base, lora["r"] = named_base(Path(source)), int(read_json(adapter)["r"])
        except (KeyError, TypeError, ValueError):
            base = None
        if base is None:
            raise InputError(f"{adapter} does not name its base and rank")
        source = base
    if Path(source).is_dir():
        config = llada_config(Path(source))
    elif source == "GSAI-ML/LLaDA-8B-Base":
        config = LLaDAConfig()  # its defaults are this model's config.json
    else:
        raise InputError(
            "--model_name_or_path: --dry_run knows GSAI-ML/LLaDA-8B-Base and local folders, not"
            f" {source}"
        )
    if args.variable_length:
        settings = args.flexmdm_settings()
        return build_flexmdm(
            FlexMDMConfig(
                backbone=config.to_json(),
                mask_token_id=config.mask_token_id,
                pad_token_id=config.pad_token_id,
                **settings,
            )
        )
    with torch.device("meta"):
        model = LLaDAModelLM(config)
    return model if args.all_parameters and not adapter.exists() else add_lora(model, lora)


def saved_bytes_a_token(width: int, mlp_width: int, heads: int, kv_heads: int) -> float:
    """Bytes that autograd keeps for one token in one block under bf16 autocast: measured on two
    small blocks, linear in the widths.
    """

    def measure(scale):
        d, h = 64 * scale, round(64 * scale * mlp_width / width / 8) * 8
        config = LLaDAConfig(
            d_model=d,
            n_heads=2,
            n_kv_heads=max(1, round(2 * kv_heads / heads)),
            n_layers=1,
            mlp_hidden_size=h,
        )
        with torch.random.fork_rng():
            block = LLaDABlock(config).bfloat16()
        x = torch.zeros(1, 128, d, dtype=torch.bfloat16, requires_grad=True)
        weights = {parameter.data_ptr() for parameter in block.parameters()}
        sizes = {}

        def keep(tensor):
            if tensor.data_ptr() not in weights:
                sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            cos, sin = (table[:, None] for table in rope(torch.arange(128), d // 2, 1e4))
            out = block(
                x,
                cos,
                sin,
                PaddedRows(128, None, "cpu"),
                *(torch.zeros(1, d, requires_grad=True) for _ in range(2)),
            )
        del out
        return sum(sizes.values()) / 128

    return (measure(3) - measure(1)) / 128 * width


def most_tokens(args: "RunArguments") -> int:
    """Tokens that a micro-batch can have at most: rows of full length, or what --tokens_per_batch
    allows, where a longer row is a micro-batch of its own.
    """
    longest = args.sft_max_length + args.variable_length
    rows = args.per_device_train_batch_size * longest
    budget = args.tokens_per_batch
    return rows if budget is None else min(rows, max(budget, longest))


def activation_bytes(config: Mapping[str, Any], tokens: int, checkpointing: bool) -> float:
    """Bytes of activations of one micro-batch of that many tokens, in bf16."""
    block = (
        saved_bytes_a_token(
            config["d_model"], config["mlp_hidden_size"], config["n_heads"], config["n_kv_heads"]
        )
        * tokens
    )
    held = (
        config["n_layers"] * tokens * config["d_model"] * 2 + block
        if checkpointing
        else config["n_layers"] * block
    )
    return held + 5 * CHUNK_BYTES


def bytes_a_gpu(
    frozen: float, trained: float, gpus: int, gathered: float, averaged: bool = False
) -> dict[str, dict[str, float]]:
    """{strategy: {what: bytes}} of weights, gradients and optimizer. frozen, trained: elements;
    gathered: elements that a sharded run temporarily holds in full. Without DeepSpeed: bf16 base,
    fp32 trained weights and gradients, 8 bytes of AdamW. DeepSpeed: everything bf16, and 12 bytes
    per trained weight (fp32 master, two moments) in the optimizer. averaged: --ema_decay, which
    keeps the trained weights twice; DeepSpeed has no such run."""
    n, held = gpus, 8 if averaged else 4
    strategies: dict[str, dict[str, float]] = {
        # and DDP's buckets
        "DDP (no flag)": {
            "weights": 2 * frozen + held * trained,
            "gradients": 8 * trained,
            "optimizer": 8 * trained,
        },
        "ds_zero1.json": {
            "weights": 2 * (frozen + trained),
            "gradients": 2 * trained,
            "optimizer": 12 * trained / n,
        },
        "ds_zero2.json": {
            "weights": 2 * (frozen + trained),
            "gradients": 2 * trained / n,
            "optimizer": 12 * trained / n,
        },
        "ds_zero3.json": {
            "weights": 2 * (frozen + trained) / n + 2 * gathered,
            "gradients": 2 * trained / n,
            "optimizer": 12 * trained / n,
        },
        "ds_zero3_offload.json": {
            "weights": 2 * gathered,
            "gradients": 2 * trained / n,
            "optimizer": 0,
        },
        "--fully_shard": {
            "weights": (2 * frozen + held * trained) / n + 2 * gathered,
            "gradients": 4 * trained / n,
            "optimizer": 8 * trained / n,
        },
    }
    return {name: parts for name, parts in strategies.items() if not (averaged and "ds_" in name)}


def strategy_of(args: "RunArguments") -> str:
    """Which of bytes_a_gpu's strategies a run uses."""
    if not args.deepspeed:
        return "--fully_shard" if args.engine == "sharded" else "DDP (no flag)"
    zero = args.hf_deepspeed_config.config.get("zero_optimization", {})
    offload = "_offload" if zero.get("stage") == 3 and "offload_param" in zero else ""
    return f"ds_zero{zero['stage']}{offload}.json" if zero.get("stage") else "DDP (no flag)"


def run_bytes(args: "RunArguments", model: Any, gpus: int) -> dict[str, dict[str, float]]:
    """{strategy: {"weights", "gradients", "optimizer", "activations": bytes per GPU}} of a run."""
    config = (model.backbone if args.variable_length else model).config.to_json()
    frozen, trained = elements(model)
    checkpointing = bool(args.gradient_checkpointing or args.activation_checkpointing)
    activations = activation_bytes(config, most_tokens(args), checkpointing)
    outside = 2 * config["embedding_size"] * config["d_model"]
    block = (frozen - outside) / config["n_layers"]
    parts_of = bytes_a_gpu(frozen, trained, gpus, outside + 2 * block, args.ema_decay is not None)
    return {strategy: {**parts, "activations": activations} for strategy, parts in parts_of.items()}


def dry_run(args: "RunArguments", mean_length: float | None = None) -> None:
    """Print the estimate. mean_length: mean tokens of x1 per row, if --train_data was given."""
    model = meta_model(args)
    backbone = model.backbone.config if args.variable_length else model.config
    config = backbone.to_json()
    groups = parameter_groups(model)
    frozen, trained = elements(model)
    gpus, length = args.dry_run_gpus, args.sft_max_length
    mean_length = mean_length or length
    print(
        f"{'FlexMDM' if args.variable_length else 'LLaDA'} from"
        f" {args.init_from or args.model_name_or_path}, no weights read"
    )
    for group, (size, trains) in groups.items():
        print(f"  {group:<16}{size:>16,}  {'trained' if trains else 'frozen'}")
    print(f"  {'trained in all':<16}{trained:>16,}  of {frozen + trained:,}")
    rows = args.per_device_train_batch_size
    checkpointing = args.gradient_checkpointing or args.activation_checkpointing
    micro_batch = (
        f"micro-batch {rows} x {length} tokens"
        if args.tokens_per_batch is None
        else f"micro-batches of up to {most_tokens(args):,} tokens"
    )
    print(
        f"GiB per GPU on {gpus} GPUs, {micro_batch},"
        f" {'with' if checkpointing else 'without'} gradient checkpointing"
        f"{', weights with their averages' if args.ema_decay else ''}:"
    )
    print(
        f"  {'':<24}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}{'sum':>8}"
    )
    for strategy, parts in run_bytes(args, model, gpus).items():
        values = [parts[name] for name in ("weights", "gradients", "optimizer", "activations")]
        print(
            f"  {strategy:<24}"
            + "".join(
                f"{value / GIB:>{width}.1f}"
                for value, width in zip([*values, sum(values)], (10, 11, 11, 13, 8))
            )
        )
    offloaded = (
        f"offload keeps {(2 * (frozen + trained) + 12 * trained) / GIB:.1f} GiB, spread over the"
        " nodes, in main memory; "
    )
    print(f"  ({'' if args.ema_decay else offloaded}add 1 to 2 GiB per GPU for CUDA and NCCL)")
    batch = rows * args.gradient_accumulation_steps * gpus
    x1_tokens = batch * mean_length
    steps = args.max_steps if args.max_steps > 0 else round(args.dry_run_tokens / x1_tokens)
    # of x1's tokens, linear schedules, mean over t
    passed, masked = (0.5, 0.25) if args.variable_length else (1.0, 0.5)
    # q k and a v: 4 L d forward, 8 backward
    attention = 12 * config["n_layers"] * config["d_model"] * length * passed
    head = 4 * config["embedding_size"] * config["d_model"] * masked / passed
    operations = steps * x1_tokens * passed * (flops_per_token(model) + attention + head)
    hours = operations / (args.gpu_tflops * 1e12 * args.mfu) / 3600
    print(
        f"steps: {steps:,} of {batch} rows, {x1_tokens:,.0f} tokens of x1 per step"
        f" ({mean_length:.0f} per row), {steps * x1_tokens:.3g} in all; {passed:.0%} of them pass"
        f" the network, {masked:.0%} are masks"
    )
    print(
        f"GPU hours: {hours:,.0f} at {args.mfu:.0%} of {args.gpu_tflops:.0f} TFLOP/s, that is"
        f" {hours / gpus:,.1f} hours on {gpus} GPUs ({operations:.3g} operations)"
    )
    print(
        "  (--mfu is an assumption. Not counted: reading data, saving, what gradient checkpointing"
        " computes again, and padding. The paper reports three days on 16 H100 for 200,000 steps of"
        " 64 rows; its code pads every row to 1,024 tokens, twice what is counted here, and its MFU"
        " is not known)"
    )
