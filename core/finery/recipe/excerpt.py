"""Lines of a recipe as errors show them, without secrets."""

import re

_PASSWORD = re.compile(r"""(\w://[^\s:/@'"]*:)[^\s'"]+@""")
_QUERY_KEY = re.compile(
    r"""([?&;][\w.-]*(?:key|token|secret|password|auth|sig)[\w.-]*=)[^\s'"&;#]+""", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """The text with the passwords of URLs, and keys in their queries, as `***`."""
    return _QUERY_KEY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def _excerpt(text: str, line: int, column: int) -> list[str]:
    """The line and a caret under the column."""
    lines = text.splitlines()
    if line >= len(lines):
        return []
    shown = without_secrets(lines[line].replace("\t", " "))
    number = f"{line + 1}"
    return (
        [f"{number} | {shown[:100]}", f"{' ' * len(number)} | {' ' * column}^"]
        if column < 100
        else [f"{number} | {shown[:100]}…"]
    )
