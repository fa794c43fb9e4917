"""The machine-readable part of a model card: its front matter, and files in `.eval_results/`.

Formats: https://huggingface.co/docs/hub/model-cards, /eval-results and /repositories-licenses.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Model
from finery_hub.card.facts import Base, Evaluation, Facts, Judged, Origin, Score
from finery_hub.push.files import Placed

LIBRARIES = {"adapter": "peft", "transformers": "transformers"}
"""The format of the model at the root → the library that loads it. Of a GGUF, the hub finds out."""
_LISTED = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research
    lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license
    llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
"""
IDENTIFIERS = frozenset(_LISTED.split())
_SAME = {
    "apache license 2.0": "apache-2.0", "apache 2.0": "apache-2.0", "apache2": "apache-2.0",
    "apache license, version 2.0": "apache-2.0", "apache software license": "apache-2.0",
    "mit license": "mit", "the mit license": "mit", "cc0": "cc0-1.0",
    "gpl-3.0-only": "gpl-3.0", "gpl-3.0-or-later": "gpl-3.0", "agpl-3.0-only": "agpl-3.0",
    "gpl-2.0-only": "gpl-2.0", "gpl-2.0-or-later": "gpl-2.0", "agpl-3.0-or-later": "agpl-3.0",
    "lgpl-3.0-only": "lgpl-3.0", "lgpl-3.0-or-later": "lgpl-3.0",
    "bsd-3-clause license": "bsd-3-clause",
}  # fmt: skip
"""Usual names of licences → their identifiers."""


class Benchmark(NamedTuple):
    """A benchmark on the hub that an evaluation ran. metric: the name of its score in finery."""

    dataset: str
    task: str
    metric: str | None = None


class Target(NamedTuple):
    """Where models are pushed to, and what the recipe states about that.

    repo: owner/name. base_model, relation, license: override what follows from the recipe. merged:
    whether the root contains the first adapter, merged into its base. recipe: whether the recipe is
    pushed. endpoint: of the hub.
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
    root = next((f for f in formats if f in LIBRARIES), "gguf")
    root = "transformers" if target.merged and root == "adapter" else root
    meta: dict[str, Any] = license_fields(license, link) if license else {}
    if repos:
        meta["base_model"] = repos[0] if len(repos) == 1 else repos
        meta["base_model_relation"] = target.relation or _relation(facts, root, target, repos)
    if root in LIBRARIES:
        meta["library_name"] = LIBRARIES[root]
    meta["pipeline_tag"] = _task(placed)
    meta["tags"] = ["finery", *(["lora"] if "adapter" in formats else [])]
    meta["tags"] += ["gguf"] if "gguf" in formats or "ollama" in formats else []
    datasets = [o.repo for o in facts.origins if o.repo and "training" in o.roles]
    if datasets:
        meta["datasets"] = list(dict.fromkeys(datasets))
    index = _model_index(facts, placed, target)
    return meta | ({"model-index": index} if index else {})


def license_fields(name: str, link: str = "") -> dict[str, str]:
    """The fields of a model card for a licence. link: to its text, if the hub doesn't list it."""
    plain = " ".join(name.lower().split())
    plain = _SAME.get(plain, plain)
    if plain in IDENTIFIERS:
        return {"license": plain}
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    return {"license": "other", "license_name": slug} | ({"license_link": link} if link else {})


def _task(placed: Sequence[Placed]) -> str:
    """What the hub lists the models under: baselines, with their servers, classify texts."""
    baselines = [p.artifact.meta.get("baseline") for p in placed if isinstance(p.artifact, Model)]
    return "text-classification" if all(baselines) else "text-generation"


def _relation(facts: Facts, root: str, target: Target, repos: Sequence[str]) -> str:
    """How the pushed models derive from their base, in the hub's terms.

    A trained GGUF is a fine-tune of the base. It is only a quantisation of the same model with
    other weights.
    """
    if root == "adapter":
        return "adapter"
    if len(repos) > 1:
        return "merge"
    is_quantised = root == "gguf" and (target.base_model or not facts.trainings)
    return "quantized" if is_quantised else "finetune"


def pushed_scores(facts: Facts, placed: Sequence[Placed]) -> Iterator[tuple[Evaluation, Judged]]:
    """The scores of pushed models."""
    digests = {p.artifact.digest for p in placed}
    for evaluation in facts.evaluations:
        for judged in evaluation.judged:
            if judged.digest in digests:
                yield evaluation, judged


