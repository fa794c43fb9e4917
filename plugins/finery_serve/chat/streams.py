"""Answers as they are written: from a server, from transformers in this process, or at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finery import Artifact, Completion, DataError, Engine, Model, Request, Sampling, UsageError
from finery.advanced import likely
from finery.rows import Conversation
from finery_serve.client import Client
from finery_serve.opening import Opened, server_for
from finery_serve.servers import Serving, ServingJob, is_servable, names_of
from finery_transformers.frozen.template import ClientFacts

if TYPE_CHECKING:
    from finery_transformers.answering.answers import TokenReader

Tools = list[dict[str, Any]] | None
Write = Callable[[str, bool], None]
"""Takes the next part of an answer, and whether it is thinking."""
NO_SOURCES_LINE = "\n(no documents were found)"
"""The line below an answer for which a server of documents found nothing."""
IN_PROCESS = ("transformers", "adapter")
"""Formats that transformers answers with here, sooner than a server would have started."""


class Talker(Protocol):
    """A model that answers conversations. tools: those that it is offered in each of them."""

    @property
    def tools(self) -> Tools: ...

    def answer(self, messages: Conversation, sampling: Sampling, write: Write) -> Completion:
        """Write an answer as it comes, and return it. `KeyboardInterrupt` ends it early.

        `StepError` or `DataError` if there is none.
        """


@contextmanager
def talker(opened: Opened, folder: Path) -> Iterator[Talker]:
    """The model, loaded where it runs fastest. folder: for a server's messages."""
    format_, model = opened.format, opened.artifact
    clients = ClientFacts.of(model.meta)
    tools = clients.tools
    if format_ in IN_PROCESS and isinstance(model, Model):
        yield TransformersTalker(model, tools)
    elif can_be_served(model, opened.graph.plugins.server):
        serving = Serving(name=opened.name, slots=1, log=folder / f"{opened.name}.log")
        with server_for(opened)(model, serving) as running:
            names = names_of(running, serving)
            name = opened.name if opened.name in names else names[-1]
            choice = clients.tool_choice or None
            yield ServerTalker(Client(running.address), name, tools, choice)
    elif isinstance(model, Model):
        engine: type[Engine] = opened.graph.plugins.engine(format_)
        yield EngineTalker(engine(model, ServingJob(opened.graph.plugins)), tools)
    else:
        run = model.meta.get("run")
        raise UsageError(
            f"'{opened.name}' is a bundle of the format '{format_}', which has no server here",
            fix=f"run it in its folder: {run}" if run else "name the model that it contains",
        )


def can_be_served(artifact: Artifact, server: Callable[[str], Callable[..., Any] | None]) -> bool:
    """Whether a server can answer with a model, and with the models that it is built on.

    server: the function that serves a format; None if there is none.
    """
    models = [ref for ref in artifact.refs.values() if isinstance(ref, Model)]
    for candidate in (artifact, *models):
        serve = server(str(candidate.meta.get("format", "")))
        if serve is None or not is_servable(candidate, serve):
            return False
    return True


