"""Tokenizers of the kinds that scripts/new_base.py takes, made here, and a Llama around one."""

LETTERS = "abdefnrtux=:()1<>/,.-"


def sentencepiece(kind):
    """Byte fallback and `▁` for a space, as Llama's and Mistral's tokenizer.json have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [("▁", "x"), ("▁", "▁"), ("d", "e"), ("de", "f"), ("▁", "def"), ("▁▁", "▁▁")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    pieces += ["".join(pair) for pair in merges]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        merges,
        unk_token="<unk>",
        byte_fallback=True,
    )
    made = Tokenizer(model)
    if kind == "legacy":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        spaces = decoders.Replace("▁", " ")
        strip = [decoders.Strip(" ", 1, 0)]
    else:
        scheme = kind.split()[1]
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        spaces, strip = decoders.Metaspace(prepend_scheme=scheme, split=False), []
    made.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def write_llama(folder, tokenizer):
    """A Llama of random weights, the smallest that import_llama takes, beside a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
