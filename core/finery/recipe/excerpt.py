"""Lines of a recipe as errors show them: without secrets."""

import re

_USER = re.compile(r"""(\w://)(?:[^\s:/@'"]*:[^\s'"]+|[^\s:/@'"?#]+)@""")
_FRAGMENT = re.compile(r"""(\w://[^\s'"#]*)#[^\s'",}\]]+""")
_QUERY_KEY = re.compile(
    r"""([?&;][\w.-]*(?:key|token|secret|password|auth|sig)[\w.-]*=)[^\s'"&;#]+""", re.IGNORECASE
)
_KNOWN = re.compile(
    r"\b(?:sk|pk|rk|hf|gh[oprsu]|github_pat|glpat|xox[abprs]|AKIA|AIza|eyJ)(?=[\w.-]*\d)"
    r"(?:[-_.]?[A-Za-z0-9]){16,}"
)
"""Prefixes of the keys of well-known services."""


def without_secrets(text: str) -> str:
    """The text with secrets as `***`.

    Those are user names and passwords of URLs, keys in their queries, their fragments, and what
    looks like the key of a well-known service.
    """
    text = _QUERY_KEY.sub(r"\1***", _USER.sub(r"\1***@", text))
    return _KNOWN.sub("***", _FRAGMENT.sub(r"\1#***", text))


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
