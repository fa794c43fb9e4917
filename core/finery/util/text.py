"""Text for people: guesses for mistyped names, numbers in words, texts that are safe to print."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

MAX_LISTED_NAMES = 100
"""Maximum number of names that a fix lists."""
MAX_COMPARED_NAMES = 2_000
"""Most names that a mistyped one is compared with."""
MAX_NAMED = 5
"""Most names in a line, see `some_of`."""


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A fix for a mistyped name: the nearest of `names`, else the list of them.

    Never the name itself, whatever else is wrong with it.
    """
    choices = sorted(set(names) - {name})
    remainder = f", … ({len(choices):,} in all)" if len(choices) > MAX_LISTED_NAMES else ""
    listed = f"one of: {', '.join(choices[:MAX_LISTED_NAMES])}{remainder}" if choices else None
    return suggest_nearest(name, choices) or listed


def suggest_nearest(name: str, names: Iterable[str]) -> str | None:
    """A fix for a mistyped name, or None if none of `names` is similar."""
    close = nearest(name, set(names) - {name})
    return f"did you mean '{close}'?" if close else None


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a mistyped name most likely means."""
    from difflib import get_close_matches  # only for mistakes

    names = sorted(names)
    equal = [choice for choice in names if choice.lower() == name.lower()]
    longer = [choice for choice in names if len(name) >= 3 and choice.startswith(name)]
    if len(equal or longer) == 1:
        return (equal or longer)[0]
    if len(names) > MAX_COMPARED_NAMES:  # each takes a while
        names = [choice for choice in names if choice[:2] == name[:2]][:MAX_COMPARED_NAMES]
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return close[0] if close else None


SHORTEST_SECRET = 6
"""In characters. Shorter texts may be part of any word."""


def redacted(text: str, secrets: Mapping[str, str]) -> str:
    """The text with each secret's value as `***`, less the space around it.

    Also where the text is JSON and the value is written with escapes, however often those are
    escaped themselves. Values of fewer than 6 characters stay.
    """
    for value in map(str.strip, secrets.values()):
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
            if "\\" in text:
                text = re.sub(secret_pattern(value), "***", text)
    return text


def redacted_data(value: Any, secrets: Mapping[str, str]) -> Any:
    """The same for all texts in plain data, including keys of mappings."""
    if isinstance(value, dict):
        return {redacted_data(k, secrets): redacted_data(v, secrets) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted_data(v, secrets) for v in value]
    return redacted(value, secrets) if isinstance(value, str) else value


@cache
def secret_pattern(value: str) -> str:
    """A regular expression for every way to write a text in JSON, and the text itself."""
    pattern = ""
    for character in value:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        escaped = "".join(rf"\\{{1,16}}u(?i:{units[i : i + 4]})" for i in range(0, len(units), 4))
        pattern += rf"(?:\\{{0,16}}{re.escape(character)}|{escaped})"
    return pattern


def counted(count: int, word: str) -> str:
    """`1 step`, `2 steps`, `1,000 steps`."""
    return f"{count} {word}" if count == 1 else f"{count:,} {word}s"


def accepted_suffix(steps: int) -> str:
    """How many steps of a build are cached since `recipe.lock` accepts changes."""
    return f", {steps} accepted" if steps else ""


def some_of(names: Sequence[str], most: int = MAX_NAMED) -> str:
    """The first names and how many more there are. most: names that are shown."""
    remainder = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + remainder


def a_or_an(noun: str) -> str:
    """`a Dataset`, `an Index`."""
    return f"an {noun}" if noun[0] in "AEIOUaeiou" else f"a {noun}"


def one_or_more(noun: str) -> str:
    """`one or more Datasets`, `one or more Indexes`."""
    return f"one or more {noun}es" if noun[-1] in "sx" else f"one or more {noun}s"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 100:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes, rest_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rough_duration(seconds: float) -> str:
    """An estimate with few digits: `42 s`, `12 min`, `1.8 h`, `5 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    if minutes < 100:
        return f"{minutes} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def size(count: float) -> str:
    """A number of bytes: `512 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def in_dollars(value: float) -> str:
    """An amount of money: `$0.52`, `$1,204.00`; less than a cent with more digits: `$0.0042`."""
    return f"${value:,.2f}" if value >= 0.01 else f"${value:.4f}"


def cost_words(total: float, now: float = 0.0) -> str:
    """The total cost of what is built, to add to a line. now: the part that this build spent."""
    spent = (
        f", {in_dollars(now)} in this build" if now and in_dollars(now) != in_dollars(total) else ""
    )
    return f"; cost {in_dollars(total)}{spent}" if total or now else ""


