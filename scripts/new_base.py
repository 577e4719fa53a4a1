r"""Make other bases than LLaDA's own: random weights of any size, or a Llama-architecture model
converted to a LLaDA.

    python scripts/new_base.py random --tokenizer LLaDA-tiny-Base --d_model 64 --n_layers 2 \
        --n_heads 4 --output_dir tiny
    python scripts/new_base.py llama --source SmolLM-135M --output_dir base
    python flexmdm_transfer_openwebtext.py --model_name_or_path base --all_parameters ...

The last line trains the output of the second as a masked diffusion model.
Both commands write a folder that every script takes as --model_name_or_path.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import config_values
from common.command_line import ArgumentParser, finite_number
from common.errors import InputError, run
from common.files import complete_folder, read_json, require_replaceable, resolve_folder, write_json
from common.progress import command, ending
from data.tokenizer import (
    CHAT_TEMPLATE,
    HEADER_TOKENS,
    LLADA_MASK_ID,
    load_tokenizer,
    read_tokenizer,
)
from llada_dit import LLaDAModelLM
from llada_utils import write_checkpoint
from network.config import FIXED_SETTINGS, LLaDAConfig
from network.tensor_files import load_into, read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def random_base(args: argparse.Namespace) -> None:
    """A LLaDA of the given sizes with random weights, or only its config and tokenizer, as
    --output_dir. Raises InputError for sizes that cannot be.
    """
    tokenizer = load_tokenizer(args.tokenizer)
    rows = args.vocab_size or (
        126464 if tokenizer.mask_token_id == LLADA_MASK_ID else len(tokenizer)
    )
    if rows < len(tokenizer):
        raise InputError(
            f"--vocab_size: {rows} rows, but the tokenizer has {len(tokenizer)} tokens"
        )
    content = {
        "model_type": "llada",
        "d_model": args.d_model,
        "n_heads": args.n_heads,
        "n_kv_heads": args.n_heads,
        "n_layers": args.n_layers,
        "mlp_hidden_size": args.mlp_hidden_size or 3 * args.d_model,
        "vocab_size": rows,
        "embedding_size": rows,
        "max_sequence_length": args.max_sequence_length,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **FIXED_SETTINGS,
        "init_std": args.init_std,
    }
    try:
        config = LLaDAConfig.from_json(content, "the flags")
    except ValueError as error:
        raise InputError(str(error)) from None
    torch.manual_seed(args.seed)
    with complete_folder(args.output_dir, "base") as staging:
        if args.config_only:
            write_json(staging / "config.json", config.to_json())
            tokenizer.save_pretrained(str(staging))
        else:
            write_checkpoint(
                LLaDAModelLM(config),
                staging,
                tokenizer,
                card="# Random weights\n\nFor tests and timing.\n",
            )


NEEDED = {
    "hidden_size": config_values.WIDTH,
    "intermediate_size": config_values.WIDTH,
    "num_attention_heads": config_values.WIDTH,
    "num_hidden_layers": config_values.LLADA["n_layers"],
    "max_position_embeddings": config_values.LLADA["max_sequence_length"],
    "vocab_size": config_values.ROWS,
    "rms_norm_eps": config_values.LLADA["rms_norm_eps"],
}
OPTIONAL = {
    "num_key_value_heads": config_values.LLADA["n_kv_heads"],
    "rope_theta": config_values.optional(config_values.LLADA["rope_theta"]),
    "tie_word_embeddings": config_values.TRUTH,
}


def llama_config(folder: Path) -> tuple[dict[str, Any], float]:
    """(config.json of a Llama, its rope_theta): checked against what this network's block does.
    Raises InputError by --source for all else: another architecture, biases, RoPE scaling, another
    head width, a value that is missing or cannot be.
    """
    llama, source = read_json(folder / "config.json"), f"--source: {folder / 'config.json'}"
    config_values.check(llama, NEEDED | OPTIONAL, source)
    if llama.get("model_type") != "llama":
        raise InputError(f"{source}: model_type is {llama.get('model_type')!r}, not 'llama'")
    missing = [key for key in NEEDED if key not in llama]
    if missing:
        raise InputError(f"{source}: missing {', '.join(missing)}")
    width, heads = llama["hidden_size"], llama["num_attention_heads"]
    if width % heads or heads % (llama.get("num_key_value_heads") or heads):
        raise InputError(
            f"{source}: hidden_size {width}, num_attention_heads {heads}, num_key_value_heads"
            f" {llama.get('num_key_value_heads')} do not divide"
        )
    # both, because transformers reads both: one may scale where the other says default
    ropes = [llama.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
    for rope in ropes:
        config_values.check(rope, {"rope_theta": OPTIONAL["rope_theta"]}, f"{source}: RoPE")
    thetas = {llama.get("rope_theta"), *(rope.get("rope_theta") for rope in ropes)} - {None}
    refused = [key for key in ("attention_bias", "mlp_bias") if llama.get(key)]
    refused += [
        "RoPE scaling"
        for rope in ropes
        if rope.get("rope_type", rope.get("type", "default")) != "default"
        or rope.get("partial_rotary_factor", 1) != 1
    ]
    refused += ["two values of rope_theta"] if len(thetas) > 1 else []
    refused += ["hidden_act"] if llama.get("hidden_act", "silu") != "silu" else []
    refused += ["head_dim"] if llama.get("head_dim") not in (None, width // heads) else []
    if refused:
        raise InputError(f"{source} has what this network's block has not: {', '.join(refused)}")
    return llama, next(iter(thetas), 10000.0)


def special_token(
    tokenizer: PreTrainedTokenizerFast, llama: dict[str, Any], name: str, source: str
) -> int:
    """The id of "bos" or "eos" as config.json says, the first of several; where it says none, the
    tokenizer's own. Raises InputError for none, or one that the tokenizer has not.
    """
    value = llama.get(f"{name}_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if value is None or value == []:
        value = getattr(tokenizer, f"{name}_token_id")
    if type(value) is not int or not 0 <= value < len(tokenizer):
        raise InputError(
            f"--source: {source}: {name}_token_id is {str(value)[:60]!r}, no id of the tokenizer's"
            f" {len(tokenizer)}"
        )
    return value


def import_llama(source: str, output_dir: str | Path) -> None:
    """Write a Llama-architecture model (Hugging Face form) as a LLaDA base: same block, head
    untied, four tokens added.

    The mask and header tokens get rows after the tokenizer's last id: the mean embedding, and zero
    logits. Raises InputError for what the block does not do (llama_config), and for tensors that
    are missing, unexpected or of another shape.
    """
    folder = resolve_folder(source, "--source")
    llama, rope_theta = llama_config(folder)
    try:
        tokenizer = read_tokenizer(folder)
    except InputError as error:
        raise InputError(f"--source: {error}") from None
    eos = special_token(tokenizer, llama, "eos", source)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(eos)
    if tokenizer.bos_token is None:
        bos = special_token(tokenizer, llama, "bos", source)
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)
    tokenizer.add_tokens(["<|mdm_mask|>", *HEADER_TOKENS], special_tokens=True)
    tokenizer.mask_token, tokenizer.chat_template = "<|mdm_mask|>", CHAT_TEMPLATE
    rows, width = max(llama["vocab_size"], len(tokenizer)), llama["hidden_size"]
    heads = llama["num_attention_heads"]
    content = {
        "model_type": "llada",
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": llama.get("num_key_value_heads") or heads,
        "n_layers": llama["num_hidden_layers"],
        "mlp_hidden_size": llama["intermediate_size"],
        "vocab_size": rows,
        "embedding_size": rows,
        "max_sequence_length": llama["max_position_embeddings"],
        "rope_theta": rope_theta,
        "rms_norm_eps": llama["rms_norm_eps"],
        "mask_token_id": tokenizer.mask_token_id,
        "pad_token_id": eos,
        "eos_token_id": eos,
        **FIXED_SETTINGS,
    }
    config = LLaDAConfig.from_json(content, f"--source: {source}")
    names = {
        "self_attn.o_proj": "attn_out",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
        "self_attn.q_proj": "q_proj",
        "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ff_norm",
    }
    outer = {
        "model.embed_tokens.weight": "wte",
        "model.norm.weight": "ln_f",
        "lm_head.weight": "ff_out",
    }
    state: dict[str, torch.Tensor] = {}
    for name, tensor in read_tensors(folder):
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
        if block and block[2] in names:
            state[f"model.transformer.blocks.{block[1]}.{names[block[2]]}.weight"] = tensor
        elif name in outer:
            state[f"model.transformer.{outer[name]}.weight"] = tensor
        elif not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f"--source: {source} holds an unexpected tensor {name}")
    embedding = state.get("model.transformer.wte.weight")
    if embedding is None or embedding.shape != (llama["vocab_size"], width):
        raise InputError(
            f"--source: {source} holds no model.embed_tokens.weight of {llama['vocab_size']} rows"
            f" and {width} columns"
        )
    head, tied = state.get("model.transformer.ff_out.weight"), llama.get("tie_word_embeddings")
    if head is None and not tied:
        raise InputError(
            f"--source: {source} holds no lm_head.weight, and its config.json does not say"
            " tie_word_embeddings"
        )
    if head is not None and tied and not torch.equal(head, embedding):
        raise InputError(
            f"--source: {source} says tie_word_embeddings, but its lm_head.weight is another matrix"
        )
    head = embedding.clone() if head is None else head
    new = rows - embedding.shape[0]
    state["model.transformer.wte.weight"] = torch.cat(
        [embedding, embedding.float().mean(0, keepdim=True).to(embedding).expand(new, -1)]
    )
    state["model.transformer.ff_out.weight"] = torch.cat([head, head.new_zeros(new, width)])
    with torch.device("meta"):
        model = LLaDAModelLM(config)
    load_into(model, state.items(), lambda name: embedding.dtype, "cpu", source)
    with complete_folder(output_dir, "base") as staging:
        write_checkpoint(
            model,
            staging,
            tokenizer,
            card=(
                f"# LLaDA base imported from `{source}`\n\nNot yet trained as a diffusion model.\n"
            ),
        )


def make_parser() -> ArgumentParser:
    """The flags, a command for each kind of base."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    llama = commands.add_parser("llama")
    llama.add_argument(
        "--source", required=True, help="folder or hub id of a Llama-architecture model"
    )
    new = commands.add_parser("random")
    new.add_argument(
        "--tokenizer", required=True, help="folder or hub id; its mask and padding tokens are used"
    )
    for flag, value in [
        ("d_model", 64),
        ("n_layers", 2),
        ("n_heads", 4),
        ("mlp_hidden_size", 0),
        ("vocab_size", 0),
        ("max_sequence_length", 4096),
        ("seed", 42),
    ]:
        new.add_argument(f"--{flag}", type=int, default=value)
    new.add_argument(
        "--init_std",
        type=finite_number,
        default=0.02,
        help="of random weights, here and in training from scratch",
    )
    new.add_argument(
        "--config_only",
        action="store_true",
        help="config.json and tokenizer, no weights: for training from scratch",
    )
    for parser_of_kind in (llama, new):
        parser_of_kind.add_argument("--output_dir", required=True)
    return parser


def main() -> None:
    """Write the base that the command asks for."""
    args = make_parser().parse_args()
    require_replaceable(args.output_dir, "base")
    random_base(args) if args.command == "random" else import_llama(args.source, args.output_dir)
    start = "--from_scratch --all_parameters" if getattr(args, "config_only", False) else ""
    words = ("--model_name_or_path", args.output_dir, *start.split(), "--train_data", "DATA")
    ending("a base", args.output_dir, command("flexmdm_transfer_openwebtext.py", *words))


if __name__ == "__main__":
    run(main)
