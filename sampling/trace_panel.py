"""A generation as a panel: what a page that replays it holds, what its curves are drawn from.

A trace is what the samplers return: frames {"t": float, "evaluations": int, "ids": list[int],
"slots": list[int]}, the first the initial state, the last the result; slots are the lasting
identities of positions. Tokens are only ever inserted as masks, then unmasked, and perhaps removed
by a corrector (which replaces a token it masks by a new position). So a trace is the sequence of
all positions plus two or three numbers each: the frames in which it was inserted, unmasked and
removed. That is a panel (4,096 frames of 1,024 tokens: 100 KB). Nothing here imports torch or
transformers.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from sampling.results import TraceFrame
from sampling.shown_text import printable

Panel: TypeAlias = dict[str, Any]  # what `make_panel` makes, and a page holds as JSON


def make_panel(
    title: str,
    decode: Callable[[list[int]], str],
    trace: Sequence[TraceFrame],
    mask_id: int,
    special: Collection[int] = (),
) -> Panel:
    """What a page shows of one generation: a dict of plain lists, ready for JSON.

    decode: list of ids -> text; trace: frames (see above); special: ids that are shown small, such
    as end of text. Returns {"title", "t": [frames], "evaluations": [frames], "tokens": [[text,
    special]], "slots": [[index into tokens, frame of insertion, frame of unmasking or -1, whether
    it was given, and where it was removed the frame of that]]}, slots in the order of the text.
    Raises ValueError if a position moves past another, comes back, or changes after it was
    unmasked: no sampler may do that.
    """
    if not trace:
        raise ValueError(f"{title}: an empty trace")
    first_seen: dict[int, int] = {}
    unmasked: dict[int, int] = {}
    token_of: dict[int, int] = {}
    removed: dict[int, int] = {}
    order: list[int] = []
    for number, frame in enumerate(trace):
        for before, slot in zip([None, *frame["slots"]], frame["slots"]):
            if slot not in first_seen:
                first_seen[slot] = number
                order.insert(0 if before is None else order.index(before) + 1, slot)
        place = {slot: index for index, slot in enumerate(order)}
        where = [place[slot] for slot in frame["slots"]]
        if removed.keys() & frame["slots"] or any(a >= b for a, b in zip(where, where[1:])):
            raise ValueError(f"{title}: positions move or come back in frame {number}")
        for slot in first_seen.keys() - removed.keys() - set(frame["slots"]):
            removed[slot] = number
        for slot, token in zip(frame["slots"], frame["ids"]):
            if slot in unmasked and token != token_of[slot]:
                raise ValueError(
                    f"{title}: position {slot} changes after it was unmasked, in frame {number}"
                )
            if token != mask_id:
                unmasked.setdefault(slot, number)
            token_of[slot] = token
    final = trace[-1]["slots"]
    at = [unmasked.get(slot, -1) for slot in final]
    text_of = {
        slot: printable(decode([token_of[slot]])) if slot in unmasked else "" for slot in removed
    }
    text_of |= zip(final, _texts([token_of[slot] for slot in final], at, decode))
    index: dict[tuple[str, int], int] = {}
    slots = []
    for slot in order:
        key = text_of[slot], int(token_of[slot] in special)
        when = unmasked.get(slot, -1)
        panel_slot = [index.setdefault(key, len(index)), first_seen[slot], when, int(when == 0)]
        slots.append(panel_slot + ([removed[slot]] if slot in removed else []))
    return {
        "title": title,
        "t": [round(frame["t"], 6) for frame in trace],
        "evaluations": [frame["evaluations"] for frame in trace],
        "tokens": [list(key) for key in index],
        "slots": slots,
    }


def _texts(ids, shown, decode):
    """The text of each token of the final sequence. If neighbours together spell one character
    (bytes of UTF-8), it is put at the one unmasked last, and the others are empty. shown: the frame
    in which each was unmasked."""
    alone = {token: decode([token]) for token in set(ids)}
    texts, start = [alone[token] for token in ids], 0
    while start < len(ids):
        end = start
        while end < len(ids) and "\ufffd" in alone[ids[end]]:
            end += 1
            if "\ufffd" not in (together := decode(ids[start:end])):
                texts[start:end] = [""] * (end - start)
                texts[max(range(start, end), key=lambda at: shown[at])] = together
                break
        start = max(end, start + 1)
    return [printable(text) for text in texts]


def panel_fault(panel: Any) -> str:
    """What is wrong with a panel, in words; "" if it is as make_panel makes it."""

    def numbers(values: Any) -> bool:
        return isinstance(values, list) and all(
            type(value) in (int, float) and math.isfinite(value) for value in values
        )

    if not isinstance(panel, dict) or not isinstance(panel.get("title"), str):
        return "the title"
    frames = len(panel["t"]) if numbers(panel.get("t")) else 0
    if not frames:
        return "the times"
    if not numbers(panel.get("evaluations")) or len(panel["evaluations"]) != frames:
        return "the evaluations"
    tokens, slots = panel.get("tokens"), panel.get("slots")
    if not isinstance(tokens, list) or not all(
        isinstance(token, list) and len(token) == 2 and isinstance(token[0], str)
        for token in tokens
    ):
        return "the tokens"
    if not isinstance(slots, list):
        return "the list of slots"
    for place, slot in enumerate(slots):
        if not (
            isinstance(slot, list)
            and len(slot) in (4, 5)
            and all(type(value) is int for value in slot)
            and 0 <= slot[0] < len(tokens)
            and 0 <= slot[1] < frames
            and -1 <= slot[2] < frames
            and 0 <= slot[-1] < frames
        ):
            return f"slot {place}"
    return ""


def curves(panel: Panel) -> tuple[list[int], list[int]]:
    """(tokens written, clean tokens among them) in each frame, two lists; given tokens do not
    count.
    """
    length, clean = [0] * len(panel["t"]), [0] * len(panel["t"])
    for _, first, shown, given, *removed in panel["slots"]:
        if not given:
            length[first] += 1
            if shown >= 0:
                clean[shown] += 1
            for frame in removed:
                length[frame] -= 1
                clean[frame] -= shown >= 0
    for counts in (length, clean):
        for frame in range(1, len(counts)):
            counts[frame] += counts[frame - 1]
    return length, clean
