"""The exact posterior of a small law over strings, behind the network's call signature: what a
perfectly trained FlexMDM would be.

A law is a list of contexts; a context is a prefix, a suffix (both may be empty) and probabilities
of the middles between them. Every state xt that can arise (each middle token deleted, mask or
clean) is enumerated once, with every alignment into every middle. An alignment that deletes d
tokens weighs p(middle) * D^d, D = P(deleted) = 1 - alpha(t): P(mask) and P(clean) are the same for
all alignments of a state and cancel. So posteriors are polynomials in D, looked up by the state's
ids for 100,000 rows at once.
Contexts must be recognisable from xt: random_prompts and random_infills put separators, as real
layouts do.
"""

import itertools
from collections import defaultdict

import numpy as np
import torch

# ids: 0..3 text, separators, mask, a row without token, padding
TOKENS, OPEN, CLOSE, MASK, UNUSED, PAD = 4, 4, 5, 6, 7, 8
VOCABULARY, NUM_TOKENS = 9, 7  # NUM_TOKENS counts text, separators and mask


class Context:
    """prefix, suffix: tuples of ids; middles: {tuple of ids: probability}."""

    def __init__(self, prefix, suffix, middles):
        total = sum(middles.values())
        self.prefix, self.suffix = tuple(prefix), tuple(suffix)
        self.middles = {middle: weight / total for middle, weight in middles.items()}

    def target(self, inserted=1.0):
        """{full string: probability}; where each middle token is only inserted with probability
        alpha(1) < 1, the thinned law.
        """
        law = defaultdict(float)
        for middle, p in self.middles.items():
            for kept in (
                itertools.product((0, 1), repeat=len(middle))
                if inserted < 1
                else ((1,) * len(middle),)
            ):
                weight = p * inserted ** sum(kept) * (1 - inserted) ** (len(middle) - sum(kept))
                law[self.prefix + tuple(itertools.compress(middle, kept)) + self.suffix] += weight
        return dict(law)


def random_strings(rng, count, max_length, tokens=TOKENS):
    """{string: weight}: random distinct strings, one of every length 0 ... max_length among
    them.
    """
    strings = {
        tuple(rng.integers(tokens, size=length).tolist()) for length in range(max_length + 1)
    }
    while len(strings) < count:
        strings.add(tuple(rng.integers(tokens, size=rng.integers(max_length + 1)).tolist()))
    return {
        string: float(weight)
        for string, weight in zip(sorted(strings), 0.3 + rng.exponential(size=len(strings)))
    }


def random_lengths(rng):
    """One context, nothing given, lengths 0 ... 6."""
    return [Context((), (), random_strings(rng, 12, 6, tokens=3))]


def random_prompts(rng):
    """Three prompts of different lengths (one of them empty), each with its own law of
    continuations of length 0 ... 4.
    """
    prompts = [(), (0,), tuple(rng.integers(TOKENS, size=3).tolist())]
    return [Context(prompt + (CLOSE,), (), random_strings(rng, 9, 4)) for prompt in prompts]


def random_infills(rng):
    """Every split of every string of a law into prefix, middle and suffix; the middle's law is the
    conditional one.
    """
    strings = random_strings(rng, 8, 4, tokens=3)
    splits = {
        (string[:start], string[end:])
        for string in strings
        for start, end in itertools.combinations_with_replacement(range(len(string) + 1), 2)
    }
    contexts = []
    for prefix, suffix in sorted(splits):
        middles = {
            string[len(prefix) : len(string) - len(suffix)]: weight
            for string, weight in strings.items()
            if len(string) >= len(prefix) + len(suffix)
            and string[: len(prefix)] == prefix
            and string[len(string) - len(suffix) :] == suffix
        }
        contexts.append(Context(prefix + (OPEN,), (CLOSE,) + suffix, middles))
    return contexts


