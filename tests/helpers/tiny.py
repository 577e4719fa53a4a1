"""Small networks and tokenizers that tests make for themselves: random weights, real shapes and
formats.
"""

import json

import torch

from llada_dit import LLaDADiT, LLaDAModelLM
from network.config import FIXED_SETTINGS, FlexMDMConfig, LLaDAConfig

MASK, PAD = 58, 59


def llada_config(**changes):
    sizes = {
        "d_model": 32,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 3,
        "mlp_hidden_size": 48,
        "vocab_size": 60,
        "embedding_size": 60,
        "max_sequence_length": 64,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "mask_token_id": MASK,
        "pad_token_id": PAD,
        "eos_token_id": PAD,
    }
    return LLaDAConfig.from_json({"model_type": "llada", **FIXED_SETTINGS, **sizes, **changes})


def stir(model, scale=0.15):
    """Random values in every parameter, so that nothing is zero by construction."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                torch.randn_like(parameter) * scale
                + (1.0 if "norm.weight" in name or "ln_f" in name else 0.0)
            )
    return model.eval()


def llada(**changes):
    return stir(LLaDAModelLM(llada_config(**changes)))


def flexmdm(backbone=None, **settings):
    config = FlexMDMConfig(
        backbone=(backbone or llada_config()).to_json(),
        mask_token_id=MASK,
        pad_token_id=PAD,
        max_length=64,
        adaln_group_size=2,
        **settings,
    )
    return stir(LLaDADiT(config))


def tokenizer(extra_words=()):
    """A word-level tokenizer of 60 ids with LLaDA's special tokens; 58 is the mask, 59 end of
    text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {
        word: number
        for number, word in enumerate(
            [
                "[UNK]",
                "<|startoftext|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
                *extra_words,
            ]
        )
    }
    words |= {f"w{number}": number for number in range(len(words), 58)} | {
        "<|mdm_mask|>": MASK,
        "<|endoftext|>": PAD,
    }
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mdm_mask|>",
    )


def byte_level(prefix_space):
    """A byte-level tokenizer with a few merges, as `tokenizers` has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [("Ġ", "x"), ("Ġ", "Ġ"), ("d", "e"), ("de", "f"), ("Ċ", "Ċ")]
    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += ["".join(pair) for pair in merges]
    made = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    return made


def write_llada(folder, **changes):
    """A LLaDA folder with random weights and the tokenizer; returns its path."""
    from llada_utils import write_checkpoint

    torch.manual_seed(torch.randint(2**31, (1,)).item())
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(llada(**changes), folder, tokenizer(), card="# test\n")
    return folder


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))
