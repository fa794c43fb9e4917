"""`eval.judge`: the answers of models, scored by a model with a rubric."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from finery import (
    Dataset,
    Files,
    Inputs,
    Job,
    Metrics,
    Request,
    Requests,
    UsageError,
    setting,
    takes,
)
from finery.rows import Conversation, Row, answer_text, split_turns
from finery.rows.report import Report, ReportTable
from finery_eval.evaluation import answers_table
from finery_eval.measure import Measure
from finery_eval.verdicts import Answers, Verdict, Verdicts, effective, together
from finery_judge import calibration
from finery_judge.calibration import MEASURES, Agreement, Decided, agreement
from finery_judge.judging import JUDGE, SCORE_PROMPT, Judging, names, report_scores
from finery_synth.asking import Used
from finery_synth.judges import Score, transcript
from finery_synth.prompts import Prompt

EMPTY = Score(1, "the answer is empty")
"""Given without asking the judge."""
METRICS = ["passed", "score", "valid"]
MOST_COLUMNS = 10
"""Scales up to this one have a column for each score."""
USED = "judge_answers"
"""An entry of `extra` in a report: the number and the tokens of the judge's answers."""


class Item(NamedTuple):
    """An answer to judge. row: its index, among the test rows or the reviewed ones."""

    row: int
    answer: str
    reviewed: bool = False


class RubricJudge(Judging):
    """Have a model score the answers of models by a rubric, and hold it against people.

    - `passed`: the share of answers with a score of at least `passing`. An answer without a
      readable verdict doesn't count as passed.
    - `score`: the mean score from 0 (worst) to 1 (best), over the answers with a verdict.
    - `valid`: the share of answers with a readable verdict. A judge gets three tries.

    An empty answer has the worst score. Answers can't pretend to be the judge's instructions: the
    prompt fences them.

    With `human`, the judge also scores the answers that people reviewed: `judge.kappa` (Cohen
    1960), `judge.agreement`, `judge.sensitivity`, `judge.specificity`. `corrected` is a model's
    share of good answers, corrected for the judge's errors (Rogan and Gladen 1978; interval: Lang
    and Reiczigel 2014).

    Intervals: Wilson for shares, bootstrap for means. Each further model is compared with the first
    on the same rows: exact McNemar test and Newcombe's paired difference (1998, method 10) for
    `passed`, paired bootstrap and exact sign test for `score`. Rows that belong together count as
    one.
    """

    rows: Dataset = takes(help="Rows with prompts. Their own answers are shown with `reference`.")
    scale: int = setting(5, ge=2, le=100, help="The best score; 1 is the worst.")
    passing: int = setting(4, ge=2, help="The lowest score of an answer that passes.")
    reviewed: Dataset | None = takes(
        None,
        help="The rows that people reviewed, with the answers that they saw. Default: `rows`.",
    )
    human: Files | None = setting(
        None,
        may_be="missing",
        help="The decisions of `finery review` on the reviewed rows, to calibrate the judge.",
        examples=["reviews/answers.jsonl"],
    )

    def default_prompt(self) -> str:
        """The default template."""
        return SCORE_PROMPT

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        return [*METRICS, *(["corrected"] if self.human else [])]

    def measured(self) -> dict[str, list[str]]:
        """Model → its metrics; with `human`, the judge's too."""
        return super().measured() | ({JUDGE: [*MEASURES]} if self.human else {})

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if self.passing > self.scale:
            raise UsageError(
                f"passing is {self.passing}, but the best score is {self.scale}",
                where="passing",
                fix="reduce it, or raise `scale`",
            )
        if self.human is None:
            self._refuse_uncalibrated()
        else:
            self.check_names()
        super().check()

    def _refuse_uncalibrated(self) -> None:
        if self.reviewed is not None:
            raise UsageError(
                "`reviewed` is set, but `human` is missing: the file of decisions",
                where="reviewed",
                fix=f"human: reviews/{self.reviewed.ref or 'answers'}.jsonl",
            )
        wanted = [key for key in self.require if key.startswith(f"{JUDGE}.")]
        if wanted and JUDGE not in [model.name for model in self.models]:
            raise UsageError(
                f"{wanted[0]} needs human decisions to compare the judge with",
                where=f"require: {wanted[0]}",
                fix="set human: reviews/FILE.jsonl, which `finery review` writes",
            )

    def run(self, job: Job) -> Metrics:
        """Get the answers, have the judge score them, write the metrics."""
        metrics = super().run(job)
        metrics.meta["answers"] = metrics.report().extra[USED]
        return metrics

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read what the judge is shown; the result has it score the models' answers."""
        references = self.references(rows)
        people = self._decided(rows, references)
        return _Scoring(self, job, rows, references, people, self.template()).verdicts

    def seen_by_people(self) -> Dataset:
        """The rows with the answers that people judge."""
        return self.rows if self.reviewed is None else self.reviewed

    def _decided(self, rows: Sequence[Row], references: Sequence[str]) -> list[tuple[Decided, str]]:
        """(answer that people judged, the reference that the judge is shown)."""
        if self.human is None:
            return []
        known = {
            transcript(split_turns(row)[0]): text
            for row, text in zip(rows, references, strict=True)
        }
        people = calibration.decided_rows(self.seen_by_people(), self.human)
        prompts = [transcript(split_turns(one.row)[0]) for one in people]
        missing = [one for one, prompt in zip(people, prompts, strict=True) if prompt not in known]
        if self.reference and missing:
            raise UsageError(
                f"the reviewed row {missing[0].row['id']} has a prompt that `rows` doesn't have, "
                "so no right answer is known",
                where="reference",
                fix="remove reference: true, or review answers to the rows of `rows`",
            )
        return [(one, known.get(prompt, "")) for one, prompt in zip(people, prompts, strict=True)]

    def first_requests(self, inputs: Inputs) -> Requests:
        """A request for each answer, and for each answer that people reviewed."""
        each = len(self.models)
        requests = self.some_requests(each, Score.schema(self.scale), inputs.count("rows"))
        if not inputs.are_built:
            if requests.total is None or not self.human:
                return requests
            reviewed = inputs.count("reviewed" if inputs.sources("reviewed") else "rows")
            total = requests.total + reviewed.rows if reviewed is not None else None
            return requests._replace(total=total)
        template, given = self.template(), {"rubric": self.rubric, "scale": self.scale}

        def messages(row: Row, answer: str) -> Conversation:
            reference = answer if self.reference else ""
            return template.messages(names(row, reference, answer=answer) | given, row)

        people = calibration.decided_rows(self.seen_by_people(), self.human) if self.human else []
        theirs = ((Request(messages(d.row, answer_text(d.row).strip())), 1) for d in people)
        return requests._replace(
            total=each * len(self.rows) + len(people),
            requests=chain(self.requests_for_rows(messages, each), theirs),
        )


