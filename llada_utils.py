r"""Loading and saving: a LLaDA, a new FlexMDM, checkpoints of every kind, tokenizer, export.

Formats that can be read, by the files of a folder (or hub id):
    LLaDA             config.json (model_type llada) + model.safetensors, or shards with
                      model.safetensors.index.json
    PEFT adapter      adapter_config.json + adapter_model.safetensors: LoRA for a LLaDA base (what
                      our baseline training writes)
    FlexMDM           config.json (model_type flexmdm) + model.safetensors: ours, the trainable
                      tensors or (exported) all tensors
    paper's FlexMDM   pytorch_model.bin of the authors' code; `base` then names the folder whose
                      config.json fits it
Missing, unexpected or misshapen tensors are errors that list them. No code from the Hub is ever
run.

Merge LoRA into a folder that loads without peft or base:
    python llada_utils.py export --checkpoint_path runs/IFT_math --output_dir merged
(other bases than LLaDA's: scripts/new_base.py)
"""

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.command_line import ArgumentParser, finite_number
from common.errors import InputError, run
from common.files import (
    complete_folder,
    require_replaceable,
    resolve_folder,
    write_json,
    write_text,
)
from common.progress import ending
from data.tokenizer import load_tokenizer
from llada_dit import LLaDADiT, LLaDAModelLM
from network.base import NetworkBase
from network.checkpoint_folder import (
    backbone_config,
    base_of_checkpoint,
    checkpoint_kind,
    flexmdm_config,
    has_flexmdm_config,
    lasting_name,
    llada_config,
    named_base,
)
from network.config import FlexMDMConfig
from network.devices import pick_device, pick_dtype
from network.fast_blocks import compile_network
from network.float8 import is_float8, require_float8, to_float8
from network.lora import (
    add_lora,
    in_adapter,
    merge_lora,
    read_adapter_config,
    with_base_layer,
    write_adapter,
)
from network.paper_checkpoint import read_paper_checkpoint
from network.pretrained import (
    HUB_ARGUMENTS,
    model_card,
    refuse_other_config,
    refuse_others,
    wanted_device,
    wanted_dtype,
    wanted_quantization,
)
from network.quantization import quantize_base
from network.tensor_files import backbone_tensors, load_into, read_tensors, write_tensors

# for users, wherever in network/ it lives
__all__ = [
    "build_flexmdm",
    "checkpoint_kind",
    "compile_network",
    "export_merged",
    "load_flexmdm",
    "load_into",
    "load_llada",
    "load_pretrained",
    "load_tokenizer",
    "new_flexmdm",
    "pick_device",
    "pick_dtype",
    "read_tensors",
    "write_checkpoint",
]

Network = TypeVar("Network", bound=NetworkBase)


# ---- loading -------------------------------------------------------------------------------------


def load_llada(
    path_or_hub_id: str | Path,
    base: str | Path | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    merge: bool = True,
    **hub_arguments: Any,
) -> LLaDAModelLM:
    """A LLaDA base or instruct model, or one with a PEFT adapter folder on it, in eval mode.

    base: overrides the base that an adapter folder names; dtype None: every tensor as it is stored,
    torch.float8_e4m3fn: bf16 but for the blocks' matrices (network/float8.py); merge=False keeps
    the adapter trainable beside a frozen base; hub_arguments: as revision, of a hub id.
    model(input_ids, attention_mask=None).logits is (B, L, V). Raises InputError for anything that
    does not fit.
    """
    if dtype == torch.float8_e4m3fn:
        require_float8(device, merge)
        on_cpu = load_llada(path_or_hub_id, base, torch.bfloat16, **hub_arguments)
        return to_float8(on_cpu, device)
    folder = resolve_folder(path_or_hub_id, **hub_arguments)
    if not (folder / "adapter_config.json").exists():
        config = llada_config(folder)
        with torch.device("meta"):
            model = LLaDAModelLM(config)
        load_into(model, read_tensors(folder), lambda name: dtype, device, folder)
        model.name_or_path = str(path_or_hub_id)  # an adapter on it names it as its base
        return beside_weights(model, folder).eval()
    adapter = read_adapter_config(folder)
    base_folder = base_of_checkpoint(folder, base, **hub_arguments)
    model = load_llada(base_folder, dtype=dtype, device=device)
    model.name_or_path = str(base or named_base(folder))  # a hub id, not its local copy
    model.drop_length_distribution()  # fitted to the base alone
    add_lora(model, adapter)
    names = {in_adapter(name): name for name, p in model.named_parameters() if p.requires_grad}
    tensors = (
        (names.get(name, name), tensor)
        for name, tensor in read_tensors(folder, "adapter_model.safetensors")
    )
    load_into(model, tensors, lambda name: torch.float32, device, folder, expected=names.values())
    beside_weights(model, folder, base_folder)
    if merge:
        merge_lora(model).name_or_path = str(path_or_hub_id)
    return model.eval()