def quantity(value: float, unit: str | None = None) -> str:
    """A number to three digits with its unit, `seconds` or `dollars`: `12.3 ms`, `$0.0042`.

    Without a unit, to four digits.
    """
    if not unit:
        return f"{value:.4g}"
    is_short = unit == "seconds" and abs(value) < 1
    value = float(f"{1000 * value if is_short else value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{abs(value):,.{digits}f}"
    text = ("-" if value < 0 else "") + (text.rstrip("0").rstrip(".") if digits else text)
    return (
        f"${text}".replace("$-", "-$")
        if unit == "dollars"
        else f"{text} {'ms' if is_short else 's'}"
    )


def percent(share: float) -> str:
    """A share as a percentage: `91.7 %`."""
    return f"{100 * share:z.1f} %"


def likely(probability: float) -> str:
    """A probability as a percentage, with more digits near 1: `91.7 %`, `99.987 %`, `> 99.9999 %`.

    Classifiers are often that sure, and thresholds are chosen there.
    """
    doubt = 1 - probability
    if doubt < 1e-6:
        return "> 99.9999 %"
    return f"{100 * probability:.{max(1, math.ceil(-math.log10(doubt)) - 1)}f} %"


SMALLEST_P = 0.001
"""Smaller p-values are shown as `< 0.001`."""


def p_text(value: float) -> str:
    """A p-value: `0.020`, `< 0.001`."""
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def signed(difference: float, form: str = ".1f") -> str:
    """A number with its sign: `+1.2`, `-0.4`. What is rounded to zero has none: `0.0`.

    form: a format for floats, without a sign.
    """
    text = f"{difference:+{form}}"
    return text if float(text) else text[1:]


def in_points(difference: float) -> str:
    """A difference of two shares in percentage points: `+1.2` for 0.012."""
    return signed(100 * difference)


def range_in_points(interval: Sequence[float]) -> str:
    """An interval of a difference of two shares: `-0.4 to +1.2`."""
    low, high = interval
    return f"{in_points(low)} to {in_points(high)}"


_VISIBLE_FORMS = {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\t"}
_VISIBLE_FORMS |= {127: "␡"} | {i: f"\\x{i:02x}" for i in range(128, 160)}
# Characters that no font shows and that reorder or break a line: marks and controls of writing
# direction, zero-width space, word joiner and the like. The joiners of emoji and Hindi stay.
_HIDDEN = [0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF]
_HIDDEN += [*range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFFF9, 0xFFFC)]
_VISIBLE_FORMS |= {code: f"\\u{code:04x}" for code in _HIDDEN}
_VISIBLE_TAB = {9: "␉"}


def visible(text: str, *, tabs: bool = False) -> str:
    """External text with control characters as pictures, since a terminal would obey them.

    So are marks of writing direction (`\\u202e`) and other characters that can't be seen, which
    could make a text look like another one.

    Line breaks stay. tabs: whether tabs are pictures, too.
    """
    return text.translate(_VISIBLE_FORMS | _VISIBLE_TAB if tabs else _VISIBLE_FORMS)


def clip_at_word(text: str, width: int) -> str:
    """At most `width` characters of a text, cut off after a word and marked with `…`.

    A first word that is too long by itself is cut inside.
    """
    if len(text) <= width:
        return text
    room = max(0, width - 2)  # for a space and the mark
    words = text[: room + 1].rpartition(" ")[0].rstrip(" ,;:")
    return f"{words} …" if words else f"{text[: max(0, width - 1)]}…"


def shortened(text: str, most: int) -> str:
    """At most `most` characters of a text, the last of them `…` if it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def in_line(text: str) -> str:
    """The same in one line."""
    return visible(" ".join(text.split()))


# -- the length of a text in tokens, where no tokenizer is at hand --------------------------------

_TOKEN_PIECES = re.compile(
    rb" ?[A-Z]?[a-z]{1,4}|\s+| ?[A-Z]{1,2}| ?[!-/:-@\[-`{-~]{1,2}|.", re.DOTALL
)


def estimated_tokens(text: str) -> int:
    """About the number of a text's tokens.

    Four letters of a word are one, two capitals, two marks, and each digit and each byte of other
    scripts: many tokenizers split numbers and those. Measured with SmolLM2 on the rows of nine
    recipes, it is 0.8 to 2.2 times the true number, for JSON 0.9 to 1.5 times.
    """
    return len(_TOKEN_PIECES.findall(text.encode("utf-8", "replace")))


def enough_tokens(longest: int) -> int:
    """A `max_tokens` for answers of up to so many tokens: half as many more, and even."""
    return 16 * (3 * longest // 32 + 1)
