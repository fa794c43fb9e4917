"""The notes, one function each: what to look at, and what to say when it looks wrong.

The figures are those of the common guides to fine-tuning small models; a function's `why` says
what a figure rests on. To give notes of your own, write a plugin with the same two hooks.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from finery import About, Graph, Node, Note, Results
from finery_advice.training import Training, trainings


class Finding(NamedTuple):
    """What a note says of one training: a line, what to write, and which setting it is about."""

    text: str
    fix: str = ""
    setting: str = ""


Look = Callable[[Training], Iterator[Finding]]
KINDS: dict[str, tuple[About, Look]] = {}
"""Name → when and why the note is given, and the function that looks."""


def note(name: str, *, when: str, why: str) -> Callable[[Look], Look]:
    """Declare a function as the note `name`."""

    def keep(look: Look) -> Look:
        KINDS[name] = (About(when=when, why=why), look)
        return look

    return keep


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """All notes on the trainings of a recipe."""
    return [
        _note(name, training, finding)
        for training in trainings(graph, results)
        for name, (_, look) in KINDS.items()
        for finding in look(training)
    ]


def _note(name: str, training: Training, finding: Finding) -> Note:
    inside = tuple(finding.setting.split(".")) if finding.setting else ()
    return Note(
        name=name,
        text=finding.text,
        fix=finding.fix,
        step=training.name,
        place=(*training.node.place, *inside),
    )


FEWEST = 100
"""Rows below which any training is short of them."""
OVERFITS = 500
"""Rows below which more than two epochs overfit fast."""
LEARNING_RATES = (1e-4, 2e-4)
"""What suits LoRA on models of a billion parameters and more."""
LEARNING_RATES_OF_SMALL = (5e-4, 2e-3)
"""What suits LoRA on models below `SMALL`, around the 1e-3 measured with SmolLM2-135M."""
SMALL = 0.5e9
BATCHES = (8, 32)
ATTENTION = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "c_attn", "query_key_value",
     "Wqkv", "query", "key", "value", "qkv"}
)  # fmt: skip


class Task(NamedTuple):
    """A kind of task: rows it takes at least, of each class where `by_class`, and the range."""

    name: str
    least: int
    range: str
    by_class: bool = False


CLASSIFICATION = Task("classification", 100, "100 to 300 a class", by_class=True)
EXTRACTION = Task("extraction and formatting", 200, "200 to 500")
STYLE = Task("style and tone", 500, "500 to 1,000")
COMPLEX = Task("complex tasks", 1000, "1,000 to 5,000")
TASKS = {
    "classification": CLASSIFICATION, "extraction": EXTRACTION, "style": STYLE, "complex": COMPLEX,
}  # fmt: skip
"""What evaluators declare as their `task` → what such a task takes."""


@note(
    "few-rows",
    when="a supervised training has fewer rows than its task takes: 100 a class for classification "
    "(`eval.classification`), 200 for extraction and formatting (`eval.exact`), 500 for style "
    "and tone (`eval.rules`), 1,000 for complex tasks such as SQL, and 100 for anything. The task "
    "is that of the evaluator that judges the model",
    why="With too few rows a model learns the rows instead of the task; below 50 to 100 a prompt "
    "with some of them as examples may do as well.",
)
def few_rows(t: Training) -> Iterator[Finding]:
    """Rows against what the task takes."""
    if t.rows is None or not t.supervised:
        return
    if t.rows.rows < FEWEST:
        yield Finding(
            f"{t.name} learns from {t.rows}: few-shot prompting in disguise",
            f"gather {FEWEST} or more, or try `prompt.model` with a few rows as examples",
            t.input_as("train"),
        )
        return
    judge, task = _task_of(t)
    if judge is not None and task is not None:
        yield from _short_of(t, judge, task)


def _task_of(t: Training) -> tuple[Node | None, Task | None]:
    """The first evaluator whose task is known, and the task."""
    for judge in t.judges_of_task:
        task = TASKS.get(type(judge.step).__spec__.task)
        if task is not None:
            return judge, task
    return None, None


def _short_of(t: Training, judge: Node, task: Task) -> Iterator[Finding]:
    assert t.rows is not None
    fix = f"gather more, or generate some: {task.range} suit {task.name}"
    place = t.input_as("train")
    if not task.by_class:
        if t.rows.rows < task.least:
            yield Finding(f"{t.name} learns from {t.rows}, few for {task.name}", fix, place)
        return
    rarest = t.rarest_class(judge)
    if rarest is not None and rarest[1] < task.least:
        label, count = rarest
        text = f"{t.name} learns from {t.rows}, {count} of the rarest class ({label:.40})"
        yield Finding(text, fix, place)


@note(
    "epochs",
    when=f"a training goes more than 2 times over fewer than {OVERFITS} rows",
    why=f"Models overfit fast on fewer than {OVERFITS} rows; 1 or 2 epochs are often enough "
    "(with `validation` the weights from before are kept).",
)
def epochs(t: Training) -> Iterator[Finding]:
    """Epochs against rows."""
    passes = t.setting("epochs")
    if passes and passes > 2 and t.rows is not None and t.rows.rows < OVERFITS:
        yield Finding(f"{t.name} goes {passes:g} times over {t.rows}", "epochs: 2", "epochs")


@note(
    "scheduler",
    when="the learning rate is constant",
    why="At a learning rate that never falls the weights keep moving to the end; a cosine lets "
    "them settle, and is the standard for fine-tuning.",
)
def scheduler(t: Training) -> Iterator[Finding]:
    """A flat course of the learning rate."""
    course = t.setting("lr_scheduler_type")
    if isinstance(course, str) and course.startswith("constant"):
        yield Finding(
            f"the learning rate of {t.name} stays flat ({course})",
            "lr_scheduler_type: cosine",
            "lr_scheduler_type",
        )


@note(
    "learning-rate",
    when="an adapter's supervised training has a learning rate outside 1e-4 to 2e-4; for a base "
    "below 0.5 billion parameters outside 5e-4 to 2e-3",
    why="The learning rate matters most of all settings: too high, and the model forgets what it "
    "knew; too low, and it hardly changes. Very small models take a higher one: at 1e-3 "
    "SmolLM2-135M went from 0 to 90 % on nine intents.",
)
def learning_rate(t: Training) -> Iterator[Finding]:
    """The peak learning rate of an adapter."""
    rate = t.setting("learning_rate")
    if not rate or not t.supervised or t.setting("lora") is None:
        return
    low, high = _rates(t.parameters)
    if not low * 0.999 <= rate <= high * 1.001:
        size = f" of {_billions(t.parameters)} parameters" if t.parameters else ""
        word = "below" if rate < low else "above"
        limit = scientific(low if rate < low else high)
        yield Finding(
            f"the learning rate of {t.name}, {scientific(rate)}, is {word} {limit}",
            f"for LoRA on a base{size} start with {scientific(low)} to {scientific(high)}",
            "learning_rate",
        )


def _rates(parameters: float | None) -> tuple[float, float]:
    """The range that suits; of a base whose size isn't known, all that may."""
    if parameters is None:
        return LEARNING_RATES[0], LEARNING_RATES_OF_SMALL[1]
    return LEARNING_RATES_OF_SMALL if parameters < SMALL else LEARNING_RATES


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
    why="What an adapter adds is scaled by lora_alpha / r. At 1 it is as strong as the settings "
    "around it assume, and LoRA's authors used 2; more acts like a higher learning rate, less "
    "like a lower one.",
)
def lora_scale(t: Training) -> Iterator[Finding]:
    """How strongly the adapter acts."""
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
    when="an adapter lies on the attention's layers alone",
    why="It takes adapters on all linear layers, attention and MLP, to match training all weights "
    "(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).",
)
def target_modules(t: Training) -> Iterator[Finding]:
    """Which layers have an adapter."""
    targets = t.setting("lora.target_modules")
    named = {targets} if isinstance(targets, str) else set(targets or ())
    if named and named <= ATTENTION:
        yield Finding(
            f"the adapter of {t.name} lies on attention only ({', '.join(sorted(named))})",
            "target_modules: all-linear",
            "lora.target_modules",
        )