def beside_weights(model: Network, *folders: Path) -> Network:
    """Note on the model what lies beside its weights: the card of the first folder, and which
    folder has its tokenizer. Returns the model.
    """
    card = folders[0] / "README.md"
    model.card = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    with_tokenizer = [folder for folder in folders if (folder / "tokenizer.json").is_file()]
    model.tokenizer_folder = with_tokenizer[0].absolute() if with_tokenizer else None
    return model


@lru_cache(maxsize=8)
def vocabulary_of(folder: Path) -> int:
    """Number of ids that a folder's tokenizer knows; the embedding may have more rows. Raises
    InputError.
    """
    return len(load_tokenizer(folder))


def build_flexmdm(config: FlexMDMConfig) -> LLaDADiT:
    """LLaDADiT on the meta device, with LoRA where the config has it. Raises InputError."""
    try:
        with torch.device("meta"):
            model = LLaDADiT(config)
    except ValueError as error:
        raise InputError(str(error)) from None
    if config.lora:
        add_lora(model.backbone, config.lora)
    return model


def new_flexmdm(
    base: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **settings: Any,
) -> LLaDADiT:
    """A FlexMDM that starts as the LLaDA `base` (path or hub id): its weights, zero modulation, a
    newly initialised insertion head; in eval mode.

    settings: fields of FlexMDMConfig; lora=None trains every parameter. Newly initialised modules
    and adapters are fp32, the base `dtype` (float8_e4m3fn, without LoRA: as in load_llada). Raises
    InputError.
    """
    if dtype == torch.float8_e4m3fn:
        require_float8(device, not settings.get("lora"))
        return to_float8(new_flexmdm(base, torch.bfloat16, **settings), device)
    folder = resolve_folder(base)
    backbone = llada_config(folder)
    config = FlexMDMConfig(
        backbone=backbone_config(backbone.to_json()),
        base_model_name_or_path=lasting_name(str(base)),
        mask_token_id=backbone.mask_token_id,
        pad_token_id=backbone.pad_token_id,
        saved_weights="trainable" if settings.get("lora") else "full",
        **settings,
    )
    model = build_flexmdm(FlexMDMConfig(**{**config.own_fields(), "lora": None}))
    tensors = backbone_tensors(read_tensors(folder))
    load_into(model.backbone, tensors, lambda name: dtype, device, folder)
    for part in model.new_parts():
        part.to_empty(device=device)
    model.init_new_parts()
    model.config = config
    if config.lora:
        add_lora(model.backbone, config.lora)
    beside_weights(model, folder).card = ""  # that of another model
    return model.eval()


