"""What a check can't find out."""

from collections.abc import Iterable


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
