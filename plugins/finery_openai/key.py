"""The key for a server: what the environment variable that a recipe names holds."""

from finery import EngineJob, UsageError


def key_in(variable: str, job: EngineJob) -> str:
    """The key, less the space around it: a file that was read into a variable ends in a newline.

    `UsageError` for a key that is empty, or that no HTTP header can hold.
    """
    key = job.secret(variable).strip()
    if not key:
        raise UsageError(
            f"the environment variable {variable} is empty, and a model's key is expected there",
            fix=f"export {variable}=…, or api_key: null for a server that needs none",
        )
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the environment variable {variable} holds no key: it has characters that can't be "
            "sent in an HTTP header, line breaks or others than ASCII",
            fix="copy the key again, without what stands around it",
        )
    return key
