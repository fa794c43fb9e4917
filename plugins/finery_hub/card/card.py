"""The model card: README.md of a repository, the same for the same facts."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from finery import Model
from finery.advanced import percent, size
from finery.views import Part, Section, render_markdown
from finery_hub.card.facts import Evaluation, Facts, Origin, Score
from finery_hub.card.metadata import Target, bases_of, front_matter, license_of
from finery_hub.push.files import ADAPTER_FOLDER, MARK, MODELFILE, README, File, Placed
from finery_local.facts import ModelFiles
from finery_transformers.card import (
    LEARNED,
    Base,
    inline,
    loading_code,
    number,
    training_facts,
)
from finery_transformers.frozen.template import ClientFacts

TEMPLATE = Path(__file__).with_name("card.md.jinja")
NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that a narrow page doesn't part them."""
DIGITS = 12
"""Characters of a digest that tables show."""


def card(facts: Facts, placed: Sequence[Placed], files: Sequence[File], target: Target) -> str:
    """The complete card. files: all that are pushed with it."""
    import yaml
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "inline": escaped, "code": code, "number": number, "dumps": json.dumps, "size": size,
        "short": lambda digest: code(digest[:DIGITS]), "cell": _cell,
    }  # fmt: skip
    meta = front_matter(facts, placed, target)
    digests = {p.artifact.digest for p in placed}
    learns = [LEARNED.get(training.learns, "") for training in facts.trainings]
    arguments = (p.artifact.meta.get("chat_template_kwargs") for p in placed)
    loaded = [p for p in placed if _format(p) in ("adapter", "transformers")]
    ggufs = (p.files[0].path for p in placed if _format(p) == "gguf")
    # The size of the recipe would change the card with each comment in it.
    others = (README, MARK, facts.recipe.file, facts.lock.file)
    groups: list[list[Evaluation]] = []
    for evaluation in facts.evaluations:
        models = {judged.ref for judged in evaluation.judged}
        same = [g for g in groups if _basis(g[0]) == _basis(evaluation)]
        fitting = [g for g in same if models.isdisjoint(j.ref for e in g for j in e.judged)]
        if fitting:
            fitting[0].append(evaluation)
        else:
            groups.append([evaluation])
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts,
        target=target,
        placed=placed,
        pushed=digests,
        bases=bases_of(facts),
        license=license_of(facts, target),
        front_matter=yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=1000),
        title=target.repo.rpartition("/")[2] or facts.recipe.name,
        made=f"Trained with finery{next(filter(None, learns), '')}"
        if learns
        else "Made with finery",
        contents=partial(_contents, target=target),
        arguments=next(filter(None, arguments), {}),
        foreign={
            p.name: _format(p)
            for p in placed
            if isinstance(p.artifact, Model)
            and not p.artifact.meta.get("baseline")
            and _format(p) not in ("adapter", "transformers", "gguf")
        },
        baselines=[p.name for p in placed if p.artifact.meta.get("baseline")],
        loaded=[_loaded(p, facts, target) for p in loaded],
        gguf=next(ggufs, ""),
        bundles=[*_bundles(placed, target)],
        groups=groups,
        details={e.step: _details(e) for e in facts.evaluations},
        compares=any(j.digest not in digests for e in facts.evaluations for j in e.judged),
        training_facts=training_facts,
        adapters={
            p.name: ModelFiles(p.artifact).adapter_config
            for p in loaded
            if isinstance(p.artifact, Model)
        },
        place=_place,
        command=[
            facts.recipe.file,
            *dict.fromkeys(ref.partition(".")[0] for ref in facts.bases),
            *facts.recipe.overrides,
        ],
        files=sorted(file for file in files if file.path not in others),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def escaped(value: Any) -> str:
    """Text from outside on one line, without what Markdown reads as markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text)


def code(value: Any) -> str:
    """A name from outside as code, also in a table."""
    return f"`{inline(value)}`"


def _format(placed: Placed) -> str:
    return str(placed.artifact.meta.get("format", ""))


# -- description ---------------------------------------------------------------------------------


def _contents(placed: Placed, target: Target) -> str:
    """A description of a model or bundle, with its place."""
    form = _format(placed)
    where = f"in the folder {code(placed.folder)}" if placed.folder else "at the root"
    if baseline := placed.artifact.meta.get("baseline"):
        return f"a {escaped(baseline)} baseline, not a language model, {where}"
    if form == "adapter" and placed.folder == ADAPTER_FOLDER and target.merged:
        return f"a LoRA adapter {where}, and merged into its base in 16 bits at the root"
    if form == "adapter":
        return f"a LoRA adapter {where}"
    if form == "gguf":
        return f"a GGUF file, {code(placed.files[0].path)}"
    if form == "transformers":
        return f"a whole model {where}"
    if form == "ollama" and not placed.folder:
        return f"a {code(MODELFILE)} for Ollama"
    if isinstance(placed.artifact, Model):
        return f"a model in the format {code(form)} {where}"
    return f"files to serve it ({escaped(form) or 'bundle'}) {where}"


# -- how to run it -------------------------------------------------------------------------------


def _loaded(placed: Placed, facts: Facts, target: Target) -> dict[str, Any]:
    """How transformers loads a model, or PEFT an adapter."""
    is_adapter = _format(placed) == "adapter"
    merged = is_adapter and target.merged and placed.folder == ADAPTER_FOLDER
    folder = "" if merged else placed.folder
    base, note = _base(placed, facts) if is_adapter and not merged else (None, "")
    place = f"repo = {json.dumps(target.repo)}"
    meta = placed.artifact.meta
    return {
        "name": placed.name,
        "is_adapter": base is not None,
        "code": loading_code(place, ClientFacts.of(meta), meta, base, subfolder=folder, note=note),
    }


def _base(placed: Placed, facts: Facts) -> tuple[Base, str]:
    """How to load an adapter's base, and a comment on it if it isn't on the hub."""
    base = next(iter(facts.bases.get(placed.name, [])), None)
    note = base.name or base.step if base else "the base model"
    under = placed.artifact.refs.get("base")
    if under is not None and under.meta.get("format") == "adapter":
        # On the base alone, PEFT would load it without an error and answer without the first one.
        base, note = None, f"{note} with the first adapter merged into it"
    gguf = PurePosixPath(base.file).name if base and base.file.endswith(".gguf") else ""
    if base and base.repo:
        return Base(base.repo, base.revision, gguf, on_hub=True), ""
    comment = f"the folder that holds {' '.join(note.split())}, which isn't on the hub"
    return Base(file=gguf), comment


def _bundles(placed: Sequence[Placed], target: Target) -> Iterator[dict[str, Any]]:
    """How bundles are run. gguf: the file that a Modelfile at the root names."""
    for p in placed:
        meta = p.artifact.meta
        run, form = str(meta.get("run") or ""), str(meta.get("format", "bundle"))
        if form == "ollama" and not p.folder:
            text = next(f.source for f in p.files if f.path == MODELFILE)
            source = re.search(rb"^FROM \./(.+)$", text, re.M) if isinstance(text, bytes) else None
            folder = str(meta.get("name") or target.repo).rpartition("/")[2]
            yield {"gguf": source[1].decode() if source else "", "folder": folder, "run": run}
        elif run and p.folder:
            files = {file.path.removeprefix(f"{p.folder}/") for file in p.files}
            needs = "requirements.txt"
            run = f"pip install -r {needs} && {run}" if needs in files else run
            yield {
                "gguf": "", "name": p.name, "format": form, "folder": p.folder, "run": run,
                "client": "client.py" in files,
            }  # fmt: skip


# -- how good it is ------------------------------------------------------------------------------


def _basis(evaluation: Evaluation) -> tuple[Any, ...]:
    metrics = {score.metric for judged in evaluation.judged for score in judged.scores}
    return evaluation.use, evaluation.rows.digest, evaluation.temperature, metrics


def _details(evaluation: Evaluation) -> str:
    """The remarks, plots and tables of an evaluation, as Markdown."""
    parts: list[Part] = [*evaluation.plots, *evaluation.tables]
    title = f"Tables and plots of {evaluation.step}"
    details = Section(title, parts, is_folded=True)
    return render_markdown([Section("", evaluation.remarks), details])


def _cell(score: Score) -> str:
    if not score.is_share or not 0 <= score.value <= 1:
        return f"{score.value:g}"
    text = percent(score.value)
    if score.low is not None and score.high is not None:
        text += f" ({100 * score.low:.1f}–{100 * score.high:.1f})"
    return text.replace(" ", NARROW)


def _place(origin: Origin) -> str:
    """The place from which rows are read."""
    if not origin.repo:
        return origin.place or origin.use
    parts = [origin.repo, origin.config, origin.split]
    return f"{' / '.join(filter(None, parts))} at {origin.revision[:DIGITS]}"
