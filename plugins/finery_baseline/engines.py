"""The engines of the baselines: they answer with what was learned, at any temperature."""

import re
from collections.abc import Sequence
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import msgspec

from finery import Completion, Engine, Request, Sampling
from finery.rows.similar import SimilarIndex
from finery.rows.similar import question_text as question_text
from finery_baseline import classifier
from finery_baseline.answers import ROWS


class TextEngine(Engine):
    """Answers from the text of a prompt: all its turns but the system prompt.

    A subclass gives `standalone`, whose `Answers` then answers (by `answered`, if it knows how
    probable an answer is), or overrides `answers`.
    """

    takes_tools = True  # they are offered, but never called

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch. Tokens are words, of which an answer has at most `max_tokens`."""
        questions = [question_text(request.messages) for request in requests]
        completions = []
        for asked, (text, probability) in zip(questions, self.answered(questions), strict=True):
            words = re.findall(r"\s*\S+", text)
            is_cut = len(words) > sampling.max_tokens
            completions.append(
                Completion(
                    text="".join(words[: sampling.max_tokens]) if is_cut else text,
                    finish_reason="length" if is_cut else "stop",
                    prompt_tokens=len(asked.split()),
                    completion_tokens=min(len(words), sampling.max_tokens),
                    probability=probability,
                )
            )
        return completions

    def answered(self, questions: Sequence[str]) -> list[tuple[str, float | None]]:
        """The answer to each text, and its probability if it is known."""
        if self.standalone is not None and hasattr(self.standalone.Answers, "answered"):
            answered: list[tuple[str, float | None]] = self._loaded.answered(questions)
            return answered
        return [(text, None) for text in self.answers(questions)]

    def answers(self, questions: Sequence[str]) -> list[str]:
        """The answer to each text."""
        answers: list[str] = self._loaded(questions)
        return answers

    @cached_property
    def _loaded(self) -> Any:
        assert self.standalone is not None
        return self.standalone.Answers(self.model.path, self.model.meta)


class MajorityEngine(TextEngine):
    """Always gives the same answer."""

    def answers(self, questions: Sequence[str]) -> list[str]:
        """The answer to each text."""
        return [str(self.model.meta["answer"])] * len(questions)


class NearestEngine(TextEngine):
    """Gives the answer of the nearest row."""

    def answers(self, questions: Sequence[str]) -> list[str]:
        """The answer to each text."""
        nearest = (self._index.nearest(text, 1) for text in questions)
        return [self._rows[found[0][0] if found else 0][1] for found in nearest]

    @cached_property
    def _rows(self) -> list[list[str]]:
        lines = self.model.file(ROWS).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=list[str]) for line in lines]

    @cached_property
    def _index(self) -> SimilarIndex:
        return SimilarIndex([asked for asked, _ in self._rows])


class LinearEngine(TextEngine):
    """Gives the most likely class of each field."""

    packages = ("numpy",)
    standalone: ClassVar[ModuleType | None] = classifier
