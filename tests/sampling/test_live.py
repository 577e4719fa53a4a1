"""A generation while it runs (sampling/live.py): its frames, how it ends, its text as HTML.

Run: python -m pytest tests/sampling/test_live.py        (about 5 s)
"""

import random
import re
import threading
import time
from html import unescape

import pytest
import tiny
import torch

from common.errors import InputError
from sampling.flexmdm import generate_flexmdm
from sampling.live import LiveText, live_frames

MASK, END = 0, 1
WORDS = {1: "<|end|>", 2: "<b>&amp;</b>", 3: "line\nbreak", 4: "{{x}} ${1}", 5: "a", 6: "b "}


class Words:
    """What LiveText asks of a tokenizer."""

    all_special_ids = [END]

    @staticmethod
    def decode(ids):
        return "".join(WORDS[token] for token in ids)


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- frames --------------------------------------------------------------------------------------


def test_frames_are_those_of_the_trace():
    """In the samplers' own order, with the time since the sampler began."""
    model = tiny.flexmdm()
    settings = dict(
        mask_id=tiny.MASK, pad_id=tiny.PAD, sampler="event_driven", seeds=torch.tensor([3, 4])
    )
    given = [[5, 6], [7]]
    trace = generate_flexmdm(model, given, return_trace=True, **settings).trace[0]
    sample = lambda on_frame: generate_flexmdm(model, given, on_frame=on_frame, **settings)
    shown = list(filter(None, live_frames(model, sample, threading.Lock())))
    assert [frame for _, frame in shown] == trace and len(trace) > 2
    seconds = [second for second, _ in shown]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert not model._forward_pre_hooks


class Endless(torch.nn.Module):
    """A network that a sampler evaluates for ever; `evaluations` counts."""

    evaluations = 0

    def forward(self):
        self.evaluations += 1
        time.sleep(0.001)

    def sample(self, on_frame):
        on_frame(0, {"t": 0.0, "evaluations": 0, "ids": [], "slots": []})
        while True:
            self()


def first_frame(frames):
    return next(frame for frame in frames if frame)


def test_closing_ends_the_sampler_and_frees_the_lock():
    """Also where no further frame is made; and one that waits for the lock never begins."""
    network, waiting, lock = Endless(), Endless(), threading.Lock()
    frames = live_frames(network, network.sample, lock)
    first_frame(frames)
    behind = live_frames(waiting, waiting.sample, lock)
    assert next(behind) is None and lock.locked()
    behind.close()
    wait_until(lambda: network.evaluations > 3)
    frames.close()
    wait_until(lambda: not lock.locked())
    evaluations = network.evaluations
    time.sleep(0.05)
    assert network.evaluations == evaluations and waiting.evaluations == 0


def test_generations_take_turns():
    lock, under_way, most = threading.Lock(), [], []

    def sample(on_frame):
        under_way.append(0)
        most.append(len(under_way))
        for number in range(3):
            on_frame(0, {"t": 0.0, "evaluations": number, "ids": [], "slots": []})
            time.sleep(0.005)
        under_way.pop()

    several = [live_frames(torch.nn.Module(), sample, lock) for _ in range(4)]
    seen = [0] * 4
    while several:
        for place, frames in enumerate(several):
            if frames is not None:
                try:
                    seen[place] += next(frames) is not None
                except StopIteration:
                    several[place] = None
        if not any(several):
            break
    assert seen == [3] * 4 and most == [1] * 4


def test_a_generation_that_takes_too_long_is_stopped():
    network, lock = Endless(), threading.Lock()
    with pytest.raises(InputError, match=r"more than 0.1 s"):
        list(live_frames(network, network.sample, lock, time_limit=0.1))
    assert network.evaluations > 0 and not lock.locked()


def test_what_the_sampler_raises_is_raised_here():
    def sample(on_frame):
        raise KeyError("x")

    lock = threading.Lock()
    with pytest.raises(KeyError):
        list(live_frames(torch.nn.Module(), sample, lock))
    assert not lock.locked()


# ---- text ----------------------------------------------------------------------------------------


def random_frames(given, length):
    """Frames in which masks are inserted anywhere but into the given tokens at the start, one or
    several at a time, and unmasked.
    """
    ids, slots = [random.choice([5, 6]) for _ in range(given)], list(range(given))
    frames, following = [(list(ids), list(slots))], given
    while following < given + length or MASK in ids:
        for _ in range(random.randint(0, 3)):
            if following < given + length:
                place = random.randint(given, len(ids))
                ids.insert(place, MASK)
                slots.insert(place, following)
                following += 1
        masks = [place for place, token in enumerate(ids) if token == MASK]
        for place in random.sample(masks, random.randint(0, min(2, len(masks)))):
            ids[place] = random.randint(1, 6)
        frames.append((list(ids), list(slots)))
    return [{"t": 0.0, "evaluations": 0, "ids": ids, "slots": slots} for ids, slots in frames]


def parts(text):
    """[(class, text or "" for a mask)] of LiveText's HTML."""
    found = re.findall(r'<i class="(\w+)"></i>|<span class="(\w+)">([^<]*)</span>', text)
    assert re.sub(r'<i class="\w+"></i>|<span class="\w+">[^<]*</span>', "", text) == ""
    return [(mask or style, unescape(words)) for mask, style, words in found]


def test_every_frame_is_shown_as_it_is():
    given, before, after = 3, "<script>a & b</script>\n", "{{end}}"
    frames = random_frames(given, 30)
    view = LiveText(Words, MASK, before, after)
    masks_before, clean_before = set(), set()
    for frame in frames:
        shown = parts(view.html(frame))
        assert shown[0] == ("given", before) and shown[-1] == ("given", after)
        middle = shown[1:-1]
        places = list(zip(frame["slots"], frame["ids"]))[given:]
        masks = [slot for slot, token in places if token == MASK]
        styles = ["mask" if slot in masks_before else "inserted" for slot in masks]
        assert [style for style, _ in middle if style in ("mask", "inserted")] == styles
        for style, is_new in (("new", True), ("old", False)):
            tokens = [t for s, t in places if t != MASK and (s not in clean_before) == is_new]
            counted = re.sub(
                r"<\|end\|>×(\d+)",
                lambda found: "<|end|>" * int(found[1]),
                "".join(words for each, words in middle if each == style),
            )
            assert counted == Words.decode(tokens)
        masks_before, clean_before = set(masks), {s for s, t in places if t != MASK}
    assert any(clean_before) and {style for style, _ in parts(view.html(frames[-1]))} == {
        "given",
        "old",
    }


def test_masks_that_are_there_from_the_start_are_not_new():
    """As LLaDA's."""
    frame = {"t": 0.0, "evaluations": 0, "ids": [5, MASK, MASK], "slots": [0, 1, 2]}
    assert parts(LiveText(Words, MASK).html(frame)) == [("mask", "")] * 2
