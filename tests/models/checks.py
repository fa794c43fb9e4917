"""What the matrix finds out of a chat template: for each ability `yes` or `no`, with the reason.

Nothing here needs weights: conversations are rendered, tokenized and verified as in a training.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from abilities import Capabilities, capabilities
from llama_server import Llama, serve
from models.families import Family
from models.rows import PROMPTS, THOUGHT, called, preference, turns
from models.stand_in import write_stand_in
from models.tiny import tokenizer_of

from finery import FineryError, Model
from finery.rows import Message, Row
from finery.testing import TestJob
from finery_ollama.derive import RENDERERS
from finery_transformers.chat import PromptTemplate
from finery_transformers.dates import writes_date
from finery_transformers.frozen.template import PROMPTS as PROMPTS_OF_ROWS
from finery_transformers.frozen.template import FrozenTemplate, frozen_template
from finery_transformers.wrapping import with_text_tools
from finery_trl.rows.example import Example
from finery_trl.rows.pairs import pairs_of
from finery_trl.rows.tokens import Reading, Tokens, examples_of
from finery_trl.rows.turns import Learn

YES = "yes"
DIFFERS = {
    "gemma4_v2": "llama.cpp gives tools' answers to this template in a field of their own "
    "(`tool_responses`), which rows don't have, and so makes",
}
"""Template → why llama-server writes other prompts."""
CALLERS: tuple[Mapping[str, Any], ...] = (
    {},
    {"enable_thinking": False, "thinking": True, "reasoning_effort": "high", "date_string": "?"},
)
"""What a server's caller may pass to a chat template. llama-server itself also passes some."""


class Way(NamedTuple):
    """How rows are given to a template. thinks: with thinking. note: the condition in words."""

    learn: Learn
    thinks: bool
    note: str = ""


WAYS = (
    Way(Learn(), False),
    Way(Learn(without_thinking="switch"), False, "with `without_thinking: switch`"),
    Way(Learn(), True, "if each answer has thinking (`reasoning_content`)"),
)
"""From the plainest on; the first that a template takes is used."""


def outcomes(family: Family, smollm2: Path, folder: Path) -> dict[str, str]:
    """Ability → yes or no with the reason. folder: an empty one, for a GGUF."""
    tokenizer = tokenizer_of(family, smollm2)
    can = capabilities(tokenizer)
    way, sft = way_of(tokenizer, can)
    prompts = _prompts(family, tokenizer, folder)
    return {
        "sft": sft,
        "dpo": _dpo(tokenizer, can),
        "turns": _five_turns(tokenizer, way, can),
        "tools": _tools(can),
        "text_tools": _text_tools(family, tokenizer, folder),
        "parallel": _parallel(can),
        "thinking": _no(can.thinking),
        "prompts": prompts,
        "ollama": ollama(family, tokenizer, prompts),
    }


def way_of(tokenizer: Any, can: Capabilities) -> tuple[Way, str]:
    """How rows with one answer are given to a template, and whether it can be trained on."""
    reasons = []
    for way in WAYS:
        try:
            examples([turns(1, thinks=way.thinks)], tokenizer, way.learn)
        except FineryError as error:
            reasons.append(reason(error))
        else:
            return way, f"{YES}, {way.note}" if way.note else YES
    return WAYS[0], f"no: {_template_fault(can) or reasons[0]}"


def examples(rows: Sequence[Row], tokenizer: Any, learn: Learn) -> list[Example]:
    """Rows as a training reads them."""
    return list(examples_of(rows, reading(tokenizer), learn))


def reading(tokenizer: Any) -> Reading:
    """How a training reads rows."""
    return Reading(Tokens.of(tokenizer, {}), TestJob(), "rows", 4096)


def _dpo(tokenizer: Any, can: Capabilities) -> str:
    # Preferences have no setting for rows without thinking.
    for thinks, note in ((False, ""), (True, f", {WAYS[2].note}")):
        try:
            pairs_of([preference(thinks=thinks)], reading(tokenizer))
        except FineryError as error:
            failed = reason(error)
        else:
            return YES + note
    return f"no: {_template_fault(can) or failed}"


def _five_turns(tokenizer: Any, way: Way, can: Capabilities) -> str:
    try:
        parts = examples([turns(5, thinks=way.thinks)], tokenizer, way.learn)
    except FineryError as error:
        return f"no: {_template_fault(can) or reason(error)}"
    if len(parts) == 1:
        return f"{YES} (one sequence)"
    return f"{YES} ({len(parts)} sequences): {can.prefix_preserving}"


def _template_fault(can: Capabilities) -> str:
    """Why no row can be learned with a template, in words about the template."""
    return can.unthinking or can.end_of_turn


def _tools(can: Capabilities) -> str:
    return _no(can.tools or can.calls or can.arguments or can.answers)


def _parallel(can: Capabilities) -> str:
    if can.tools or can.calls:
        return _tools(can)
    return _no("it writes only one call of a turn" if "call of" in can.parallel else can.parallel)


def _no(why: str) -> str:
    """The outcome for a reason of `capabilities`, without the names in its probes."""
    words = {
        r"^the model's chat template refuses": "it refuses",
        r"^the tool \w+ isn't": "descriptions of tools aren't",
        r"^the call of \w+ isn't": "calls aren't",
    }
    for pattern, text in words.items():
        why = re.sub(pattern, text, why)
    return f"no: {why}" if why else YES


def _prompts(family: Family, tokenizer: Any, folder: Path) -> str:
    """Whether llama-server makes the tokens of the training with the frozen template."""
    differs = _differs(family, tokenizer, folder)
    return _no_prompts(family, differs) if differs else YES


