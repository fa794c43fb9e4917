"""`retrieve.bundle`: a folder that answers questions about documents, with their sources."""

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from finery import Artifact, Bundle, Index, Job, Model, Step, setting, takes
from finery_gguf.llama import PACKAGE
from finery_retrieve.formats import require_retrieving
from finery_retrieve.index.chunks import CHUNKS_FILE, OFFSETS_FILE
from finery_retrieve.index.retriever import EMBEDDINGS_FILE
from finery_retrieve.index.words import FOLDER
from finery_retrieve.serve.settings import (
    CHAT_TEMPLATE,
    EMBEDDER,
    INDEX,
    MAX_TOKENS,
    RERANKER,
    SETTINGS,
    TEMPLATE,
    Local,
    Remote,
    Settings,
    embedder_of,
    gguf_file,
    gguf_options,
    parameters,
    parts_of,
    remote,
    reranker_of,
    settings_of,
)
from finery_serve.guide import model_facts, write_texts
from finery_serve.llama import SLOTS

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$"
LEXICAL, LOCAL, LLAMA = ("bm25s", "PyStemmer"), ("torch", "transformers"), ("xllamacpp",)
"""Packages that decide what is found and answered, so a bundle names their versions."""
METHODS = {
    "bm25": "words (BM25)",
    "dense": "embeddings",
    "hybrid": "words (BM25) and embeddings",
}


