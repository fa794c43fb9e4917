"""Names of axes, values and variants: readable, without characters that shells or paths use."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MAX_LABEL = 40
"""Maximum characters of a value's name."""
MAX_STEP_NAME = 200
"""Maximum characters of a step's name with its variant, since it becomes the name of a folder."""


_VARIANT = re.compile(r"[A-Za-z0-9_-]+@[A-Za-z0-9_+=-]+(?:,[A-Za-z0-9_+=-]+)*")
"""Pattern of valid names for a step with its variant."""


def restore_step_names(text: str, origins: Mapping[str, str]) -> str:
    """A text with steps as the file names them. origins: step → its name in the file."""
    return _VARIANT.sub(lambda match: origins.get(match[0], match[0]), text)


def value_label(value: Any) -> str | None:
    """The name of a value, e.g. `2e-4`, `0_05` or `clean`; None if the user must name it.

    It has no dot, which would begin the name of an output. Of a path, only the last part counts.
    """
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return _number(value)
        case str():
            return _slug(value.rstrip("/").rpartition("/")[2]) or None
        case list() if value and all(isinstance(item, str | int | float) for item in value):
            return _shorten("+".join(value_label(item) or "" for item in value))
    return None


def axis_labels(paths: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    """The shortest ends of dotted paths that differ: `r`, or `sft-epochs` and `dpo-epochs`.

    reserved: names that none of them can have.
    """
    # All ends of each path, from the shortest.
    keys = [path.split(".") for path in paths]
    ends = [[_slug("-".join(k[-count:])) for count in range(1, len(k) + 1)] for k in keys]
    counts = Counter(label for labels in ends for label in labels)
    return [
        next(
            (label for label in labels if counts[label] == 1 and label not in reserved), labels[-1]
        )
        for labels in ends
    ]


def _number(value: float) -> str:
    mantissa, _, exponent = f"{value:.12g}".partition("e")
    if not exponent and isinstance(value, float) and 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.11e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    if exponent:
        return f"{mantissa.replace('.', '_')}e{int(exponent)}"
    return mantissa.replace(".", "_")


def _slug(text: str) -> str:
    return _shorten(re.sub(r"[^A-Za-z0-9_+-]+", "_", text).strip("_"))


def _shorten(text: str) -> str:
    return text[:MAX_LABEL].rstrip("_+-")
