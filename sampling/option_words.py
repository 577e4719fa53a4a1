"""How a text was sampled, in the words of the results table: from a run's settings, a dict of the
options by name and `kind`. Functions return None where there is nothing to say.
"""

from collections.abc import Iterable
from dataclasses import Field
from typing import Any, TypeAlias

Settings: TypeAlias = dict[str, Any]


def words_of(which: Iterable[Field[Any]], settings: Settings) -> list[str]:
    """The words of some options' fields, in their order. A field's `words` are a function of all
    settings, or a format string, which is used where the value is not the default.
    """
    said = []
    for each in which:
        words, value = each.metadata.get("words"), settings.get(each.name)
        if callable(words):
            said.append(words(settings))
        elif words and value not in (None, each.default):
            said.append(words.format(value))
    return [words for words in said if words]


# ---- both samplers


def steps(settings: Settings) -> str | None:
    """LLaDA's; FlexMDM's are said with the sampler."""
    if settings.get("kind") != "llada" or "steps" not in settings:
        return None
    return f"{settings['steps']} steps" if settings["steps"] else "one step per token"


# ---- FlexMDM


def sampler(settings: Settings) -> str:
    """Its name, and its steps or how the length is chosen."""
    if settings.get("sampler") == "event_driven":
        return "event-driven"
    if settings.get("sampler") == "count_first":
        return f"count first ({settings.get('length_choice')})"
    return f"tau-leaping {settings.get('steps') or ''}".strip()


def order(settings: Settings) -> str | None:
    """The order of unmasking."""
    confident = settings.get("unmasking") == "confidence"
    return settings.get("confidence_method") if confident else "random order"


def window(settings: Settings) -> str:
    """The sliding window."""
    windowed = settings.get("use_sliding_window")
    return f"window {settings.get('max_window')}" if windowed else "no window"


def candidates(settings: Settings) -> str | None:
    """Several lengths of count first."""
    number = settings.get("length_candidates")
    return f"{number} lengths tried" if number not in (None, 1) else None


def bound(settings: Settings) -> str | None:
    """A stale rate bound, or no-op steps skipped by one."""
    event_driven = settings.get("sampler") == "event_driven"
    if settings.get("bound_inflation") in (None, 1):
        return None
    words = "bound x {}" if event_driven else "no-op steps skipped, bound x {}"
    return words.format(settings["bound_inflation"])


def corrector(settings: Settings) -> str | None:
    """Corrector rounds."""
    if settings.get("corrector_time") is None:
        return None
    words = "{corrector_rounds} x corrected from t {corrector_time:g}".format(**settings)
    words += ", spread" if settings.get("corrector_spread") else ""
    guided = settings.get("corrector_choice") == "least_confident"
    return words + (", least confident" if guided else "")


# ---- LLaDA


def length(settings: Settings) -> str | None:
    """How the number of masks is found, where it is not given."""
    found = settings.get("llada_length")
    if found == "searched":
        return f"best of {len(settings['length_drift'])} lengths"
    return f"length {found}" if found in ("counted", "grown") else None


def remasking(settings: Settings) -> str:
    """Which tokens of a step are kept."""
    return f"remasking {settings.get('remasking')}"


def blocks(settings: Settings) -> str:
    """The blocks."""
    block = settings.get("block_length")
    return f"blocks of {block}" if block else "one block"