def ollama(family: Family, tokenizer: Any, prompts: str) -> str:
    """What Ollama's source says of its prompts. prompts: the outcome of llama.cpp."""
    for name, renderer in RENDERERS.items():
        if name.replace("_", "") == family.architecture.lower():
            return (
                f"not tested: Ollama writes the prompts of {family.architecture} with a renderer "
                f"of its own, {renderer}"
            )
    if THOUGHT in PromptTemplate(tokenizer).prompt(PROMPTS["earlier thinking"][0]):
        return (
            "no: Ollama drops the thinking (`reasoning_content`) of earlier answers, which this "
            "template writes"
        )
    return prompts


def _text_tools(family: Family, tokenizer: Any, folder: Path) -> str:
    """Whether `tools_as: text` gives a template tools, in a training and in llama.cpp."""
    wrapped = deepcopy(tokenizer)
    wrapped.chat_template = with_text_tools(tokenizer)
    outcome = _tools(capabilities(wrapped))
    differs = "" if outcome != YES else _differs(family, wrapped, folder)
    return _no_prompts(family, differs) if differs else outcome


def _no_prompts(family: Family, differs: str) -> str:
    return f"no: {DIFFERS.get(family.template, 'llama.cpp writes')} {differs}"


def _differs(family: Family, tokenizer: Any, folder: Path) -> str:
    """The prompts of a frozen template that llama-server turns into other tokens."""
    frozen = frozen_of(tokenizer, folder / "tokenizer", tools=True)
    gguf = write_stand_in(folder / "stand-in.gguf", frozen.for_serving(), family.split)
    with serve(gguf) as server:
        differs = different(frozen, server)
    gguf.unlink()
    return differs


def frozen_of(tokenizer: Any, folder: Path, *, tools: bool) -> FrozenTemplate:
    """The frozen template of a model that was trained with or without tools, in 2024."""
    tokenizer.save_pretrained(str(folder))
    used = {"tools": tools, "thinking": False, "switched": False}
    dated = {"date": "2024-02-09"} if writes_date(PromptTemplate(tokenizer)) else {}
    meta = {"format": "transformers", PROMPTS_OF_ROWS: used | dated}
    return frozen_template(Model(folder, meta=meta))


def different(frozen: FrozenTemplate, server: Llama) -> str:
    """The prompts that llama-server turns into other tokens, of those that the template takes."""
    names = []
    errors = {}
    for name, (messages, tools) in PROMPTS.items():
        if tools and not frozen.tools:
            continue
        try:
            expected = frozen.trained.prompt_tokens(messages, tools)
        except FineryError:
            continue
        request = {"messages": messages} | ({"tools": tools} if tools else {})
        try:
            texts = {server.prompt({**request, "chat_template_kwargs": c}) for c in CALLERS}
        except OSError as error:
            errors[name] = json.loads(str(error))["error"]["message"]
            continue
        if any(server.tokens(text) != expected for text in texts):
            names.append(name)
    if errors:
        return f"no prompts for {', '.join(errors)}: {min(errors.values())}"
    return f"other tokens for {', '.join(names)}" if names else ""


def reason(error: FineryError) -> str:
    """An error's reason without the rows that it names."""
    without_place = re.sub(r"^rows( \(\w+\))?: ", "", error.what)
    return re.sub(r" in \d+ of \d+ rows: .*", "", without_place)


def five_turns(tokenizer: Any) -> list[Example] | None:
    """Five turns as a training reads them; None if it refuses them."""
    way, _ = way_of(tokenizer, capabilities(tokenizer))
    return _read(turns(5, thinks=way.thinks), tokenizer, way)


def tool_row(tokenizer: Any) -> list[Example] | None:
    """A row with a tool call as a training reads it; None if it refuses it."""
    way, _ = way_of(tokenizer, capabilities(tokenizer))
    return _read(called(thinks=way.thinks), tokenizer, way)


def _read(row: Row, tokenizer: Any, way: Way) -> list[Example] | None:
    try:
        return examples([row], tokenizer, way.learn)
    except FineryError:
        return None


def answer_tokens(tokenizer: Any) -> int:
    """Tokens of the answers in five turns, counted with transformers alone.

    Each answer is what the template writes after the prompt before it, up to the end of its turn.
    """
    way, _ = way_of(tokenizer, capabilities(tokenizer))
    switched = way.learn.without_thinking == "switch"
    switch = (PromptTemplate(tokenizer).thinking_switch() or {}) if switched else {}
    messages = [_with_every_field(m) for m in turns(5, thinks=way.thinks)["messages"]]
    ends = tokenizer.convert_ids_to_tokens(sorted(Tokens.of(tokenizer, {}).ends))
    end = re.compile(f"(?:{'|'.join(map(re.escape, ends))})+")
    write: Callable[..., str] = tokenizer.apply_chat_template
    total = 0
    for index in range(1, 10, 2):
        asked = write(messages[:index], tokenize=False, add_generation_prompt=True, **switch)
        whole = write(messages[: index + 1], tokenize=False, **switch)
        ended = end.search(whole, len(asked))
        assert ended is not None
        learned = whole[len(asked) : ended.end()]
        total += len(tokenizer(learned, add_special_tokens=False)["input_ids"])
    return total


def _with_every_field(message: Message) -> Message:
    """A message with its thinking under the two names that templates know."""
    thinking = message.get("reasoning_content")
    return message if thinking is None else {**message, "thinking": thinking}
