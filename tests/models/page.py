"""Writes docs/models.md and tests/models/results.json: what works with which family.

python tests/models/page.py           test all families and write both (minutes)
python tests/models/page.py --vllm    test the prompts of vLLM, which FINERY_VLLM names, write both
python tests/models/page.py --page    write the page from results.json
python tests/models/page.py --pin     write the digests of the chat templates, templates.txt
"""

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "models.md"
RESULTS = Path(__file__).with_name("results.json")
PINS = Path(__file__).with_name("templates.txt")
COLUMNS = {
    "sft": "SFT",
    "dpo": "DPO",
    "turns": "Five turns",
    "tools": "Tools",
    "text_tools": "Tools as text",
    "parallel": "Parallel calls",
    "thinking": "Thinking",
    "gguf": "GGUF",
}
SERVERS = {"prompts": "llama.cpp", "vllm": "vLLM", "ollama": "Ollama (derived)"}
NAMES = ("llama.cpp", "llama-server", "transformers", "vLLM")
"""Names that a sentence may begin with."""
Results = dict[str, dict[str, str]]
HEAD = """<!-- Generated: python tests/models/page.py -->

# Models

finery's tests train, merge and export a tiny model of each family below, with random weights, the
family's real architecture, and its real chat template, which the package `trl` carries. The
tokenizer is a stand-in: SmolLM2's vocabulary with the control tokens of the family as single tokens
(for Gemma's GGUF a SentencePiece tokenizer, trained on a few sentences). The page says whether
finery, transformers and llama.cpp agree on such a model. It doesn't say how well a model learns,
whether a model of full size fits into memory, or whether llama.cpp tokenizes the family's own
vocabulary as transformers does. `finery check --deep` and `gguf.export` verify your rows and your
model.
"""
LEGEND = """\
- **SFT**, **DPO**: finery accepts a row with one answer, and two optimizer steps with LoRA run.
  The merged model of the SFT gives the same logits as base and adapter.
- **Five turns**: a conversation with five answers is learned, and the tokens with loss are those
  of the five answers, counted with transformers alone.
- **Tools**, **Parallel calls**, **Thinking**: the template writes descriptions of tools, calls with
  their arguments and the tools' answers; several calls in one turn; the thinking of an answer.
- **Tools as text**: with `tools_as: text` on the model, tools are written, in llama.cpp too.
- **GGUF**: the merged model is converted, prompts are verified, and llama.cpp answers one.

The templates of models of images and of diffusion models aren't tested.
"""
SERVING = """\
## Serving

Whether a server's prompts for questions, system turns, conversations, tools and calls are the
tokens of the training, whatever arguments a caller passes. The template is
[frozen](howto/ollama.md#the-frozen-chat-template), as in exports. `serve.check` finds this out for
your own model, rows and server.
"""
SERVING_LEGEND = """\
- **llama.cpp** was run: llama-server, with a GGUF that has the tokenizer and the template.
- **vLLM** was run, but not as a server: the code with which vLLM 0.32 answers at
  `/v1/chat/completions/render`, with the arguments of `vllm.bundle`, for all families in one
  process. A test compares it with a running vLLM for one family. Requests with tools have
  `tool_choice: none`, which changes no prompt, since vLLM takes other ones only with a parser of
  calls (`--tool-call-parser`).
- **Ollama** isn't run by the tests. The column is derived from the rules in the source of Ollama
  0.30 and later that `ollama.modelfile` follows: it writes prompts with the GGUF's own template in
  llama.cpp, so the result is that of llama.cpp, except for the architectures for which it has a
  renderer of its own, and for templates that write the thinking of earlier answers. Tools aren't
  part of the column: Ollama [rewrites them](howto/ollama.md#what-ollama-changes), and drops the
  thinking of a call from the prompt for the answer after it.
"""


