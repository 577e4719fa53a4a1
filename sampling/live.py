"""A generation while it runs: a sampler in a thread of its own, its frames one by one, and a frame
as HTML.

    text = LiveText(tokenizer, mask_id, before, after)
    for seconds, frame in filter(None, live_frames(network, sample, lock)):  # sample(on_frame)
        text.html(frame)

The page of demo.py shows these; trace_page.py replays a generation that has ended. Nothing here
imports torch.
"""

import html
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from common.errors import InputError
from sampling.results import OnFrame, TraceFrame
from sampling.shown_text import MASK_SIGN, text_pieces

Frames: TypeAlias = Generator[tuple[float, TraceFrame] | None, None, None]


class Stopped(Exception):
    """Nobody watches any more."""


def live_frames(
    network: Any,
    sample: Callable[[OnFrame], object],
    lock: threading.Lock,
    time_limit: float | None = None,
) -> Frames:
    """(seconds since the sampler began, frame) of the first row, frame by frame; None while there
    is no new one, so that several can be shown at once.

    The sampler begins when the first frame is asked for. It runs in a thread and waits for nobody
    to take its frames: the seconds are its own. It holds the lock, so that generations share
    neither the processor nor the network. It ends at its next evaluation when this generator is
    closed, or after time_limit seconds (InputError).
    Raises what `sample` raises.
    """
    frames: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()
    closed = threading.Event()

    def work():
        with lock:
            began = time.perf_counter()

            def keep_going(*_):
                if closed.is_set():
                    raise Stopped
                if time_limit is not None and time.perf_counter() - began > time_limit:
                    raise InputError(f"stopped: it took more than {time_limit:g} s")

            def on_frame(row, frame):
                if row == 0:
                    frames.put((time.perf_counter() - began, frame))

            # not in on_frame: a sampler may evaluate for long without a new frame
            hook = network.register_forward_pre_hook(keep_going)
            end = None
            try:
                sample(on_frame)
            except BaseException as error:
                end = error
            finally:
                hook.remove()
        frames.put((0.0, end))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            try:
                # asking without a pause would keep the interpreter from the sampler
                seconds, frame = frames.get(timeout=0.002)
            except queue.Empty:
                yield None
                continue
            if isinstance(frame, BaseException):
                raise frame
            if frame is None:
                return
            yield seconds, frame
    finally:
        closed.set()


class LiveText:
    """The frames of one generation as HTML, with what has changed since the one before.

    before, after: the text shown around what is generated, in place of the tokens that the model
    was given (which may hold a chat template).
    """

    def __init__(self, tokenizer: Any, mask_id: int, before: str = "", after: str = "") -> None:
        self.tokenizer, self.mask_id = tokenizer, mask_id
        self.before, self.after = before, after
        self.given: set[int] | None = None
        self.masks: set[int] = set()
        self.unmasked: set[int] = set()

    def html(self, frame: TraceFrame) -> str:
        """Text in <span>, each mask an <i>; classes given, mask, inserted (a new mask), old and new
        (a token just unmasked).
        """
        places = list(zip(frame["slots"], frame["ids"]))
        masks = {slot for slot, token in places if token == self.mask_id}
        if self.given is None:
            self.given, self.masks = {slot for slot, _ in places} - masks, masks
        styled = []
        for slot, token in places:
            if slot in masks:
                styled.append((token, "mask" if slot in self.masks else "inserted"))
            elif slot not in self.given:
                styled.append((token, "old" if slot in self.unmasked else "new"))
        self.masks, self.unmasked = masks, {slot for slot, _ in places} - masks
        pieces = text_pieces(styled, self.tokenizer, self.mask_id)
        return "".join(
            self._piece(text, style)
            for text, style in [(self.before, "given"), *pieces, (self.after, "given")]
            if text
        )

    @staticmethod
    def _piece(text: str, style: str) -> str:
        if style in ("mask", "inserted"):
            return f'<i class="{style}"></i>' * text.count(MASK_SIGN)
        return f'<span class="{style}">{html.escape(text)}</span>'
