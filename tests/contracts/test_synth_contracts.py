"""The generators keep the contract of step types, with a teacher that answers from a table."""

import json
from pathlib import Path

from finery import Dataset, Step
from finery.testing import StepContract, dataset, table_model
from finery_synth.checks import Checks
from finery_synth.steps.answer import Answer
from finery_synth.steps.from_docs import FromDocs
from finery_synth.steps.instruct import Instruct
from finery_synth.steps.judge import JudgeRows
from finery_synth.steps.paraphrase import Paraphrase
from finery_synth.steps.preferences import Preferences

DIFFERENT = {"checks.similarity.max": "these rows are too different: see TestInstruct"}
JUDGED = "the judge's rubric is tested in tests/plugins/test_synth_checks.py"
GENERATED = {
    "budget.dollars": "answers of the kit's models cost nothing",
    "checks.python.file": "its functions are tested in tests/plugins/test_synth_checks.py",
    **{f"checks.judge.{name}": JUDGED for name in ("min", "scale", "max_tokens", "prompt")},
}
OTHERS = {
    "checks.python.functions": None,
    "checks.schema": {"type": "object", "required": ["city"]},
}
SITUATIONS = {"retries": {"checks.matches": {"assistant": "a text that no answer has"}}}
FROM_CONTEXT = {"context": "with", "unanswerable": 0.9}
SUBJECTS = ("card", "transfer", "refund")
TEXTS = [f"The {subject} was late, and the branch in Lisbon was closed." for subject in SUBJECTS]


def rows(folder: Path) -> list[Dataset]:
    """Rows to start from."""
    found = [
        {"prompt": f"Why is my {subject} late?", "completion": subject} for subject in SUBJECTS
    ]
    return [dataset(folder / "rows", found)]


class TestAnswer(StepContract):
    """synth.answer."""

    others = OTHERS
    situations = SITUATIONS
    without_effect = {**GENERATED, **DIFFERENT}

    def step(self, folder: Path) -> Step:
        return Answer(rows=rows(folder), model=table_model(folder / "m", {}, "Because it is."))


class TestParaphrase(StepContract):
    """synth.paraphrase."""

    others = OTHERS
    situations = SITUATIONS
    without_effect = {**GENERATED, **DIFFERENT}

    def step(self, folder: Path) -> Step:
        wordings = ["Where is it?", "It is late.", "When does it come?", "I still wait."]
        return Paraphrase(rows=rows(folder), model=table_model(folder / "m", {}, wordings), n=2)


class TestInstruct(StepContract):
    """synth.instruct."""

    others = OTHERS
    situations = {**SITUATIONS, "checks.similarity.to": {"checks.similarity": {"max": 0.5}}}
    without_effect = GENERATED

    def step(self, folder: Path) -> Step:
        text = "My card has not worked since {}, and nobody at the branch in Lisbon knew why."
        days = ("Monday", "Tuesday", "Friday")
        examples = [{"user": text.format(day), "assistant": "card"} for day in days]
        teacher = table_model(folder / "m", {}, json.dumps({"examples": examples}))
        return Instruct(rows=rows(folder), model=teacher, n=2, per_request=3)


class TestFromDocs(StepContract):
    """synth.from_docs."""

    others = OTHERS
    situations = {**SITUATIONS, **dict.fromkeys(("unanswerable", "unknown"), FROM_CONTEXT)}
    without_effect = {**GENERATED, **DIFFERENT}

    def step(self, folder: Path) -> Step:
        answer = {"question": "What was closed?", "answer": "The branch.", "quote": "was closed"}
        texts = [*TEXTS, "The app shows each payment at once, and who made it."]  # no answer in it
        chunks = [{"text": text, "source": "a.md", "line": n} for n, text in enumerate(texts)]
        teacher = table_model(folder / "m", {}, json.dumps(answer))
        return FromDocs(rows=[dataset(folder / "docs", chunks)], model=teacher, n=1)


class TestJudge(StepContract):
    """synth.judge."""

    others = {"column": "quality"}
    without_effect = {"budget.dollars": GENERATED["budget.dollars"]}

    def step(self, folder: Path) -> Step:
        judge = table_model(folder / "m", {}, '{"reason": "polite", "score": 4}')
        return JudgeRows(rows=rows(folder), model=judge, rubric="The answer is polite.")


class TestPreferences(StepContract):
    """synth.preferences."""

    others = OTHERS
    situations = {"pairs": {"checks.max_characters": {"assistant": 3}}}
    without_effect = {**GENERATED, "margin": JUDGED} | {
        f"checks.similarity.{name}": "similarity is refused" for name in ("max", "on", "to")
    }

    def step(self, folder: Path) -> Step:
        answers = [
            "Yes.",
            "It certainly is late, and I am sorry for that, dear customer.",
            "No.",
            "",
        ]
        checks = Checks(max_characters={"assistant": 10})
        teacher = table_model(folder / "m", {}, answers)
        return Preferences(rows=rows(folder), model=teacher, n=4, checks=checks)
