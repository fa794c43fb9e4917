"""Estimates for `finery plan` of a training that would run: parameters, memory, time."""

import math
import statistics
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from finery import Estimate, Inputs, Model
from finery.advanced import Forecasts, Graph, Node, Past, rough_duration, value_of
from finery.rows import Row, split_turns
from finery_trl.estimate import architecture as facts
from finery_trl.estimate.architecture import Machine, UnknownSize
from finery_trl.estimate.memory import (
    Adapter,
    Architecture,
    Load,
    Memory,
    memory,
    of_size,
    tokens_per_second,
)
from finery_trl.settings import Training
from finery_trl.train.messages import ways_to_save
from finery_trl.train.save import MEASURED_AS

GIB = 2**30
MENTIONED = GIB
"""Memory that other programs use, from which an estimate mentions it."""
CHARACTERS_A_TOKEN = 3.5
"""Prose has about 4, lists and JSON about 3, languages other than English fewer."""
TEMPLATE_TOKENS = 24
"""Tokens that a chat template adds to a row."""
MOST_READ = 20_000
"""Rows to measure. The longest of this many is long enough."""
RECENT = 5
"""Number of past trainings to average the speed over."""


class Sizes(NamedTuple):
    """The sizes of a model. guessed: why they are only a guess; empty if they are known."""

    model: Architecture
    guessed: str = ""


class Lengths(NamedTuple):
    """Rows in tokens, estimated from characters: number, all tokens, the longest, an answer.

    is_limit: whether no row could be read, so that the lengths are the most that there can be.
    """

    rows: int | None
    total: float | None
    longest: int
    answer: int
    is_limit: bool = False


def estimate(step: Training, inputs: Inputs) -> Estimate | None:
    """The estimate for a training, if these formulas apply to it."""
    if step.on_policy:
        return _estimate_of_sampling(step, inputs)
    return _estimate(step, inputs) if step.estimated else None


