"""LLaDA's blocks: which masks each evaluation of a row chooses from, and how many it unmasks.
Nothing here imports torch.
"""

from typing import TypeAlias

# the evaluations of one row: (block start, block end, masks to unmask) each
Plan: TypeAlias = list[tuple[int, int, int]]


def unmaskings_of_block(masks: int, steps: int) -> list[int]:
    """How many of a block's masks each of its steps unmasks: floor(masks / steps), the first masks
    mod steps one more.
    """
    return [masks // steps + (step < masks % steps) for step in range(steps)]


def unmasking_plan(length: int, steps: int | None, block_length: int | None) -> Plan:
    """The evaluations of one row: a list of (block start, block end, masks to unmask), places
    counted from the first mask.

    length: masks of the row; steps: over all blocks, None for one per mask; block_length: masks of
    a block (the last one may be shorter), None for a single block. A step that unmasks nothing
    (more steps than masks in a block) needs no evaluation and is skipped. Raises ValueError if
    steps is not divisible by the number of blocks.
    """
    block_length = max(length, 1) if block_length is None else block_length
    blocks = max(-(-length // block_length), 1)
    if steps is not None and steps % blocks:
        raise ValueError(
            f"steps ({steps}) must be divisible by the number of blocks ({blocks} of {block_length}"
            f" for {length} tokens)"
        )
    plan: Plan = []
    for start in range(0, length, block_length):
        end = min(start + block_length, length)
        block_steps = end - start if steps is None else steps // blocks
        plan += [
            (start, end, count) for count in unmaskings_of_block(end - start, block_steps) if count
        ]
    return plan
