"""`ollama.modelfile`: a GGUF with what Ollama needs to run it."""

import os
import shutil
from pathlib import Path

from finery import Bundle, DataError, Job, Model, Step, StepError, setting, takes
from finery.errors import did_you_mean
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_gguf.engine import chat_template
from finery_gguf.llama import PACKAGE, Gguf
from finery_ollama.commands import Command, write_modelfile
from finery_ollama.template import ollama_template
from finery_ollama.turns import Turns, trims

Value = float | int | bool | str | list[str]

PARAMETERS: dict[str, tuple[type, ...]] = {
    "num_keep": (int,), "seed": (int,), "num_predict": (int,), "top_k": (int,),
    "top_p": (int, float), "min_p": (int, float), "typical_p": (int, float),
    "repeat_last_n": (int,), "temperature": (int, float), "repeat_penalty": (int, float),
    "presence_penalty": (int, float), "frequency_penalty": (int, float), "stop": (str, list),
    "num_ctx": (int,), "num_batch": (int,), "num_gpu": (int,), "main_gpu": (int,),
    "use_mmap": (bool,), "num_thread": (int,),
}  # fmt: skip
"""What a Modelfile's PARAMETER may name, and the types Ollama reads (api/types.go)."""

DEFAULT_CONTEXT = 4096
"""Tokens; Ollama's own default depends on its version and the machine."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_DATE = "«date»"


class Modelfile(Step, seeded=False, sections=("export",), packages=(PACKAGE,)):
    """Write the Modelfile that runs a GGUF in Ollama with the prompts it was trained on.

    The chat template is rewritten as Ollama's, and both are compared on several conversations.
    Ollama itself is not needed.
    """

    gguf: Model = takes(help="The GGUF to run.")
    name: str = setting(
        pattern=rf"^(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?$",
        help="What Ollama calls the model: `[[host/]namespace/]name[:tag]`.",
    )
    system: str = setting(
        "", help="System message for conversations that have none; as in training, if it had one."
    )
    parameters: dict[str, Value] = setting(
        {},
        help="Ollama's parameters. Default: `temperature: 0`, `repeat_penalty: 1` and a `num_ctx` "
        "of the model's context, 4096 at most; so its answers are those that were evaluated.",
    )

    def run(self, job: Job) -> Bundle:
        """Derive and prove the template, write the files, copy the GGUF."""
        if self.gguf.format != "gguf":
            raise StepError(
                f"Ollama runs a GGUF, and this model is of format '{self.gguf.format}'",
                fix="export it with gguf.export, and name that step",
            )
        _check_parameters(self.parameters)
        source = self.gguf.file(self.gguf.meta["file"])
        gguf = Gguf(source, vocab_only=True)
        chat = chat_template(gguf, self.gguf.meta.get("chat_template_kwargs", {}))
        template, turns = _template(gguf, chat)
        system = _system(self.system, turns, trimmed=trims(chat))
        run = f"ollama create {self.name} -f Modelfile && ollama run {self.name}"
        commands = [("FROM", f"./{source.name}"), ("TEMPLATE", template)]
        commands += [("SYSTEM", system)] if system else []
        commands += _parameters(self._parameters(gguf), stops(gguf, turns))
        if license := self.gguf.meta.get("license"):
            commands.append(("LICENSE", str(license)))
        (job.out / "Modelfile").write_text(write_modelfile(commands, run), encoding="utf-8")
        notes = _notes(turns, trimmed=trims(chat))
        (job.out / "RUN.md").write_text(_guide(self.name, run, notes), encoding="utf-8")
        for note in notes:
            job.log(note)
        job.progress(0, 1, f"copying {source.name}")
        copy(source, job.out / source.name)
        sizes = {p.name: p.stat().st_size for p in sorted(job.out.iterdir())}
        return Bundle(job.out, meta={"name": self.name, "files": sizes, "run": run})

    def _parameters(self, gguf: Gguf) -> dict[str, Value]:
        context = min(gguf.n_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        return {"temperature": 0, "repeat_penalty": 1, "num_ctx": context, **self.parameters}


def stops(gguf: Gguf, turns: Turns) -> list[str]:
    """Texts that end an answer: the control tokens that end its turn and begin the user's.

    Where a template has no such token, the text between the two turns.
    """
    found = []
    for text in (turns.assistant[1], turns.user[0]):
        control = [token for token in gguf.encode(text) if gguf.is_control(token)]
        found += [gguf.token_text(token) for token in control[:1]]
    if not found:
        between = (turns.assistant[1] + turns.user[0]).strip()
        found = between.splitlines()[:1]
    return list(dict.fromkeys(found))


def copy(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can.

    Not a hard link: that would change the source's ctime, and the source is not ours.
    """
    try:
        with source.open("rb") as read, target.open("xb") as write:
            left = os.fstat(read.fileno()).st_size
            while left:
                copied = os.copy_file_range(read.fileno(), write.fileno(), left)
                if not copied:
                    raise OSError("the file got shorter")
                left -= copied
    except (AttributeError, OSError):  # not on this system, or not between these file systems
        shutil.copyfile(source, target)