class ServerTalker:
    """A model behind a server with the OpenAI API, which sends answers word by word."""

    def __init__(
        self, client: Client, name: str, tools: Tools = None, tool_choice: str | None = None
    ) -> None:
        self._client = client
        self.tools = tools
        self._settings: dict[str, Any] = {"model": name} | ({"tools": tools} if tools else {})
        self._settings |= {"tool_choice": tool_choice} if tools and tool_choice else {}

    def answer(self, messages: Conversation, sampling: Sampling, write: Write) -> Completion:
        """See `Talker`."""
        body = {
            **self._settings,
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        text, thinking, reason, tokens = "", "", "stop", 0
        calls: dict[int, dict[str, Any]] = {}
        sources: list[dict[str, Any]] | None = None
        probability_line = ""  # of a classifier
        for event in self._client.stream("/v1/chat/completions", body):
            sources = event.get("sources", sources)
            for choice in event.get("choices", ()):
                delta = choice.get("delta") or {}
                tokens += 1
                reason = choice.get("finish_reason") or reason
                if "probability" in choice:
                    abstains = "abstains: " if choice.get("abstained") else ""
                    probability_line = f"\n({abstains}probability {likely(choice['probability'])})"
                if piece := delta.get("reasoning_content") or delta.get("reasoning"):
                    thinking += piece
                    write(piece, True)
                if piece := delta.get("content"):
                    text += piece
                    write(piece, False)
                for piece in delta.get("tool_calls") or ():
                    empty_call = {
                        "id": "",
                        "type": "function",
                        "function": {"name": "", "arguments": ""},
                    }
                    call = calls.setdefault(piece["index"], empty_call)
                    call["id"] += piece.get("id") or ""
                    for key, value in piece["function"].items():
                        call["function"][key] += value or ""
        if probability_line:
            write(probability_line, True)
        if sources is not None:
            for line in map(source_line, sources) if sources else [NO_SOURCES_LINE]:
                write(line, True)
        return Completion(
            text=text, reasoning=thinking or None, finish_reason=reason, prompt_tokens=0,
            completion_tokens=tokens, tool_calls=[*calls.values()] or None,
        )  # fmt: skip


def source_line(source: dict[str, Any]) -> str:
    """A line about a source of an answer, as servers of documents list them."""
    places = [f"{name} {number}" for name, number in source.get("place", {}).items()]
    where = [source.get("heading"), *places]
    return "\n" + ", ".join([f"[{source['label']}] {source['source']}", *filter(None, where)])


class EngineTalker:
    """A model of any other format. Its engine returns the complete answer at once."""

    def __init__(self, engine: Engine, tools: Tools = None) -> None:
        self._engine, self.tools = engine, tools

    def answer(self, messages: Conversation, sampling: Sampling, write: Write) -> Completion:
        """See `Talker`."""
        ((_, answers),) = self._engine.stream([[Request(messages, tools=self.tools)]], sampling)
        if not isinstance(answers, list):
            raise answers
        write(answers[0].text, False)
        if answers[0].probability is not None:
            write(f"\n(probability {likely(answers[0].probability)})", True)
        return answers[0]


class TransformersTalker:
    """A Hugging Face folder or an adapter in this process, with the prompts of its training."""

    def __init__(self, model: Model, tools: Tools = None) -> None:
        from finery_transformers.answering.answers import TokenReader
        from finery_transformers.loading import load_model, load_template, to_device

        self.tools = tools
        self._template = load_template(model)
        self._model: Any = load_model(model)
        to_device(self._model)
        model_ends = getattr(self._model.generation_config, "eos_token_id", None)
        own_ends = model_ends if isinstance(model_ends, list) else [model_ends]
        ends = self._template.ends_of_turn()
        self._ends = sorted(ends | {end for end in own_ends if isinstance(end, int)})
        self._reader: TokenReader = TokenReader(self._template)

    def answer(self, messages: Conversation, sampling: Sampling, write: Write) -> Completion:
        """See `Talker`."""
        prompt = self._template.prompt(messages, self.tools)
        ids = self._template.tokens(prompt)
        context_length = getattr(self._model.config, "max_position_embeddings", None)
        if context_length is not None and len(ids) >= context_length:
            raise DataError(
                f"the conversation has {len(ids)} tokens, but the model's context only "
                f"{context_length}",
                fix="begin a new one: /clear",
            )
        answer = _TokenWriter(self._ends, self._reader, write)
        max_new_tokens = (
            sampling.max_tokens
            if context_length is None
            else min(sampling.max_tokens, context_length - len(ids))
        )
        import torch
        from transformers import GenerationConfig

        config: Any = GenerationConfig
        is_sampled = sampling.temperature > 0
        settings = {
            "do_sample": is_sampled,
            "max_new_tokens": max_new_tokens,
            "eos_token_id": self._ends,
        }
        settings |= {"pad_token_id": self._ends[0]}
        settings |= {"temperature": sampling.temperature, "top_k": 0} if is_sampled else {}
        self._model.generation_config = config(eos_token_id=self._ends, pad_token_id=self._ends[0])
        inputs = torch.tensor([ids], device=self._model.device)
        with torch.no_grad():
            self._model.generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs),
                generation_config=config(**settings), streamer=answer,
            )  # fmt: skip
        answer_parts = self._reader.parts(
            answer.text, answer.tokens, prompt=prompt[-500:], tools=self.tools
        )
        return Completion(
            **answer_parts._asdict(),
            finish_reason=answer_parts.finish_reason(answer.is_finished),
            prompt_tokens=len(ids),
            completion_tokens=len(answer.tokens),
        )


class _TokenWriter:
    """A streamer of transformers: writes an answer's text as its tokens come.

    https://huggingface.co/docs/transformers/internal/generation_utils#transformers.TextStreamer
    """

    def __init__(self, ends: list[int], reader: "TokenReader", write: Write) -> None:
        self._ends, self._reader, self._write = ends, reader, write
        self._is_prompt = True
        self.tokens: list[int] = []
        self.text = ""
        self.is_finished = False

    def put(self, value: Any) -> None:
        """Take the next tokens; the first are the prompt's."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.reshape(-1).tolist():
            if token in self._ends:
                self.is_finished = True
                return
            self.tokens.append(token)
        text = self._reader.text(self.tokens)
        if not text.endswith("\ufffd"):  # half of a character
            self._write(text[len(self.text) :], False)
            self.text = text

    def end(self) -> None:
        """Write the rest."""
        text = self._reader.text(self.tokens)
        if text != self.text:
            self._write(text[len(self.text) :], False)
            self.text = text