def load_flexmdm(
    checkpoint: str | Path,
    base: str | Path | None = None,
    lora_alpha: float | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    merge: bool = True,
    **hub_arguments: Any,
) -> LLaDADiT:
    """A FlexMDM checkpoint of ours, an exported one, or the paper code's pytorch_model.bin (then
    `base` is needed), in eval mode.

    lora_alpha: of pytorch_model.bin, which does not hold it (default: r). dtype is the
    backbone's, as in load_llada, and newly initialised modules stay fp32; None: every tensor as it
    is stored. merge=False keeps LoRA beside a frozen base; hub_arguments: as revision, of a hub id.
    Raises InputError for anything that does not fit.
    """
    if dtype == torch.float8_e4m3fn:
        require_float8(device, merge)
        on_cpu = load_flexmdm(checkpoint, base, lora_alpha, torch.bfloat16, **hub_arguments)
        return to_float8(on_cpu, device)
    folder = resolve_folder(checkpoint, "--checkpoint_path", **hub_arguments)
    if checkpoint_kind(folder) != "flexmdm":
        raise InputError(f"--checkpoint_path: {checkpoint} is a LLaDA, not a FlexMDM")

    def dtype_of(name: str) -> torch.dtype | None:
        of_base = name.startswith("backbone.") and ".lora_" not in name
        return dtype if dtype is None or of_base else torch.float32

    base_folder = None
    if not has_flexmdm_config(folder):  # the paper code's
        config, tensors = read_paper_checkpoint(folder, base, lora_alpha)
        model = build_flexmdm(config)
        load_into(model, tensors, dtype_of, device, folder / "pytorch_model.bin")
        base_folder = base_of_checkpoint(folder, base)
    else:
        config = flexmdm_config(folder)
        stored = (config.lora or {}).get("lora_alpha")
        if lora_alpha not in (None, stored):
            raise InputError(
                f"--lora_alpha {lora_alpha}: only for checkpoints of the paper's code; {checkpoint}"
                f" {'stores its own, ' + str(stored) if stored else 'has no LoRA'}"
            )
        model = build_flexmdm(config)
        names = dict(model.named_parameters())
        if config.saved_weights == "full":
            # older versions wrote a LLaDA's own length distribution, too
            stored_here = backbone_tensors(read_tensors(folder), "backbone.")
            load_into(model, stored_here, dtype_of, device, folder)
        else:
            base_folder = base_of_checkpoint(folder, base, **hub_arguments)
            assert config.backbone is not None  # from_json refuses it
            own = llada_config(base_folder).to_json()
            if backbone_config(own) != backbone_config(config.backbone):
                raise InputError(
                    f"--base_model: {base_folder} has another config.json than the base of {folder}"
                )
            frozen = {name for name, parameter in names.items() if not parameter.requires_grad}
            place = with_base_layer(names)
            load_into(
                model,
                (
                    (place(f"backbone.{name}"), tensor)
                    for name, tensor in backbone_tensors(read_tensors(base_folder))
                ),
                dtype_of,
                device,
                base_folder,
                expected=frozen,
            )
            load_into(
                model, read_tensors(folder), dtype_of, device, folder, expected=set(names) - frozen
            )
    model.name_or_path = str(checkpoint)
    beside_weights(model, *filter(None, (folder, base_folder)))
    return (merge_lora(model) if merge else model).eval()


def load_pretrained(
    kind: type[Network],
    name: str | Path,
    *,
    config: Any = None,
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    adapter_kwargs: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    lora_alpha: float | None = None,
    merge: bool = True,
    **others: Any,
) -> Network:
    """load_flexmdm or load_llada with the arguments of transformers' from_pretrained; AutoModel
    calls this, too.

    Args:
        kind: LLaDADiT or LLaDAModelLM; name: folder or hub id.
        config: refused unless it is the checkpoint's own.
        dtype, torch_dtype: None or "auto": every tensor as it is stored; else as load_flexmdm.
        device_map: one device (default: cpu), or "auto": the GPU if there is one.
        quantization_config: a BitsAndBytesConfig with load_in_4bit: the blocks' matrices in 4 bits;
            LoRA is then kept beside them.
        adapter_kwargs: from AutoModel, which replaces the name of an adapter by its base's.
        base, lora_alpha, merge: as load_flexmdm.
        others: revision, cache_dir, token, local_files_only and force_download, of a hub id.

    Returns the network in eval mode. Raises InputError.
    """
    adapter = adapter_kwargs or {}
    where = {key: others.pop(key) for key in HUB_ARGUMENTS if key in others}
    if "_adapter_model_path" in adapter:
        name, where["revision"] = adapter["_adapter_model_path"], adapter.get("revision")
    refuse_others(others, "from_pretrained")
    wanted = wanted_dtype(dtype if dtype is not None else torch_dtype)
    four_bits = wanted_quantization(quantization_config)
    device = pick_device(wanted_device(device_map))
    folder = resolve_folder(name, "from_pretrained", **where)
    flexmdm = issubclass(kind, LLaDADiT)
    if checkpoint_kind(folder, "from_pretrained") != ("flexmdm" if flexmdm else "llada"):
        other = "LLaDAModelLM" if flexmdm else "LLaDADiT"
        raise InputError(f"from_pretrained: {name} is no {kind.__name__}; {other} loads it")
    if config is not None:
        adapted = (folder / "adapter_config.json").exists()
        its_base = base_of_checkpoint(folder, base, **where) if adapted else folder
        refuse_other_config(config, flexmdm_config(folder) if flexmdm else llada_config(its_base))
    settings: dict[str, Any] = {"base": base, "dtype": wanted, "merge": merge and not four_bits}
    settings |= {"device": "cpu" if four_bits else device, **where}
    model: Any
    if flexmdm:
        model = load_flexmdm(name, lora_alpha=lora_alpha, **settings)
    else:
        refuse_others({"lora_alpha": lora_alpha}, "from_pretrained of a LLaDA")
        model = load_llada(name, **settings)
    if four_bits:
        for parameter_name, parameter in model.named_parameters():
            if ".blocks." in parameter_name and ".lora_" not in parameter_name:
                parameter.requires_grad_(False)
        quantize_base(model, **four_bits).to(device)
    return model


