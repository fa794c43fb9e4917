"""Models that lie on this machine, or in a wheel on a package index.

Other plugins may use `finery_local.gguf_header`, which reads the headers of GGUF files, and
`finery_local.folder` and `finery_local.gguf_file`, which make `Model`s of files.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types `local.model` and `local.wheel`."""
    return {
        "local.model": "finery_local.model:LocalModel",
        "local.wheel": "finery_local.wheel:LocalWheel",
    }
