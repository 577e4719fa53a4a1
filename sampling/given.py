"""What is given to a sampler and kept: refused where it holds tokens that mean something else."""

from collections.abc import Iterable, Sequence

from common.errors import InputError


def refuse_padding(
    given: Iterable[Sequence[int]], pad_id: int, flag: str, start_id: int | None = None
) -> None:
    """Padding ends a text: at the end of given tokens it would be dropped, and the model has never
    seen anything follow it. Raises InputError if a given row holds pad_id.

    start_id: the token that a chat template puts first. Some imported tokenizers use one token for
    both start and end of a text; as a first token followed by others, it is the start.
    """
    for row in given:
        starts = pad_id == start_id and len(row) > 1
        if pad_id in (row[1:] if starts else row):
            raise InputError(
                f"{flag}: holds the padding token {pad_id} (end of text), which is only allowed"
                " after the end of a text"
            )


def refuse_mask_tokens(given: Iterable[Sequence[int]], mask_id: int, flag: str) -> None:
    """Given tokens are kept and masks are filled in, so a given token cannot be a mask. Raises
    InputError if a given row holds mask_id.
    """
    if any(mask_id in row for row in given):
        raise InputError(
            f"{flag}: holds the mask token {mask_id}, which is reserved for text yet to be written"
        )