# ---- saving --------------------------------------------------------------------------------------


def write_checkpoint(
    model: Any,
    folder: str | Path,
    tokenizer: Any,
    state: Mapping[str, Tensor] | None = None,
    card: str = "",
) -> None:
    """Write a model of either kind into an existing folder: config, tensors, tokenizer (unless it
    is None) and model card (default: the one it was loaded with).

    FlexMDM: the trainable tensors (config.saved_weights), LLaDA with LoRA: a PEFT adapter
    folder, LLaDA: a LLaDA folder.
    state: the full state dict if the model itself does not hold it (ZeRO, FSDP). Raises InputError
    for weights in float8 or 4 bits.
    """
    folder, base = Path(folder), None
    state = dict(model.state_dict()) if state is None else state
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    flexmdm, adapted = isinstance(model, LLaDADiT), hasattr(model, "peft_config")
    if adapted or flexmdm and model.config.saved_weights == "trainable":
        state = {name: tensor for name, tensor in state.items() if name in trainable}
    if any(is_float8(tensor) or not tensor.is_floating_point() for tensor in state.values()):
        raise InputError(
            "weights in float8 or 4 bits are not saved: save the model without quantization"
        )
    if flexmdm or not adapted:
        write_tensors(state, folder)
        write_json(folder / "config.json", model.config.to_json())
        base = getattr(model.config, "base_model_name_or_path", None)
    else:
        adapter = model.peft_config["default"]
        adapter.base_model_name_or_path = base = lasting_name(model.name_or_path)
        write_adapter(adapter, state, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    kind = "flexmdm" if flexmdm else "llada"
    write_text(folder / "README.md", model_card(card or model.card, kind, base))
    for file in folder.glob("*.safetensors"):
        # safetensors makes its files readable by their owner alone
        shutil.copymode(folder / "README.md", file)


def export_merged(
    checkpoint: str | Path,
    output_dir: str | Path,
    base: str | Path | None = None,
    lora_alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Merge LoRA and write a folder that needs neither peft nor the base. Either kind of
    checkpoint. Raises InputError.
    """
    require_replaceable(output_dir, "exported model")
    model: LLaDADiT | LLaDAModelLM
    if checkpoint_kind(checkpoint) == "flexmdm":
        model = load_flexmdm(checkpoint, base, lora_alpha, dtype)
    else:
        model = load_llada(checkpoint, base, dtype)
    folder = resolve_folder(checkpoint)
    beside: Any = folder if (folder / "tokenizer.json").exists() else base
    tokenizer = load_tokenizer(beside)
    with complete_folder(output_dir, "exported model") as staging:
        write_checkpoint(
            model,
            staging,
            tokenizer,
            card=f"# Exported model\n\nLoRA of `{checkpoint}` merged into its base.\n",
        )


# ---- command line --------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """The flags of this script."""
    parser = ArgumentParser(description=__doc__)
    export = parser.add_subparsers(dest="command", required=True).add_parser("export")
    export.add_argument("--checkpoint_path", required=True)
    export.add_argument("--base_model", help="overrides the base the checkpoint names")
    export.add_argument(
        "--lora_alpha",
        type=finite_number,
        help="for the paper code's pytorch_model.bin (default r)",
    )
    export.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    export.add_argument("--output_dir", required=True)
    return parser


def main() -> None:
    """Export what the flags name. Raises InputError."""
    args = make_parser().parse_args()
    export_merged(
        args.checkpoint_path,
        args.output_dir,
        args.base_model,
        args.lora_alpha,
        pick_dtype(args.dtype, "cpu"),
    )
    ending(
        f"{checkpoint_kind(args.output_dir)} without LoRA, backbone in {args.dtype}",
        args.output_dir,
        "any --checkpoint_path; it needs no base",
    )


if __name__ == "__main__":
    run(main)