def _template(gguf: Gguf, chat: ChatTemplate) -> tuple[str, Turns]:
    """The TEMPLATE and the turns it writes.

    llama.cpp puts the BOS before a prompt if the GGUF says so: the template then leaves it out.
    """
    bos = gguf.token_text(gguf.bos) if gguf.bos >= 0 else ""

    def render(messages: Conversation, generation: bool) -> str:
        text = chat.render(messages, add_generation_prompt=generation)
        return text.removeprefix(bos) if gguf.adds_bos else text

    found = ollama_template(render, "" if gguf.adds_bos else bos)
    if _writes_date(chat):
        raise StepError(
            "the chat template writes today's date, which a template of Ollama can't",
            where=str(gguf.path),
            fix="train with a chat template that has a fixed date or none",
        )
    return found


def _writes_date(chat: ChatTemplate) -> bool:
    dated = chat.with_arguments(strftime_now=lambda form: _DATE)
    return _DATE in dated.render([{"role": "user", "content": "?"}])


def _system(system: str, turns: Turns, *, trimmed: bool) -> str:
    if system and turns.place == "nowhere":
        raise StepError(
            "the chat template takes no system message, so it would be ignored",
            fix="drop `system`, or put it into the rows' user messages before training",
        )
    return system.strip() if trimmed else system


def _check_parameters(parameters: dict[str, Value]) -> None:
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise DataError(f"Ollama has no parameter '{name}'", fix=did_you_mean(name, PARAMETERS))
        types = PARAMETERS[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join(t.__name__ for t in types)
            raise DataError(f"Ollama's parameter {name} is {wanted}, not {value!r}")


def _parameters(parameters: dict[str, Value], derived: list[str]) -> list[Command]:
    """PARAMETER lines; `stop` has one for each text, the derived ones first."""
    own = parameters.get("stop", [])
    texts = [*derived, *(own if isinstance(own, list) else [str(own)])]
    lines = [
        (f"PARAMETER {name}", str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in parameters.items()
        if name != "stop"
    ]
    return lines + [("PARAMETER stop", text) for text in dict.fromkeys(texts)]


def _notes(turns: Turns, *, trimmed: bool) -> list[str]:
    """What differs from the model's own chat template where no comparison can be made."""
    notes = []
    if turns.place == "nowhere":
        notes.append("The model's chat template takes no system message; Ollama ignores one.")
    if trimmed:
        notes.append(
            "The model's chat template strips white space around each message, and a template of "
            "Ollama can't: send messages without it."
        )
    return notes


def _guide(name: str, run: str, notes: list[str]) -> str:
    listed = "".join(f"\n- {note}" for note in notes)
    return (
        f"# {name}\n\n"
        f"In this folder, with [Ollama](https://ollama.com) installed:\n\n```sh\n{run}\n```\n"
        + (f"\nMind:\n{listed}\n" if notes else "")
    )
