"""Pretraining text of the tiny base (problems, equations, functions), and its tokenizer."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import write_json, write_text
from common.rows import Row
from data.functions import draw_code
from data.library_code import split_functions
from data.math_prompts import SYSTEM_PROMPT, math_target
from data.word_problems import draw_equations, draw_math

if TYPE_CHECKING:
    import tokenizers

# share of documents
TEXT_WEIGHTS = {
    "math": 0.30,
    "chat": 0.10,
    "equations": 0.20,
    "code": 0.30,
    "stdlib": 0.10,
    "functions": 0.0,
}


def chat_text(row: Row) -> str:
    """A word problem exactly as preprocess_math.py shows it to instruction fine-tuning, special
    tokens written out.
    """
    return (
        f"<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n{SYSTEM_PROMPT}\n\n"
        f"{row['question']}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>{math_target(row['answer'])}"
    )


def text_rows(
    split: str, n: int, seed: int | str, weights: dict[str, float] = TEXT_WEIGHTS
) -> list[Row]:
    """n documents [{"text", "prompt"}]: word problems (math: plain, chat: as in fine-tuning),
    equations, generated functions (code; functions: with their comment and head given) and library
    functions (stdlib).

    prompt: the beginning of the text, which is given and not learned: the question of a word
    problem, the left side of an equation. If it sees the numbers, a small network learns to copy
    them and to calculate; if they are masked, it learns nothing, because they are random.
    weights: share of each kind. Documents are drawn one by one and may repeat.
    """
    rng = random.Random(f"text {split} {seed}")
    math, equations, code = draw_math(rng, split), draw_equations(rng, split), draw_code(rng, split)
    library = split_functions(split) if weights.get("stdlib") else []
    rows = []
    for kind in rng.choices(list(weights), list(weights.values()), k=n):
        prompt = ""
        if kind == "math":
            row = next(math)
            prompt = f"{row['question']}\n"
            text = prompt + row["answer"]
        elif kind == "chat":
            text = chat_text(next(math))
            prompt = text[: text.rindex("<reasoning>") + len("<reasoning>")]
        elif kind == "equations":
            prompt, result = next(equations)
            text = prompt + result
        elif kind in ("code", "functions"):
            text = next(code)["text"]
            prompt = text[: text.index(":\n") + 2] if kind == "functions" else ""
        else:
            module, _, function = rng.choice(library)
            text = f"# {module}\n{function}"
        rows.append({"text": text, "prompt": prompt})
    return rows


SPECIAL_TOKENS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
# ordinary text, one token each
FORMAT_TOKENS = [
    "<infill-boundary>",
    "<reasoning>",
    "</reasoning>",
    "<answer>",
    "</answer>",
    "\\boxed{",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role']"
    " }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if"
    " add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Other shares than the text's: word problems have few words, all frequent; the words of the
# functions need the merges.
TOKENIZER_WEIGHTS = {"math": 0.15, "chat": 0.10, "code": 0.65, "stdlib": 0.10}


def train_tokenizer(vocab_size: int = 1024, documents: int = 20000) -> tokenizers.Tokenizer:
    """Byte-level BPE over the built-in text: a tokenizers.Tokenizer of vocab_size entries, LLaDA's
    special tokens last. Lossless.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Digits first: a number is always a space and then single digits, whether it stands in a
    # question, an equation or \boxed{}.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL_TOKENS) + len(FORMAT_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS + FORMAT_TOKENS))
    texts = [
        part
        for row in text_rows("train", documents, "tokenizer", TOKENIZER_WEIGHTS)
        for part in known.split(row["text"])
    ]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in FORMAT_TOKENS])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(output_dir: str | Path) -> tokenizers.Tokenizer:
    """tokenizer.json and tokenizer_config.json, as transformers.AutoTokenizer reads them.
    Returns the tokenizer.
    """
    tokenizer, folder = train_tokenizer(), Path(output_dir)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|mdm_mask|>",
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "padding_side": "right",
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return tokenizer
