"""`eval.rules`: does the answer follow measurable rules of style and format?"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from finery import Dataset, Job, Settings, UsageError, setting, takes
from finery.rows import Row, answer_text
from finery.rows.answers.reading import extract_answer, search_in
from finery.rows.conditions import compile_pattern
from finery.rows.report import Report, ReportTable
from finery_eval import stats
from finery_eval.evaluation import answers_table
from finery_eval.evaluator import EXPECTED, BatchEvaluator, is_metric_name
from finery_eval.measure import Measure
from finery_eval.verdicts import Answers, Verdict, Verdicts, each_judged, together

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")
_WORD = re.compile(r"\w")

OWN = "(the rows' own answers)"
"""Their names in the table."""
Kept = dict[str, bool]
"""Rule → whether an answer keeps it."""


class Rule(Settings):
    """Conditions on an answer. All that are given must hold."""

    matches: str | None = setting(
        None,
        min_length=1,
        help="A regular expression that must match somewhere in the answer.",
        examples=[r"\nNext: .+\Z"],
    )
    never: str | None = setting(
        None,
        min_length=1,
        help="A regular expression that must not match anywhere.",
        examples=["!", r"(?i)\bsorry\b"],
    )
    starts_with: str | None = setting(None, min_length=1, help="Text that the answer begins with.")
    ends_with: str | None = setting(None, min_length=1, help="Text that the answer ends with.")
    min_words: int | None = setting(
        None, ge=1, help="Minimum number of words, separated by white space."
    )
    max_words: int | None = setting(None, ge=1, help="Maximum number of words.")
    max_sentences: int | None = setting(
        None,
        ge=1,
        help="Maximum number of sentences. A sentence ends at . ! ? or … before white space, or at "
        "the end of its line.",
    )

    def patterns(self) -> dict[str, str]:
        """Setting → the regular expression it holds."""
        patterns = {"matches": self.matches, "never": self.never}
        return {name: pattern for name, pattern in patterns.items() if pattern is not None}

    def keeps(self, text: str, *, ignore_case: bool = False) -> bool:
        """Whether an answer, without white space around it, keeps the rule."""
        flags, words = re.IGNORECASE if ignore_case else 0, len(text.split())
        starts, ends = (re.escape(part or "") for part in (self.starts_with, self.ends_with))
        patterns = self.patterns().items()
        matches = {name: search_in(text, pattern, name, flags) for name, pattern in patterns}
        return (
            all(re.search(p, text, flags) for p in (rf"\A{starts}", rf"{ends}\Z"))
            and bool(matches.get("matches", True))
            and not matches.get("never")
            and words >= (self.min_words or 0)
            and (self.max_words is None or words <= self.max_words)
            and (self.max_sentences is None or sentences(text) <= self.max_sentences)
        )


class Rules(BatchEvaluator, task="style"):
    """Judge models by the rules that their answers follow, which makes tone and format measurable.

    Each rule has a name and measurable conditions: patterns that must or must not match, how the
    answer begins and ends, how long it is. Rows don't need answers: prompts or preferences are
    enough. Where rows have answers, the table of rules shows how many of them follow each rule,
    since a model can't learn a rule that its data breaks.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: answers that follow all rules.
    - `<rule>`: answers that follow this rule.

    Intervals: Wilson score (Wilson 1927). Each further model is compared with the first on the same
    rows: exact McNemar test (McNemar 1947), for accuracy also Newcombe's paired difference (1998,
    method 10). Where rows belong together: bootstrap over groups (Efron and Tibshirani 1993) and
    exact sign flips. The p-values of the rules are adjusted for their number (Holm 1979).

    Raises DataError for rows without a prompt, UsageError for rules that can't work and for a
    malformed `require`.
    """

    rows: Dataset = takes(help="Rows with prompts. Their own answers aren't needed.")
    rules: dict[str, Rule] = setting(
        help="Name → conditions: any of matches, never, starts_with, ends_with, "
        "min_words, max_words, max_sentences.",
        examples=[{"brief": {"max_words": 40}, "calm": {"never": "!"}}],
    )
    ignore_case: bool = setting(False, help="Ignore case in patterns, beginnings and ends.")

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return ["accuracy", *self.rules]

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if not self.rules:
            raise UsageError(
                "`rules` is empty",
                where="rules",
                fix="name one, e.g. rules: {brief: {max_words: 40}}",
            )
        for name, rule in self.rules.items():
            check_rule(name, rule)
        super().check()

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Hold the rows' own answers, if they have any, against the rules."""
        answered = [row for row in rows if answer_text(row).strip()]
        expected = [self.kept(answer_text(row)) for row in answered]
        broken = {name: sum(not k[name] for k in expected) for name in self.rules}
        report = Report()
        if any(broken.values()):
            count = sum(not all(k.values()) for k in expected)
            named = ", ".join(f"{name} {n}" for name, n in broken.items() if n)
            text = f"the answers of {count} of {len(expected)} rows break a rule: {named}"
            report.extra[EXPECTED] = text
            job.log(text)

        def judged(answers: Answers) -> Verdicts:
            judged_answers = each_judged(
                answers, lambda _, answer: self.verdict(self.kept(answer.text))
            )
            verdicts = self.verdicts(answers, judged_answers)
            measures, own_groups = verdicts.measures(together(rows)), together(answered)
            owns = {n: Measure({OWN: [k[n] for k in expected]}, own_groups) for n in self.rules}
            tables = [rules_table(self.rules, measures, owns), answers_table(answers)]
            return verdicts._replace(tables=tables, report=report)

        return judged

    def verdict(self, kept: Kept) -> Verdict:
        """The metrics of an answer, and the rules that it violates."""
        broken = [name for name, fine in kept.items() if not fine]
        return Verdict({"accuracy": not broken, **kept}, {"broken": broken})

    def kept(self, answer: str) -> Kept:
        """Rule → whether an answer satisfies it."""
        text = extract_answer(answer, self.extract).strip()
        rules = self.rules.items()
        return {name: rule.keeps(text, ignore_case=self.ignore_case) for name, rule in rules}


