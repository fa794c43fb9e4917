"""The engines of the baselines: they answer with what was learned, whatever the sampling."""

from collections.abc import Sequence
from functools import cached_property

import msgspec

from finery import Completion, Engine, Request, Sampling
from finery.rows.similar import SimilarIndex, question
from finery_baseline.answers import ROWS, Shape
from finery_baseline.vectors import Classifier, load


class _Baseline(Engine):
    """Answers from the text of a prompt."""

    takes_tools = True  # they are offered, but never called

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch. Tokens are words."""
        questions = [question(request.messages) for request in requests]
        return [
            Completion(
                text=text,
                finish_reason="stop",
                prompt_tokens=len(asked.split()),
                completion_tokens=len(text.split()),
            )
            for asked, text in zip(questions, self._answers(questions), strict=True)
        ]

    def _answers(self, questions: Sequence[str]) -> list[str]:
        raise NotImplementedError


class MajorityEngine(_Baseline):
    """Always gives the same answer."""

    def _answers(self, questions: Sequence[str]) -> list[str]:
        return [str(self.model.meta["answer"])] * len(questions)


class NearestEngine(_Baseline):
    """Gives the answer of the nearest row."""

    def _answers(self, questions: Sequence[str]) -> list[str]:
        nearest = (self._index.nearest(text, 1) for text in questions)
        return [self._rows[found[0][0] if found else 0][1] for found in nearest]

    @cached_property
    def _rows(self) -> list[list[str]]:
        lines = self.model.file(ROWS).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=list[str]) for line in lines]

    @cached_property
    def _index(self) -> SimilarIndex:
        return SimilarIndex([asked for asked, _ in self._rows])


class LinearEngine(_Baseline):
    """Gives the most likely class of each field."""

    packages = ("scikit-learn", "scipy")

    def _answers(self, questions: Sequence[str]) -> list[str]:
        shape = msgspec.convert(self.model.meta["shape"], Shape)
        return [shape.written(values) for values in self._classifier.predict(questions)]

    @cached_property
    def _classifier(self) -> Classifier:
        return load(self.model.path)