class _Scoring(NamedTuple):
    """One run: the answers of the models and of the reviewed rows, scored by the judge."""

    step: RubricJudge
    job: Job
    rows: Sequence[Row]
    references: Sequence[str]
    people: Sequence[tuple[Decided, str]]
    template: Prompt

    def verdicts(self, answers: Answers) -> Verdicts:
        """Have the judge score the answers."""
        step, job, used = self.step, self.job, Used()
        items = {
            name: [Item(i, step.shown(answer)) for i, answer in enumerate(completions)]
            for name, completions in answers.items()
        }
        reviewed = [
            Item(i, answer_text(person.row).strip(), True)
            for i, (person, _) in enumerate(self.people)
        ]
        every = list(dict.fromkeys([*chain(*items.values()), *reviewed]))
        results: dict[Item, Score | str] = {item: EMPTY for item in every if not item.answer}
        results |= step.verdicts_on(
            job, used, [item for item in every if item.answer], self.messages,
            lambda text: Score.read(text, step.scale), Score.schema(step.scale),
        )  # fmt: skip
        judged = {name: [self._verdict(results[item]) for item in of] for name, of in items.items()}
        judge, unread = self._agreement([results[item] for item in reviewed])
        passed = {
            name: (sum(verdict.values["passed"] for verdict in verdicts), len(verdicts))
            for name, verdicts in judged.items()
        }
        shares = {name: n / rows for name, (n, rows) in passed.items()}
        groups = together(self.rows)
        independent = effective(groups) if groups else None
        corrected = calibration.corrected_scores(passed, judge, independent)
        if judge is not None:
            job.log(calibration.log_line(judge))
        remarks = [*step.judged_itself()]
        for name, verdicts in judged.items():
            failed = [v.facts["problem"] for v in verdicts if v.facts["score"] is None]
            if failed:
                what = f"{len(failed)} of {len(verdicts)} answers of {name}"
                remarks.append(step.unread(f"{what}, which count as not passed", failed[0]))
        if step.human is not None:
            remarks += calibration.remarks(judge, unread)
        for remark in remarks:
            job.log(remark.text)
        more = {name: report_scores({"corrected": score}) for name, score in corrected.items()}
        more |= {JUDGE: report_scores(judge.scores())} if judge else {}
        tables = [
            *_compared(judged, groups),
            self._table(judged),
            *calibration.tables(judge, shares, corrected),
            answers_table(answers),
        ]
        report = Report(remarks=remarks, more=more, extra={USED: used.meta()})
        return step.verdicts(
            answers, judged, tables, metrics=METRICS, headline=METRICS, report=report
        )

    def messages(self, item: Item) -> Conversation:
        """The judge's prompt for an answer."""
        if item.reviewed:
            person, reference = self.people[item.row]
            row = person.row
        else:
            row, reference = self.rows[item.row], self.references[item.row]
        given = names(row, reference, answer=item.answer)
        given |= {"rubric": self.step.rubric, "scale": self.step.scale}
        return self.template.messages(given, row)

    def _verdict(self, result: Score | str) -> Verdict:
        """The metrics of an answer. result: its score, or why there is none."""
        if isinstance(result, str):
            values = {"passed": False, "score": None, "valid": False}
            return Verdict(values, {"score": None, "problem": f"no verdict: {result}"})
        passed = result.score >= self.step.passing
        score = (result.score - 1) / (self.step.scale - 1)
        facts = {"score": result.score, "reason": result.reason}
        if not passed:
            facts["problem"] = f"{result.score} of {self.step.scale}: {result.reason}"
        return Verdict({"passed": passed, "score": score, "valid": True}, facts)

    def _agreement(self, results: Sequence[Score | str]) -> tuple[Agreement | None, int]:
        """The quality of the judge, and the number of reviewed answers without a verdict."""
        pairs = [
            (person.is_good, result.score >= self.step.passing)
            for (person, _), result in zip(self.people, results, strict=True)
            if isinstance(result, Score)
        ]
        return agreement(pairs) if pairs else None, len(results) - len(pairs)

    def _table(self, judged: Mapping[str, Sequence[Verdict]]) -> ReportTable:
        """How often each model got each score."""
        scale = self.step.scale
        scores = list(range(1, scale + 1)) if scale <= MOST_COLUMNS else []
        rows: list[list[Any]] = []
        for name, of in judged.items():
            given = [one.facts["score"] for one in of if one.facts["score"] is not None]
            counts = Counter(given)
            mean = sum(given) / len(given) if given else None
            unread = len(of) - len(given)
            rows.append([name, len(of), mean, *(counts[s] for s in scores), unread])
        columns = ["model", "answers", f"mean, 1 to {scale}", *map(str, scores), "no verdict"]
        return ReportTable("Scores", columns, rows)


def _compared(
    judged: Mapping[str, Sequence[Verdict]], groups: Sequence[Sequence[int]] | None
) -> list[ReportTable]:
    """The table of differences of the mean score, on answers that have verdicts for both models.

    groups: the rows that belong together, which count as one.
    """
    scores = {name: [one.values["score"] for one in of] for name, of in judged.items()}
    first, *others = scores
    alike = {name: [1.0] * len(of) for name, of in scores.items()}
    measure = Measure(scores, groups, weights=alike)
    rows: list[list[Any]] = []
    for name in others:
        between = measure.difference(first, name)
        if between is None:
            continue
        known = sum(None not in pair for pair in zip(scores[first], scores[name], strict=True))
        rows.append([name, between.value, *between.interval, known, between.p_value])
    if not rows:
        return []
    columns = ["model", "score (points)", "95 % CI low", "95 % CI high", "answers", "p (sign test)"]
    units = {**dict.fromkeys(columns[1:4], "difference"), columns[5]: "p"}
    return [ReportTable(f"Mean score compared with {first}", columns, rows, units=units)]
