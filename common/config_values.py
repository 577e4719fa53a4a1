"""Allowed types and ranges of the values in a checkpoint's config.json.

A config may come from anywhere: without these checks a size given as text would be a traceback deep
in the network, 10^9 layers would never finish, and an epsilon of -1 or a time_epsilon of 5 would
give wrong numbers.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from common.errors import InputError

# (whether a value is allowed, description of allowed values)
Rule: TypeAlias = tuple[Callable[[Any], bool], str]


def whole(least: int, most: int) -> Rule:
    """Whole numbers in a range; not a bool."""
    return (
        lambda value: type(value) is int and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def real(fits: Callable[[float], bool], words: str) -> Rule:
    """Finite numbers for which fits(value) is true."""
    return (
        # 1e300: below what is infinite, and an int of any length can be compared
        lambda value: type(value) in (int, float) and abs(value) < 1e300 and fits(value),
        f"a number {words}",
    )


def either(*values: Any) -> Rule:
    """One of these values."""
    return lambda value: value in values, f"one of {', '.join(map(repr, values))}"


def optional(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


TRUTH: Rule = (lambda value: type(value) is bool, "true or false")
TEXT: Rule = (lambda value: type(value) is str and value != "", "text")
# far above every existing model, but such a network can still be built in seconds
WIDTH, ROWS = whole(1, 10**6), whole(1, 10**8)
LENGTH_DISTRIBUTION = whole(0, 2**20 - 1)
# forms of a FlexMDM's insertion head
LENGTH_HEADS = ("log_rate", "softplus", "total")
LLADA = {
    "d_model": WIDTH,
    "n_heads": WIDTH,
    "n_kv_heads": optional(WIDTH),
    "n_layers": whole(1, 1000),
    "mlp_hidden_size": WIDTH,
    "vocab_size": ROWS,
    "embedding_size": optional(ROWS),
    "max_sequence_length": whole(1, 10**9),
    "rope_theta": real(lambda value: value > 0, "above 0"),
    "rms_norm_eps": real(lambda value: 0 < value < 1, "between 0 and 1"),
    "init_std": real(lambda value: value >= 0, "of at least 0"),
    "length_distribution": LENGTH_DISTRIBUTION,
}
SPECIAL_IDS = ("mask_token_id", "pad_token_id", "eos_token_id")
LORA = {
    "r": whole(1, 10**5),
    "lora_alpha": real(lambda value: value > 0, "above 0"),
    "lora_dropout": real(lambda value: 0 <= value < 1, "of at least 0 and below 1"),
}
FLEXMDM = {
    "base_model_name_or_path": optional(TEXT),
    "time_epsilon": real(lambda value: 0 < value < 0.5, "between 0 and 0.5"),
    "time_scale": real(lambda value: value > 0, "above 0"),
    "length_distribution": LENGTH_DISTRIBUTION,
    "length_distribution_at_start": TRUTH,
    "length_head": either(*LENGTH_HEADS),
    "attend_to_padding": TRUTH,
    "adaln_group_size": whole(1, 1000),
    "max_length": whole(1, 10**9),
    "saved_weights": either("trainable", "full"),
}
# the values of `holds`, as older checkpoints call saved_weights
HOLDS = {"trainable": "trainable", "everything": "full"}


def check(content: Any, rules: dict[str, Rule], source: object) -> None:
    """Raises InputError for the first key of `content` whose value breaks its rule, and if content
    is not a dict. source: the file or flag that the message begins with.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source} does not hold one JSON object")
    for key, (fits, words) in rules.items():
        if key in content and not fits(content[key]):
            raise InputError(f"{source}: {key} is {str(content[key])[:60]!r}, not {words}")


def check_llada(content: Any, source: object) -> None:
    """Check a LLaDA's config.json; LLaDAConfig.from_json reports missing and unsupported keys.
    Raises InputError.
    """
    check(content, LLADA, source)
    rows = content.get("embedding_size") or content.get("vocab_size")
    if rows is not None:
        check(content, dict.fromkeys(SPECIAL_IDS, whole(0, rows - 1)), source)
    width, heads = content.get("d_model"), content.get("n_heads")
    if width and heads and width // heads % 2:
        raise InputError(f"{source}: d_model / n_heads is odd; rotary embeddings need pairs")


def with_saved_weights(content: Any, source: object) -> Any:
    """A FlexMDM's config.json with saved_weights in place of an older checkpoint's `holds`. Raises
    InputError where it has both, or another value.
    """
    if not isinstance(content, dict) or "holds" not in content:
        return content
    if "saved_weights" in content:
        raise InputError(f"{source}: has both saved_weights and holds, its older name; keep one")
    check(content, {"holds": either(*HOLDS)}, source)
    kept = {key: value for key, value in content.items() if key != "holds"}
    return kept | {"saved_weights": HOLDS[content["holds"]]}


def check_flexmdm(content: Any, source: object) -> None:
    """Check a FlexMDM's config.json, and the base's config in it. Raises InputError."""
    check(content, FLEXMDM, source)
    backbone = content.get("backbone")
    check_llada(backbone, f"{source}: backbone")
    rows = backbone.get("embedding_size") or backbone.get("vocab_size")
    if rows is not None:
        check(content, dict.fromkeys(("mask_token_id", "pad_token_id"), whole(0, rows - 1)), source)
    if content.get("lora") is not None:
        check_lora(content["lora"], f"{source}: lora")
    if content.get("saved_weights") == "trainable" and not content.get("base_model_name_or_path"):
        raise InputError(
            f"{source}: saved_weights is 'trainable', but base_model_name_or_path is missing"
        )


def check_lora(content: Any, source: object) -> None:
    """Check r, lora_alpha and lora_dropout, all of which are required. Raises InputError."""
    check(content, LORA, source)
    missing = [key for key in LORA if key not in content]
    if missing:
        raise InputError(f"{source}: missing {', '.join(missing)}")
