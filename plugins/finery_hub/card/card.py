"""The model card: README.md of a repository, the same for the same facts."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from finery import percent, size
from finery_hub.card.facts import Apart, Evaluation, Facts, Judged, Origin, Rows, Score
from finery_hub.card.metadata import Target, bases_of, front_matter, license_of
from finery_hub.push.files import ADAPTER_FOLDER, MARK, MODELFILE, README, File, Placed

LEARNED = {
    "answers": "supervised fine-tuning on answers",
    "preferences": "preference training on pairs of answers",
    "ratings": "training on rated answers",
}
"""What a training learns from, as its step type declares it → what the card calls it."""
NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that a narrow page doesn't part them."""
CHECKED = 12
"""Characters of a digest that tables show."""


def card(facts: Facts, placed: Sequence[Placed], files: Sequence[File], target: Target) -> str:
    """The whole card. files: all that are pushed with it."""
    parts = [_front(front_matter(facts, placed, target)), f"# {_title(target, facts)}"]
    parts += [_about(facts, placed, target), *_running(facts, placed, target)]
    parts += [*_results(facts, placed), *_training(facts), *_data(facts), *_contamination(facts)]
    parts += [*_licenses(facts, target), *_recipe(facts, target), *_files(facts, files)]
    return "\n\n".join(parts) + "\n"


def _front(meta: dict[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def _title(target: Target, facts: Facts) -> str:
    return inline(target.repo.rpartition("/")[2] or facts.recipe.name)


def inline(value: Any) -> str:
    """Text from outside on one line, without what Markdown reads as markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in text)


def code(value: Any) -> str:
    """A name from outside as code, also in a table."""
    return f"`{' '.join(str(value).replace('`', chr(39)).replace('|', '/').split())}`"


def _link(target: Target, repo: str, kind: str = "") -> str:
    return f"[{inline(repo)}]({target.endpoint}/{kind}{repo})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table. right: the columns with numbers."""
    line = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, line, *rows])


# -- what it is ----------------------------------------------------------------------------------


def _about(facts: Facts, placed: Sequence[Placed], target: Target) -> str:
    made = "Made with finery"
    for training in facts.trainings[:1]:
        how = LEARNED.get(training.learns)
        made = f"Trained with finery{f' by {how}' if how else ''}"
    bases = [_named(base, target) for base in bases_of(facts)]
    on = f" on top of {' and '.join(bases)}" if bases else ""
    lines = [f"{made}{on}. This repository contains:", ""]
    lines += [f"- {code(p.name)}: {_what(p, target)}" for p in placed]
    return "\n".join(lines)


def _named(base: Any, target: Target) -> str:
    if not base.repo:
        return f"{code(base.name or base.step)}, which isn't from the hub"
    at = f" at commit {code(base.revision[:CHECKED])}" if base.revision else ""
    return f"{_link(target, base.repo)}{at}"


def _what(placed: Placed, target: Target) -> str:
    form = str(placed.artifact.meta.get("format", ""))
    where = f"in the folder {code(placed.folder)}" if placed.folder else "at the root"
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


def _running(facts: Facts, placed: Sequence[Placed], target: Target) -> Iterator[str]:
    yield "## How to run it"
    kwargs = [k for p in placed if (k := p.artifact.meta.get("chat_template_kwargs"))]
    if kwargs:
        names = ", ".join(f"{code(name)}: {code(json.dumps(v))}" for name, v in kwargs[0].items())
        yield f"The model was trained and evaluated with these chat template arguments: {names}."
    for p in placed:
        form = str(p.artifact.meta.get("format", ""))
        if form in ("adapter", "transformers"):
            yield from _transformers(p, facts, target)
    ggufs = [p for p in placed if p.artifact.meta.get("format") == "gguf"]
    if ggufs:
        path = ggufs[0].files[0].path
        yield "With [llama.cpp](https://github.com/ggml-org/llama.cpp), as a server on port 8080:"
        yield _sh([f"llama-server -hf {target.repo} --hf-file {path} --jinja --temp 0"])
    for p in placed:
        yield from _bundle(p, placed, target)


