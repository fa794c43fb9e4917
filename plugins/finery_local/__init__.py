"""Models on this machine, or in a wheel on a package index; `release` has those released earlier.

Input: a folder, a GGUF file or the name of a wheel. Output: models whose files stay in place.
Public for other plugins: `finery_local.facts`, which says what the files of a model state;
`finery_local.folder`, `finery_local.gguf_file` and `finery_local.safetensors_file`, which read
headers and make `Model`s from files; and the bases of step types in `finery_local.folder`,
`finery_local.template` (the settings of chat templates) and `finery_local.wheel`, which fetches
wheels without installing them.
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