class RetrieveBundle(
    Step,
    seeded=False,
    sections=("export",),
    packages=(PACKAGE, "finery", *LEXICAL, *LOCAL, *LLAMA),
):
    """Write a folder that answers questions about documents and shows the sources.

    It has the index, the prompt template, `run.sh`, `requirements.txt` with the versions of finery
    and its packages, and a README for the person who gets it. `run.sh` starts the app of
    `finery serve`: a page and an OpenAI-compatible API. A GGUF is in the folder, too, and
    llama.cpp's server runs it; a model behind an API is called over the network.

    Raises StepError for a model that isn't one of `retrieve.model`, or is neither a GGUF nor behind
    an API.
    """

    model: Model = takes(help="A model of `retrieve.model`, over a GGUF or a model behind an API.")
    name: str = setting(
        pattern=NAME,
        help="The title of the page, and the model's name in the API: up to 100 letters, digits, "
        "and the characters _ . : / -, without spaces. The first is a letter or a digit.",
    )
    context: int | None = setting(
        None, ge=64,
        help="Longest prompt with its answer, in tokens, for a GGUF. [default: the model's, at "
        "most 8192]",
    )  # fmt: skip
    slots: int = setting(SLOTS, ge=1, help="Requests that a GGUF answers at once.")
    max_tokens: int = setting(
        MAX_TOKENS, ge=1, help="Longest answer in tokens, for requests that don't set a limit."
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that retrieves no documents."""
        require_retrieving(self.model, "model")

    def run(self, job: Job) -> Bundle:
        """Write the files."""
        index, under = parts_of(self.model)
        texts = dict[str, str]()
        reached: Local | Remote
        if under.format == "gguf":
            options = gguf_options(under, self.name, self.context, self.slots)
            has_template = options.template is not None
            reached = Local(
                options.model, options.context, options.slots, parameters(self.max_tokens),
                CHAT_TEMPLATE if has_template else None,
            )  # fmt: skip
            texts |= {CHAT_TEMPLATE: options.template} if options.template is not None else {}
        else:
            reached = remote(under, self.max_tokens)
        settings = settings_of(self.model, self.name, reached)
        texts |= {
            SETTINGS: msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n",
            TEMPLATE: self.model.meta["prompt"]["template"],
            "requirements.txt": requirements(settings),
            "run.sh": RUN_SCRIPT,
            "README.md": readme(settings, under, int(index.meta["chunks"])),
        }
        write_texts(job.out, texts)
        for name, source in _data_files(index).items():
            job.copy(source, name)
        if isinstance(reached, Local):
            job.progress(0, 1, f"copying {reached.file}")
            job.copy(gguf_file(under), reached.file)
        return Bundle(job.out, meta={"format": "retrieve", "name": self.name, "run": "sh run.sh"})


def _data_files(index: Index) -> dict[str, Path]:
    """Name in the bundle → file of the index that a search reads, or of its embedding model."""
    searched = (CHUNKS_FILE, OFFSETS_FILE, FOLDER, EMBEDDINGS_FILE)
    files = {f"{INDEX}/{n}": p for n, p in _files(index).items() if n.split("/")[0] in searched}
    embedder = embedder_of(index)
    if embedder is not None and embedder.format == "embedder":
        files |= {f"{EMBEDDER}/{name}": path for name, path in _files(embedder).items()}
    if (reranker := reranker_of(index)) is not None:
        files |= {f"{RERANKER}/{name}": path for name, path in _files(reranker).items()}
    return files


def _files(artifact: Artifact) -> dict[str, Path]:
    paths = (path for path in sorted(artifact.path.rglob("*")) if path.is_file())
    inside = {path.relative_to(artifact.path).as_posix(): path for path in paths}
    return inside | artifact.external


def requirements(settings: Settings) -> str:
    """`requirements.txt`: finery with what the app needs, and the evaluated versions."""
    extras, pinned = ["retrieve"], [*LEXICAL]
    if isinstance(settings.model, Local):
        extras.append("llama")
        pinned += LLAMA
    local = (settings.embedder or {}).get("format") == "embedder"
    if local or settings.reranker is not None:
        pinned += LOCAL
    if settings.embedder is not None and not local:
        extras.append("openai")
    lines = [f"finery[{','.join(sorted(extras))}]=={_public(settings.finery)}"]
    for name in pinned:
        with suppress(PackageNotFoundError):
            lines.append(f"{name}=={_public(version(name))}")
    return "\n".join(lines) + "\n"


def _public(version: str) -> str:
    """A build of torch for one kind of GPU has a local version, which others can't install."""
    return version.partition("+")[0]


RUN_SCRIPT = """\
#!/bin/sh
# Answers questions about documents, with their sources: sh run.sh --help
# PYTHON says which Python, LLAMA_SERVER which llama-server.
set -eu
cd "$(dirname "$0")"
PYTHON="${PYTHON:-python3}"
"$PYTHON" -P -c "import finery_retrieve" 2>/dev/null || {
    echo "error: $PYTHON must be Python 3.11 or newer, with the packages of requirements.txt:" >&2
    echo "  $PYTHON -m pip install -r requirements.txt (the variable PYTHON names another)" >&2
    exit 2
}
[ -z "${LLAMA_SERVER:-}" ] || export FINERY_LLAMA_CPP="$LLAMA_SERVER"
exec "$PYTHON" -P -m finery_retrieve.serve "$@"
"""


def readme(settings: Settings, under: Model, chunks: int) -> str:
    """`README.md`, for the person who gets the bundle. under: the model that answers."""
    limit = settings.prompt.limit
    limited = "" if limit is None else f", with at most {limit:,} tokens together"
    reranked = "" if settings.reranker is None else ", then put in order by a reranker"
    lines = "".join(f"- {fact}\n" for fact in model_facts(under.meta))
    return f"""\
# {settings.name}

Answers questions about documents and shows the sources of each answer.

- Documents: {chunks:,} sections, searched by {METHODS[settings.index.method]}{reranked}
- Sections in a prompt: at most {settings.k}{limited}
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
    model={json.dumps(settings.name)}, messages=[{{"role": "user", "content": "…"}}]
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
  {settings.model.parameters["max_tokens"]} tokens long. The model was evaluated greedily.
- `prompt.jinja` and `settings.json` decide what is retrieved and sent. If you change them, the
  answers are no longer those that were evaluated. Neither are they with other versions of the
  packages in `requirements.txt`.
- The text of documents is shown as text and never run. It can still contain instructions that a
  model follows.
"""


def _needs(settings: Settings) -> str:
    """The requirements of a machine that runs the bundle."""
    needs = ["It needs Python 3.11 or newer, and the packages in `requirements.txt`."]
    model, embedder = settings.model, settings.embedder
    if isinstance(model, Local):
        needs.append(
            "[llama.cpp](https://github.com/ggml-org/llama.cpp) runs the model: a `llama-server` "
            "on the PATH, or else that of the package xllamacpp. "
            "`LLAMA_SERVER=/path/to/llama-server` names another one."
        )
    else:
        key = model.api_key
        needs.append(_remote("asks the model", "BASE_URL", model.name, model.base_url, key))
    if embedder is not None and "server" in embedder:
        key = settings.embedder_runtime["api_key"]
        what, variable = "embeds questions with", "EMBEDDINGS_BASE_URL"
        needs.append(_remote(what, variable, embedder["name"], embedder["server"], key))
    return "\n".join(f"- {need}" for need in needs)


def _remote(what: str, variable: str, name: str, server: str, key: str | None) -> str:
    text = f"It {what} `{name}` at {server}. `{variable}` names another server."
    return f"{text} Set the variable `{key}` to your API key." if key else text
