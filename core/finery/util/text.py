"""Text for people: guesses for mistyped names, texts without secrets."""

from collections.abc import Iterable, Mapping


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A fix for a mistyped name: the nearest of `names`, else the list of them.

    Never the name itself, whatever else is wrong with it.
    """
    choices = sorted(set(names) - {name})
    listed = f"one of: {', '.join(choices)}" if choices else None
    return nearest_meant(name, choices) or listed


def nearest_meant(name: str, names: Iterable[str]) -> str | None:
    """A fix for a mistyped name, where one of `names` is near."""
    close = nearest(name, set(names) - {name})
    return f"did you mean '{close}'?" if close else None


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a mistyped name most likely means."""
    from difflib import get_close_matches  # only for mistakes

    close = get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return close[0] if close else None


def redacted(text: str, secrets: Mapping[str, str]) -> str:
    """The text with each secret's value as `***`, less the space around it.

    Values of fewer than 6 characters stay: they may be part of any word.
    """
    for value in map(str.strip, secrets.values()):
        if len(value) >= 6:
            text = text.replace(value, "***")
    return text
