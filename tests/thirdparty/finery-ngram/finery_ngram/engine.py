"""The engine."""

import json
import random
from collections.abc import Sequence
from functools import cached_property

from finery import Completion, Engine, Request, Sampling
from finery.rows import Conversation
from finery_ngram.model import END, FILE, Counts, prompt_words


class NgramEngine(Engine):
    """Answers with the words that follow most often, or draws among them."""

    packages = ("finery-ngram",)

    @cached_property
    def counts(self) -> Counts:
        """The model, read when it is first asked."""
        return Counts.of(json.loads(self.model.file(FILE).read_text(encoding="utf-8")))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer each request."""
        return [self._answer(request.messages, sampling) for request in requests]

    def _answer(self, conversation: Conversation, sampling: Sampling) -> Completion:
        draw = random.Random(f"{sampling.seed} {conversation}")
        prompt, answer = prompt_words(conversation), list[str]()
        word = ""
        while word != END and len(answer) < sampling.max_tokens:
            word = self._next([*prompt, *answer], sampling.temperature, draw)
            answer += [word] if word != END else []
        return Completion(
            text=" ".join(answer),
            finish_reason="stop" if word == END else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(answer),
        )

    def _next(self, before: list[str], temperature: float, draw: random.Random) -> str:
        choices = self.counts.choices(before)
        if temperature == 0:
            return choices[0]
        weights = [self.counts.probability(before, w) ** (1 / temperature) for w in choices]
        return draw.choices(choices, weights)[0]
