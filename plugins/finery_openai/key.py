"""The API key: the value of the environment variable that a recipe names."""

from finery import EngineJob, UsageError


def key_in(variable: str, job: EngineJob) -> str:
    """The key without whitespace around it: a file read into a variable ends in a line break.

    `UsageError` for a key that is empty or that can't be sent in an HTTP header.
    """
    key = job.secret(variable).strip()
    if not key:
        raise UsageError(
            f"the environment variable {variable} is empty, but must contain an API key",
            fix=f"export {variable}=…, or set api_key: null if the server needs no key",
        )
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the environment variable {variable} doesn't contain a key: it has line breaks or "
            "non-ASCII characters, which can't be sent in an HTTP header",
            fix="copy the key again, without the text around it",
        )
    return key
