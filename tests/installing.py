"""Distributions of third parties, installed for one project alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import Project

from finery.execute.venv import make_requirement
from finery.util.installed import distributions

THIRD_PARTY = Path(__file__).with_name("thirdparty")
CORE = (
    "attrs", "blake3", "click", "jinja2", "jsonschema", "jsonschema-specifications",
    "markdown-it-py", "markupsafe", "mdurl", "msgspec", "packaging", "pluggy", "pygments", "pyyaml",
    "referencing", "rensa", "rich", "rpds-py", "typing-extensions",
)  # fmt: skip
"""What finery needs, without its extras."""


def add_core_wheels(folder: Path, *more: str) -> None:
    """Add wheels of what finery needs, and of `more`, as they are installed here."""
    for name in (*CORE, *more):
        make_requirement(distributions()[name], folder)


def install(source: Path, folder: Path) -> Path:
    """Install a distribution into `folder`/site, as pip installs it; that folder.

    Its source is copied before, so that the build leaves nothing there.
    """
    copied, site = folder / source.name, folder / "site"
    shutil.copytree(source, copied, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    ran = subprocess.run([*pip, *options, str(copied)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return site


def with_site(project: Project, site: Path) -> Project:
    """Have the project's commands see a copy of `site`, which tests may edit."""
    own = project.folder / "site"
    shutil.copytree(site, own)
    _put_first(project, own)
    return project


def write_plugin(t: Project, name: str, code: str, version: str = "1.5") -> None:
    """Install a distribution `shop-NAME` whose plugin NAME is a module of this code."""
    metadata = f"site/shop_{name}-{version}.dist-info"
    t.write({
        f"site/shop_{name}.py": f"from finery import hookimpl\n{code}",
        f"{metadata}/METADATA": f"Name: shop-{name}\nVersion: {version}\n",
        f"{metadata}/entry_points.txt": f"[finery]\n{name} = shop_{name}\n",
    })  # fmt: skip
    _put_first(t, t.folder / "site")


def make_key(file: Path) -> str:
    """Make a key of OpenSSH; the line with its public half."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    form = s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()
    file.write_bytes(key.private_bytes(*form))
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return f"{public.decode()} {file.name}"


def _put_first(project: Project, folder: Path) -> None:
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    project.env["PYTHONPATH"] = os.pathsep.join(paths)
