"""The model card: README.md of a repository, the same for the same facts."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from pprint import pformat
from typing import Any

from finery.util.text import percent, size
from finery_hub.card.facts import Evaluation, Facts, Origin, Score
from finery_hub.card.metadata import Target, bases_of, front_matter, license_of
from finery_hub.push.files import ADAPTER_FOLDER, MARK, MODELFILE, README, File, Placed
from finery_transformers.frozen.template import client_facts, shared_tools

TEMPLATE = Path(__file__).with_name("card.md.jinja")
LEARNED = {
    "answers": " by supervised fine-tuning on answers",
    "preferences": " by preference training on pairs of answers",
    "ratings": " by training on rated answers",
    "text": " by continued pre-training on text",
    "rewards": " by reinforcement learning from rewards",
    "teacher": " by distillation from a teacher",
}
"""The kind of training data that a step type declares → its name in the card."""
MEASURED = {
    "epochs": "epochs", "steps": "optimizer steps", "best_step": "weights from step",
    "tokens": "tokens in the rows", "loss_tokens": "tokens with loss",
    "eval_loss": "validation loss", "eval_preference_accuracy": "validation accuracy",
    "trainable_parameters": "trained parameters", "parameters": "parameters of the model",
}  # fmt: skip
"""Facts about a trained model → their names in the card. None: a loss that isn't a number."""
NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that a narrow page doesn't part them."""
LINE = 96
"""Characters of a line of code."""
DIGITS = 12
"""Characters of a digest that tables show."""


def card(facts: Facts, placed: Sequence[Placed], files: Sequence[File], target: Target) -> str:
    """The complete card. files: all that are pushed with it."""
    import yaml
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "inline": inline, "code": code, "number": number, "dumps": json.dumps, "size": size,
        "literal": partial(pformat, sort_dicts=False, width=LINE),
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
        baselines=[p.name for p in placed if p.artifact.meta.get("baseline")],
        loaded=[_loaded(p, facts, target) for p in loaded],
        gguf=next(ggufs, ""),
        bundles=[*_bundles(placed, target)],
        groups=groups,
        compares=any(j.digest not in digests for e in facts.evaluations for j in e.judged),
        measured=MEASURED,
        place=_place,
        command=[
            facts.recipe.file,
            *dict.fromkeys(ref.partition(".")[0] for ref in facts.bases),
            *facts.recipe.overrides,
        ],
        files=sorted(file for file in files if file.path not in others),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def inline(value: Any) -> str:
    """Text from outside on one line, without what Markdown reads as markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text)


def code(value: Any) -> str:
    """A name from outside as code, also in a table."""
    return f"`{' '.join(str(value).replace('`', chr(39)).replace('|', '/').split())}`"


def number(value: Any) -> str:
    """A count with separators, or a measure."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _format(placed: Placed) -> str:
    return str(placed.artifact.meta.get("format", ""))


# -- description ---------------------------------------------------------------------------------


def _contents(placed: Placed, target: Target) -> str:
    """A description of a model or bundle, with its place."""
    form = _format(placed)
    where = f"in the folder {code(placed.folder)}" if placed.folder else "at the root"
    if baseline := placed.artifact.meta.get("baseline"):
        return f"a {inline(baseline)} baseline, not a language model, {where}"
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
    return f"files to serve it ({inline(form) or 'bundle'}) {where}"


# -- how to run it -------------------------------------------------------------------------------


def _loaded(placed: Placed, facts: Facts, target: Target) -> dict[str, Any]:
    """How transformers loads a model, or PEFT an adapter."""
    is_adapter = _format(placed) == "adapter"
    merged = is_adapter and target.merged and placed.folder == ADAPTER_FOLDER
    folder = "" if merged else placed.folder
    kwargs = placed.artifact.meta.get("chat_template_kwargs") or {}
    clients = client_facts(placed.artifact)
    system = clients.get("system")
    return {
        "name": placed.name,
        "base": _base(placed, facts) if is_adapter and not merged else None,
        "folder": f", subfolder={json.dumps(folder)}" if folder else "",
        "ends": placed.artifact.meta.get("ends"),
        "system": {"role": "system", "content": system} if system else None,
        "tools": shared_tools(clients),
        "differ": bool(clients.get("tools_differ")),
        "arguments": "".join(f", {n}={v!r}" for n, v in kwargs.items() if n.isidentifier()),
    }


def _base(placed: Placed, facts: Facts) -> dict[str, Any]:
    """How to load an adapter's base. note: a description of it, if it isn't on the hub."""
    base = next(iter(facts.bases.get(placed.name, [])), None)
    note = base.name or base.step if base else "the base model"
    under = placed.artifact.refs.get("base")
    if under is not None and under.meta.get("format") == "adapter":
        # On the base alone, PEFT would load it without an error and answer without the first one.
        base, note = None, f"{note} with the first adapter merged into it"
    arguments = ['"FOLDER_OF_THE_BASE"']
    if base and base.repo:
        arguments, note = [json.dumps(base.repo)], ""
        if base.revision:
            arguments.append(f"revision={json.dumps(base.revision)}")
    is_gguf = bool(base and base.file.endswith(".gguf"))
    if base and is_gguf:
        arguments.append(f"gguf_file={json.dumps(PurePosixPath(base.file).name)}")
    # transformers multiplies the packed weights of a GGUF in fp32 and would cast back and forth.
    arguments.append(f"dtype=torch.{'float32' if is_gguf else 'bfloat16'}")
    return {"arguments": arguments, "note": note}


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