def _transformers(placed: Placed, facts: Facts, target: Target) -> Iterator[str]:
    is_adapter = placed.artifact.meta.get("format") == "adapter"
    merged = is_adapter and target.merged and placed.folder == ADAPTER_FOLDER
    with_peft = is_adapter and not merged
    libraries = "PEFT and transformers" if with_peft else "transformers"
    yield f"{code(placed.name)} with {libraries}:"
    folder = "" if merged else placed.folder
    under = f", subfolder={json.dumps(folder)}" if folder else ""
    repo = json.dumps(target.repo)
    lines = ["import torch", *(["from peft import PeftModel"] if with_peft else [])]
    lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", f"repo = {repo}"]
    if with_peft:
        lines += _base_lines(placed, facts)
        lines += [f"model = PeftModel.from_pretrained(base, repo{under})"]
    else:
        call = f"repo{under}, dtype=torch.bfloat16"
        lines += [f"model = AutoModelForCausalLM.from_pretrained({call})"]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained(repo{under})", ""]
    kwargs = placed.artifact.meta.get("chat_template_kwargs") or {}
    more = "".join(f", {name}={value!r}" for name, value in kwargs.items() if name.isidentifier())
    lines += [
        'messages = [{"role": "user", "content": "…"}]',
        "inputs = tokenizer.apply_chat_template(",
        f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{more}',
        ")",
        "answer = model.generate(**inputs, max_new_tokens=256, do_sample=False)",
        'answer = answer[0, inputs["input_ids"].shape[1] :]',
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]
    yield "\n".join(["```python", *lines, "```"])


def _base_lines(placed: Placed, facts: Facts) -> list[str]:
    """The lines that load an adapter's base."""
    base = next(iter(facts.bases.get(placed.name, [])), None)
    known = base.name or base.step if base else "the base model"
    under = placed.artifact.refs.get("base")
    if under is not None and under.meta.get("format") == "adapter":
        # On the base alone, PEFT would load it without an error and answer without the first one.
        base, known = None, f"{known} with the first adapter merged into it"
    name = base.repo if base and base.repo else "FOLDER_OF_THE_BASE"
    arguments = [json.dumps(name)]
    if base and base.repo and base.revision:
        arguments.append(f"revision={json.dumps(base.revision)}")
    is_gguf = bool(base and base.file.endswith(".gguf"))
    if base and is_gguf:
        arguments.append(f"gguf_file={json.dumps(PurePosixPath(base.file).name)}")
    # transformers multiplies the packed weights of a GGUF in fp32 and would cast back and forth.
    arguments.append(f"dtype=torch.{'float32' if is_gguf else 'bfloat16'}")
    note = (
        [] if base and base.repo else [f"# the folder that holds {known}, which isn't on the hub"]
    )
    return [
        *note,
        "base = AutoModelForCausalLM.from_pretrained(",
        *(f"    {a}," for a in arguments),
        ")",
    ]


def _bundle(placed: Placed, everything: Sequence[Placed], target: Target) -> Iterator[str]:
    meta = placed.artifact.meta
    run = str(meta.get("run") or "")
    if meta.get("format") == "ollama" and not placed.folder:
        gguf = _from(placed)
        name = str(meta.get("name") or target.repo.rpartition("/")[2])
        yield "With [Ollama](https://ollama.com), with the prompts that the model was trained on:"
        yield _sh([
            f"hf download {target.repo} {gguf} {MODELFILE} --local-dir {name.rpartition('/')[2]}",
            f"cd {name.rpartition('/')[2]} && {run}",
        ])  # fmt: skip
        yield (
            f"`ollama run hf.co/{target.repo}` doesn't read the `Modelfile`. It writes a template "
            "of its own, which finery hasn't verified."
        )
    elif run and placed.folder:
        yield f"{code(placed.name)} ({inline(meta.get('format', 'bundle'))}):"
        pattern = json.dumps(f"{placed.folder}/*")
        yield _sh([
            f"hf download {target.repo} --include {pattern} --local-dir .",
            f"cd {placed.folder} && {run}",
        ])  # fmt: skip


def _from(placed: Placed) -> str:
    """The GGUF that a Modelfile at the root names."""
    text = next(f.source for f in placed.files if f.path == MODELFILE)
    lines = text.decode().splitlines() if isinstance(text, bytes) else []
    return next(line.removeprefix("FROM ./") for line in lines if line.startswith("FROM ./"))


