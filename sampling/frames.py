"""The frames of a sampler's rows, kept for the trace and shown to whoever watches."""

from __future__ import annotations

from sampling.results import OnFrame, TraceFrame


class Frames:
    """Where a sampler puts the frames of its rows. rows: how many; return_trace: whether all frames
    are kept, in `trace`; on_frame(row, frame): called with each as it is made. Frames are needed
    only if `wanted`.
    """

    def __init__(self, rows: int, return_trace: bool, on_frame: OnFrame | None):
        self.trace: list[list[TraceFrame]] | None = (
            [[] for _ in range(rows)] if return_trace else None
        )
        self.on_frame = on_frame
        self.wanted = return_trace or on_frame is not None

    def add(self, row: int, frame: TraceFrame) -> None:
        """One more frame of a row."""
        if self.trace is not None:
            self.trace[row].append(frame)
        if self.on_frame is not None:
            self.on_frame(row, frame)
