"""CUDA graphs of a network's trunk: at the batch sizes of sampling a GPU otherwise waits for a few
thousand kernel launches per evaluation.

A graph has fixed shapes, so packed rows are padded to a bucket: of tokens (at most a sixteenth
more), of rows, of the longest row. A bucket is captured when it first occurs, in a tenth of a
second, and replayed from then on, whatever rows are in it. Blocks that are compiled
(network/fast_blocks.py) are captured compiled. Only for inference on CUDA in half precision,
where attention goes by row boundaries.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from network.fast_blocks import compile_network, fuse_projections
from network.float8 import is_float8
from network.packed_rows import LONGEST_STEP, CachedRows, PackedRows, has_varlen

ROWS_STEP, FEWEST_TOKENS = 8, 16


def bucket_of_tokens(n: int) -> int:
    """The smallest bucket that holds n tokens: multiples of a sixteenth of the power of two
    below.
    """
    step = max(FEWEST_TOKENS, 2 ** (max(n, 1).bit_length() - 1) // 16)
    return -(-n // step) * step


class TrunkGraphs:
    """trunk(ids (N,), PackedRows or CachedRows, *times (B,)) -> tuple of (N, ...), replayed from
    graphs. The result is overwritten by the next call.
    """

    def __init__(self, trunk: Callable[..., tuple[Tensor, ...]]):
        self.trunk = trunk
        self.graphs: dict[tuple[int, ...], TrunkGraph] = {}
        self.pool: Any = None  # torch's memory pool, that of the first graph
        self.stores: Sequence[Tensor] | None = None

    @torch.no_grad()
    def __call__(self, ids: Tensor, rows: PackedRows, *times: Tensor) -> tuple[Tensor, ...]:
        """The trunk's output for this call's tokens, (N, ...) each."""
        batch, longest = len(rows.offsets) - 1, -(-rows.length // LONGEST_STEP) * LONGEST_STEP
        sizes = [bucket_of_tokens(len(ids)), -(-(batch + 1) // ROWS_STEP) * ROWS_STEP, longest]
        if isinstance(rows, CachedRows):
            sizes.append(bucket_of_tokens(len(rows.keys)))
            # other stores: what was captured with the old ones is of no use
            if rows.stores is not self.stores:
                self.graphs = {
                    known: graph for known, graph in self.graphs.items() if len(known) == 3
                }
                self.stores = rows.stores
        key = tuple(sizes)
        if key not in self.graphs:
            self.graphs[key] = TrunkGraph(self, key, ids, rows, times)
        return self.graphs[key].replay(ids, rows, times)


class TrunkGraph:
    """One bucket: buffers of fixed shape, a row of padding after the real rows, the captured graph
    and its output.
    """

    def __init__(
        self,
        owner: TrunkGraphs,
        key: tuple[int, ...],
        ids: Tensor,
        rows: PackedRows,
        times: Sequence[Tensor],
    ):
        tokens, batch, longest, *keys = key
        self.ids, row, position = (ids.new_zeros(tokens) for _ in range(3))
        self.times = [time.new_zeros(batch) for time in times]
        buffers = type(rows)(row, position, self.offsets(batch, ids), longest)
        if isinstance(rows, CachedRows) and isinstance(buffers, CachedRows):
            buffers.stores = rows.stores
            buffers.written = ids.new_zeros(tokens)
            buffers.keys = ids.new_zeros(keys[0])
            buffers.key_offsets = self.offsets(batch, ids)
        self.rows: Any = buffers  # PackedRows, or CachedRows
        self.fill(ids, rows, times)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # kernels load, compile and choose their work spaces outside of the capture
        with torch.cuda.stream(stream):
            owner.trunk(self.ids, self.rows, *self.times)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            self.graph.capture_begin(**({} if owner.pool is None else {"pool": owner.pool}))
            try:
                self.output = owner.trunk(self.ids, self.rows, *self.times)
            finally:
                self.graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        owner.pool = self.graph.pool()

    @staticmethod
    def offsets(batch: int, ids: Tensor) -> Tensor:
        """A buffer for the ends of `batch` rows, int32 (batch + 1,), on the device of ids."""
        return torch.zeros(batch + 1, dtype=torch.int32, device=ids.device)

    def fill(self, ids: Tensor, rows: PackedRows, times: Sequence[Tensor]) -> None:
        """Copy one call's input into the buffers; the padding after it belongs to a row of its own
        and, with stores, to their last place.
        """
        batch = len(rows.offsets) - 1
        wanted = [
            (self.ids, ids, None),
            (self.rows.row, rows.row, batch),
            (self.rows.position, rows.position, None),
            (self.rows.offsets, rows.offsets, len(self.ids)),
            *((buffer, time, None) for buffer, time in zip(self.times, times)),
        ]
        if isinstance(rows, CachedRows):
            last = len(rows.stores[0]) - 1
            wanted += [
                (self.rows.written, rows.written, last),
                (self.rows.keys, rows.keys, last),
                (self.rows.key_offsets, rows.key_offsets, len(self.rows.keys)),
            ]
        for buffer, value, filling in wanted:
            buffer[: len(value)].copy_(value)
            if filling is not None:
                buffer[len(value) :].fill_(filling)

    def replay(self, ids: Tensor, rows: PackedRows, times: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The output for one call's input, without the filling; overwritten by the next call."""
        self.fill(ids, rows, times)
        self.graph.replay()
        return tuple(part[: len(ids)] for part in self.output)


def speed_up_sampling(model: Any, torch_compile: bool = False) -> None:
    """Make a loaded model (LoRA merged) ready to sample: on a GPU in half precision fused
    projections, CUDA graphs and TF32 for the fp32 parts, and compiled blocks if torch_compile. The
    results stay the same up to rounding."""
    if torch_compile:
        compile_network(model)
    backbone = getattr(model, "backbone", model)
    if has_varlen(backbone.model.transformer.blocks[0].q_proj.weight):
        for block in backbone.model.transformer.blocks:
            if not any(map(is_float8, block.parameters())):  # of these there are no views
                fuse_projections(block)
        model.graphs = TrunkGraphs(model.trunk)
        # length head, time MLP: higher precision than the bf16 that they read
        torch.set_float32_matmul_precision("high")
