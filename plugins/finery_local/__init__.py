"""Models on this machine, or in a wheel on a package index.

Input: a folder, a GGUF file or the name of a wheel. Output: models whose files stay in place.
Public for other plugins: `finery_local.formats`, which reads the headers of files;
`finery_local.folder` and `finery_local.gguf_file`, which make `Model`s from files; and the bases of
step types in `finery_local.folder`, `finery_local.template` (the settings of chat templates) and
`finery_local.wheel`, which fetches wheels without installing them.
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
