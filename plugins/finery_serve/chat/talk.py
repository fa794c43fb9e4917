"""A talk with one or two models: what its lines do, its turns, and its place in a file of rows."""

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from finery import Completion, DataError, FineryError, Sampling, UsageError
from finery.advanced import counted, shown, visible
from finery.rows import Conversation
from finery_eval.calls import shown_call
from finery_serve.chat.streams import Talker, Tools, Write

if TYPE_CHECKING:
    from finery_serve.chat.screen import Plain

CONVERSATIONS_FILE = "conversations.jsonl"
HELP = """\
/save [FILE]    append the conversation to a file of rows, by default
                conversations.jsonl; with --beside, that of the first model,
                or of the one named: /save MODEL [FILE]
/system [TEXT]  begin a new conversation, with this system message, or with
                that of the training
/clear          begin a new conversation
/help           this list
/quit           end the conversation, like Ctrl-D
Ctrl-C stops an answer. A stopped answer isn't kept."""


class Session:
    """A chat with one or two models. Each has its own conversation with the same questions."""

    def __init__(
        self,
        models: dict[str, Talker],
        sampling: Sampling,
        screen: "Plain",
        system: str = "",
        usual: str = "",
        forgetful: Collection[str] = (),
    ) -> None:
        """models: by their names in the recipe. system: the system message; empty for the usual.

        forgetful: the models that get each question by itself.
        """
        self._models = models
        self._forgetful = forgetful
        self._sampling = sampling
        self._screen = screen
        self._usual = usual
        self._talks = [Talk(system or usual, model.tools) for model in models.values()]
        self._commands: dict[str, Callable[[str], None]] = {
            "/save": self._save,
            "/system": self._set_system,
            "/clear": self._clear,
            "/help": lambda _: screen.say(HELP),
        }

    def run(self, stdin: IO[str]) -> int:
        """Talk until the user leaves: the exit code of the last error, or 0."""
        code = 0
        if self._usual and self._talks[0].system == self._usual:
            self._screen.say(f"system message, as in the training: {visible(self._usual)}")
        if self._forgetful:
            names = ", ".join(self._forgetful)
            self._screen.say(f"each question is a new conversation with {names}")
        for line in self._screen.questions(stdin):
            text = line.strip()
            if text in ("/quit", "/exit"):
                break
            try:
                word, _, argument = text.partition(" ")
                if word in self._commands:
                    self._commands[word](argument.strip())
                elif word.startswith("/") and word[1:].isalpha():
                    self._screen.say(f"there is no command {word}; /help lists them")
                elif text:
                    self._ask(text)
            except FineryError as error:
                self._screen.complain(error)
                code = error.exit_code
        return code

    def _ask(self, question: str) -> None:
        """Have every model answer. What is stopped, or fails, isn't kept by any."""
        try:
            question.encode()
        except UnicodeEncodeError:  # bytes that aren't UTF-8 come through as lone surrogates
            raise DataError("the question isn't UTF-8", fix="write it in UTF-8") from None
        answers: list[Completion] = []
        talkers = list(self._models.values())

        for name, talk in zip(self._models, self._talks, strict=True):
            if name in self._forgetful:
                talk.clear()

        def answer(index: int, write: Write) -> Completion:
            messages = self._talks[index].with_question(question)
            completion = talkers[index].answer(messages, self._sampling, write)
            answers.append(completion)
            calls = "\n".join(map(shown_call, completion.tool_calls or ()))
            if not calls:
                return completion
            write(calls, False)
            text = "\n".join(filter(None, [completion.text, calls]))
            return msgspec.structs.replace(completion, text=text)

        try:
            self._screen.answers(list(self._models), answer)
        except KeyboardInterrupt:
            self._screen.say("\nstopped; the question and its answer aren't kept")
            return
        for talk, completion in zip(self._talks, answers, strict=True):
            talk.keep(question, completion)

    def _save(self, text: str) -> None:
        names = list(self._models)
        name, _, file = text.partition(" ")
        if name not in names:
            name, file = names[0], text
        saved = self._talks[names.index(name)].save(
            Path(file.strip() or CONVERSATIONS_FILE).expanduser()
        )
        other_commands = [
            f"/save {other_name} saves the other" for other_name in names if other_name != name
        ]
        self._screen.say(
            "\n".join([f"{saved}, with {name}", *other_commands] if other_commands else [saved])
        )

    def _set_system(self, text: str) -> None:
        for talk in self._talks:
            talk.system = text or self._usual
            talk.clear()
        usual = "the system message of the training" if self._usual else "no system message"
        description = "this system message" if text else usual
        self._screen.say(f"a new conversation, with {description}")

    def _clear(self, _: str) -> None:
        for talk in self._talks:
            talk.clear()
        suffix = " and the same system message" if self._talks[0].system else ""
        self._screen.say(f"a new conversation{suffix}")


class Talk:
    """The turns so far. system: the system message; empty for none. tools: those on offer."""

    def __init__(self, system: str = "", tools: Tools = None) -> None:
        self.system, self._tools = system, tools
        self._turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> Conversation:
        """All messages, the system message first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns]

    def with_question(self, question: str) -> Conversation:
        """The messages with a further question, which isn't kept yet."""
        return [*self.messages, {"role": "user", "content": question}]

    def keep(self, question: str, answer: Completion) -> None:
        """Add a question and its answer."""
        turn: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            turn["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        self._turns += [{"role": "user", "content": question}, turn]

    def clear(self) -> None:
        """Begin again, with the same system message."""
        self._turns = []

    def save(self, file: Path) -> str:
        """Append the conversation to a file of rows, and say so. `UsageError` if it can't be."""
        if not self._turns:
            raise UsageError("there is nothing to save yet", fix="ask something first")
        if file.suffix != ".jsonl":
            raise UsageError(
                f"{file.name} isn't a file of JSON lines",
                fix=f"name one that ends in .jsonl, e.g. /save {CONVERSATIONS_FILE}",
            )
        tools = {"tools": self._tools} if self._tools else {}
        line = json.dumps({**tools, "messages": self.messages}, ensure_ascii=False)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a+b") as rows:
                lacks_break = False
                if rows.tell():
                    rows.seek(-1, os.SEEK_END)
                    lacks_break = rows.read(1) != b"\n"
                rows.write(f"{chr(10) * lacks_break}{line}\n".encode())
        except OSError as error:
            raise UsageError(
                f"can't write to {file}: {error.strerror}", fix="name another"
            ) from error
        turns = counted(len(self._turns) // 2, "turn")
        return f"saved a conversation of {turns} in {shown(file.absolute())}"
