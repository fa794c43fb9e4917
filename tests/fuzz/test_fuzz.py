"""Hostile files and answers: an error is told in words, quickly, and in little memory.

`FINERY_FUZZ_SEED` gives other cases, `FINERY_FUZZ_TIMES` more of them (8: 2,000), and
`FINERY_FUZZ_KEEP` names a folder that gets the projects of the cases that failed.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutations
import pytest
from hostile_server import Reply, serving

HERE = Path(__file__).parent
SEED = os.environ.get("FINERY_FUZZ_SEED", "1")
TIMES = int(os.environ.get("FINERY_FUZZ_TIMES", "1"))
CASES = {
    "recipe": 40, "rows": 50, "docs": 15, "store": 35, "gguf": 30, "folder": 30, "api": 15,
}  # fmt: skip
"""215 together, for every run of all tests: 2,000 took seven minutes on two cores. A case of `api`
has four answers or more."""
CHUNK = 150


def chunks() -> list[tuple[str, int]]:
    """(target, first case) of every test."""
    return [(name, first) for name, n in CASES.items() for first in range(0, n, CHUNK)]


def attack(name: str, first: int, count: int, url: str = "") -> list[dict[str, Any]]:
    """The cases that went wrong."""
    command = [sys.executable, str(HERE / "runner.py"), name, SEED, str(first), str(count), url]
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "FUZZ_KEY": "sk-fuzz-0123456789"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *wrong, end = map(json.loads, ran.stdout.splitlines())
    assert end["ran"] == count
    return wrong


def described(wrong: list[dict[str, Any]]) -> str:
    """What went wrong, a paragraph a case."""
    shown = [
        f"{w['seed']}: finery {' '.join(w['command'])} {w['problem']} after a change of "
        f"{w['changed']}\n{w['output'][-1500:]}"
        for w in wrong[:5]
    ]
    return "\n\n".join([f"{len(wrong)} cases went wrong", *shown])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"),
    [pytest.param(*at, marks=pytest.mark.quick if at[0] == "recipe" else ()) for at in chunks()],
)
def test_hostile_input_gets_an_error_in_words(name: str, first: int) -> None:
    count = min(CHUNK, CASES[name] - first) * TIMES
    if name == "api":
        pytest.importorskip("openai", reason="needs the package openai")
        rng = random.Random(f"{SEED}:{first}")
        with serving(lambda body: hostile(rng)) as server:
            wrong = attack(name, first * TIMES, count, f"http://127.0.0.1:{server.server_port}/v1")
            assert len(server.calls) >= count
    else:
        wrong = attack(name, first * TIMES, count)
    assert not wrong, described(wrong)


def hostile(rng: random.Random) -> Reply:
    """An answer of a server that is broken, or means harm; two in five are fine."""
    answer = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "card_arrival"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    body = json.dumps(answer).encode()
    if rng.random() < 0.4:
        return Reply(raw=body)
    return Reply(raw=mutations.of_json(rng, body), status=rng.choice((200, 200, 200, 400, 418)))


@pytest.mark.slow
def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A hang, a traceback, too much memory and a strange exit code are found where they are."""
    code = f"""
import json, sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
import runner
from pathlib import Path
import finery.cli
kinds = {{
    "hang": lambda: __import__("time").sleep(30),
    "loop": lambda: [None for _ in iter(int, 1)],
    "traceback": lambda: 1 / 0,
    "memory": lambda: len(b"x" * (3 << 29)),
    "code": lambda: sys.exit(7),
    "escape": lambda: print("\\x1b[2J"),
    "fine": lambda: sys.exit(2),
}}
for kind, main in kinds.items():
    finery.cli.main = main
    runner.PATIENCE = 3 if kind == "hang" else 60
    runner.SECONDS = 1 if kind == "loop" else 10
    print(kind, runner.problem(runner.run([], Path({str(tmp_path)!r}), own_workers=True)), sep=": ")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    assert found.pop("memory").startswith("took 1")
    assert found == {
        "hang": "waited for 3 s",
        "loop": "computed for 1 s",
        "traceback": "printed a traceback",
        "code": "ended with code 7",
        "escape": "sent control characters to the terminal",
        "fine": "",
    }