def _model_index(facts: Facts, placed: Sequence[Placed], target: Target) -> list[dict[str, Any]]:
    """An entry for each evaluation, with the metrics of all pushed models.

    The library makes one entry of all evaluations on the same rows, so it gets one at a time.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    name, results = target.repo.rpartition("/")[2], dict[str, list[EvalResult]]()
    for evaluation, judged in pushed_scores(facts, placed):
        results.setdefault(evaluation.step, []).extend(
            EvalResult(
                task_type=_task(placed),
                task_name=evaluation.step,
                **_dataset(facts, evaluation),
                **_metric(judged.ref, score, evaluation.rows.count),
            )
            for score in judged.scores
        )
    entries = [eval_results_to_model_index(name, r)[0]["results"][0] for r in results.values()]
    return [{"name": name, "results": entries}] if entries else []


def _metric(ref: str, score: Score, rows: int) -> dict[str, Any]:
    """A metric of `model-index`. The format has no field for an interval: it is in the name."""
    name, args = f"{score.metric} of {ref}", dict[str, Any](rows=rows)
    if score.low is not None and score.high is not None:
        name += f" (95 % interval {score.low:.3f} to {score.high:.3f})"
        args |= {"confidence_level": 0.95, "interval": [round(score.low, 6), round(score.high, 6)]}
    return {
        "metric_type": score.metric,
        "metric_value": round(score.value, 6),
        "metric_name": name,
        "metric_args": args,
    }


def origin_on_hub(facts: Facts, evaluation: Evaluation) -> Origin | None:
    """The data set on the hub that all rows of an evaluation come from."""
    if len(evaluation.origins) != 1:
        return None
    origins = [o for o in facts.origins if o.step == evaluation.origins[0] and o.repo]
    return origins[0] if origins else None


def _dataset(facts: Facts, evaluation: Evaluation) -> dict[str, Any]:
    """The rows of an evaluation in `model-index`."""
    rows = evaluation.rows
    name = f"{rows.ref} of {facts.recipe.name} ({rows.count:,} rows)"
    origin = origin_on_hub(facts, evaluation)
    if origin is None:  # without a slash, which would make it a data set of the hub
        kind = f"{facts.recipe.name}-{rows.ref}".replace("/", "-")
        return {"dataset_type": kind, "dataset_name": name, "dataset_args": {"blake3": rows.digest}}
    return {
        "dataset_type": origin.repo,
        "dataset_name": origin.repo if evaluation.whole else name,
        "dataset_config": origin.config or None,
        "dataset_split": origin.split,
        "dataset_revision": origin.revision,
    }


def eval_results(
    facts: Facts, placed: Sequence[Placed], target: Target
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(file, entries) for each evaluation that the recipe names as a benchmark.

    The hub shows these on the benchmark's leaderboard. It is the score of the first pushed model
    that was judged.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    url = f"{target.endpoint}/{target.repo}/blob/main/{facts.recipe.file}"
    for step, benchmark in target.benchmarks.items():
        scores = [(e, j) for e, j in pushed_scores(facts, placed) if e.step == step]
        if not scores:
            continue
        evaluation, judged = scores[0]
        score = score_of(judged, benchmark.metric)
        origin = origin_on_hub(facts, evaluation)
        if score is None or origin is None:
            continue
        rows = "all rows" if evaluation.whole else "a part of the rows"
        notes = [f"{score.metric} of {judged.ref}", f"{rows} ({evaluation.rows.count:,})"]
        if score.low is not None and score.high is not None:
            notes.append(f"95 % interval {score.low:.3f} to {score.high:.3f}")
        if evaluation.temperature is not None:
            notes.append(f"temperature {evaluation.temperature:g}")
        entry = EvalResultEntry(
            dataset_id=benchmark.dataset,
            task_id=benchmark.task,
            value=round(score.value, 6),
            dataset_revision=origin.revision,
            source_url=url if target.recipe else None,
            source_name="recipe" if target.recipe else None,
            notes=", ".join(notes),
        )
        yield f".eval_results/{step}.yaml", eval_result_entries_to_yaml([entry])


def score_of(judged: Judged, metric: str | None) -> Score | None:
    """A score by name; without one the headline."""
    return next((score for score in judged.scores if metric in (None, score.metric)), None)
