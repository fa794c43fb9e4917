"""Limits on the lengths of texts, as settings give them: text or column → characters."""

from collections.abc import Mapping

from finery.errors import UsageError


def check_lengths(fewest: Mapping[str, int], most: Mapping[str, int], within: str = "") -> None:
    """Raise `UsageError` for limits that no text, or every text, keeps.

    fewest, most: the settings `min_characters` and `max_characters`. within: the setting that they
    are part of, with a dot behind it.
    """
    for field, limits in (("min_characters", fewest), ("max_characters", most)):
        for name, limit in limits.items():
            if limit < 0:
                raise UsageError(
                    f"a text can't have {limit:,} characters",
                    where=f"{within}{field}.{name}",
                    fix="write 0 or more",
                )
    for name in fewest.keys() & most.keys():
        if fewest[name] > most[name]:
            raise UsageError(
                f"no '{name}' has at least {fewest[name]:,} and at most {most[name]:,} characters",
                where=f"{within}min_characters.{name}",
                fix="swap them, or drop one",
            )
