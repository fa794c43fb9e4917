"""The loop of a talk: read a line, follow a command, or have the models answer."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from finery import Completion, FineryError, Sampling
from finery_serve.chat.streams import Talker, Write
from finery_serve.chat.talk import FILE, Talk

HELP = """\
/save [FILE]    append the conversation to a file of rows, by default
                conversations.jsonl; with --beside, that of the first model,
                or of the one named: /save MODEL [FILE]
/system [TEXT]  begin a new conversation, with this system message or none
/clear          begin a new conversation
/help           this list
/quit           end the talk, as Ctrl-D does
Ctrl-C stops an answer. A stopped answer isn't kept."""


class Named(NamedTuple):
    """A model with its name in the recipe."""

    name: str
    talker: Talker


class Screen(Protocol):
    """Where a talk is shown."""

    def questions(self, stdin: IO[str]) -> Iterator[str]:
        """The user's lines, until they end."""

    def say(self, text: str) -> None:
        """Show a remark of finery's."""

    def complain(self, error: FineryError) -> None:
        """Show why something can't be done."""

    def answers(self, models: list[str], answer: Callable[[int, Write], Completion]) -> None:
        """Show the answers of all models: `answer(index, write)` writes one."""


class Session:
    """A talk with one or two models. Each has its own conversation; the questions are the same."""

    def __init__(
        self, models: list[Named], sampling: Sampling, screen: Screen, system: str
    ) -> None:
        self._models = models
        self._sampling = sampling
        self._screen = screen
        self._talks = [Talk(system) for _ in models]
        self._commands: dict[str, Callable[[str], None]] = {
            "/save": self._save,
            "/system": self._set_system,
            "/clear": self._clear,
            "/help": lambda _: screen.say(HELP),
        }

    def run(self, stdin: IO[str]) -> None:
        """Talk until the user leaves."""
        for line in self._screen.questions(stdin):
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            try:
                self._follow(text)
            except FineryError as error:
                self._screen.complain(error)

    def _follow(self, text: str) -> None:
        """Do what a line says."""
        word, _, rest = text.partition(" ")
        if word in self._commands:
            self._commands[word](rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            self._screen.say(f"there is no command {word}; /help lists them")
        elif text:
            self._ask(text)

    def _ask(self, question: str) -> None:
        """Have every model answer. What is stopped, or fails, isn't kept by any."""
        answers: list[Completion] = []

        def answer(index: int, write: Write) -> Completion:
            messages = self._talks[index].asked(question)
            answers.append(self._models[index].talker.answer(messages, self._sampling, write))
            return answers[-1]

        try:
            self._screen.answers([model.name for model in self._models], answer)
        except KeyboardInterrupt:
            self._screen.say("\nstopped; the question and its answer aren't kept")
            return
        for talk, completion in zip(self._talks, answers, strict=True):
            talk.keep(question, completion)

    def _save(self, text: str) -> None:
        names = [model.name for model in self._models]
        name, _, file = text.partition(" ")
        if name not in names:
            name, file = names[0], text
        saved = self._talks[names.index(name)].save(Path(file.strip() or FILE).expanduser())
        others = [f"/save {other} saves the other" for other in names if other != name]
        self._screen.say("\n".join([f"{saved}, with {name}", *others] if others else [saved]))

    def _set_system(self, text: str) -> None:
        for talk in self._talks:
            talk.system = text
            talk.clear()
        what = "this system message" if text else "no system message"
        self._screen.say(f"a new conversation, with {what}")

    def _clear(self, _: str) -> None:
        for talk in self._talks:
            talk.clear()
        with suppress(IndexError):
            kept = " and the same system message" if self._talks[0].system else ""
            self._screen.say(f"a new conversation{kept}")
