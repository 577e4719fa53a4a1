"""LLaDA's sampler, the baseline: a canvas of masks of fixed length, revealed in a fixed number of steps (flexmdm.md, section 7)."""
import torch

from flexmdm_interpolant import length_without_trailing
from generation_result import GenerationResult, draw_seeds, row_uniforms
from token_choice import draw_tokens

TOKEN, CONFIDENCE = 0, 1                 # purposes of a step's random numbers
PLACES_IN_FLOAT64 = 64                   # whose logits are in float64 at once: 64 x 126,464 x 8 bytes = 62 MiB


def reveals_of_block(masks, steps):
    """How many of a block's masks each of its steps reveals: floor(masks / steps), the first masks mod steps one more."""
    return [masks // steps + (step < masks % steps) for step in range(steps)]


def reveal_plan(length, steps, block_length):
    """The evaluations of one row: a list of (block start, block end, reveals), places counted from the first mask.

    length: masks of the row; steps: over all blocks, None for one a mask; block_length: masks of a block (the last one may be shorter),
    None for a single block. A step that reveals nothing (more steps than masks in a block) needs no evaluation and is left out.
    Raises ValueError where steps is not divisible by the number of blocks.
    """
    block_length = max(length, 1) if block_length is None else block_length
    blocks = max(-(-length // block_length), 1)
    if steps is not None and steps % blocks:
        raise ValueError(f"steps ({steps}) must be divisible by the number of blocks ({blocks} of {block_length} for {length} tokens)")
    plan = []
    for start in range(0, length, block_length):
        end = min(start + block_length, length)
        block_steps = end - start if steps is None else steps // blocks
        plan += [(start, end, count) for count in reveals_of_block(end - start, block_steps) if count]
    return plan


def log_probability(logits, tokens, excluded):
    """The network's own log probability of a token at each of n places (without temperature, as in LLaDA's code), float64 [n] on CPU.

    logits: [n, V]; tokens: long [n]; excluded: bool [V], tokens that are never drawn.
    """
    if logits.device.type == "mps":                                                    # has no float64
        logits, tokens, excluded = logits.cpu(), tokens.cpu(), excluded.cpu()
    parts = [part.double().masked_fill(excluded, -torch.inf).log_softmax(-1).gather(-1, token[:, None])[:, 0]
             for part, token in zip(logits.split(PLACES_IN_FLOAT64), tokens.split(PLACES_IN_FLOAT64))]
    return torch.cat(parts).cpu()


def most_confident(confidence, eligible, count):
    """Bool [B, L]: in each row the count[b] eligible places of highest confidence; of equals the leftmost.

    confidence: float64 [B, L]; eligible: bool [B, L] with at least count[b] places a row; count: long [B].
    """
    order = confidence.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)     # (B, L)
    first = torch.arange(eligible.shape[1]) < count[:, None]                            # (B, L)
    return torch.zeros_like(eligible).scatter(1, order, first) & eligible


def network_logits(model, ids, real, wanted, given, *, mask_id, cfg_scale):
    """Logits [n, V] at the wanted places, in row-major order, on the model's device. ids: long [B, L]; the others: bool [B, L].

    real: not padding; given: prompt, prefix and suffix, which the unconditional half of classifier-free guidance sees as masks.
    """
    if cfg_scale:                                                                       # both halves in one batch
        ids = torch.cat([ids, ids.masked_fill(given, mask_id)])                         # (2B, L)
        real, wanted = torch.cat([real, real]), torch.cat([wanted, wanted])
    device = model.device
    attention_mask = None if real.all() else real.to(device)
    ids, wanted = ids.to(device), wanted.to(device)
    if getattr(model, "supports_logits_mask", False):
        logits = model(ids, attention_mask=attention_mask, logits_mask=wanted).logits
    else:
        logits = model(ids, attention_mask=attention_mask).logits[wanted]
    if cfg_scale:
        conditional, unconditional = logits.chunk(2)                                    # (n, V) each
        logits = unconditional + (cfg_scale + 1) * (conditional - unconditional)
    return logits


@torch.no_grad()
def _fill(model, rows, device, *, steps, block_length, temperature, cfg_scale, remasking, mask_id, pad_id, num_tokens,
          generator, seeds, rows_at_once, return_trace, on_frame):
    """The sampler itself. rows: for each row (ids before the masks, number of masks, ids after them), ids long [n] on CPU; device: of the result.

    All bookkeeping stays on CPU: it is small, and CPU has float64 everywhere. Only the network's input and logits are on its device.
    """
    if remasking not in ("low_confidence", "random"):
        raise ValueError(f"remasking must be 'low_confidence' or 'random', not {remasking!r}")
    if (steps is not None and steps < 1) or temperature < 0 or cfg_scale < 0:
        raise ValueError(f"steps must be at least 1 ({steps}), temperature ({temperature}) and cfg_scale ({cfg_scale}) at least 0")
    if (block_length is not None and block_length < 1) or (rows_at_once is not None and rows_at_once < 1):
        raise ValueError(f"block_length ({block_length}) and rows_at_once ({rows_at_once}) must be at least 1")
    if any(masks < 0 for _, masks, _ in rows):
        raise ValueError("the number of tokens to generate must not be negative")
    B = len(rows)
    plans = [reveal_plan(masks, steps, block_length) for _, masks, _ in rows]
    seeds = draw_seeds(B, seeds, generator)
    lengths = torch.tensor([len(before) + masks + len(after) for before, masks, after in rows])            # (B,)
    canvas = torch.full((B, int(lengths.max())), pad_id)                                # (B, L)
    masked = torch.zeros_like(canvas, dtype=torch.bool)                                 # (B, L)
    for row, (before, masks, after) in enumerate(rows):
        canvas[row, :lengths[row]] = torch.cat([before, torch.full((masks,), mask_id), after])
        masked[row, len(before):len(before) + masks] = True
    place = torch.arange(canvas.shape[1])                                               # (L,)
    real = place < lengths[:, None]                                                     # (B, L)
    given = real & ~masked                                                              # (B, L)
    cost = 2 if cfg_scale else 1
    evaluations = [0] * B
    trace = [[] for _ in rows] if return_trace else None

    def show(row):
        if return_trace or on_frame:
            length = int(lengths[row])
            frame = {"t": 1 - int(masked[row].sum()) / max(rows[row][1], 1), "evaluations": evaluations[row],
                     "ids": canvas[row, :length].tolist(), "slots": list(range(length))}
            if return_trace:
                trace[row].append(frame)
            if on_frame:
                on_frame(row, frame)

    for row in range(B):
        show(row)
    waiting = sorted((row for row in range(B) if plans[row]), key=lambda row: -int(lengths[row]))    # neighbours of like length
    live, step = [], [0] * B
    while live or waiting:
        room = len(waiting) if rows_at_once is None else rows_at_once - len(live)
        live, waiting = live + waiting[:room], waiting[room:]
        L = int(lengths[live].max())
        start, end, count = torch.tensor([plans[row][step[row]] for row in live]).T     # (R,) each
        offset = place[:L] - torch.tensor([len(rows[row][0]) for row in live])[:, None] # (R, L), place counted from the first mask
        eligible = masked[live, :L] & (offset >= start[:, None]) & (offset < end[:, None])                 # (R, L)
        event = torch.tensor([step[row] for row in live])                               # (R,)
        if remasking == "random":        # the choice does not look at the network, so only the chosen places need logits
            eligible = most_confident(row_uniforms(seeds[live], event, CONFIDENCE, L), eligible, count)
        logits = network_logits(model, canvas[live, :L], real[live, :L], eligible, given[live, :L], mask_id=mask_id, cfg_scale=cfg_scale)
        excluded = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device) # (V,); end of text may be drawn
        excluded[mask_id] = True
        if num_tokens is not None:
            excluded[num_tokens:] = True
        tokens = draw_tokens(logits, excluded, temperature, row_uniforms(seeds[live], event, TOKEN, L)[eligible])          # (n,)
        drawn = canvas[live, :L]                                                        # (R, L)
        drawn[eligible] = tokens.cpu()
        if remasking == "low_confidence":
            confidence = torch.zeros(eligible.shape, dtype=torch.float64)               # (R, L)
            confidence[eligible] = log_probability(logits, tokens, excluded)
            eligible = most_confident(confidence, eligible, count)
        for index, row in enumerate(live):
            canvas[row, :L] = torch.where(eligible[index], drawn[index], canvas[row, :L])
            masked[row, :L] &= ~eligible[index]
            evaluations[row] += cost
            step[row] += 1
            show(row)
        live = [row for row in live if step[row] < len(plans[row])]
    return GenerationResult(sequences=canvas.to(device), lengths=lengths.to(device), evaluations=torch.tensor(evaluations, device=device),
                            truncated=torch.zeros(B, dtype=torch.bool, device=device), trace=trace)


def _rows_of(ids, pad_id):
    """The rows of ids (long [B, P], right-padded) as B tensors on CPU without their trailing padding."""
    if ids.dim() != 2:
        raise ValueError(f"prompts, prefixes and suffixes are long [B, P], not of shape {tuple(ids.shape)}")
    return [row[:length] for row, length in zip(ids.cpu(), length_without_trailing(ids.cpu(), pad_id).tolist())]


def generate_mdm(model, prompts, *, steps, gen_length, block_length=None, temperature=0.0, cfg_scale=0.0, remasking="low_confidence",
                 mask_id, pad_id, num_tokens=None, generator=None, seeds=None, rows_at_once=None, return_trace=False, on_frame=None):
    """Answer each prompt with gen_length tokens. Returns a GenerationResult on the prompts' device.

    model: `model(ids, attention_mask=None).logits` [B, L, V] with a `device`; where it has `supports_logits_mask`, logits are computed
        at the masks that need them alone.
    prompts: long [B, P], right-padded with pad_id, rows of any length; each is followed at once by its masks, and padding comes after.
    steps: over all blocks, divisible by their number (None: one a token); gen_length: int, or long [B]; block_length: tokens a block
        (None: one block; the last block of a row may be shorter).
    temperature: 0 takes the most probable token; remasking: which of a step's tokens stay: the most probable ("low_confidence") or
        random ones; cfg_scale w: logits u + (w + 1)(c - u), u with the prompt masked, at two evaluations a step.
    Never drawn: mask_id and ids from num_tokens on. pad_id is: in LLaDA it is the end of text, which fills the answer's rest.
    seeds: long [B]; every random number of a row is a function of (its seed, its step, purpose). generator draws seeds that are not given.
    rows_at_once: rows in the network's batch (None: all); on_frame(row, frame): called with every frame of the trace as it is made.
    """
    befores = _rows_of(prompts, pad_id)
    masks = torch.as_tensor(gen_length).expand(len(befores)).tolist()
    nothing = torch.empty(0, dtype=torch.long)
    return _fill(model, [(before, count, nothing) for before, count in zip(befores, masks)], prompts.device,
                 steps=steps, block_length=block_length, temperature=temperature, cfg_scale=cfg_scale, remasking=remasking, mask_id=mask_id, pad_id=pad_id, num_tokens=num_tokens,
                 generator=generator, seeds=seeds, rows_at_once=rows_at_once, return_trace=return_trace, on_frame=on_frame)


def generate_mdm_infilling(model, prefixes, suffixes, *, steps, middle_lengths, block_length=None, temperature=0.0, cfg_scale=0.0,
                           remasking="low_confidence", mask_id, pad_id, num_tokens=None, generator=None, seeds=None, rows_at_once=None,
                           return_trace=False, on_frame=None):
    """Fill middle_lengths (int, or long [B]) masks between each prefix and suffix (long [B, P], [B, S], right-padded), in place.

    Everything else as in generate_mdm; guidance hides prefix and suffix. The middle of row b is `sequences[b, P_b : lengths[b] - S_b]`.
    """
    befores, afters = _rows_of(prefixes, pad_id), _rows_of(suffixes, pad_id)
    if len(befores) != len(afters):
        raise ValueError(f"{len(befores)} prefixes, but {len(afters)} suffixes")
    masks = torch.as_tensor(middle_lengths).expand(len(befores)).tolist()
    return _fill(model, list(zip(befores, masks, afters)), prefixes.device, steps=steps, block_length=block_length,
                 temperature=temperature, cfg_scale=cfg_scale, remasking=remasking, mask_id=mask_id, pad_id=pad_id, num_tokens=num_tokens,
                 generator=generator, seeds=seeds, rows_at_once=rows_at_once, return_trace=return_trace, on_frame=on_frame)
