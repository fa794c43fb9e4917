"""Detects from answers that the trained model isn't served; lists what can't be checked."""

from collections.abc import Iterable, Mapping, Sequence

from finery_serve.servers import Fault

FIX = "export the trained model again, and check which file the server loads"


def adapter_fault(
    served: Sequence[str], base: Sequence[str], trained: Sequence[str] | None
) -> Fault | None:
    """Whether the served model answers like the one before its training.

    All are answers to the same prompts. Without `trained`, all must equal the base's. Otherwise,
    only prompts count for which the answers of base and trained model differ, because a quantised
    model rarely differs from the one that it was made from.
    """
    if trained is None:
        if list(served) != list(base):
            return None
        return Fault(
            "adapter",
            f"the trained model isn't served: all {len(served)} answers are those of the base",
            [],
            FIX,
        )
    differ, as_base, as_trained = _nearer(served, base, trained)
    if as_base <= as_trained:
        return None
    return Fault(
        "adapter",
        f"the trained model isn't served: of {differ} rows that the base and the "
        f"trained model answer differently, the server answers {as_base} as the base and "
        f"{as_trained} as the trained model",
        [],
        FIX,
    )


def swap_fault(
    served: Sequence[str], own: Sequence[str], others: Mapping[str, Sequence[str]]
) -> Fault | None:
    """Whether the server answers with another model than the requested one.

    own: the model's answers by finery's engine. others: those of other models, by name. Short
    answers of different models can be equal in some rows, so most rows must match.
    """
    for name, answers in others.items():
        differ, as_other, as_own = _nearer(served, answers, own)
        if as_other > max(as_own, differ / 2):
            return Fault(
                "adapter",
                f"the server answers as '{name}': of {differ} rows that both answer differently, "
                f"{as_other} as '{name}' and {as_own} as this model",
                [],
                "check which adapter the server loads under which name, and export them again",
            )
    return None


def _nearer(
    served: Sequence[str], one: Sequence[str], other: Sequence[str]
) -> tuple[int, int, int]:
    """(rows that both answer differently, those served as the one, those served as the other)."""
    differ = [i for i in range(len(served)) if one[i] != other[i]]
    return (
        len(differ),
        sum(served[i] == one[i] for i in differ),
        sum(served[i] == other[i] for i in differ),
    )


def unchecked(
    *, trained: bool, base: bool, unseen: Iterable[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """(fault that can't be found, what isn't known and how to check it).

    unseen: what the servers don't show.
    """
    missing = list(dict.fromkeys(unseen))
    if not trained:
        why = "whether the GGUF has the chat template of the training: its own is taken for that"
        missing.append(("template", f"{why}. Add `trained:`"))
    if not base:
        missing.append(("adapter", "whether the training is in what is served. Add `base:`"))
    return missing
