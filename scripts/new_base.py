"""Bases other than LLaDA's own: random weights of any size, or a Llama-architecture model as a
LLaDA.

    python scripts/new_base.py random --tokenizer LLaDA-tiny-Base --d_model 64 --n_layers 2 \\
        --n_heads 4 --output_dir tiny
    python scripts/new_base.py llama --source SmolLM-135M --output_dir base
    python flexmdm_transfer_openwebtext.py --model_name_or_path base --all_parameters ...

The last line trains what the second wrote as a masked diffusion model.
Both write a folder that every script takes as --model_name_or_path.
"""

import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.command_line import ArgumentParser, finite_number
from common.errors import InputError, run
from common.files import complete_folder, read_json, require_replaceable, resolve_folder, write_json
from data.tokenizer import CHAT_TEMPLATE, HEADER_TOKENS, LLADA_MASK_ID, load_tokenizer
from llada_dit import FIXED_SETTINGS, LLaDAConfig, LLaDAModelLM
from llada_utils import load_into, read_tensors, write_checkpoint


def random_base(args):
    """A LLaDA of the given sizes with random weights, or only its config and tokenizer."""
    tokenizer = load_tokenizer(args.tokenizer)
    rows = args.vocab_size or (
        126464 if tokenizer.mask_token_id == LLADA_MASK_ID else len(tokenizer)
    )
    if rows < len(tokenizer):
        raise InputError(
            f"--vocab_size: {rows} rows, but the tokenizer has {len(tokenizer)} tokens"
        )
    try:
        config = LLaDAConfig.from_json(
            {
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
            },
            "the flags",
        )
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


def import_llama(source, output_dir):
    """Write a Llama-architecture model (Hugging Face form) as a LLaDA base: same block, head
    untied, four tokens added.

    The mask and header tokens get rows after the tokenizer's last id: the mean embedding, and zero
    logits. Raises InputError for what the block does not do (biases, RoPE scaling, another head
    width).
    """
    folder = resolve_folder(source, "--source")
    llama = read_json(folder / "config.json")
    width, heads = llama.get("hidden_size"), llama.get("num_attention_heads")
    rope = llama.get("rope_parameters") or llama.get("rope_scaling") or {}
    refused = [key for key in ("attention_bias", "mlp_bias") if llama.get(key)]
    refused += (
        ["rope scaling"] if rope.get("rope_type", rope.get("type", "default")) != "default" else []
    )
    refused += ["hidden_act"] if llama.get("hidden_act", "silu") != "silu" else []
    refused += ["head_dim"] if llama.get("head_dim") not in (None, width // heads) else []
    if llama.get("model_type") != "llama" or refused:
        raise InputError(
            f"--source: {source} is no Llama-architecture model this block can be:"
            f" {', '.join(refused) or llama.get('model_type')}"
        )
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    eos = (
        llama["eos_token_id"][0]
        if isinstance(llama["eos_token_id"], list)
        else llama["eos_token_id"]
    )
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(eos)
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(llama["bos_token_id"])
    tokenizer.add_tokens(["<|mdm_mask|>", *HEADER_TOKENS], special_tokens=True)
    tokenizer.mask_token, tokenizer.chat_template = "<|mdm_mask|>", CHAT_TEMPLATE
    rows = max(llama["vocab_size"], len(tokenizer))
    config = LLaDAConfig.from_json(
        {
            "model_type": "llada",
            "d_model": width,
            "n_heads": heads,
            "n_kv_heads": llama.get("num_key_value_heads") or heads,
            "n_layers": llama["num_hidden_layers"],
            "mlp_hidden_size": llama["intermediate_size"],
            "vocab_size": rows,
            "embedding_size": rows,
            "max_sequence_length": llama["max_position_embeddings"],
            "rope_theta": rope.get("rope_theta", llama.get("rope_theta", 10000.0)),
            "rms_norm_eps": llama["rms_norm_eps"],
            "mask_token_id": tokenizer.mask_token_id,
            "pad_token_id": eos,
            "eos_token_id": eos,
            **FIXED_SETTINGS,
        }
    )
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
    state = {}
    for name, tensor in read_tensors(folder):
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
        if block and block[2] in names:
            state[f"model.transformer.blocks.{block[1]}.{names[block[2]]}.weight"] = tensor
        elif name in outer:
            state[f"model.transformer.{outer[name]}.weight"] = tensor
        elif not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f"--source: {source} holds an unexpected tensor {name}")
    embedding = state["model.transformer.wte.weight"]
    head = state.setdefault("model.transformer.ff_out.weight", embedding.clone())
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


def make_parser():
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
    for command in (llama, new):
        command.add_argument("--output_dir", required=True)
    return parser


def main():
    args = make_parser().parse_args()
    require_replaceable(args.output_dir, "base")
    random_base(args) if args.command == "random" else import_llama(args.source, args.output_dir)
    print(f"wrote {args.output_dir}")


if __name__ == "__main__":
    run(main)
