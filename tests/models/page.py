"""Writes docs/models.md and tests/models/results.json: what works with which family.

python tests/models/page.py           test all families and write both (minutes)
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
    "prompts": "llama.cpp's prompts",
}
NAMES = ("llama.cpp", "llama-server", "transformers")
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
- **llama.cpp's prompts**: llama-server's own template engine turns questions, system turns,
  conversations, tools and calls into the same tokens as the training, whatever arguments a caller
  passes. The template is [frozen](howto/ollama.md#the-frozen-chat-template), as in exports.

The templates of models of images and of diffusion models aren't tested.
"""


def page(families: Results, architectures: Results, config_of: Mapping[str, str]) -> str:
    """The page. config_of: family → architecture."""
    notes: list[str] = []
    lines = [
        f"| Family | Architecture | {' | '.join(COLUMNS.values())} |",
        "| --- " * (len(COLUMNS) + 2) + "|",
    ]
    for name, own in families.items():
        both = _together(own, architectures[config_of[name]])
        cells = " | ".join(_cell(both[column], notes) for column in COLUMNS)
        lines.append(f"| {name} | {config_of[name]} | {cells} |")
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([HEAD, *lines, "", LEGEND, "## Notes", "", *numbered, ""])


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
    from models import checks, training
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
        results = _measured(fetched_smollm2(TESTS.parent / ".pytest_cache" / "d" / "smollm2"))
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(whole_page(), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    main(sys.argv[1:])