class ExactPosterior(torch.nn.Module):
    """`model(input_ids, timesteps, attention_mask)` for a law (list of Contexts) and the insertion
    schedule that t belongs to.

    Where a sampler must not look it answers nonsense: 3 missing tokens in gaps within prefix and
    suffix and behind the row, and the largest logits for mask, padding and the row of the
    vocabulary that has no token. States outside the law's support (tau-leaping reaches some) miss
    nothing and have uniform tokens; `unknown` counts the calls' rows in them. With
    only_logits_mask=False it has the plain contract alone.
    """

    device = torch.device("cpu")

    def __init__(self, contexts, schedule, only_logits_mask=True):
        super().__init__()
        self.schedule, self.unknown = schedule, 0
        if only_logits_mask:
            self.supports_logits_mask = True
        width = max(
            len(c.prefix) + len(middle) + len(c.suffix) for c in contexts for middle in c.middles
        )
        degree = max(len(middle) for c in contexts for middle in c.middles)
        index, owner, entries = {}, [], []
        for number, context in enumerate(contexts):
            for middle, p in context.middles.items():
                for kept in itertools.product(("deleted", "mask", "clean"), repeat=len(middle)):
                    st = [i for i, kind in enumerate(kept) if kind != "deleted"]
                    state = (
                        context.prefix
                        + tuple(middle[i] if kept[i] == "clean" else MASK for i in st)
                        + context.suffix
                    )
                    if state not in index:
                        index[state] = len(index)
                        owner.append(number)
                    assert owner[index[state]] == number, (
                        f"state {state} does not say which context it is of"
                    )
                    entries.append((index[state], len(context.prefix), p, middle, st))
        self.width, self.states = width, len(index)
        total = np.zeros((self.states, degree + 1))  # sum of p, by number deleted
        sizes = np.zeros((self.states, width + 1, degree + 1, degree + 1))  # of each gap's size
        tokens = np.zeros((self.states, width, VOCABULARY, degree + 1))
        allowed = np.zeros((self.states, width + 1), dtype=bool)
        for state, offset, p, middle, st in entries:
            deleted = len(middle) - len(st)
            total[state, deleted] += p
            for j, (before, after) in enumerate(zip([-1] + st, st + [len(middle)])):
                sizes[state, offset + j, after - before - 1, deleted] += p
                allowed[state, offset + j] = True
            for j, i in enumerate(st):
                tokens[state, offset + j, middle[i], deleted] += p
        keys = self._keys(
            torch.tensor([list(state) + [PAD] * (width - len(state)) for state in index]).view(
                self.states, width
            ),
            torch.tensor([len(state) for state in index]),
        )
        order = torch.argsort(keys)
        self.keys = keys[order]
        gaps = np.arange(degree + 1) @ sizes
        self.total, self.sizes, self.gaps, self.tokens, self.allowed = (
            torch.as_tensor(x)[order] for x in (total, sizes, gaps, tokens, allowed)
        )

    def _keys(self, ids, lengths):
        """One int64 a row of text: its ids as digits."""
        position = torch.arange(ids.shape[1])
        digits = torch.where(position < lengths[:, None], ids + 1, 0)
        assert self.width < 18 and (VOCABULARY + 1) ** self.width < 2**63
        return (digits * (VOCABULARY + 1) ** position.clamp(max=self.width)).sum(1) + (
            lengths > self.width
        ) * -(2**40)

    def forward(self, input_ids, timesteps, attention_mask=None, logits_mask=None, missing_at=None):
        batch, length = input_ids.shape
        lengths = attention_mask.long().sum(1)
        key = self._keys(input_ids, lengths)
        row = torch.searchsorted(self.keys, key).clamp(max=self.states - 1)  # (B,)
        known = self.keys[row] == key
        self.unknown += int((~known).sum())
        # 0 is not asked: t = 1 is rounding
        deleted = (1 - self.schedule.at(timesteps.double())).clamp(min=1e-9)
        powers = deleted[:, None] ** torch.arange(self.total.shape[1])  # (B, D+1)
        total = (self.total[row] * powers).sum(1)  # (B,)
        gaps = (self.gaps[row] @ powers[:, :, None])[:, :, 0] / total[:, None]  # (B, W+1)
        gaps = torch.where(known[:, None], torch.where(self.allowed[row], gaps, 3.0), 0.0)
        gaps = torch.nn.functional.pad(gaps, (0, max(0, length - self.width)))[:, : length + 1]
        if logits_mask is None:
            logits_mask = torch.ones(batch, length, dtype=torch.bool)
        rows, places = logits_mask.nonzero(as_tuple=True)  # (n,)
        inside = known[rows] & (places < self.width)
        chosen = self.tokens[row[rows], places.clamp(max=self.width - 1)]  # (n, V, D+1)
        p = (chosen @ powers[rows][:, :, None])[:, :, 0] / total[rows, None]  # (n, V)
        logits = torch.where(inside[:, None], p.log(), 0.0)
        logits[:, [MASK, UNUSED, PAD]] = 9.0
        if not hasattr(self, "supports_logits_mask"):
            logits = logits.view(batch, length, VOCABULARY)
        output = {"logits": logits, "length": gaps}
        if missing_at is not None:  # log p(n) of single gaps, open ones
            of, gap = missing_at // (length + 1), missing_at % (length + 1)  # (m,)
            gap = gap.clamp(max=self.width)
            assert bool((self.allowed[row[of], gap] | ~known[of]).all())
            p = (self.sizes[row[of], gap] @ powers[of][:, :, None])[:, :, 0]  # (m, D+1)
            nothing = torch.arange(p.shape[1]) == 0
            p = torch.where(known[of][:, None], p / total[of][:, None], nothing.double())
            output["missing_log_probs"] = p.log()
        return output


def padded(rows):
    """Tuples of ids as long (B, L), right-padded."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor(
        [list(row) + [PAD] * (width - len(row)) for row in rows], dtype=torch.long
    ).view(len(rows), width)


def law_inputs(contexts, samples, rng):
    """(context number (B,), prefixes (B, P), suffixes (B, S)) of a batch that mixes the
    contexts.
    """
    which = torch.as_tensor(rng.integers(len(contexts), size=samples))
    return (
        which,
        padded([c.prefix for c in contexts])[which],
        padded([c.suffix for c in contexts])[which],
    )


def total_variation(contexts, which, result, inserted=1.0):
    """Total variation distance between samples and target, each context weighed by its share of the
    batch; and the law it was judged by: a list of (number of samples, probabilities)."""
    outcomes, judged, distance = result.sequences.tolist(), [], 0.0
    counts = [defaultdict(int) for _ in contexts]
    for context, row, length in zip(which.tolist(), outcomes, result.lengths.tolist()):
        counts[context][tuple(row[:length])] += 1
    for context, seen in zip(contexts, counts):
        target, number = context.target(inserted), sum(seen.values())
        if number:
            names = set(target) | set(seen)
            distance += (
                0.5
                * sum(abs(seen.get(name, 0) - number * target.get(name, 0.0)) for name in names)
                / len(outcomes)
            )
            judged.append((number, np.array(list(target.values()))))
    return distance, judged


def noise_quantile(judged, rng, quantile=0.999, resamples=4000):
    """The distance that multinomial samples of the target itself stay below with this
    probability.
    """
    samples = sum(number for number, _ in judged)
    distance = np.zeros(resamples)
    for number, p in judged:
        p = p / p.sum()
        distance += (
            0.5 * np.abs(rng.multinomial(number, p, size=resamples) - number * p).sum(1) / samples
        )
    return float(np.quantile(distance, quantile))
