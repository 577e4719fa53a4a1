"""The infill format of each model, the same in training and inference.

    FlexMDM   prefix <infill-boundary> MIDDLE <infill-boundary> suffix
    LLaDA     request <prefix>prefix</prefix><suffix>suffix</suffix>MIDDLE

For FlexMDM everything but the middle stays clean; LLaDA's answer is the middle, then end-of-text.
The markers are ordinary text. Markers, prefix and suffix are tokenised separately, so a prompt made
from text (inference) has exactly the format of a training row whose prefix and suffix have the same
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from common.rows import Row
from data.tokenizer import inner_ids, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids: TypeAlias = Sequence[int] | np.ndarray
INFILL_BOUNDARY = "<infill-boundary>"
REQUEST = (
    "Write the code that is missing between the prefix and the suffix below. Give the missing code"
    " only.\n"
)


class LLaDALayout(NamedTuple):
    """Token ids around prefix and suffix in the baseline's infill prompt."""

    before_prefix: list[int]
    between: list[int]
    after_suffix: list[int]


def infill_boundary_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the boundary marker, the same on both sides of a middle."""
    return text_ids(tokenizer, INFILL_BOUNDARY)


def llada_infill_layout(tokenizer: PreTrainedTokenizerFast) -> LLaDALayout:
    """The parts that format_llada_infill puts around prefix and suffix."""
    return LLaDALayout(
        *(
            text_ids(tokenizer, text)
            for text in (REQUEST + "<prefix>", "</prefix><suffix>", "</suffix>")
        )
    )


def draw_middle(n: int, prompt_length: int, u1: float, u2: float) -> tuple[int, int]:
    """(prefix_end, suffix_start) of a row of n tokens, the middle being
    ids[prefix_end:suffix_start], never empty.

    u1, u2: uniform in [0, 1). prefix_end is uniform in [prompt_length, n - 2), suffix_start in
    (prefix_end, n) (the paper's code).
    With an output of one or two tokens the first range is empty: the middle is then the output's
    first token. Raises ValueError for a row without an output.
    """
    if not 0 <= prompt_length < n:
        raise ValueError(
            f"a row of {n} tokens with a prompt of {prompt_length} has no output to draw a middle"
            " from"
        )
    prefix_end = prompt_length + int(u1 * max(n - 2 - prompt_length, 0))
    return prefix_end, prefix_end + 1 + int(u2 * (n - 1 - prefix_end))


def format_flexmdm_infill(
    prefix_ids: Ids, middle_ids: Ids, suffix_ids: Ids, boundary_ids: Ids
) -> tuple[np.ndarray, int, int]:
    """(ids, start, end): prefix, boundary, middle, boundary, suffix as one int64 array, the middle
    being ids[start:end].
    """
    ids = np.concatenate(
        [prefix_ids, boundary_ids, middle_ids, boundary_ids, suffix_ids],
        dtype=np.int64,
        casting="unsafe",
    )
    start = len(prefix_ids) + len(boundary_ids)
    return ids, start, start + len(middle_ids)


def format_llada_infill(
    prefix_ids: Ids, middle_ids: Ids, suffix_ids: Ids, layout: LLaDALayout
) -> tuple[np.ndarray, int]:
    """(ids, prompt_length): the baseline's infill prompt and then the middle, as one int64
    array.
    """
    parts = [
        layout.before_prefix,
        prefix_ids,
        layout.between,
        suffix_ids,
        layout.after_suffix,
        middle_ids,
    ]
    ids = np.concatenate(parts, dtype=np.int64, casting="unsafe")
    return ids, len(ids) - len(middle_ids)


def flexmdm_infill_ids(
    tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str
) -> tuple[list[int], list[int]]:
    """(prefix ids ending in the boundary, suffix ids beginning with it), lists, for
    generate_flexmdm_infilling.
    """
    ids, start, end = format_flexmdm_infill(
        text_ids(tokenizer, prefix),
        [],
        inner_ids(tokenizer, suffix),
        infill_boundary_ids(tokenizer),
    )
    return ids[:start].tolist(), ids[end:].tolist()


def llada_infill_prompt(tokenizer: PreTrainedTokenizerFast, prefix: str, suffix: str) -> list[int]:
    """Ids, a list, of the baseline's prompt for an infill; the generated tokens are the middle."""
    ids, _ = format_llada_infill(
        text_ids(tokenizer, prefix),
        [],
        inner_ids(tokenizer, suffix),
        llada_infill_layout(tokenizer),
    )
    return ids.tolist()


def code_row(row: Row, tokenizer: PreTrainedTokenizerFast) -> Row:
    """joint_row of one row with fields instruction and output."""
    from data.instruction_rows import joint_row

    instruction = row["instruction"]
    return joint_row(
        tokenizer, instruction if instruction.endswith("\n") else instruction + "\n", row["output"]
    )
