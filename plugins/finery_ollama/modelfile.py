"""`ollama.modelfile`: a GGUF with the files that Ollama needs to run it."""

from collections.abc import Sequence

from finery import Bundle, DataError, Job, Model, Step, StepError, setting, takes
from finery.advanced import did_you_mean
from finery.views import View
from finery_gguf.llama import FORMATS, PACKAGE, Gguf
from finery_serve.guide import REQUEST, curl, notes_of, request_for, write_request
from finery_transformers.formats import require_format
from finery_transformers.frozen.template import ClientFacts

Value = float | int | bool | str | list[str]

Command = tuple[str, str]
"""(name in capitals, value). The name of a parameter is `PARAMETER name`."""

PARAMETERS: dict[str, tuple[type, ...]] = {
    "num_keep": (int,), "seed": (int,), "num_predict": (int,), "top_k": (int,),
    "top_p": (int, float), "min_p": (int, float), "typical_p": (int, float),
    "repeat_last_n": (int,), "temperature": (int, float), "repeat_penalty": (int, float),
    "presence_penalty": (int, float), "frequency_penalty": (int, float), "stop": (str, list),
    "num_ctx": (int,), "num_batch": (int,), "num_gpu": (int,), "main_gpu": (int,),
    "use_mmap": (bool,), "num_thread": (int,),
}  # fmt: skip
"""Names of a Modelfile's PARAMETERs, and the types that Ollama reads (api/types.go)."""

DEFAULT_CONTEXT = 4096
"""Tokens. Ollama's own default depends on its version and the machine."""

ADDRESS = "http://127.0.0.1:11434/v1"
"""Ollama's usual one."""

REQUIRED = "0.30.0"
"""The first Ollama that uses the chat template of a GGUF."""

# openai/openai.go: FromChatRequest
GUIDE = """\
# {name}

In this folder, with [Ollama](https://ollama.com) installed:

```sh
{run}
```

From a program, in this folder:

```sh
{request}
```

Ollama's OpenAI-compatible API (`/v1/chat/completions`) ignores the `temperature` of the
Modelfile and answers requests without one with temperature 1. For the answers that were
evaluated, send `temperature: 0` in each request.
"""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"


