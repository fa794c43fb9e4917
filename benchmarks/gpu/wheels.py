"""Fills a folder with the wheels that `make gpu-check` needs on a machine that has only torch.

    make gpu-wheels                                                into build/gpu-wheels
    python benchmarks/gpu/wheels.py FOLDER --python 3.12 --cuda 130
    python benchmarks/gpu/wheels.py FOLDER --there pyarrow,pandas   the GPU machine has these, too

It follows the requirements of `finery[train]` and liger-kernel, and leaves out what comes with
torch. With --cuda, bitsandbytes keeps the library for that version of CUDA only. Then it prints the
folder's size and what is missing. The exit status is 1 if a package is missing, or if the folder is
over --most MiB.

flash-attn has no wheels on PyPI: put one that fits the machine's torch into the folder by hand.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).absolute().parents[2]
WITH_TORCH = frozenset({
    "torch", "triton", "numpy", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx",
    "setuptools", "sympy", "typing-extensions", "packaging",
})  # fmt: skip
"""Torch, and what is installed wherever torch is."""
ROOTS = ("liger-kernel",)
MIB = 2**20
OLD_PLATFORMS = (
    "manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64",
    "manylinux_2_5_x86_64", "manylinux1_x86_64",
)  # fmt: skip
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(39, 16, -1)), *OLD_PLATFORMS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the folder and say what is in it."""
    given = _options(arguments)
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    missing = fill(folder, given.python, WITH_TORCH | {canonicalize_name(n) for n in given.there})
    if given.cuda:
        for wheel in folder.glob("bitsandbytes-*.whl"):
            keep_cuda(wheel, given.cuda)
    return report(folder, missing, given.most)


def report(folder: Path, missing: Mapping[str, str], most: float) -> int:
    """Say what is in the folder and what is missing; the exit status. most: MiB of all wheels."""
    wheels = sorted(folder.glob("*.whl"), key=lambda wheel: -wheel.stat().st_size)
    size = sum(wheel.stat().st_size for wheel in wheels) / MIB
    print(f"{len(wheels)} wheels in {folder}, {size:.1f} MiB")
    for wheel in wheels[:5]:
        print(f"  {wheel.stat().st_size / MIB:5.1f} MiB  {wheel.name}")
    for name, reason in missing.items():
        print(f"missing: {name} ({reason})")
    if size > most:
        print(f"too large by {size - most:.1f} MiB: name what the machine has with --there")
    return int(bool(missing) or size > most)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    first, rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=Path)
    add("--python", default="3.12", help="of the GPU machine (default: 3.12)")
    add("--cuda", help="keep only this CUDA's library of bitsandbytes, e.g. 130")
    add("--there", type=lambda text: text.split(","), default=[], help="packages to leave out")
    add("--most", type=float, default=64.0, help="MiB (default: 64)")
    return parser.parse_args(arguments)


def fill(folder: Path, python: str, there: frozenset[str]) -> dict[str, str]:
    """Put finery and what it requires into a folder; package → why it is missing."""
    for old in folder.glob("finery-*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, str(folder), str(ROOT)], check=True)
    waiting = [*requirements(next(folder.glob("finery-*.whl")), python, "train")]
    waiting += [Requirement(name) for name in ROOTS]
    done: set[str] = set()
    missing: dict[str, str] = {}
    while waiting:
        wanted = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        if name in done or name in there or name.startswith("nvidia-"):
            continue
        done.add(name)
        wheel = _wheel(folder, name) or _downloaded(folder, wanted, python)
        if isinstance(wheel, str):
            missing[name] = wheel
        else:
            waiting += requirements(wheel, python, *wanted.extras)
    return missing


def requirements(wheel: Path, python: str, *extras: str) -> Iterator[Requirement]:
    """What a wheel requires on Linux with that Python."""
    with zipfile.ZipFile(wheel) as opened:
        name = next(n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
        text = opened.read(name).decode()
    values = {"python_version": python, "python_full_version": f"{python}.0"}
    values |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    for line in HeaderParser().parsestr(text).get_all("Requires-Dist") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**values, "extra": e}) for e in ("", *extras)):
            yield requirement


def _wheel(folder: Path, name: str) -> Path | None:
    """The wheel of a package that is in the folder."""
    return next((w for w in folder.glob("*.whl") if parse_wheel_filename(w.name)[0] == name), None)


def _downloaded(folder: Path, wanted: Requirement, python: str) -> Path | str:
    """The wheel of a package by pip, or why there is none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    ran = subprocess.run(
        [*command, f"{wanted.name}{wanted.specifier}"], capture_output=True, text=True, check=False
    )
    wheel = _wheel(folder, canonicalize_name(wanted.name))
    if ran.returncode or wheel is None:
        lines = [line for line in ran.stderr.splitlines() if line.strip()]
        return lines[-1].removeprefix("ERROR: ") if lines else "pip found no wheel"
    return wheel


def keep_cuda(wheel: Path, cuda: str) -> None:
    """Remove the libraries of bitsandbytes for other versions of CUDA and other GPUs."""
    kept = f"libbitsandbytes_cuda{cuda}.so"
    with zipfile.ZipFile(wheel) as old:
        libraries = [n for n in old.namelist() if "/libbitsandbytes_" in n and n.endswith(".so")]
        if not any(name.endswith(kept) for name in libraries):
            raise SystemExit(f"{wheel.name} has no library for CUDA {cuda}: {', '.join(libraries)}")
        leaving = {n for n in libraries if not n.endswith((kept, "_cpu.so"))}
        with (
            tempfile.NamedTemporaryFile(dir=wheel.parent, delete=False) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                if name not in leaving:
                    new.writestr(old.getinfo(name), old.read(name))
    Path(file.name).chmod(0o644)
    Path(file.name).replace(wheel)


if __name__ == "__main__":
    sys.exit(main())