def _sh(lines: Sequence[str]) -> str:
    return "\n".join(["```sh", *lines, "```"])


# -- how good it is ------------------------------------------------------------------------------


def _results(facts: Facts, placed: Sequence[Placed]) -> Iterator[str]:
    yield "## Results"
    if not facts.evaluations:
        yield "The recipe has no evaluation of this model, or none that this card waits for."
        return
    digests = {p.artifact.digest for p in placed}
    for group in _comparable(facts.evaluations):
        yield _heading(group)
        yield _scores([judged for evaluation in group for judged in evaluation.judged], digests)
        for evaluation in group:
            for condition in evaluation.require.items():
                yield f"A build fails unless {code(' '.join(condition))}."
    if any(j.digest not in digests for e in facts.evaluations for j in e.judged):
        yield "Models in *italics* are for comparison and aren't in this repository."


def _comparable(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Evaluations of different models on the same rows, which share a table."""
    groups: list[list[Evaluation]] = []
    for evaluation in evaluations:
        models = {judged.ref for judged in evaluation.judged}
        same = [g for g in groups if _basis(g[0]) == _basis(evaluation)]
        fitting = [g for g in same if models.isdisjoint(j.ref for e in g for j in e.judged)]
        if fitting:
            fitting[0].append(evaluation)
        else:
            groups.append([evaluation])
    return groups


def _basis(evaluation: Evaluation) -> tuple[Any, ...]:
    metrics = {score.metric for judged in evaluation.judged for score in judged.scores}
    return evaluation.use, evaluation.rows.digest, evaluation.temperature, metrics


def _heading(group: Sequence[Evaluation]) -> str:
    first = group[0]
    names = ", ".join(f"**{inline(evaluation.step)}**" for evaluation in group)
    how = "" if first.temperature is None else f" at temperature {first.temperature:g}"
    return (
        f"{names} ({code(first.use)}): {first.rows.count:,} rows of {code(first.rows.ref)}{how}. "
        "In brackets: the 95 % interval."
    )


def _scores(models: Sequence[Judged], pushed: set[str]) -> str:
    """A table with a line for each metric: models are fewer, and a page is narrow."""
    metrics = list(dict.fromkeys(score.metric for judged in models for score in judged.scores))
    rows = [[inline(metric), *(_cell(judged, metric) for judged in models)] for metric in metrics]
    names = [_model(judged, pushed) for judged in models]
    return _table(["Metric", *names], rows, range(1, len(names) + 1))


def _cell(judged: Judged, metric: str) -> str:
    return next((_value(score) for score in judged.scores if score.metric == metric), "")


def _model(judged: Judged, pushed: set[str]) -> str:
    return code(judged.ref) if judged.digest in pushed else f"*{inline(judged.ref)}*"


def _value(score: Score) -> str:
    if not score.is_share or not 0 <= score.value <= 1:
        return f"{score.value:g}"
    text = percent(score.value).replace(" ", NARROW)
    if score.low is None or score.high is None:
        return text
    return f"{text} ({100 * score.low:.1f}–{100 * score.high:.1f})".replace(" ", NARROW)


# -- what it learned -----------------------------------------------------------------------------

_MEASURED = {
    "epochs": "epochs", "steps": "optimizer steps", "best_step": "weights from step",
    "tokens": "tokens in the rows", "loss_tokens": "tokens with loss",
    "eval_loss": "validation loss", "eval_preference_accuracy": "validation accuracy",
    "trainable_parameters": "trained parameters", "parameters": "parameters of the model",
}  # fmt: skip
"""Facts about a trained model → what the card calls them."""


def _training(facts: Facts) -> Iterator[str]:
    if facts.trainings:
        yield "## Training"
    for training in facts.trainings:
        lines = [f"**{inline(training.step)}** ({code(training.use)})", ""]
        lines += [f"- learns from {_taken(rows)}" for rows in training.rows]
        lines += [f"- validates with {_taken(rows)}" for rows in training.validation]
        for name, label in _MEASURED.items():
            value = training.meta.get(name)  # None also for a loss that is no number
            lines += [] if value is None else [f"- {label}: {_number(value)}"]
        yield "\n".join(lines)


def _taken(rows: Rows) -> str:
    return f"{rows.count:,} rows of {code(rows.ref)} (digest {code(rows.digest[:CHECKED])})"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _data(facts: Facts) -> Iterator[str]:
    yield "## Data"
    if not facts.origins:
        yield "The recipe takes no rows from outside for this model."
    else:
        yield _table(
            ["Source", "Read from", "Rows", "Used for", "Digest"],
            [_origin(origin) for origin in facts.origins],
            [2],
        )
        yield f"Digests are the first {CHECKED} digits of BLAKE3 over the rows."
    for generated in facts.generated:
        models = " and ".join(map(code, generated.models)) or "a model"
        count = sum(rows.count for rows in generated.rows)
        yield f"{code(generated.step)} ({code(generated.use)}): {count:,} rows written by {models}."
    for dropped in facts.dropped:
        counts = ", ".join(f"{inline(why)} {n:,}" for why, n in sorted(dropped.counts.items()))
        yield f"Dropped from {code(dropped.ref)}: {counts}."


def _origin(origin: Origin) -> list[str]:
    place = origin.place or origin.use
    if origin.repo:
        parts = [origin.repo, origin.config, origin.split]
        place = f"{' / '.join(filter(None, parts))} at {origin.revision[:CHECKED]}"
    return [
        code(origin.rows.ref), code(place), f"{origin.rows.count:,}",
        ", ".join(origin.roles), code(origin.rows.digest[:CHECKED]),
    ]  # fmt: skip


def _contamination(facts: Facts) -> Iterator[str]:
    if facts.apart:
        yield "## Contamination"
        yield "Do the training rows repeat the rows of an evaluation?"
        yield "\n".join(f"- {_apart(pair)}" for pair in facts.apart)


def _apart(pair: Apart) -> str:
    pair_text = f"{code(pair.training)} and {code(pair.evaluation)}"
    if pair.overlap:
        return f"{pair_text}: **they may**: {inline(pair.overlap)}."
    if pair.by:
        return (
            f"{pair_text}: no. {code(pair.by)} compared their prompts, and dropped copies and near "
            "copies from the training rows."
        )
    return f"{pair_text}: **not known**. They have different sources, and nothing compared them."


# -- what may be done with it --------------------------------------------------------------------


def _licenses(facts: Facts, target: Target) -> Iterator[str]:
    yield "## Licences"
    lines = []
    license = license_of(facts, target)
    if target.license:
        lines.append(f"- this repository: {inline(target.license)}, as the recipe states")
    for base in bases_of(facts):
        known = inline(base.license) if base.license else "**not known**: the model names none"
        lines.append(f"- base model {code(base.name or base.step)}: {known}")
    lines += [
        f"- data {code(origin.step)}: {_data_license(facts, origin, target)}"
        for origin in facts.origins
    ]
    if not license:
        lines.append("- this repository: **not known**, since the licence of its base isn't")
    yield "\n".join(lines)


def _data_license(facts: Facts, origin: Origin, target: Target) -> str:
    if origin.step in facts.licenses:
        return f"{inline(facts.licenses[origin.step])}, as the recipe states"
    if origin.repo:
        see = _link(target, origin.repo, "datasets/")
        return f"**not known**: the recipe states none. See {see}"
    return "**not known**: the recipe states none"


def _recipe(facts: Facts, target: Target) -> Iterator[str]:
    if not target.recipe:
        return
    recipe, lock = facts.recipe, facts.lock
    yield "## How it was made"
    also = f", and {code(lock.file)} pins what it takes from the hub" if lock.text else ""
    yield f"{code(recipe.file)} is the recipe{also}. The data that it reads isn't included."
    if recipe.redacted:
        yield "What looked like a secret is `***` in this copy of the recipe."
    steps = " ".join(dict.fromkeys(ref.partition(".")[0] for ref in facts.bases))
    sets = "".join(f" {text}" for text in recipe.overrides)
    yield _sh([f"finery build {recipe.file} {steps}{sets}"])


def _files(facts: Facts, files: Sequence[File]) -> Iterator[str]:
    """The models' files. The size of the recipe would change the card with each comment in it."""
    others = (README, MARK, facts.recipe.file, facts.lock.file)
    yield "## Files"
    listed = [file for file in files if file.path not in others]
    rows = [[code(file.path), size(file.size)] for file in sorted(listed)]
    yield _table(["File", "Size"], rows, [1])
