"""What the hub reads of a model card: its front matter, and files in `.eval_results/`.

Formats: https://huggingface.co/docs/hub/model-cards, /eval-results, and `modelcard.md` of
huggingface/hub-docs for `model-index`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery_hub.card import licenses
from finery_hub.card.facts import Base, Evaluation, Facts, Judged, Origin, Score
from finery_hub.push.files import Placed

EVAL_RESULTS = ".eval_results"
LEVEL = 0.95
"""Of the intervals of scores."""


class Benchmark(NamedTuple):
    """A benchmark on the hub that an evaluation ran. metric: the name of its score in finery."""

    dataset: str
    task: str
    metric: str | None = None


class Target(NamedTuple):
    """Where models are pushed to, and what the recipe says about that.

    repo: owner/name. base_model, relation, license: in place of what follows from the recipe.
    merged: whether the root holds the first adapter, merged into its base. recipe: whether the
    recipe is pushed. endpoint: of the hub.
    """

    repo: str
    license: str | None = None
    base_model: str | None = None
    relation: str | None = None
    merged: bool = False
    recipe: bool = True
    benchmarks: Mapping[str, Benchmark] = {}
    endpoint: str = "https://huggingface.co"


def bases_of(facts: Facts) -> list[Base]:
    """All models from outside that the pushed ones are made from, each once."""
    return list({b.step: b for bases in facts.bases.values() for b in bases}.values())


def license_of(facts: Facts, target: Target) -> str:
    """The licence of what is pushed: the recipe's, else that of all bases; empty if unknown."""
    named = {base.license for base in bases_of(facts)}
    return target.license or (named.pop() if len(named) == 1 else "")


def front_matter(facts: Facts, placed: Sequence[Placed], target: Target) -> dict[str, Any]:
    """The metadata of a card, in the order in which it is written."""
    bases = [base for base in bases_of(facts) if base.repo]
    repos = [target.base_model] if target.base_model else [base.repo for base in bases]
    license = license_of(facts, target)
    link = f"{target.endpoint}/{bases[0].repo}" if bases and not target.license else ""
    formats = [str(p.artifact.meta.get("format", "")) for p in placed]
    meta: dict[str, Any] = licenses.metadata(license, link) if license else {}
    if repos:
        meta["base_model"] = repos[0] if len(repos) == 1 else repos
        meta["base_model_relation"] = target.relation or _relation(facts, formats, target, repos)
    library = _library(formats, target)
    if library:
        meta["library_name"] = library
    meta["pipeline_tag"] = "text-generation"
    meta["tags"] = ["finery", *(["lora"] if "adapter" in formats else [])]
    meta["tags"] += ["gguf"] if "gguf" in formats or "ollama" in formats else []
    datasets = [o.repo for o in facts.origins if o.repo and "training" in o.roles]
    if datasets:
        meta["datasets"] = list(dict.fromkeys(datasets))
    results = [*_results(facts, placed, target)]
    if results:
        meta["model-index"] = [{"name": target.repo.rpartition("/")[2], "results": results}]
    return meta


def _relation(facts: Facts, formats: Sequence[str], target: Target, repos: Sequence[str]) -> str:
    """How what is pushed derives from its base, in the words of the hub.

    A trained GGUF is a fine-tune of the base. Only of the same model in other weights is it a
    quantisation.
    """
    if "adapter" in formats and not target.merged and _main(formats) == "adapter":
        return "adapter"
    if len(repos) > 1:
        return "merge"
    only_gguf = _main(formats) == "gguf"
    if only_gguf and (target.base_model or not facts.trainings):
        return "quantized"
    return "finetune"


def _main(formats: Sequence[str]) -> str:
    """The format of the model at the root."""
    return next((f for f in formats if f in ("adapter", "transformers")), "gguf")


def _library(formats: Sequence[str], target: Target) -> str | None:
    main = _main(formats)
    if main == "gguf":
        return None  # the hub finds out
    return "peft" if main == "adapter" and not target.merged else "transformers"


def pushed_scores(facts: Facts, placed: Sequence[Placed]) -> Iterator[tuple[Evaluation, Judged]]:
    """The scores of pushed models."""
    digests = {p.artifact.digest for p in placed}
    for evaluation in facts.evaluations:
        for judged in evaluation.judged:
            if judged.digest in digests:
                yield evaluation, judged