class Modelfile(Step, seeded=False, sections=("export",), packages=(PACKAGE,)):
    """Write the Modelfile that runs a GGUF in Ollama with the prompts it was trained on.

    From version 0.30 on, which it requires, Ollama uses the GGUF's own chat template, which
    `gguf.export` has frozen. The Modelfile has no TEMPLATE that could replace it. A GGUF of others
    gets a comment before its chat template, so that Ollama doesn't take it for one that it knows.
    Ollama itself isn't needed.

    The `chat_template`, `chat_template_kwargs` and `tools_as` of the GGUF's step must be in its
    file, as in an export. Raises StepError if they aren't.
    """

    gguf: Model = takes(help="The GGUF to run, or an adapter of one, which `ADAPTER` applies.")
    name: str = setting(
        pattern=rf"^(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?$",
        help="The model's name in Ollama: `[[host/]namespace/]name[:tag]`.",
    )
    system: str = setting(
        "",
        help="System message for conversations without one. The one that all training rows have is "
        "in the exported chat template and needn't be set.",
    )
    parameters: dict[str, Value] = setting(
        {},
        help="Ollama's parameters. Default: `temperature: 0`, `repeat_penalty: 1` and the model's "
        "context as `num_ctx`, at most 4096, so that answers match the evaluated ones.",
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that isn't a GGUF, if that is known."""
        require_format(self.gguf, "ollama.modelfile", "gguf", FORMATS)

    def run(self, job: Job) -> Bundle:
        """Find what Ollama needs to know, write the files and copy the GGUF."""
        from finery_ollama.derive import copy_marked, derive

        _check_parameters(self.parameters)
        gguf = Gguf.of(self.gguf, vocab_only=True)
        derived = derive(gguf, self.gguf)
        # Neither the chat template of an adapter's base nor a renderer has the training's message.
        is_lost = gguf.adapter is not None or derived.renderer is not None
        clients = ClientFacts.of(self.gguf.meta)
        system = self.system or (clients.system if is_lost else "")
        if system and not derived.takes_system:
            raise StepError(
                "the chat template takes no system message, so Ollama would ignore `system`",
                fix="remove `system`, or add its text to the rows' user messages before training",
            )
        unthinking = " --think=false" if derived.thinks else ""
        run = f"ollama create {self.name} -f Modelfile && ollama run {self.name}{unthinking}"
        commands = [("FROM", f"./{gguf.path.name}")]
        commands += [("ADAPTER", f"./{gguf.adapter.name}")] if gguf.adapter is not None else []
        commands.append(("REQUIRES", REQUIRED))
        commands += [("SYSTEM", system)] if system else []
        context = min(gguf.n_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        values = {"temperature": 0, "repeat_penalty": 1, "num_ctx": context, **self.parameters}
        commands += _parameters(values, derived.stops)
        if license := self.gguf.meta.get("license"):
            commands.append(("LICENSE", str(license)))
        (job.out / "Modelfile").write_text(write_modelfile(commands, run), encoding="utf-8")
        clients = clients._replace(system=system or clients.system)
        request = request_for(self.name, clients)
        request |= {"reasoning_effort": "none"} if derived.thinks else {}
        write_request(job.out, request)
        notes = [*derived.notes, *notes_of(clients)]
        guide = GUIDE.format(name=self.name, run=run, request=curl(ADDRESS, request, REQUEST))
        guide += "".join(["\nNote:\n\n", *(f"- {note}\n" for note in notes)]) if notes else ""
        (job.out / "RUN.md").write_text(guide, encoding="utf-8")
        for note in derived.notes:
            job.log(note)
        for source in filter(None, (gguf.path, gguf.adapter)):
            job.progress(0, 1, f"copying {source.name}")
            if derived.needs_mark and source == gguf.path:
                copy_marked(gguf, job.out / source.name)
            else:
                job.copy(source, source.name)
        sizes = {p.name: p.stat().st_size for p in sorted(job.out.iterdir())}
        meta = {"format": "ollama", "name": self.name, "files": sizes, "run": run}
        return Bundle(job.out, meta=meta | clients.meta())


def _check_parameters(parameters: dict[str, Value]) -> None:
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise DataError(f"Ollama has no parameter '{name}'", fix=did_you_mean(name, PARAMETERS))
        types = PARAMETERS[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join(t.__name__ for t in types)
            raise DataError(f"Ollama's parameter {name} must be {wanted}, not {value!r}")


def _parameters(parameters: dict[str, Value], derived: list[str]) -> list[Command]:
    """PARAMETER lines. `stop` has one for each text, the derived ones first."""
    own = parameters.get("stop", [])
    texts = [*derived, *(own if isinstance(own, list) else [str(own)])]
    lines = [
        (f"PARAMETER {name}", str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in parameters.items()
        if name != "stop"
    ]
    return lines + [("PARAMETER stop", text) for text in dict.fromkeys(texts)]


class OllamaView(View):
    """The view of a folder for Ollama."""

    text_file = "Modelfile"


def write_modelfile(commands: Sequence[Command], comment: str) -> str:
    """The Modelfile's text. `DataError` for a value that can't be written in one.

    Values are written so that Ollama's parser reads them back unchanged
    (https://github.com/ollama/ollama/blob/main/parser/parser.go): a value in three double quotes
    ends at the first line that ends with three double quotes. Characters that aren't printable are
    dropped silently. There are no escapes.
    """
    lines = [f"# {comment}"]
    for name, value in commands:
        is_plain = value.strip() == value and value and not set('"\n\r') & set(value)
        text = f"{name} {value}" if is_plain else f'{name} """{value}"""'
        try:
            read = read_modelfile(text)
        except ValueError:
            read = []
        if read != [(name, value)]:
            raise DataError(
                f"{name} can't be written in a Modelfile: {value!r:.200}",
                fix='remove invisible characters, and """ at the end of a line',
            )
        lines.append(text)
    return "\n".join(lines) + "\n"


def read_modelfile(text: str) -> list[Command]:
    """The commands that Ollama reads from a Modelfile. `ValueError` if a value doesn't end."""
    commands, rest = [], text + "\n"
    while rest := rest.lstrip(" \t\r\n"):
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, _, rest = rest.partition(" ")
        if name == "PARAMETER":
            parameter, _, rest = rest.partition(" ")
            name = f"PARAMETER {parameter}"
        value, rest = _read_value(rest)
        commands.append((name, value))
    return commands


def _read_value(text: str) -> tuple[str, str]:
    """(the value at the start of `text`, what comes after it)."""
    read = ""
    for position, character in enumerate(text):
        if character in "\r\n" and (value := _unquote(read.strip())) is not None:
            return value, text[position + 1 :]
        if character in " \t\r\n" or character.isprintable():
            read += character
    raise ValueError("a value of the Modelfile doesn't end")


def _unquote(text: str) -> str | None:
    """The value inside its quotes; None while the quotes are open."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text