def check_rule(name: str, rule: Rule) -> None:
    """Raise `UsageError` for a rule that every answer keeps, or none can.

    Its name must be one for a metric.
    """
    where = f"rules.{name}"
    if not is_metric_name(name):
        raise UsageError(
            f"{name!r} can't name a rule",
            where=where,
            fix="name it without dots, colons and spaces around",
        )
    if name == "accuracy":
        raise UsageError(
            "a rule can't be named accuracy, which is the share of answers that follow all rules",
            where=where,
            fix="rename it",
        )
    if rule == Rule():
        raise UsageError(
            f"the rule '{name}' has no condition",
            where=where,
            fix=f"give it one of: {', '.join(Rule.__struct_fields__)}",
        )
    for field, pattern in rule.patterns().items():
        compile_pattern(pattern, f"{where}.{field}")
    if rule.min_words and rule.max_words and rule.min_words > rule.max_words:
        raise UsageError(
            f"no answer has at least {rule.min_words} and at most {rule.max_words} words",
            where=f"{where}.min_words",
            fix="swap them, or drop one",
        )


def sentences(text: str) -> int:
    """The number of sentences in a text. Abbreviations such as `e.g.` count as ends, too."""
    return sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))


def rules_table(
    rules: Iterable[str], measures: Mapping[str, Measure], owns: Mapping[str, Measure]
) -> ReportTable:
    """Each rule by each model: the share kept, its interval, and the test against the first.

    measures, owns: rule → how models, and how the rows' own answers keep it. The p-values are
    adjusted for their number (Holm 1979).
    """
    base = next(iter(measures["accuracy"].values))
    columns = ["rule", "model", "kept", "95 % CI low", "95 % CI high", f"p against {base} (Holm)"]
    rows: list[list[Any]] = []
    for rule in rules:
        for measure in (measures[rule], owns[rule]):
            for name in measure.values:
                if (score := measure.score(name)) is None:
                    continue  # rows don't have answers of different lengths
                is_compared = name != base and name in measures[rule].values
                between = measure.difference(base, name) if is_compared else None
                p_value = None if between is None else between.p_value
                rows.append([rule, name, score.value, *(score.interval or ()), p_value])
    tested = [row for row in rows if row[-1] is not None]
    for row, p_value in zip(tested, stats.holm([row[-1] for row in tested]), strict=True):
        row[-1] = p_value
    units = {**dict.fromkeys(columns[2:5], "share"), columns[5]: "p"}
    return ReportTable("Rules", columns, rows, units=units)