def _results(facts: Facts, placed: Sequence[Placed], target: Target) -> Iterator[dict[str, Any]]:
    """`model-index`: an entry for each evaluation, with the metrics of all pushed models."""
    by_step: dict[str, list[Judged]] = {}
    for evaluation, judged in pushed_scores(facts, placed):
        by_step.setdefault(evaluation.step, []).append(judged)
    for evaluation in facts.evaluations:
        if evaluation.step in by_step:
            metrics = [
                _metric(judged.ref, score, evaluation.rows.count)
                for judged in by_step[evaluation.step]
                for score in judged.scores
            ]
            yield {
                "task": {"type": "text-generation", "name": evaluation.step},
                "dataset": _dataset(facts, evaluation),
                "metrics": metrics,
            }


def _metric(ref: str, score: Score, rows: int) -> dict[str, Any]:
    """A metric of `model-index`. The format has no field for an interval: it is in the name."""
    args: dict[str, Any]
    name, args = f"{score.metric} of {ref}", {"rows": rows}
    if score.low is not None and score.high is not None:
        low, high = round(score.low, 6), round(score.high, 6)
        name = f"{name} (95 % interval {low:.3f} to {high:.3f})"
        args |= {"confidence_level": LEVEL, "interval": [low, high]}
    return {"type": score.metric, "value": round(score.value, 6), "name": name, "args": args}


def origin_on_hub(facts: Facts, evaluation: Evaluation) -> Origin | None:
    """The data set on the hub that all rows of an evaluation come from."""
    if len(evaluation.origins) != 1:
        return None
    origins = [o for o in facts.origins if o.step == evaluation.origins[0] and o.repo]
    return origins[0] if origins else None


def _dataset(facts: Facts, evaluation: Evaluation) -> dict[str, Any]:
    rows = evaluation.rows
    name = f"{rows.ref} of {facts.recipe.name} ({rows.count:,} rows)"
    origin = origin_on_hub(facts, evaluation)
    if origin is None:  # without a slash, which would make it a data set of the hub
        kind = f"{facts.recipe.name}-{rows.ref}".replace("/", "-")
        return {"type": kind, "name": name, "args": {"blake3": rows.digest}}
    config = {"config": origin.config} if origin.config else {}
    more = {"split": origin.split, "revision": origin.revision}
    name = origin.repo if evaluation.whole else name
    return {"type": origin.repo, "name": name, **config, **more}


def eval_results(
    facts: Facts, placed: Sequence[Placed], target: Target
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(file, entries) for each evaluation that the recipe names as a benchmark.

    The hub shows these on the benchmark's leaderboard. It is the score of the first pushed model
    that was judged.
    """
    for step, benchmark in target.benchmarks.items():
        scores = [(e, j) for e, j in pushed_scores(facts, placed) if e.step == step]
        if not scores:
            continue
        evaluation, judged = scores[0]
        score = score_of(judged, benchmark.metric)
        origin = origin_on_hub(facts, evaluation)
        if score is None or origin is None:
            continue
        dataset = {"id": benchmark.dataset, "task_id": benchmark.task, "revision": origin.revision}
        entry: dict[str, Any] = {"dataset": dataset, "value": round(score.value, 6)}
        if target.recipe:
            url = f"{target.endpoint}/{target.repo}/blob/main/{facts.recipe.file}"
            entry["source"] = {"url": url, "name": "recipe"}
        yield f"{EVAL_RESULTS}/{step}.yaml", [{**entry, "notes": _notes(evaluation, judged, score)}]


def score_of(judged: Judged, metric: str | None) -> Score | None:
    """A score by name; without one the headline."""
    named = [score for score in judged.scores if metric in (None, score.metric)]
    return named[0] if named else None


def _notes(evaluation: Evaluation, judged: Judged, score: Score) -> str:
    rows = "all rows" if evaluation.whole else "a part of the rows"
    notes = [f"{score.metric} of {judged.ref}", f"{rows} ({evaluation.rows.count:,})"]
    if score.low is not None and score.high is not None:
        notes.append(f"95 % interval {score.low:.3f} to {score.high:.3f}")
    if evaluation.temperature is not None:
        notes.append(f"temperature {evaluation.temperature:g}")
    return ", ".join(notes)