def _estimate_of_sampling(step: Any, inputs: Inputs) -> Estimate:
    """A training whose model writes the answers: the time from earlier ones in this project.

    The memory is only estimated for distillation.
    """
    cost = ("effective_batch_size", "max_completion_length", "num_generations")
    similar = [
        past
        for past in inputs.results.history(inputs.node.use)
        if past.meta.get("steps")
        and all(past.settings.get(name) == getattr(step, name, None) for name in cost)
    ]
    lengths = lengths_of(inputs, step.max_length)
    memory = _memory_with_teacher(step, inputs, lengths)
    if not similar or lengths.rows is None:
        unknown = "time" if memory else "memory and time"
        text = f"{unknown} unknown before the first build: the model's answers take most of it"
        found: dict[str, Any] = {"unknown": text}
    else:
        answers = lengths.rows * step.answers_per_row
        steps = -(-answers // step.effective_batch_size) * step.shared_steps * step.epochs
        seconds = steps * statistics.median(p.seconds / p.meta["steps"] for p in similar[:RECENT])
        steps_text = f"{steps:.0f} optimizer steps as in earlier ones"
        text = f"time: about {rough_duration(seconds)} ({steps_text})"
        found = {"seconds": round(seconds)}
    if memory is None:
        return Estimate(lines=[text], facts=found)
    lines, facts = [*memory.lines, text], {**memory.facts, **found}
    return msgspec.structs.replace(memory, lines=lines, facts=facts)


def _memory_with_teacher(step: Any, inputs: Inputs, lengths: Lengths) -> Estimate | None:
    """The memory of a distillation; None for other trainings, and if a model is unknown."""
    if type(step).__spec__.learns != "teacher":
        return None
    machine = _machine(step, inputs.node)
    try:
        model, teacher = (
            architecture(inputs.forecasts, inputs.node, field).model
            for field in ("model", "teacher")
        )
    except UnknownSize:
        return None
    room = step.max_completion_length
    lengths = lengths._replace(longest=min(step.max_length, lengths.longest + room), answer=room)
    used = memory_of(step, model, lengths, machine, teacher)
    return Estimate(
        lines=[_memory_line(used, machine, lengths)],
        facts={"memory_bytes": round(used.total), "available_bytes": round(machine.free)},
        **_warning(step, used, machine, lengths),
    )


def _machine(step: Training, node: Node) -> Machine:
    return facts.machine(step.processes, node.gpus, node.resources.gpu_memory)


def _estimate(step: Training, inputs: Inputs) -> Estimate:
    machine = _machine(step, inputs.node)
    try:
        model, guessed = architecture(inputs.forecasts, inputs.node)
    except UnknownSize as unknown:
        text = f"memory and time unknown: {unknown}"
        return Estimate(lines=[text], facts={"unknown": str(unknown)})
    lengths = lengths_of(inputs, step.max_length)
    if type(step).__spec__.learns == "text":  # packed into blocks, with loss everywhere
        lengths = Lengths(lengths.rows, lengths.total, step.max_length, step.max_length)
    used = memory_of(step, model, lengths, machine)
    pace = pace_of(step, inputs, model)
    seconds = None
    if pace is not None and lengths.total is not None:
        seconds = pace.before + lengths.total * step.epochs / pace.speed
    adapter = adapter_of(step)
    trained = model.parameters() if adapter is None else adapter.parameters(model)
    about = f" (by the name of its base: {guessed})" if guessed else ""
    return Estimate(
        lines=[
            f"trains {_count(trained)} of {_count(model.parameters())} parameters{about}",
            _memory_line(used, machine, lengths),
            *([] if pace is None else [_time_line(pace.speed, seconds, lengths)]),
        ],
        facts={
            "parameters": model.parameters(),
            "trainable_parameters": trained,
            "memory_bytes": round(used.total),
            "memory": {name: round(value) for name, value in used._asdict().items()},
            "available_bytes": round(machine.free),
            "device": machine.device,
            "longest_tokens": lengths.longest,
            "is_at_most": lengths.is_limit,
            "seconds": None if seconds is None else round(seconds),
            "tokens_per_second": None if pace is None else round(pace.speed, 1),
            "is_rough": bool(guessed),
        },
        **_warning(step, used, machine, lengths),
    )


# -- the model -----------------------------------------------------------------------------------


def architecture(forecasts: Forecasts, node: Node, field: str = "") -> Sizes:
    """The sizes of the model under a step that takes one. Raises `UnknownSize`.

    field: the input with the model; default: the one with the role `base`, else the first.

    They come from the model if it is built, else from the forecast of the step that makes it, else
    from the model that this step takes, since no step changes the sizes of a model. If they can't
    be read, they follow from the number of parameters in the model's name.
    """
    models = node.sources_of(Model)
    fitting = (s for s in models if (s.field == field if field else s.role == "base"))
    source = next(fitting, models[0])
    artifact = forecasts.results.artifact(source.step, source.output)
    if isinstance(artifact, Model):
        return Sizes(facts.of_artifact(artifact))
    under = forecasts.graph.nodes[source.step]
    forecast = forecasts.forecast(under)
    model_facts = value_of(forecast.facts)
    reason = f"{under.name} isn't built yet"
    try:
        model = _facts(forecasts.graph, under, model_facts)
    except UnknownSize as unknown:
        model, reason = None, str(unknown)
        if "hub" not in model_facts:  # its files are here, but of a kind that can't be estimated
            raise
    if model is not None:
        return Sizes(model)
    if under.sources_of(Model):
        return architecture(forecasts, under)
    parameters = forecast.parameters()
    if parameters:
        return Sizes(of_size(parameters), reason)
    raise UnknownSize(reason)


def _facts(graph: Graph, node: Node, model_facts: Mapping[str, Any]) -> Architecture | None:
    """The sizes from the forecast of a step; None if it doesn't provide them."""
    if "config" in model_facts:
        return facts.of_config(model_facts["config"], model_facts.get("parameters"))
    if "gguf" in model_facts:
        return facts.of_gguf(model_facts["gguf"])
    if "hub" in model_facts:
        repo, revision = model_facts["hub"]
        return facts.of_hub(repo, graph.pin_of(node) or revision)
    return None


# -- the rows ------------------------------------------------------------------------------------


def lengths_of(inputs: Inputs, max_rows: int) -> Lengths:
    """The rows of a training, as built or from a plain file, if they are available."""
    fields = inputs.node.inputs_as("train")
    count, samples = inputs.count(*fields), [inputs.sample(f, MOST_READ) for f in fields]
    rows = count.rows if count is not None else None
    if None in samples:
        return Lengths(rows, None, max_rows, max_rows, is_limit=True)
    lengths = measured(chain.from_iterable(sample or () for sample in samples), max_rows)
    mean = lengths.total
    last = inputs.results.last(inputs.name)
    if last is not None and last.meta.get("rows"):
        mean = last.meta["tokens"] / last.meta["rows"]
    total = None if rows is None or mean is None else mean * rows
    return lengths._replace(rows=rows, total=total)


def measured(rows: Iterable[Row], max_rows: int) -> Lengths:
    """The lengths of rows; `total` is the mean."""
    pairs = list(islice(map(_sizes, rows), MOST_READ))
    if not pairs:
        return Lengths(None, None, max_rows, max_rows, is_limit=True)
    sizes = [prompt + answer for prompt, answer in pairs]
    answer = max(answer for _, answer in pairs)
    return Lengths(
        rows=None,
        total=statistics.fmean(_tokens(size) for size in sizes),
        longest=min(max_rows, round(_tokens(max(sizes)))),
        answer=min(max_rows, round(answer / CHARACTERS_A_TOKEN) + 2),
    )


def _tokens(characters: int) -> float:
    return characters / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS


def _sizes(row: Row) -> tuple[int, int]:
    """Characters of the prompt, and of the longest of the answers.

    All of a record that is no row yet may be the answer, and so may all of a conversation with
    several answers, whose places differ between rows.
    """
    turns = row.get("messages") or ()
    is_split = isinstance(row.get("prompt"), list)
    if is_split or sum(isinstance(t, dict) and t.get("role") == "assistant" for t in turns) == 1:
        prompt, completion = split_turns(row)
        return _characters(prompt), max(map(_characters, (completion, row.get("rejected", []))))
    return 0, len(msgspec.json.encode(row))


def _characters(turns: Any) -> int:
    if isinstance(turns, str):
        return len(turns)
    return sum(len(str(turn.get("content") or "")) for turn in turns)


# -- memory --------------------------------------------------------------------------------------


def memory_of(
    step: Training,
    model: Architecture,
    lengths: Lengths,
    machine: Machine,
    teacher: Architecture | None = None,
) -> Memory:
    """The peak memory of the training on this machine."""
    rows = step.batch_size(lengths.longest)
    sequences = 2 * rows if step.compares else rows
    # Logits are computed only at positions with loss in some row. Rows of a batch are about equally
    # long, so their answers are at about the same positions.
    answers = round(1.25 * lengths.answer) + 16
    load = Load(
        rows=sequences,
        tokens=lengths.longest,
        answers=answers,
        width=4 if _dtype(step, machine) == "fp32" else 2,
        checkpointing=step.gradient_checkpointing,
        device=machine.device,
        offloading=step.activation_offloading,
    )
    return memory(
        model,
        adapter_of(step),
        load,
        quantized=step.quantization is not None,
        double_quantized=step.double_quantization,
        has_reference=_has_reference(step),
        teacher=teacher,
        optim=step.optim,
    )


def _has_reference(step: Training) -> bool:
    """Whether a copy of what is trained is kept. A new adapter is switched off instead.

    TRL copies an adapter that is trained further even if it computes with the copy only before the
    training.
    """
    if step.lora is not None:
        return step.compares and step.continues()
    return step.keeps_reference


def _dtype(step: Training, machine: Machine) -> str:
    """The dtype that it computes in on this machine."""
    return machine.dtype if step.dtype == "auto" else step.dtype


def adapter_of(step: Training) -> Adapter | None:
    """The adapter that is trained, None if all weights are."""
    if step.lora is None:
        return None
    return Adapter(step.lora.r, step.lora.target_modules, step.lora.use_dora)


def _warning(step: Training, used: Memory, machine: Machine, lengths: Lengths) -> dict[str, str]:
    if machine.unused is not None:
        return {"warning": machine.unused.reason, "fix": machine.unused.fix}
    if machine.device == "cpu" and _dtype(step, machine) == "fp16":
        return {"warning": "fp16 needs a GPU, and there is none here", "fix": "dtype: fp32"}
    if used.total <= machine.free:
        return {}
    rows = step.batch_size(lengths.longest)
    ways = ways_to_save(step, rows, can_page=machine.device == "cuda")
    if machine.free == machine.share:
        ways.insert(0, f"gpu_memory: {math.ceil(used.total / 2**30)}GB")
        limit = f"resources gives it {_gib(machine.share)} GiB of a GPU"
    else:
        limit = (
            f"this {machine.where} has {_gib(machine.free)} GiB{' free' if machine.used else ''}"
        )
    needs = f"it won't fit: it needs about {_gib(used.total)} GiB"
    if lengths.is_limit:
        needs = f"it may not fit: it needs {_gib(used.total)} GiB if a row has `max_length` tokens"
    return {
        "warning": f"{needs}, and {limit}",
        "fix": ", or ".join([*ways, "shorter rows", "a smaller model"]),
    }


# -- time ----------------------------------------------------------------------------------------


class Pace(NamedTuple):
    """Of earlier trainings like this one.

    speed: tokens per second in optimizer steps. before: seconds of all else, e.g. of loading.
    """

    speed: float
    before: float


def pace_of(step: Training, inputs: Inputs, model: Architecture) -> Pace | None:
    """What earlier trainings like this one in this project say; None without any."""
    similar = [p for p in inputs.results.history(inputs.node.use) if _alike(p, step)][:RECENT]
    paces = {p.key: pace for p in similar if (pace := _pace(p))}
    rates = [(float(p.meta["parameters"]), paces[p.key].speed) for p in similar if p.key in paces]
    speed = tokens_per_second(rates, model.parameters())
    if speed is None:
        return None
    return Pace(speed, statistics.median(pace.before for pace in paces.values()))


def _alike(past: Past, step: Training) -> bool:
    """Whether a past training did the same kind of work per token."""
    adapter = any(name.startswith("lora.") for name in past.settings)
    same = adapter == (step.lora is not None)
    quantized = past.settings.get("quantization")
    return same and quantized == step.quantization and bool(past.meta.get("parameters"))


def _pace(past: Past) -> Pace | None:
    """Of one training; None if it measured nothing, since it only resumed at its end."""
    tokens, epochs = past.meta.get("tokens"), past.meta.get("epochs")
    speed = past.runtime.get(MEASURED_AS, {}).get("tokens_per_second")
    if not tokens or not epochs or not speed:
        return None
    return Pace(float(speed), max(0.0, past.seconds - tokens * epochs / speed))


# -- words ---------------------------------------------------------------------------------------


def _memory_line(used: Memory, machine: Machine, lengths: Lengths) -> str:
    parts = sorted(used._asdict().items(), key=lambda part: -part[1])
    named = ", ".join(
        f"{name} {_gib(value)}" for name, value in parts if value >= 0.05 * used.total
    )
    taken = f", of which {_gib(machine.used)} GiB are in use" if machine.used >= MENTIONED else ""
    size = f"{_gib(used.total)} GiB of {_gib(machine.memory)} GiB{taken}"
    if lengths.is_limit:
        rows = f"for rows of {lengths.longest} tokens, since none is built yet"
        return f"memory: at most {size} ({named}; {rows})"
    return f"memory: about {size} ({named}; rows of up to {lengths.longest} tokens)"


def _time_line(speed: float, seconds: float | None, lengths: Lengths) -> str:
    pace = f"{speed:.0f} tokens/s" if speed >= 10 else f"{speed:.2g} tokens/s"
    if seconds is None:
        return f"time: known once the rows are counted, at about {pace}"
    rows = f"{lengths.rows:,} rows, " if lengths.rows else ""
    return f"time: about {rough_duration(seconds)} ({rows}{pace} as in earlier trainings)"


def _gib(count: float) -> str:
    gib = count / GIB
    return f"{gib:.0f}" if gib >= 10 else f"{gib:.1f}"


def _count(parameters: float) -> str:
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g} billion"
    return f"{parameters / 1e6:.3g} million"
