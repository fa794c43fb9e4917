"""Whether vLLM turns conversations into the tokens of the training, for all families at once."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.checks import CALLERS, YES, frozen_of
from models.families import SHAPES, Family
from models.rows import PROMPTS
from models.tiny import MULTIPLE, SHAPE, tokenizer_of

from finery import FineryError
from finery_transformers.frozen.template import FrozenTemplate
from finery_vllm.installation import installation

RENDER = Path(__file__).with_name("vllm_render.py")
WHY = {
    "deepseekv3": "vLLM gives templates the arguments of calls as objects, and this one takes text",
    "gptoss": "vLLM writes the prompts of gpt-oss with the package openai_harmony and "
    "today's date, whatever the chat template says",
}
"""Template → why vLLM writes other prompts, or none."""
Expected = list[tuple[str, list[int]]]
"""(name of a prompt, its tokens in the training), one for each request."""


def outcomes(families: Sequence[Family], smollm2: Path, folder: Path) -> dict[str, str]:
    """Family → yes or no with the reason, from one process of vLLM's Python. folder: an empty one.

    vLLM gets what vllm.bundle writes: the tokenizer and the frozen chat template.
    """
    asked: dict[str, Any] = {}
    expected: dict[str, Expected] = {}
    for number, family in enumerate(families):
        own = folder / str(number)
        frozen = frozen_of(tokenizer_of(family, smollm2), own / "trained", tools=True)
        write_served(own / "served", family, frozen)
        pairs = [*requests(frozen)]
        expected[family.name] = [(name, tokens) for name, tokens, _ in pairs]
        asked[family.name] = {
            "folder": str(own / "served"), "requests": [body for _, _, body in pairs]
        }  # fmt: skip
    results = _rendered(asked, folder)
    templates = {family.name: family.template for family in families}
    return {
        name: _outcome(results[name], of, WHY.get(templates[name], ""))
        for name, of in expected.items()
    }


def write_served(folder: Path, family: Family, frozen: FrozenTemplate) -> None:
    """The files of a model that vLLM reads to write prompts: all but its weights."""
    import transformers

    tokenizer = frozen.for_serving()
    tokenizer.save_pretrained(str(folder))
    (folder / "chat_template.jinja").write_text(frozen.source, encoding="utf-8")
    size = -(-len(tokenizer) // MULTIPLE) * MULTIPLE
    sizes = {"vocab_size": size, "vocab_size_per_layer_input": size}
    cls = getattr(transformers, family.config)
    config = cls(**{**SHAPE, **sizes, **SHAPES[family.config]})
    model: Any = transformers.AutoModelForCausalLM
    config.architectures = [model._model_mapping[cls].__name__]
    config.save_pretrained(str(folder))


def requests(frozen: FrozenTemplate) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
    """(name, tokens of the training, body of a request), of the prompts that the template takes.

    Tools are sent with `tool_choice: none`, which changes no prompt: vLLM takes others only with
    a parser of calls, which depends on the family.
    """
    for name, (messages, tools) in PROMPTS.items():
        if tools and not frozen.tools:
            continue
        try:
            tokens = frozen.trained.prompt_tokens(messages, tools)
        except FineryError:
            continue
        body = {"messages": messages} | ({"tools": tools, "tool_choice": "none"} if tools else {})
        for passed in CALLERS:
            yield name, tokens, body | ({"chat_template_kwargs": passed} if passed else {})


def _rendered(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    python = installation().python
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    answers = folder / "rendered.json"
    subprocess.run(
        [str(python), str(RENDER), str(answers)],
        input=json.dumps(asked), text=True, check=True, capture_output=True,
        env={**environment, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )  # fmt: skip
    results: dict[str, Any] = json.loads(answers.read_text("utf-8"))
    return results


def _outcome(results: list[list[int] | str] | str, expected: Expected, why: str) -> str:
    if isinstance(results, str):
        return f"not tested: vLLM doesn't take the model: {_first_line(results)}"
    pairs = list(zip(expected, results, strict=True))
    refused = {name: result for (name, _), result in pairs if isinstance(result, str)}
    other = dict.fromkeys(name for (name, tokens), result in pairs if result != tokens)
    if not other:
        return YES
    named = "" if len(other) == len({*dict(expected)}) else f" (in {', '.join(other)})"
    if why:
        return f"no: {why}{named}"
    if refused:
        words = _first_line(min(refused.values()))
        return f"no: vLLM writes no prompts for {', '.join(refused)}: {words}"
    return f"no: vLLM writes other tokens for {', '.join(other)}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]
