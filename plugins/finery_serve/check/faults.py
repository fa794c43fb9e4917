"""What can be wrong with a server, and how it is found out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["template", "thinking", "prompts", "sampling", "adapter", "options"]
SAMPLING = "general.sampling."
"""How metadata of a GGUF begin that servers answer by where a request doesn't say."""
NEUTRAL = {
    "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0,
    "mirostat": 0.0,
}  # fmt: skip
"""Defaults of llama.cpp's server that would change greedy answers, and when they don't."""


class Fault(NamedTuple):
    """A difference between the server and the training."""

    kind: Kind
    what: str
    details: list[str]
    fix: str


def sampling_faults(props: Mapping[str, Any], metadata: Mapping[str, str]) -> list[Fault]:
    """Whether requests that don't say are answered at random, or with penalties.

    props: `/props` of the server. metadata: `general.sampling.*` of the GGUF.
    """
    defaults = props["default_generation_settings"]["params"]
    others = [n for n, v in NEUTRAL.items() if n in defaults and float(defaults[n]) != v]
    changed = [f"{name}: {defaults[name]:g}" for name in others]
    if float(defaults["temperature"]) > 0:
        changed.insert(0, f"temperature: {defaults['temperature']:g}")
    if changed:
        return [Fault(
            "sampling",
            f"the server answers with {', '.join(changed)} where a request doesn't say, but the "
            "model was evaluated greedily",
            [f"{name} = {value} in the GGUF" for name, value in metadata.items()],
            "start it with --temp 0 --repeat-penalty 1, as `finery serve` and llama.bundle do",
        )]  # fmt: skip
    drawn = metadata.get(f"{SAMPLING}temp")
    if drawn is None or float(drawn) <= 0:
        return []
    return [Fault(
        "sampling",
        f"the GGUF tells servers to sample: its metadata have the temperature {float(drawn):g}, "
        "but the model was evaluated greedily",
        [f"{name} = {value}" for name, value in metadata.items()],
        "ship it with llama.bundle, which overrides this, and check that: `bundle:`; or have "
        "clients send temperature: 0",
    )]  # fmt: skip


def adapter_fault(
    served: Sequence[str], base: Sequence[str], trained: Sequence[str] | None
) -> Fault | None:
    """Whether the served model answers as the one before its training.

    All are answers to the same prompts. Without `trained`, only if all are the base's. Otherwise
    those count to which base and trained model answer differently: a quantised model is near the
    one that it was made from.
    """
    fix = "export the trained model again, and check which file the server loads"
    if trained is None:
        if list(served) != list(base):
            return None
        return Fault(
            "adapter",
            f"the training isn't in what is served: all {len(served)} answers are the base model's",
            [],
            fix,
        )
    differ = [i for i in range(len(served)) if base[i] != trained[i]]
    as_base = sum(served[i] == base[i] for i in differ)
    as_trained = sum(served[i] == trained[i] for i in differ)
    if as_base <= as_trained:
        return None
    return Fault(
        "adapter",
        f"the training isn't in what is served: of {len(differ)} rows that the base and the "
        f"trained model answer differently, the server answers {as_base} as the base and "
        f"{as_trained} as the trained model",
        [],
        fix,
    )


def option_fault(unread: Sequence[str]) -> Fault | None:
    """Options of a bundle that the checked server wasn't started with."""
    if not unread:
        return None
    return Fault(
        "options",
        f"run.sh has options that this check doesn't know: {' '.join(unread)}",
        [],
        "remove them, or check the bundle on a machine where it runs",
    )
