"""Words about judged models: answers to readers' first questions, and remarks after a build.

Input: the judged models of `judgements`. Output: findings of a page, and remarks. Each quotes the
p-value that the table of its comparison shows, and follows from it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from finery import Artifact, Dataset
from finery.advanced import (
    Graph,
    counted,
    in_points,
    p_text,
    percent,
    quantity,
    range_in_points,
)
from finery.views import Finding, Remark
from finery_eval.planning import unseen_classes
from finery_eval.steps.classification import ABSTAIN
from finery_eval.steps.select import MARGIN, Margin
from finery_eval.steps.speed import P50, P95, PRICE, apis_of
from finery_eval.tables import BETTER, NOT_SHOWN, WORSE, verdict_of
from finery_eval.view.judgements import (
    ORDER,
    Comparison,
    Judgement,
    best_first,
    compared,
    first_test,
    results_of_training,
)
from finery_transformers.formats import bundle_line

CUT_OFF = "Were answers cut off?"
CLASSES = "Does the training have all classes of the test?"
CONTRADICTING = "Do labels of the training contradict each other?"
BEST = "Which model is best?"
RANKED = 5
"""Models that a ranking or a list of figures names."""
CHOSEN = "Which variant is best?"
BEATS = "Is the trained model better than a cheap baseline?"
NEEDED = "Was fine-tuning needed?"
AS_GOOD = "Is the shipped file as good as the trained model?"
REPLACES = "Can {} replace {}?"
FORGOTTEN = "Did the model forget what it could do before?"
FAST = "How fast are the answers, and what do they cost?"
SURE = "How many answers are probable enough, and how many of these are right?"
RAISE = "Raise `max_tokens`: `finery check` says what is enough."
SMALL = 0.05
"""A possible loss of at most 5 points counts as none; the page says how large it may be."""
COMPARE_MORE = "Add the base with a good prompt (prompt.model){} to `models`."
CHEAP = " and a cheap baseline (baseline.linear)"
CONFLICT = "label-conflict"
"""The check of `data.validate` for a label that similar rows don't have."""
REVIEW = "review.apply"
RETENTION = ".retention"
"""Suffixes of the step types that measure abilities outside the training's task."""


EQUAL = "equal"
WORDS = {
    BETTER: "better in", WORSE: "worse in", NOT_SHOWN: "no difference shown in", EQUAL: "equal in",
}  # fmt: skip
Tone = Literal["good", "bad", "open"]


# -- answers ---------------------------------------------------------------------------------------


def findings(judged: Sequence[Judgement], *, has_training: bool = True) -> Iterator[Finding]:
    """An answer to each question; what wasn't measured is said to be so.

    has_training: whether the recipe trains a model. If it doesn't, the questions are others.
    """
    timed = [each for each in judged if each.is_timed]
    judged = [each for each in judged if not each.is_timed]
    variants = [each for each in judged if each.role == "variant"]
    task = [e for e in judged if e not in variants and not e.use.endswith(RETENTION)]
    replacements = list(_replacements(task, timed))
    yield from replacements
    if len(timed) > 2 * len(replacements):  # each says how fast two models are
        yield from _by_step(FAST, timed, _speeds)
    answered = [each for each in task if each.role != "reference"]
    abstaining = [each for each in answered if ABSTAIN in each.report.extra]
    yield from _by_step(SURE, abstaining, _sure)
    if not judged:
        return
    trained = [each for each in answered if each.role in ("tuned", "shipped") or not has_training]
    if any(each.cut_off for each in trained):
        parts = (f"{cut_off_in_words(each)} by {each.step}" for each in trained if each.cut_off)
        text = f"Yes: {_listed([*parts])}. They count as wrong, so the scores are too low."
        yield Finding(CUT_OFF, f"{text} {RAISE}", "bad", 0)
    if variants and len(variants) == len(judged):
        yield _chosen(variants[0], CHOSEN)
        return
    models = {each.model for each in task}
    for step, variant in {each.step: each for each in variants if each.model in models}.items():
        yield _chosen(variant, f"{BEST.removesuffix('?')} by {step}?")
    if not has_training:
        yield from _rankings(task)
        if any(each.role == "shipped" for each in task):
            yield from _as_good(task)
        return
    yield _needed(task)
    yield from _beats(task)
    yield from _as_good(task)
    yield _forgotten([each for each in judged if each.use.endswith(RETENTION)])


