"""The rubric for a judge's scores, as written in a recipe."""

from finery import OneFile, Settings, setting


class Rubric(Settings):
    """A score that the model `judge` gives each row."""

    rubric: str = setting(min_length=1, help="What makes a row good, as a text for the judge.")
    min: int = setting(4, ge=1, help="The lowest score that passes.")
    scale: int = setting(5, ge=2, le=100, help="The best score; 1 is the worst.")
    max_tokens: int = setting(256, ge=16, help="Maximum tokens of the judge's answer.")
    prompt: OneFile | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge` prints the "
        "default.",
    )
