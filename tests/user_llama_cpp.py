"""A llama.cpp as a user has one: programs in a folder, that do the real work with the wheels."""

import stat
import sys
from pathlib import Path

_SERVER = """\
import argparse, os, sys, time
import xllamacpp

if "--version" in sys.argv:
    print("version: 6123 (0ce8cd1)\\nbuilt with GNU 14 for Linux x86_64", file=sys.stderr)
    sys.exit()
if "--list-devices" in sys.argv:
    print("Available devices:\\n%(devices)s")
    sys.exit()
parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("model", "host", "alias", "flash-attn", "device", "temp", "repeat-penalty"):
    parser.add_argument(f"--{name}")
for name in ("port", "parallel", "ctx-size", "threads", "n-gpu-layers"):
    parser.add_argument(f"--{name}", type=int)
parser.add_argument("--jinja", action="store_true")
asked = parser.parse_args()
parameters = xllamacpp.CommonParams()
parameters.model.path = asked.model
parameters.hostnames = [asked.host]
parameters.port = asked.port
parameters.n_parallel = asked.parallel
parameters.n_ctx = asked.ctx_size
parameters.cpuparams.n_threads = asked.threads or 1
parameters.use_jinja = asked.jinja
if asked.temp:
    parameters.sampling.temp = float(asked.temp)
if os.environ.get("LLAMA_API_KEY"):
    parameters.api_keys = [os.environ["LLAMA_API_KEY"]]
server = xllamacpp.Server(parameters)
time.sleep(600)
"""
_QUANTIZE = """\
import struct, sys
from pathlib import Path
import numpy as np
from finery_gguf.importance import Importance
from finery_gguf.quantise import quantise_by_library

def whole(file):
    return struct.unpack("<i", file.read(4))[0]

def read_matrix(path):
    with open(path, "rb") as file:
        columns = {}
        for _ in range(whole(file)):
            name = file.read(whole(file)).decode()
            calls, size = whole(file), whole(file)
            columns[name] = np.frombuffer(file.read(4 * size), "<f4") / np.float32(calls)
        return Importance(columns, whole(file), 0)

flags, matrix, rest = {}, None, sys.argv[1:]
while rest[0].startswith("--"):
    key, _, value = rest[1].partition("=bool:")
    if rest[0] == "--override-kv":
        flags[key] = value == "true"
    elif rest[0] == "--imatrix":
        matrix = read_matrix(rest[1])
    rest = rest[2:]
source, target, kind, threads = rest
print("main: quantizing with %(name)s")
int(threads)
for line in quantise_by_library(Path(source), Path(target), kind.lower(), flags, matrix):
    print(line)
"""


def write_programs(folder: Path, *, devices: str = "") -> Path:
    """Write llama-server and llama-quantize into a build in a folder; returns the folder."""
    names = {"devices": devices, "name": folder.name}
    _write(folder / "build" / "bin" / "llama-server", _SERVER % names)
    _write(folder / "build" / "bin" / "llama-quantize", _QUANTIZE % names)
    return folder


def write_for_another_cpu(folder: Path) -> Path:
    """Write a llama-server that ends as one with instructions which this CPU lacks."""
    script = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    _write(folder / "llama-server", script)
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