def _chosen(judged: Judgement, question: str) -> Finding:
    """What a step that chooses says."""
    margin = judged.report.part(MARGIN, Margin)
    ends = margin.interval if margin else None
    tone: Tone = "good" if ends and (ends[0] > 0 or ends[1] < 0) else "open"
    return Finding(question, ". ".join([*judged.report.words, ""]).strip(), tone, 0)


def _rankings(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """The models that each step judged, best first, and whether the best is shown to be.

    Without references, and files that were exported from a judged model.
    """
    ranked: dict[str, list[Judgement]] = {}
    for each in judged:
        names = [rival.model for rival in judged if rival.step == each.step]
        if each.role != "reference" and (each.role != "shipped" or each.source not in names):
            ranked.setdefault(each.step, []).append(each)
    steps = {step: candidates for step, candidates in ranked.items() if len(candidates) > 1}
    for step, step_candidates in steps.items():
        best, *runners_up = models = best_first(step_candidates)
        question = BEST if len(steps) == 1 else f"{BEST.removesuffix('?')} by {step}?"
        named = (each for each in models[:RANKED] if each.score is not None)
        scores = ", ".join(f"{each.model} {each.in_words()}" for each in named)
        omitted = f", and {len(models) - RANKED} more" if len(models) > RANKED else ""
        rows = best.report.rows_of(best.model, best.metric)
        text = f"{best.metric} on {counted(rows, 'row')}: {scores}{omitted}."
        test = first_test(runners_up[0], best) if runners_up else None
        if test is None:
            yield Finding(question, text, "open", 1)
            continue
        ahead = f"{best.model} against {runners_up[0].model}: {test.in_words()}"
        if test.verdict == BETTER:
            yield Finding(question, f"{best.model}, by {text} {ahead}.", "good", 1)
        else:
            yield Finding(question, f"Too close to call, by {text} {ahead}.", "open", 1)


def _needed(judged: Sequence[Judgement]) -> Finding:
    """Whether the trained model is better than the best that needs no fine-tuning."""
    untrained = best_first(each for each in judged if each.role in ("base", "baseline"))
    for trained in results_of_training(judged):
        tests = [
            (each, test) for each in untrained if (test := first_test(each, trained)) is not None
        ]
        if tests:
            break
    else:
        subject = "a trained model" if untrained else "an untrained model"
        text = f"Not measured: no evaluator judged {subject} on the same rows."
        return Finding(NEEDED, text, "open", 1)
    baseline, test = tests[0]
    scores = _scores(baseline, trained, test)
    if test.verdict == WORSE:
        return Finding(
            NEEDED, f"No, {trained.model} is worse than {baseline.model}. {scores}.", "bad", 1
        )
    if test.verdict == NOT_SHOWN:
        return Finding(NEEDED, f"Not shown. {scores}, which may be chance.", "open", 1)
    if all(model.role == "base" and not model.source for model, _ in tests):
        bare = f"{trained.model} was only compared with the bare {baseline.model}"
        text = f"Not known: {bare}. {scores}."
        judge = trained.evaluator
        has_classes = judge is not None and type(judge).__spec__.task == "classification"
        advice = COMPARE_MORE.format(CHEAP if has_classes else "")
        return Finding(NEEDED, f"{text} {advice}", "open", 1)
    return Finding(NEEDED, f"Yes. {scores}.", "good", 1)


def _beats(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """What the trained model does better and worse than the best cheap baseline, by metric."""
    for baseline in best_first(each for each in judged if each.role == "baseline"):
        for model in results_of_training(judged):
            tests = compared(baseline, model)
            if tests:
                yield _against(model, baseline, tests)
                return


def _against(model: Judgement, baseline: Judgement, tests: Sequence[Comparison]) -> Finding:
    verdicts = [EQUAL if not t.difference.value else t.verdict for t in tests]
    parts, every = [], {*verdicts}
    for verdict, words in WORDS.items():
        matching = [t for t, each in zip(tests, verdicts, strict=True) if each == verdict]
        points = "" if verdict == EQUAL else " ({})"
        names = (t.metric + points.format(in_points(t.difference.value)) for t in matching)
        parts += [f"{words} {', '.join(names)}"] if matching else []
    is_better = BETTER in every and every <= {BETTER, EQUAL}
    tone: Tone = "bad" if WORSE in every else "good" if is_better else "open"
    answer = {"bad": "No", "good": "Yes", "open": "Not shown"}[tone]
    if tone != "good" and BETTER in every:
        answer = {"bad": "Not in everything", "open": "Not shown in everything"}[tone]
    text = f"{answer}. {model.model} against {baseline.model}, in points: {'; '.join(parts)}."
    method = " p-values adjusted by Holm's method." if len(tests) > 1 else ""
    return Finding(BEATS, f"{text}{method}", tone, 1)


def _as_good(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """Each shipped file against the trained model. A server's answers decide if they are judged."""
    shipped = {j.model: j.source for j in judged if j.role == "shipped"}
    if not shipped:
        yield Finding(AS_GOOD, "Not measured: no evaluator judged an exported file.", "open", 2)
    for model, source in shipped.items():
        question = AS_GOOD if len(shipped) == 1 else f"Is {model} as good as {source}?"
        runs = [each for each in judged if each.model == model]
        trained = [each for each in judged if each.model == source]
        served = [each for each in runs if each.report.references]
        in_finery = [each for each in runs if each not in served]
        yield Finding(
            question,
            *_kept_by(
                trained, served or runs, " These are the answers of the server." if served else ""
            ),
            2,
        )
        if served and in_finery:
            question = f"{question.removesuffix('?')} without the server?"
            yield Finding(question, *_kept_by(trained, in_finery), 2)


def _kept_by(
    trained: Sequence[Judgement], shipped: Sequence[Judgement], note: str = ""
) -> tuple[str, Tone]:
    """What the first test of a shipped file against its trained model says."""
    pairs = [(trained_model, each) for each in shipped for trained_model in trained]
    tests = ((*pair, test) for pair in pairs if (test := first_test(*pair)) is not None)
    if (tested := next(tests, None)) is not None:
        text, tone = _kept(*tested)
        return f"{text}{note}", tone
    source, model = shipped[0].source, shipped[0].model
    text = f"Not measured: no evaluator judged {source} on the rows of {model}"
    return f"{text} with the same settings and metric.", "open"


def _kept(trained: Judgement, shipped: Judgement, test: Comparison) -> tuple[str, Tone]:
    """Whether a shipped file is worse, better, or how much worse it may be without this showing.

    A single planned comparison: its p-value isn't adjusted, as in the table of exported files.
    """
    test = test._replace(p_holm=test.difference.p_value)
    gain, worst, _ = test.gains
    scores, loss = _scores(trained, shipped, test), max(0.0, -worst)
    verdict = verdict_of(gain, test.p_holm)
    if verdict == WORSE:
        return f"No. {scores}.", "bad"
    if verdict == BETTER:
        return f"Yes, it is better. {scores}.", "good"
    if loss > SMALL:
        text = f"No loss is shown, but one of up to {100 * loss:.1f} points can't be ruled out"
        return f"{text}: too few rows. {scores}.", "open"
    return f"{f'Yes, within {100 * loss:.1f} points' if loss else 'Yes'}. {scores}.", "good"


def _replacements(judged: Sequence[Judgement], timed: Sequence[Judgement]) -> Iterator[Finding]:
    """What replacing a model behind an API by the best other one gains and loses.

    Only if an evaluator judged both, and a measurement of speed has both.
    """
    for api in (each for each in timed if each.model in apis_of(each.report)):
        scores, apis = api.report.scores, apis_of(api.report)
        scored = [each for each in judged if each.model in scores and each.model not in apis]
        pairs = (
            (replaced, model, test)
            for model in [*results_of_training(scored), *best_first(scored)]
            for replaced in judged
            if replaced.model == api.model
            if (test := first_test(replaced, model)) is not None
        )
        if (pair := next(pairs, None)) is None:
            continue
        text, tone = _kept(*pair)
        before, after = scores[api.model], scores[pair[1].model]
        unsure = _may_be_chance(api, pair[1].model, timed)
        times = before[P50].value, after[P50].value
        gains = [_gain(*times, "faster", "slower", "seconds", "at the median", unsure)]
        if PRICE in before and PRICE in after:
            prices = before[PRICE].value, after[PRICE].value
            gains.append(
                _gain(*prices, "cheaper", "more expensive", "dollars", "per 1,000 answers")
            )
        question = REPLACES.format(pair[1].model, api.model)
        yield Finding(question, f"{text} It is {' and '.join(gains)}.", tone, 1)


def _may_be_chance(api: Judgement, model: str, timed: Sequence[Judgement]) -> str:
    """A remark if two measured speeds aren't significantly different, else an empty text."""
    rivals = [each for each in timed if (each.step, each.model) == (api.step, model)]
    tests = [t for rival in rivals for t in compared(api, rival) if t.metric == P50]
    return "".join(
        f"; this may be chance: p = {p_text(t.p_holm)}" for t in tests if t.verdict == NOT_SHOWN
    )


def _gain(
    before: float, after: float, less: str, more: str, unit: str, what: str, unsure: str = ""
) -> str:
    """How many times less or more a value is: `12.0 times faster (0.1 s per answer, not 1.2 s)`."""
    lower, higher = sorted((before, after))
    factor = higher / lower if lower else 0.0
    times = f"{factor:,.{0 if factor >= 100 else 1}f} times " if factor else ""
    values = f"{quantity(after, unit)} {what}, not {quantity(before, unit)}{unsure}"
    return f"{times}{less if after <= before else more} ({values})"


def _by_step(
    question: str, judged: Sequence[Judgement], words: Callable[[Sequence[Judgement]], str]
) -> Iterator[Finding]:
    """The figures of each step, as words. Only the question names a step, if there are several."""
    steps: dict[str, list[Judgement]] = {}
    for each in judged:
        steps.setdefault(each.step, []).append(each)
    for step, of in steps.items():
        which = f"{question.removesuffix('?')}, by {step}?" if len(steps) > 1 else question
        yield Finding(which, f"{words(of)}.", "info", 2)


def _speeds(timed: Sequence[Judgement]) -> str:
    """The time and the price of the models' answers, the fastest first."""
    report, parts = timed[0].report, []
    scores, apis = report.scores, apis_of(report)
    for model in sorted((each.model for each in timed), key=lambda name: scores[name][P50].value):
        middle, slow = (quantity(scores[model][metric].value, "seconds") for metric in (P50, P95))
        part = f"{model}{' (API)' if model in apis else ''} {middle} (95 % within {slow})"
        if PRICE in scores[model]:
            part += f", {quantity(scores[model][PRICE].value, 'dollars')} per 1,000 answers"
        parts.append(part)
    start = f"Median of {counted(report.rows, 'answer')}, one request at a time"
    return f"{start}: {_listed(parts)}"


def _sure(judged: Sequence[Judgement]) -> str:
    """The share of answers that reach the threshold, and of right ones among them."""
    report, parts = judged[0].report, []
    for model in (each.model for each in sorted(judged, key=lambda e: -ORDER[e.role])):
        scores = report.scores[model]
        right = scores.get("selective_accuracy")
        of_these = "" if right is None else f", {percent(right.value)} of these right"
        parts.append(f"{model} answers {percent(scores['coverage'].value)}{of_these}")
    start = f"Of {counted(report.rows, 'row')}, at a probability of "
    return f"{start}{report.part(ABSTAIN, float):g} or more: {_listed(parts)}"


def _listed(parts: Sequence[str]) -> str:
    omitted = f"; and {len(parts) - RANKED} more" if len(parts) > RANKED else ""
    return f"{'; '.join(parts[:RANKED])}{omitted}"


def _forgotten(judged: Sequence[Judgement]) -> Finding:
    """What the step itself says about the trained models and the untrained ones."""
    roles = {each.model: each.role for each in judged}
    reports = {each.step: each.report for each in judged}.values()
    pairs = [
        (pair.model, pair.baseline, metric, difference)
        for report in reports
        for pair in report.pairs
        if (roles.get(pair.baseline), roles.get(pair.model)) == ("base", "tuned")
        for metric, difference in pair.metrics.items()
    ]
    if not pairs:
        text = "Not measured: no step tests abilities that the training isn't about."
        return Finding(FORGOTTEN, text, "open", 3)
    remarks = [remark for report in reports for remark in report.remarks]
    lost = [remark.text for remark in remarks if remark.verdict == "lost"]
    if lost:
        return Finding(FORGOTTEN, f"Yes: {'; '.join(lost)}.", "bad", 3)
    if remarks:
        texts = "; ".join(remark.text for remark in remarks)
        return Finding(FORGOTTEN, f"Unclear: {texts}.", "open", 3)
    words = (
        f"{model} against {base}, {metric.replace('_', ' ')} {in_points(d.value)} "
        f"points (95 % CI {range_in_points(d.interval)})"
        for model, base, metric, d in pairs
    )
    return Finding(FORGOTTEN, f"No loss above the margin: {'; '.join(words)}.", "good", 3)


def _scores(first: Judgement, second: Judgement, test: Comparison) -> str:
    parts = [f"{each.model} {each.in_words()}" for each in (first, second)]
    text = f"On {counted(test.rows, 'answer')}, {test.metric}: {', '.join(parts)}"
    return f"{text}: {test.in_words()}"


# -- data that no longer training mends ------------------------------------------------------------


def data_problems(
    graph: Graph, built: Callable[[str], Artifact | None]
) -> Iterator[tuple[str, str, str]]:
    """(question of a report, what is wrong with the rows of a training, how to mend it).

    built: an artifact by its name in the recipe, if it is built.
    """
    for _, text in unseen_classes(graph, lambda source: built(source.ref)):
        yield CLASSES, text, "add training rows of the classes that have none"
    trained = [
        source for node in graph.nodes.values() if node.trains for source in node.row_sources
    ]
    conflicts, seen = dict[str, int](), set[tuple[str, bool]]()
    stack = [(source, False) for source in trained]
    while stack:
        source, is_reviewed = stack.pop()
        if (source.ref, is_reviewed) in seen:
            continue
        seen.add((source.ref, is_reviewed))
        node, rows = graph.nodes[source.step], built(source.ref)
        meta = rows.meta if rows else {}
        usual = "label" if "label" in meta.get("columns", ()) else "output"
        # `review.apply` compares the usual labels again, perhaps after they were corrected.
        if not (is_reviewed and getattr(node.step, "label", None) in (None, usual)):
            conflicts[source.ref] = meta.get("findings", {}).get(CONFLICT, 0)
        is_reviewed = is_reviewed or (node.use == REVIEW and rows is not None)
        stack += [(each, is_reviewed) for each in node.sources_of(Dataset)]
    for ref, count in conflicts.items():
        if count:
            verb = "contradicts" if count == 1 else "contradict"
            text = f"{counted(count, 'row')} of {ref} {verb} the labels of similar rows"
            yield CONTRADICTING, text, f"correct the labels that `finery show {ref}` lists"


# -- remarks at the end of a build -----------------------------------------------------------------


def remarks_on(
    judged: Sequence[Judgement], *, has_training: bool = True, mend: str = ""
) -> Iterator[Remark]:
    """The exported model against each untrained model and each cheap baseline of an evaluation.

    First of all, the answers of these models that were cut off. An untrained one beside a trained
    one often talks on until it is, which more tokens don't change.

    has_training: as for `findings`. Without one, it is the best model against each cheap baseline.
    mend: what to do about the rows before a longer training, see `data_problems`.
    """
    task = [each for each in judged if not each.use.endswith(RETENTION) and not each.is_timed]
    if has_training:
        models, roles = results_of_training(task), {"base", "baseline"}
        improve = mend or "train longer or on more rows"
    else:
        models, roles = best_first(each for each in task if each.role == "base"), {"baseline"}
        improve = "improve the prompt"
    cut = [cut_off_in_words(each) for each in models if each.cut_off]
    if cut:
        yield Remark(f"{', '.join(cut)} were cut off at max_tokens", RAISE, "warning")
    for model in [each for each in models if each.exported] or models[:1]:
        better: list[str] = []
        remarks = []
        for other in (each for each in task if each.role in roles):
            # In points, which only shares have.
            comparisons = [c for c in compared(other, model) if other.report.is_share(c.metric)]
            kind = "baseline" if other.role == "baseline" else "untrained model"
            worse = [f"{c.metric} {_in_brackets(c)}" for c in comparisons if c.verdict == WORSE]
            first = comparisons[0] if comparisons else None
            if first and first.verdict == BETTER:
                better.append(f"{other.model} {_in_brackets(first)}")
            if first and worse:
                text = f"{model.model} is significantly worse than the {kind} {other.model} in "
                bundle = other.report.bundles.get(other.model)
                line = (
                    f": add {bundle_line(bundle, other.model, other.step)} to `export:`"
                    if bundle
                    else ""
                )
                ship = "" if first.verdict == BETTER else f", or ship {other.model}{line}"
                advice = RAISE if model.cut_off else f"{improve[0].upper()}{improve[1:]}{ship}."
                remarks.append(Remark(text + ", ".join(worse), advice, "warning"))
            elif first and first.verdict == NOT_SHOWN:
                text = f"{model.model} isn't shown to beat the {kind} {other.model} in "
                text += f"{first.metric}: {first.in_words()}"
                improved = f"{improve[0].upper()}{improve[1:]}"
                more = f"{improved}." if mend else f"Judge more rows, or {improve}."
                advice = RAISE if model.cut_off else more
                remarks.append(Remark(text, advice, "warning"))
        if better:
            text = f"{model.model} is significantly better in {model.metric} than "
            yield Remark(text + ", ".join(better))
        yield from remarks


def cut_off_in_words(judged: Judgement) -> str:
    """`50 of 200 answers of sft`."""
    answers = counted(len(judged.answers), "answer")
    return f"{judged.cut_off:,} of {answers} of {judged.model}"


def _in_brackets(test: Comparison) -> str:
    return f"({in_points(test.difference.value)} points)"
