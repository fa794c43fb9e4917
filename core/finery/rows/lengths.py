"""The settings `min_characters` and `max_characters`: name of a text or column → characters."""

from collections.abc import Mapping

from finery.errors import UsageError


def check_lengths(fewest: Mapping[str, int], most: Mapping[str, int], within: str = "") -> None:
    """Raise `UsageError` for limits that are negative or contradict each other.

    fewest, most: the values of `min_characters` and `max_characters`. within: the setting that
    contains them, followed by a dot.
    """
    for field, limits in (("min_characters", fewest), ("max_characters", most)):
        for name, limit in limits.items():
            if limit < 0:
                raise UsageError(
                    f"{field} must be 0 or more, but is {limit:,}",
                    where=f"{within}{field}.{name}",
                    fix="write 0 or more",
                )
    for name in fewest.keys() & most.keys():
        if fewest[name] > most[name]:
            raise UsageError(
                f"the minimum length of '{name}', {fewest[name]:,} characters, is greater than the "
                f"maximum, {most[name]:,}",
                where=f"{within}min_characters.{name}",
                fix="swap the two limits, or remove one",
            )
