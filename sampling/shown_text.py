"""Tokens as text that is shown: in a terminal, in a page, in a picture.

What a model writes must not steer what shows it: control characters are replaced. Nothing here
imports torch or transformers.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any

MASK_SIGN = "\u2592"


def printable(text: str) -> str:
    """Control characters but the line break and the tab as a visible replacement: a model must not
    steer a terminal or a page.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd"
        for c in text.replace("\r\n", "\n")
    )


def screen_lines(pieces: Iterable[tuple[str, str]], columns: int) -> list[list[tuple[str, str]]]:
    """Lines of at most `columns` cells, each a list of (character, style), broken after a blank
    where there is one. pieces: (text, style).
    """
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0
    for text, style in pieces:
        for character in text.replace("\t", "    "):
            if character == "\n":
                lines.append([])
                used = 0
                continue
            if used + _cells(character) > columns:
                full = lines[-1]
                blanks = [place for place, (sign, _) in enumerate(full, 1) if sign == " "]
                cut = blanks[-1] if blanks else len(full)  # a longer word is cut
                lines[-1:] = [full[:cut], full[cut:]]
                used = sum(_cells(sign) for sign, _ in full[cut:])
            lines[-1].append((character, style))
            used += _cells(character)
    return lines


def _cells(character: str) -> int:
    """How many cells of a terminal a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def text_pieces(
    tokens: Iterable[tuple[int, str]], tokenizer: Any, mask_id: int
) -> list[tuple[str, str]]:
    """(text, style) of tokens (id, style), equal styles joined: a run is decoded whole, so that a
    character that several tokens spell is readable; a mask is MASK_SIGN; a special token that
    repeats (end of text does) is written once, with its count.
    """
    special, runs = set(tokenizer.all_special_ids), list[tuple[str, list[int]]]()
    for token, style in tokens:
        before = runs[-1][1][-1] if runs else None
        if (
            not runs
            or runs[-1][0] != style
            or (token != before and (token in special or before in special))
        ):
            runs.append((style, []))
        runs[-1][1].append(token)
    pieces = []
    for style, ids in runs:
        if ids[0] == mask_id:
            pieces.append((MASK_SIGN * len(ids), style))
        elif ids[0] in special:
            pieces.append(
                (
                    printable(tokenizer.decode(ids[:1]))
                    + (f"\u00d7{len(ids)}" if len(ids) > 1 else ""),
                    style,
                )
            )
        else:
            pieces.append((printable(tokenizer.decode(ids)), style))
    return pieces
