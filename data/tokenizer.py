"""LLaDA's tokenizer: loading it, adding the tokens that the base may lack, encoding and decoding
text in the middle of other text, and a hash of its behaviour.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.files import read_json, resolve_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HEADER_TOKENS = {"<|start_header_id|>": 126346, "<|end_header_id|>": 126347, "<|eot_id|>": 126348}
LLADA_MASK_ID = 126336
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if"
    " add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, unchanged. Raises InputError."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder} holds no tokenizer.json")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise InputError(f"cannot read {folder / name}: it is no regular file")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # the tokenizers library raises bare Exceptions for broken files
        raise InputError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None


def load_tokenizer(path_or_hub_id: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer beside a model, with mask_token_id and pad_token_id as the config there says.

    LLaDA-8B-Base may lack the three header tokens and the chat template: they are added at exactly
    the ids that LLaDA-8B-Instruct has them (the embedding has the rows), and checked. Raises
    InputError.
    """
    folder = resolve_folder(path_or_hub_id, "--tokenizer")
    tokenizer = read_tokenizer(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'} does not hold one JSON object")
    for name in ("mask_token_id", "pad_token_id"):
        value = config.get(name)
        if value is not None and (type(value) is not int or not 0 <= value < len(tokenizer)):
            raise InputError(
                f"{folder / 'config.json'}: {name} is {str(value)[:60]!r}, no id of the"
                f" tokenizer's {len(tokenizer)}"
            )
    mask_id = config.get("mask_token_id", tokenizer.convert_tokens_to_ids("<|mdm_mask|>"))
    if mask_id == LLADA_MASK_ID:
        while len(tokenizer) < min(HEADER_TOKENS.values()):
            tokenizer.add_tokens([f"<|filler_{len(tokenizer)}|>"], special_tokens=True)
        tokenizer.add_tokens(
            [token for token in HEADER_TOKENS if token not in tokenizer.get_vocab()],
            special_tokens=True,
        )
        wrong = {
            token: tokenizer.convert_tokens_to_ids(token)
            for token, place in HEADER_TOKENS.items()
            if tokenizer.convert_tokens_to_ids(token) != place
        }
        if wrong:
            raise InputError(
                f"{folder}: header tokens are not where LLaDA has them: {wrong} instead of"
                f" {HEADER_TOKENS}"
            )
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    if mask_id is not None:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask_id)
    if config.get("pad_token_id") is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config["pad_token_id"])
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise InputError(
            f"{folder}: no mask or padding token, neither in a config.json beside the tokenizer nor"
            " in the tokenizer"
        )
    return tokenizer


def open_tokenizer(name: str, num_proc: int) -> PreTrainedTokenizerFast:
    """load_tokenizer for num_proc processes; every failure is an InputError that names
    --tokenizer.
    """
    if num_proc > 1:
        # the tokenizer's own threads do not survive a fork
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return load_tokenizer(name)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if "--tokenizer" in message else f"--tokenizer: {message}"
        ) from None


def reserved_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """{"mask": id, "padding": id}: tokens that no text may hold. A mask would be its own target,
    and text after padding would be ignored. Training rows with one are dropped and counted, or
    refused by their number; prompts of samplers and evaluations are refused.
    """
    return {"mask": tokenizer.mask_token_id, "padding": tokenizer.pad_token_id}


def text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text that begins a document, without special tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def inner_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text that follows another, as in text_ids of both together: without the space that
    SentencePiece-like tokenizers put before a document.
    """
    alone = text_ids(tokenizer, "a")
    if text_ids(tokenizer, "\na")[-len(alone) :] != alone:  # a beginning is told apart
        for before in ("\n", ".", "a\n"):
            given = text_ids(tokenizer, before)
            both = text_ids(tokenizer, before + text)
            if both[: len(given)] == given:  # no token joins the two
                return both[len(given) :]
    return text_ids(tokenizer, text)


def decode_after(
    tokenizer: PreTrainedTokenizerFast,
    before: Sequence[int],
    ids: Sequence[int],
    skip_special_tokens: bool = False,
) -> str:
    """The text of `ids` after that of `before` (lists of ids): decoded alone they would lose a
    leading space with SentencePiece-like tokenizers.
    """

    def decode(ids):
        return tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    head, whole = decode(before), decode([*before, *ids])
    # they differ where bytes that are no character follow `before`: no space leads there
    return whole[len(head) :] if whole.startswith(head) else decode(ids)


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """12 hex digits over vocabulary, merges, rules and chat template."""
    content = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
