"""`eval.rules`: does the answer follow measurable rules of style and format?"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from finery import Dataset, Job, Settings, UsageError, setting, takes
from finery.rows import Row, answer_text
from finery.rows.answers.reading import extracted, search_in
from finery_eval import evaluator, stats
from finery_eval.evaluator import Answers, Evaluator, table
from finery_eval.scoring.differences import difference
from finery_eval.scoring.groups import Group
from finery_eval.verdicts import Judged, Verdicts

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")
_WORD = re.compile(r"\w")

Kept = dict[str, bool]
"""Rule → whether an answer keeps it."""


class Own(NamedTuple):
    """Rule → whether each answer keeps it. groups: the answers that belong together."""

    by_rule: Mapping[str, Sequence[bool]]
    groups: Sequence[Group] | None


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
    min_words: int | None = setting(None, ge=1, help="Fewest words, separated by white space.")
    max_words: int | None = setting(None, ge=1, help="Most words.")
    max_sentences: int | None = setting(
        None,
        ge=1,
        help="Most sentences. A sentence ends at . ! ? or … before white space, or at the end of "
        "its line.",
    )

    def patterns(self) -> dict[str, str]:
        """Setting → the regular expression it holds."""
        patterns = {"matches": self.matches, "never": self.never}
        return {name: pattern for name, pattern in patterns.items() if pattern is not None}

    def keeps(self, text: str, *, ignore_case: bool = False) -> bool:
        """Whether an answer, without white space around it, keeps the rule."""
        return self._found(text, re.IGNORECASE if ignore_case else 0) and self._measures(text)

    def _found(self, text: str, flags: int) -> bool:
        starts, ends = (re.escape(part or "") for part in (self.starts_with, self.ends_with))
        fixed = all(re.search(p, text, flags) for p in (rf"\A{starts}", rf"{ends}\Z"))
        patterns = self.patterns().items()
        matches = {name: search_in(text, pattern, name, flags) for name, pattern in patterns}
        return fixed and bool(matches.get("matches", True)) and not matches.get("never")

    def _measures(self, text: str) -> bool:
        words = len(text.split())
        return (
            words >= (self.min_words or 0)
            and (self.max_words is None or words <= self.max_words)
            and (self.max_sentences is None or sentences(text) <= self.max_sentences)
        )


class Rules(Evaluator, task="style"):
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
        """The metrics of each model, the headline first."""
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
            check_name(name)
            check_rule(name, rule)
        super().check()

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Hold the rows' own answers, if they have any, against the rules."""
        answered = [row for row in rows if answer_text(row).strip()]
        own = [self.kept(answer_text(row)) for row in answered]
        self.advise(job, own)
        table_of_own = Own(self.hits(own), evaluator.together(answered))
        return partial(self.verdicts, table_of_own, evaluator.together(rows))

    def verdicts(self, own: Own, groups: Sequence[Group] | None, answers: Answers) -> Verdicts:
        """Hold the answers against the rules. groups: the rows that belong together."""
        results = {
            name: [self.kept(a.text) for a in completions] for name, completions in answers.items()
        }
        hits = {name: self.hits(of) for name, of in results.items()}
        return Verdicts(
            judged={n: Judged(list(map(verdict, of)), hits[n]) for n, of in results.items()},
            metrics=self.metric_names(),
            headline=self.metric_names(),
            tables=[rules_table(hits, own, groups), evaluator.answers_table(answers)],
        )

    def kept(self, answer: str) -> Kept:
        """Which rules an answer keeps."""
        text = extracted(answer, self.extract).strip()
        rules = self.rules.items()
        return {name: rule.keeps(text, ignore_case=self.ignore_case) for name, rule in rules}

    def hits(self, results: Sequence[Kept]) -> dict[str, list[bool]]:
        """Metric → whether each answer counts."""
        each = {name: [k[name] for k in results] for name in self.rules}
        return {"accuracy": [all(k.values()) for k in results], **each}

    def advise(self, job: Job, own: Sequence[Kept]) -> None:
        """Log which rules the rows' own answers break."""
        broken = {name: sum(not k[name] for k in own) for name in self.rules}
        named = ", ".join(f"{name} {n}" for name, n in broken.items() if n)
        if named:
            rows = sum(not all(k.values()) for k in own)
            job.log(f"the answers of {rows} of {len(own)} rows break a rule: {named}")


def check_name(name: str) -> None:
    """Raise `UsageError` for a rule's name that can't be the name of a metric."""
    if not evaluator.names_metric(name):
        raise UsageError(
            f"{name!r} can't name a rule",
            where=f"rules.{name}",
            fix="name it without dots, colons and spaces around",
        )
    if name == "accuracy":
        raise UsageError(
            "a rule can't be named accuracy, which is the share of answers that follow all rules",
            where=f"rules.{name}",
            fix="rename it",
        )


def check_rule(name: str, rule: Rule) -> None:
    """Raise `UsageError` for a rule that every answer keeps, or none can."""
    where = f"rules.{name}"
    if rule == Rule():
        raise UsageError(
            f"the rule '{name}' has no condition",
            where=where,
            fix=f"give it one of: {', '.join(Rule.__struct_fields__)}",
        )
    for field, pattern in rule.patterns().items():
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as error:
            raise UsageError(
                f"not a regular expression: {error}", where=f"{where}.{field}", fix="correct it"
            ) from None
    if rule.min_words and rule.max_words and rule.min_words > rule.max_words:
        raise UsageError(
            f"no answer has at least {rule.min_words} and at most {rule.max_words} words",
            where=f"{where}.min_words",
            fix="swap them, or drop one",
        )


def sentences(text: str) -> int:
    """How many sentences a text has; `e.g.` and the like count as ends too."""
    return sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))


def verdict(result: Kept) -> dict[str, Any]:
    """What an answer counts as, and the rules it breaks."""
    broken = [name for name, fine in result.items() if not fine]
    return {"correct": not broken, "broken": broken}


def rules_table(
    hits: Mapping[str, Mapping[str, Sequence[bool]]], own: Own, groups: Sequence[Group] | None
) -> dict[str, Any]:
    """Each rule by each model: the share kept, its interval, and the test against the first.

    groups: the rows that belong together. The p-values are adjusted for their number (Holm 1979).
    """
    (base, first), *_ = hits.items()
    columns = ["rule", "model", "kept", "95 % CI low", "95 % CI high", f"p against {base} (Holm)"]
    rows: list[list[Any]] = []
    for rule in [name for name in first if name != "accuracy"]:
        for name, of in hits.items():
            share, interval = evaluator.share(of[rule], groups)
            between = difference(first[rule], of[rule], groups) if name != base else None
            p_value = None if between is None else between.p_value
            rows.append([rule, name, share, *interval, p_value])
        if own.by_rule[rule]:
            share, interval = evaluator.share(own.by_rule[rule], own.groups)
            rows.append([rule, "(the rows' own answers)", share, *interval, None])
    tested = [row for row in rows if row[-1] is not None]
    for row, p_value in zip(tested, stats.holm([row[-1] for row in tested]), strict=True):
        row[-1] = p_value
    units: dict[str, evaluator.Unit] = {**dict.fromkeys(columns[2:5], "share"), columns[5]: "p"}
    return table("Rules", columns, rows, units=units)
