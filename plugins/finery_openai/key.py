"""The API key, the value of the environment variable that a recipe names; no secret elsewhere."""

from urllib.parse import urlsplit

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


def check_address(base_url: str) -> None:
    """Raise `UsageError` for the address of an API that has more than a server and a path.

    The rest could be a secret, and addresses are in keys and logs.
    """
    url = urlsplit(base_url)
    if "@" in url.netloc or url.query or url.fragment:
        raise UsageError(
            "the address must consist of a server and a path",
            where="base_url",
            fix="remove the rest; to pass a key, name its environment variable in api_key",
        )
