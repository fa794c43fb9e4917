"""Licences in the form that the hub's metadata wants.

The identifiers are listed on https://huggingface.co/docs/hub/repositories-licenses.
"""

import re

_LISTED = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research
    lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license
    llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
"""
IDENTIFIERS = frozenset(_LISTED.split())
_SAME = {
    "apache license 2.0": "apache-2.0", "apache 2.0": "apache-2.0", "apache2": "apache-2.0",
    "apache license, version 2.0": "apache-2.0", "apache software license": "apache-2.0",
    "mit license": "mit", "the mit license": "mit", "cc0": "cc0-1.0",
    "gpl-3.0-only": "gpl-3.0", "gpl-3.0-or-later": "gpl-3.0", "agpl-3.0-only": "agpl-3.0",
    "gpl-2.0-only": "gpl-2.0", "gpl-2.0-or-later": "gpl-2.0", "agpl-3.0-or-later": "agpl-3.0",
    "lgpl-3.0-only": "lgpl-3.0", "lgpl-3.0-or-later": "lgpl-3.0",
    "bsd-3-clause license": "bsd-3-clause",
}  # fmt: skip
"""Usual names of licences → their identifiers."""


def identifier(name: str) -> str | None:
    """The hub's identifier of a licence; None if it lists none."""
    plain = " ".join(name.lower().split())
    plain = _SAME.get(plain, plain)
    return plain if plain in IDENTIFIERS else None


def metadata(name: str, link: str = "") -> dict[str, str]:
    """The fields of a model card for a licence. link: to its text, if the hub doesn't list it."""
    known = identifier(name)
    if known is not None:
        return {"license": known}
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    return {"license": "other", "license_name": slug} | ({"license_link": link} if link else {})
