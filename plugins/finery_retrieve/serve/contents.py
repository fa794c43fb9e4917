"""The files of a bundle beside the index and the model: the program, and texts for a colleague."""

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

PROGRAM = "finery_retrieve"
"""The folder of a bundle with the program, and the package that it is copied from."""
ROOT = '"""What a bundle needs of finery: search, prompts, and the app that answers."""\n'
"""The `__init__.py` of the program, in place of the plugin's, which needs finery."""
SHARED = (
    "index/__init__.py", "index/control.py", "index/ranking.py", "index/tokens.py",
    "serve/__init__.py",
)  # fmt: skip
APP = "serve/app"
PINNED = ("bm25s", "PyStemmer")
"""Packages that decide what is found, so a bundle names their versions."""
EMBEDDING = ("torch", "transformers")
"""The same, for a bundle with an embedding model."""


def program_files() -> dict[str, Path]:
    """Name in the bundle → the file of this plugin that is copied there as it is."""
    folder = Path(str(files(PROGRAM)))
    app = [f"{APP}/{path.name}" for path in (folder / APP).iterdir() if path.is_file()]
    return {f"{PROGRAM}/{name}": folder / name for name in (*SHARED, *sorted(app))}


def requirements(settings: dict[str, Any]) -> str:
    """`requirements.txt`: the packages that search and write prompts."""
    names = PINNED + (EMBEDDING if is_embedding(settings) else ())
    # A build of torch for one kind of GPU has a local version, which other machines can't install.
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    return "\n".join([*pinned, "jinja2>=3.1"]) + "\n"


def is_embedding(settings: dict[str, Any]) -> bool:
    """Whether a bundle has an embedding model in it."""
    return "pooling" in settings["index"].get("embedder", {})


def run_script() -> str:
    """`run.sh`, which starts the app with Python."""
    return f"""\
#!/bin/sh
# Answers questions about documents, with their sources: sh run.sh --help
# PYTHON says which Python, LLAMA_SERVER which llama-server.
set -eu
unset PYTHONSAFEPATH
cd "$(dirname "$0")"
PYTHON="${{PYTHON:-python3}}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {{
    echo "error: $PYTHON must be Python 3.11 or newer; PYTHON names another" >&2
    exit 2
}}
exec "$PYTHON" -B -m {PROGRAM}.{APP.replace("/", ".")} "$@"
"""


def readme(settings: dict[str, Any], about: dict[str, str], chunks: int) -> str:
    """`README.md`, for the person who gets the bundle. about: what is known of the model."""
    name, model = settings["name"], settings["model"]
    lines = "".join(f"- {what}: {value}\n" for what, value in about.items())
    return f"""\
# {name}

Answers questions about documents and shows the sources of each answer.

- Documents: {chunks:,} sections, searched by {METHODS[settings["index"]["method"]]}
- Sections in a prompt: at most {settings["k"]}{_limit(settings["prompt"]["limit"])}
{lines}
## Run it

{_needs(settings)}

```sh
python3 -m venv venv
venv/bin/pip install -r requirements.txt
PYTHON=venv/bin/python sh run.sh
```

Open the printed address, http://127.0.0.1:8080/ unless you choose another port with `--port 9000`.
Ctrl-C ends the server.

The server can be reached only from this machine. `--host 0.0.0.0` opens it to others. It then
prints a key, and refuses requests without it. To choose the key yourself, set the variable
`SERVE_KEY`.

## Use it from a program

The API is OpenAI's, with one more field: `sources` lists the sections in the prompt, in the order
of their labels.

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
answer = client.chat.completions.create(
    model={_quoted(name)}, messages=[{{"role": "user", "content": "…"}}]
)
print(answer.choices[0].message.content)
for source in answer.sources:
    print(source["label"], source["source"], source["heading"])
```

With `stream=True`, the first chunk has the sources.

## Note

- Each question is looked up by itself: the last user message of a request is the one that is
  searched for. The page sends each question on its own.
- A label such as `[2]` links an answer to its source. The model writes it and can be wrong, so
  check the source. The page marks quotes that aren't in the source that they name.
- Answers are greedy (temperature 0) unless a request says otherwise, and at most
  {model["parameters"]["max_tokens"]} tokens long. The model was evaluated greedily.
- `prompt.jinja` and `settings.json` decide what is retrieved and sent. If you change them, the
  answers are no longer those that were evaluated.
- The text of documents is shown as text and never run. It can still contain instructions that a
  model follows.
"""


def _limit(tokens: int | None) -> str:
    return "" if tokens is None else f", with at most {tokens:,} tokens together"


METHODS = {
    "bm25": "words (BM25)",
    "dense": "embeddings",
    "hybrid": "words (BM25) and embeddings",
}


def _needs(settings: dict[str, Any]) -> str:
    """What a machine needs to run the bundle."""
    model, embedder = settings["model"], settings["index"].get("embedder", {})
    needs = ["It needs Python 3.11 or newer."]
    if "arguments" in model:
        needs.append(
            "It needs [llama.cpp](https://github.com/ggml-org/llama.cpp), so that `llama-server` "
            "is on the PATH. `LLAMA_SERVER=/path/to/llama-server` names another one."
        )
    else:
        needs.append(_remote("asks the model", "BASE_URL", model))
    if "base_url" in embedder:
        needs.append(_remote("embeds questions with", "EMBEDDINGS_BASE_URL", embedder))
    return "\n".join(f"- {need}" for need in needs)


def _remote(what: str, variable: str, model: dict[str, Any]) -> str:
    key = f" Set the variable `{model['api_key']}` to your API key." if model["api_key"] else ""
    where = f"`{model['name']}` at {model['base_url']}. `{variable}` names another server."
    return f"It {what} {where}{key}"


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
