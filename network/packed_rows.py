"""Memory layouts of a batch's tokens, and attention over them: rows padded to one length, or packed
end to end.

    PaddedRows   (B, T, ...): a key mask keeps padding from being attended to; its own outputs are
                 computed and never read
    PackedRows   (N, ...): the N real tokens, row after row, nothing else. On a GPU in half
                 precision attention runs by row boundaries (torch's variable-length flash
                 attention); elsewhere rows are padded for attention and packed again
Both give a token the same result; they differ in the work spent on padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# the longest row is rounded up to a multiple of this: kernels need a bound only, and compiled code
# sees few values
LONGEST_STEP = 128


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(D)) v: q (B, T, H, D), k, v (B, S, H_kv, D), mask broadcastable to (B, H,
    T, S) or None -> (B, T, H, D).
    """
    q, k, v = (x.transpose(1, 2) for x in (q, *repeat_heads(q, k, v)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def repeat_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(k, v) with as many heads (the last dimension but one) as q."""
    times = q.shape[-2] // k.shape[-2]
    return (
        (k, v) if times == 1 else (k.repeat_interleave(times, -2), v.repeat_interleave(times, -2))
    )


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, k_offsets: Tensor, longest: int
) -> Tensor:
    """Attention of packed rows: q (N, H, D), k, v (M, H_kv, D); row b is [offsets[b],
    offsets[b+1]), int32; longest: no row is longer. Returns (N, H, D).
    """
    from torch.nn.attention.varlen import varlen_attn

    # a tensor alone, as nothing besides the output is asked for
    return varlen_attn(  # type: ignore[return-value]
        q, *repeat_heads(q, k, v), q_offsets, k_offsets, longest, longest
    )


def has_varlen(x: Tensor) -> bool:
    """Whether attention by row boundaries supports a tensor's device and dtype."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)


class PaddedRows:
    """key_mask: bool (B, T), keys that may be attended to, or None for all."""

    def __init__(self, length: int, key_mask: Tensor | None, device: str | torch.device) -> None:
        self.length, self.position = length, torch.arange(length, device=device)  # (T,)
        self.mask = None if key_mask is None else key_mask[:, None, None, :]  # (B, 1, 1, T)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, store: Tensor | None = None) -> Tensor:
        """q (B, T, H, D), k, v (B, T, H_kv, D) -> (B, T, H, D). store: CachedRows' alone."""
        return scaled_attention(q, k, v, self.mask)

    def spread(self, part: Tensor) -> Tensor:
        """(B, d), one vector per row -> (B, 1, d), which broadcasts over the row's tokens."""
        return part[:, None]


class PackedRows:
    """row, position: long (N,), where in the batch each token lies; offsets: int32 (B+1,), where
    rows begin and end among the N;
    length: T, no row is longer.
    """

    def __init__(self, row: Tensor, position: Tensor, offsets: Tensor, length: int) -> None:
        self.row, self.position, self.offsets, self.length = row, position, offsets, length

    @classmethod
    def from_places(cls, places: Tensor, shape: tuple[int, int]) -> Self:
        """places: long (N,), ascending places of real tokens among B * T; shape: (B, T). Does not
        wait for the device.
        """
        batch, length = shape
        row = places // length
        offsets = torch.searchsorted(row, torch.arange(batch + 1, device=places.device)).int()
        return cls(row, places % length, offsets, length)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, store: Tensor | None = None) -> Tensor:
        """q (N, H, D), k, v (N, H_kv, D) -> (N, H, D). store: CachedRows' alone."""
        if has_varlen(q):
            longest = -(-self.length // LONGEST_STEP) * LONGEST_STEP
            return varlen_attention(q, k, v, self.offsets, self.offsets, longest)
        position = torch.arange(self.length, device=q.device)
        lengths = self.offsets[1:] - self.offsets[:-1]
        mask = (position < lengths[:, None])[:, None, None, :]  # (B, 1, 1, T)
        return self.pack(scaled_attention(self.pad(q), self.pad(k), self.pad(v), mask))

    def spread(self, part: Tensor) -> Tensor:
        """(B, d), one vector per row -> (N, d)."""
        return SpreadRows.apply(part, self.row)

    def pad(self, x: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros where padding is."""
        batch = len(self.offsets) - 1
        flat = x.new_zeros(batch * self.length, *x.shape[1:])
        return flat.index_copy(0, self.row * self.length + self.position, x).unflatten(
            0, (batch, self.length)
        )

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        return x.flatten(0, 1).index_select(0, self.row * self.length + self.position)


class CachedRows(PackedRows):
    """Packed rows of which only a part is computed; they attend to keys and values of all their
    tokens, kept in stores, one per block.

    stores: per block (S, 2, H_kv, D), keys and values of many rows; written: long (N,), where those
    of the computed tokens go; keys: long (M,), where the rows' tokens lie, row after row;
    key_offsets: int32 (B+1,), where rows begin and end among the M.
    """

    stores: Sequence[Tensor]
    written: Tensor
    keys: Tensor
    key_offsets: Tensor
    stores = written = keys = key_offsets = None  # type: ignore[assignment]  # until they are set

    def attend(  # type: ignore[override]  # these rows are never without a store
        self, q: Tensor, k: Tensor, v: Tensor, store: Tensor
    ) -> Tensor:
        """As PackedRows, with the keys and values in this block's store, where k and v go first."""
        store.index_copy_(0, self.written, torch.stack([k, v], 1))
        if has_varlen(q):
            k, v = store.index_select(0, self.keys).unbind(1)  # (M, H_kv, D) each
            longest = -(-self.length // LONGEST_STEP) * LONGEST_STEP
            return varlen_attention(q, k, v, self.offsets, self.key_offsets, longest)
        place, shape, keys, mask = self.padded
        # (B, T', H, D)
        wide = (
            q.new_zeros(shape[0] * shape[1], *q.shape[1:])
            .index_copy(0, place, q)
            .unflatten(0, shape)
        )
        # (B, T, H_kv, D) each
        k, v = store.index_select(0, keys.flatten()).unflatten(0, keys.shape).unbind(2)
        return scaled_attention(wide, k, v, mask).flatten(0, 1).index_select(0, place)

    @cached_property
    def padded(self) -> tuple[Tensor, tuple[int, int], Tensor, Tensor]:
        """Where the computed tokens (N,) lie in (B, T'), as wide as the most computed row; the
        keys' places, (B, T); and their mask (B, 1, 1, T).
        """
        lengths, key_lengths = (ends[1:] - ends[:-1] for ends in (self.offsets, self.key_offsets))
        shape = len(lengths), int(lengths.max())
        position = torch.arange(len(self.row), device=self.row.device)
        place = self.row * shape[1] + position - self.offsets[self.row]
        column = torch.arange(int(key_lengths.max()), device=self.row.device)
        real = column < key_lengths[:, None]
        keys = self.keys[torch.where(real, self.key_offsets[:-1, None] + column, 0)]
        return place, shape, keys, real[:, None, None, :]


Rows: TypeAlias = PaddedRows | PackedRows


class SpreadRows(torch.autograd.Function):
    """part[row]. Its gradient is a product with the rows' indicator matrix: adding up a row's
    tokens one by one is slow on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, row: Tensor) -> Tensor:
        """part (B, d), row long (N,) -> (N, d)."""
        ctx.save_for_backward(row)
        ctx.rows = part.shape[0]
        return part[row]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient (N, d) -> that of part, (B, d); row has none."""
        (row,) = ctx.saved_tensors
        member = row == torch.arange(ctx.rows, device=row.device)[:, None]  # (B, N)
        return member.to(gradient.dtype) @ gradient, None


@dataclass
class Places:
    """Which positions of a padded batch (B, L) the network must compute. Known on the CPU when the
    batch is made, so that there is no need to synchronise with the device.

    tokens: long (N,), ascending flat positions of real tokens, including the end slot if there is
    one (then among B * (L + 1)), or None: all;
    logits: long (M,), flat positions among B * L whose vocabulary logits are needed, or None: all.
    """

    tokens: Tensor | None = None
    logits: Tensor | None = None
    # the rows of the tokens, where only a part of them is computed (sampling/prefix_cache.py)
    cached: CachedRows | None = None


def select(hidden: Tensor, rows: Rows, places: Places, end_slots: int = 0) -> Tensor:
    """Hidden states (M, d) at places.logits, or (B, L, d) of all text. hidden: (B, L + end_slots,
    d) or packed (N, d).
    """
    if places.logits is None:
        whole = rows.pad(hidden) if isinstance(rows, PackedRows) else hidden
        return whole[:, : whole.shape[1] - end_slots]
    length = rows.length - end_slots
    place = places.logits + places.logits // length * end_slots  # among B * (L + end_slots)
    return at_places(hidden, rows, places, place)


def at_places(hidden: Tensor, rows: Rows, places: Places, at: Tensor) -> Tensor:
    """Hidden states (m, d) at flat places `at`, long (m,), of the padded batch, its end slots
    included. hidden: (B, T, d) or packed (N, d).
    """
    if isinstance(rows, PackedRows):
        assert places.tokens is not None  # packed rows are made from it
        return hidden.index_select(0, torch.searchsorted(places.tokens, at))
    return hidden.flatten(0, 1).index_select(0, at)


def pad_rows(rows: Sequence[np.ndarray], value: float, width: int | None = None) -> np.ndarray:
    """Right-pad 1-D arrays to (B, width) in the first one's dtype, width the longest by default.
    Raises ValueError when a row is longer.
    """
    width = max(map(len, rows)) if width is None else width
    if max(map(len, rows)) > width:
        raise ValueError(f"a row of {max(map(len, rows))} does not fit into {width}")
    padded = np.full((len(rows), width), value, dtype=rows[0].dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
