"""Hostile changes of files: of bytes, of JSON and YAML values, of binary headers."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\t", b"\x1b[2J", b"\xe2\x80\xae", b"{",
    b"[" * 300, b'"', b"'", b"}", b"]", b": ", b"- ", b"&a ", b"*a", b"<<: ", 
    b"!!python/object/apply:os.system ",
    b"---\n", b"#", b"{{ 7 ** 9 }}", b"{% for i in range(99) %}", b"1e999", b"-0", b"NaN", b"null",
    b"9" * 400, b"../" * 20, b"/dev/zero", b"~nosuchuser/x", b"\xed\xa0\x80", b"<!--", b"<a " * 50,
    b"a" * 20_000,
)  # fmt: skip
VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0, lambda: -1, lambda: 1e308, lambda: 10**30,
    lambda: float("nan"), lambda: "", lambda: " ", lambda: "\0", lambda: "\u202e\u2066x", list,
    dict, lambda: [[]], lambda: {"": {}}, lambda: "x" * 50_000, lambda: nested(200),
    lambda: {"role": "user", "content": None}, lambda: "{{ 'x' * 10**9 }}", lambda: "/dev/stdin",
    lambda: "../../../etc/passwd", lambda: ["\x1b]0;t\x07"], lambda: list(range(2000)),
)  # fmt: skip


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes somewhere in the bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(rng, data)
    return data


def _cut(rng: random.Random, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The bytes in three, the middle of any length."""
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((1, 2, 8, 64, 1024)))
    return data[:start], data[start:end], data[end:]


def _flip(rng: random.Random, data: bytes) -> bytes:
    head, middle, tail = _cut(rng, data)
    return head + bytes(b ^ rng.randrange(256) for b in middle) + tail


def _drop(rng: random.Random, data: bytes) -> bytes:
    head, _, tail = _cut(rng, data)
    return head + tail


def _repeat(rng: random.Random, data: bytes) -> bytes:
    head, middle, tail = _cut(rng, data)
    return head + middle * rng.choice((2, 3, 50)) + tail


def _insert(rng: random.Random, data: bytes) -> bytes:
    head, middle, tail = _cut(rng, data)
    return head + middle + rng.choice((rng.choice(TOKENS), rng.randbytes(16))) + tail


def _replace(rng: random.Random, data: bytes) -> bytes:
    head, _, tail = _cut(rng, data)
    return head + rng.choice(TOKENS) + tail


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _zero(rng: random.Random, data: bytes) -> bytes:
    head, middle, tail = _cut(rng, data)
    return head + bytes(len(middle)) + tail


_CHANGES = (_flip, _drop, _repeat, _insert, _insert, _replace, _truncate, _zero)


def of_numbers(rng: random.Random, data: bytes, most: int = 4096) -> bytes:
    """Replace whole numbers of 1 to 8 bytes near the beginning by extreme ones."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        width, number = rng.choice((1, 2, 4, 8, 8)), rng.choice(NUMBERS)
        at = rng.randint(0, max(0, min(most, len(changed)) - width))
        changed[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(changed)


def of_value(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value in which a part is replaced, dropped, renamed or repeated."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(list(_places(root)))
        _change(rng, holder, key)
    return root[0] if root else None


def _places(holder: Any) -> Any:
    """(list or mapping, key) of every value in it."""
    keys = range(len(holder)) if isinstance(holder, list) else list(holder)
    for key in keys:
        yield holder, key
        if isinstance(holder[key], list | dict) and len(str(holder[key])) < 50_000:
            yield from _places(holder[key])


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    kind = rng.choice(("replace", "replace", "drop", "repeat", "rename"))
    if kind == "drop" and len(holder) > 1:
        del holder[key]
    elif kind == "repeat" and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice(("", "x", "__class__", "role", "use", "\x1b", str(key).upper()))] = (
            holder.pop(key)
        )
    else:
        holder[key] = rng.choice(VALUES)()


def of_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON document, changed in a value or, one in four times, in its bytes."""
    if rng.random() < 0.25:
        return of_bytes(rng, data)
    return json.dumps(of_value(rng, json.loads(data)), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def of_json_lines(rng: random.Random, data: bytes) -> bytes:
    """JSON lines of which one is changed."""
    if rng.random() < 0.25:
        return of_bytes(rng, data)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = of_json(rng, lines[at])
    return b"\n".join(lines) + b"\n"


def of_yaml(rng: random.Random, data: bytes) -> bytes:
    """A YAML document, changed in a value or, as often, in its bytes."""
    import yaml

    if rng.random() < 0.5:
        return of_bytes(rng, data)
    changed = of_value(rng, yaml.safe_load(data))
    return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")


def of_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Change a safetensors file: values of its header, the header's length, or any bytes."""
    size = struct.unpack("<Q", data[:8])[0]
    kind = rng.random()
    if kind < 0.6:
        header = of_json(rng, data[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    if kind < 0.8:
        return struct.pack("<Q", rng.choice(NUMBERS)) + data[8:]
    return of_bytes(rng, data)
