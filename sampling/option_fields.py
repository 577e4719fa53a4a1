"""What an option of a sampler is: a dataclass field that says its flag, and which values it may
have: read from the flag's text, and checked. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import Field, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from flexmdm_interpolant import Schedule


def option(default: Any, help: str | None, **more: Any) -> Any:
    """A dataclass field that is an option of a sampler.

    Args:
        default: of the flag and of the library calls.
        help: of the flag, or None for an option without a flag.
        more: type (float, int, bool or str), choices, at_least, above, at_most: allowed values;
            flag: its name, if not the option's; parse: converts the flag's text; metavar;
            in_settings=False: the generated text does not depend on it; words: label of a value in
            the results table, a format string or a function of all settings, None for no label.
    """
    return field(default=default, metadata={"help": help, **more})


def flag_of(which: Field[Any]) -> str:
    """The flag of a dataclass field."""
    return which.metadata.get("flag", f"--{which.name}")


class OptionError(ValueError):
    """An invalid value of an option. name: the option's; wanted: what the value must be."""

    def __init__(self, name: str, value: object, wanted: str):
        super().__init__(f"{name} ({value}) must be {wanted}")
        self.name, self.value, self.wanted = name, value, wanted


def check_range(which: Field[Any], value: Any) -> None:
    """Raises OptionError if an option's value is outside what its field allows; None is allowed."""
    rule = which.metadata
    if value is None:
        return
    if "choices" in rule and value not in rule["choices"]:
        raise OptionError(which.name, repr(value), f"one of {', '.join(rule['choices'])}")
    if rule.get("type") is float and not math.isfinite(value):
        raise OptionError(which.name, value, "a finite number")
    if "at_least" in rule and not value >= rule["at_least"]:
        raise OptionError(which.name, value, f"at least {rule['at_least']}")
    if "above" in rule and not value > rule["above"]:
        raise OptionError(which.name, value, f"above {rule['above']}")
    if "at_most" in rule and not value <= rule["at_most"]:
        raise OptionError(which.name, value, f"at most {rule['at_most']:,}")


def refuse(options: object, name: str, wanted: str) -> NoReturn:
    """Raises OptionError for one of the options. wanted: what its value must be."""
    raise OptionError(name, getattr(options, name), wanted)


def parse_schedule_flag(text: str) -> Schedule:
    """A schedule from a flag. Raises ValueError if it is not a schedule or has numbers that are not
    finite.
    """
    from flexmdm_interpolant import parse_schedule

    numbers = text.partition(":")[2]
    if numbers and not all(math.isfinite(float(number)) for number in numbers.split(",")):
        raise ValueError("its numbers must be finite")
    return parse_schedule(text)


def read_drift(path: str) -> dict[str, float]:
    """{length: mean confidence at it} of a file that scripts/length_drift.py wrote. Raises
    InputError or ValueError for anything else.
    """
    from common.files import read_json

    content = read_json(path)
    try:
        drift = {str(int(n)): float(value) for n, value in content.items()}
    except (AttributeError, TypeError, ValueError):
        drift = {}
    if not drift or not all(int(n) >= 1 and math.isfinite(value) for n, value in drift.items()):
        raise ValueError("not a file of scripts/length_drift.py")
    return drift