def page(families: Results, architectures: Results, config_of: Mapping[str, str]) -> str:
    """The page. config_of: family → architecture."""
    notes: list[str] = []
    own, served = {}, {}
    for name, outcomes in families.items():
        architecture = config_of[name]
        both = _together(outcomes, architectures[architecture])
        own[name] = [architecture, *(_cell(both[column], notes) for column in COLUMNS)]
    for name, outcomes in families.items():
        served[name] = [_cell(outcomes[column], notes) for column in SERVERS]
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([
        HEAD, *_table(["Architecture", *COLUMNS.values()], own), "", LEGEND,
        SERVING, *_table([*SERVERS.values()], served), "", SERVING_LEGEND,
        "## Notes", "", *numbered, "",
    ])  # fmt: skip


def _table(columns: list[str], lines: Mapping[str, list[str]]) -> list[str]:
    """The lines of a table with a row for each family."""
    head = [f"| Family | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    return [*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in lines.items())]


def _together(family: Mapping[str, str], architecture: Mapping[str, str]) -> dict[str, str]:
    """A family's outcomes, with those of its architecture where the family's are yes."""
    both = {**family, "gguf": architecture["gguf"]}
    for step, also in (("sft", "merge"), ("dpo", "dpo")):
        for outcome in (architecture[step], architecture[also]):
            if both[step].startswith("yes") and not outcome.startswith("yes"):
                both[step] = outcome
    if not both["sft"].startswith("yes"):
        both["gguf"] = both["sft"]
    return both


def _cell(outcome: str, notes: list[str]) -> str:
    """An outcome up to its reason or condition, and the number of the note with that."""
    matched = re.match(r"(not tested|yes(?: \(.*?\))?|no)[,:]? ?(.*)", outcome)
    assert matched is not None, outcome
    word, note = matched.groups()
    if not note:
        return word
    name = note.startswith(NAMES)
    text = note if name else note[0].upper() + note[1:]
    text += "" if note.endswith("!") else "."
    if text not in notes:
        notes.append(text)
    return f"{word} [{notes.index(text) + 1}](#notes)"


def digest(template: str) -> str:
    """The digest of a chat template."""
    return blake3(template.encode()).hexdigest()


def pins() -> dict[str, str]:
    """Template → the committed digest."""
    lines = PINS.read_text("utf-8").splitlines()
    return {name: value for value, name in (line.split() for line in lines)}


def committed() -> dict[str, Results]:
    """The committed results."""
    results: dict[str, Results] = json.loads(RESULTS.read_text("utf-8"))
    return results


def whole_page() -> str:
    """The page from the committed results."""
    from models.families import FAMILIES

    return page(**committed(), config_of={f.name: f.architecture for f in FAMILIES})


def _measured(smollm2: Path) -> dict[str, Results]:
    from models import checks, training, vllm_prompts
    from models.families import FAMILIES

    results: dict[str, Results] = {"families": {}, "architectures": {}}
    for family in FAMILIES:
        print(family.name, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            results["families"][family.name] = checks.outcomes(family, smollm2, Path(folder))
        if family.architecture not in results["architectures"]:
            with tempfile.TemporaryDirectory() as folder:
                steps = training.outcomes(family, smollm2, Path(folder))
            results["architectures"][family.architecture] = steps
    print("vLLM", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for name, outcome in vllm_prompts.outcomes(FAMILIES, smollm2, Path(folder)).items():
            results["families"][name]["vllm"] = outcome
    return results


def _with_vllm(smollm2: Path) -> dict[str, Results]:
    """The committed results, with the prompts of vLLM as they are now."""
    from models import vllm_prompts
    from models.families import FAMILIES

    results = committed()
    with tempfile.TemporaryDirectory() as folder:
        for name, outcome in vllm_prompts.outcomes(FAMILIES, smollm2, Path(folder)).items():
            results["families"][name]["vllm"] = outcome
    return results


def main(arguments: list[str]) -> None:
    """Write what the arguments ask for."""
    from conftest import fetched_smollm2
    from models.families import carried

    if arguments == ["--pin"]:
        lines = [f"{digest(text)} {name}\n" for name, text in carried().items()]
        PINS.write_text("".join(lines), encoding="utf-8")
        return
    if arguments != ["--page"]:
        smollm2 = fetched_smollm2(TESTS.parent / ".pytest_cache" / "d" / "smollm2")
        results = _with_vllm(smollm2) if arguments == ["--vllm"] else _measured(smollm2)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(whole_page(), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    main(sys.argv[1:])