@note(
    "preference-first",
    when="a model is trained with DPO that no training before it fine-tuned on answers",
    why="DPO moves probability between answers that a model can give already; supervised "
    "fine-tuning first teaches it the task.",
)
def preference_first(t: Training) -> Iterator[Finding]:
    """DPO without SFT before it."""
    if t.learns == "preferences" and not t.after_supervised():
        yield Finding(
            f"{t.name} prefers between answers that its model never learned to give",
            "train with trl.sft first, and name that step as its model",
            t.input_as("base"),
        )


@note(
    "no-evaluator",
    when="no evaluator judges a trained model, nor one made from it",
    why="Without an evaluation, whether a training helped, and whether a change made it better, "
    "is guesswork.",
)
def no_evaluator(t: Training) -> Iterator[Finding]:
    """A model that nobody judges."""
    if not t.judges:
        yield Finding(
            f"nothing evaluates {t.name}",
            f"evaluate: {{test: {{use: eval.…, models: [{t.name}], rows: …}}}}",
        )


@note(
    "no-baseline",
    when="a trained model is judged, and its base, as it is or behind a prompt, isn't judged on "
    "the same rows",
    why="Only beside its base, best of all a well prompted one (`prompt.model`), a score tells "
    "what the training was worth. Prompting often suffices.",
)
def no_baseline(t: Training) -> Iterator[Finding]:
    """No base judged beside the trained model, where there is one."""
    if t.judges and t.input_as("base") and not t.has_baseline():
        judge = t.judges[0].name
        yield Finding(
            f"{judge} judges {t.name} without its base beside it",
            f"add the base, or a prompted one, to the models of {judge}",
        )


@note(
    "batch-size",
    when=f"effective_batch_size is below {BATCHES[0]} or above {BATCHES[1]}",
    why="16 rows an optimizer step are stable for most tasks: with far fewer the steps are noisy, "
    "with far more there are few of them.",
)
def batch_size(t: Training) -> Iterator[Finding]:
    """Rows an optimizer step."""
    size = t.setting("effective_batch_size")
    if size and not BATCHES[0] <= size <= BATCHES[1]:
        yield Finding(
            f"an optimizer step of {t.name} takes {size} {'row' if size == 1 else 'rows'}",
            "effective_batch_size: 16",
            "effective_batch_size",
        )


@note(
    "no-validation",
    when="a training has no validation rows",
    why="When the validation loss rises while the training loss falls, a model overfits. Without "
    "validation rows nobody sees it, and the last weights are kept, not the best.",
)
def no_validation(t: Training) -> Iterator[Finding]:
    """No rows to see overfitting on."""
    if t.validates is False:
        yield Finding(
            f"{t.name} has no validation rows", "validation: split.validation, of data.split"
        )


@note(
    "same-rows",
    when="a model is judged, or validated, on rows of the same origin as those it learns from, "
    "and no split keeps them apart",
    why="On rows that it was trained on a model scores by memory, and the score says nothing about "
    "new ones.",
)
def same_rows(t: Training) -> Iterator[Finding]:
    """Train and test rows from one place."""
    for what, rows, origin in t.leaks():
        yield Finding(
            f"{t.name} learns from {origin}, and so do the rows of {what} come from it ({rows})",
            f"split {origin} with data.split; train on split.train and test on split.test",
            t.input_as("train"),
        )
