"""`serve.check` with the real server: what is right passes, and each planted fault is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import smollm2_tokenizer
from llama_server import needs_llama_server
from serve_checking import check, exact, faults
from serving import RECIPE, ROWS, THINKING, gguf_model, tiny_project, trained_model
from tiny_gguf import CHATML, tiny_tokenizer
from tiny_llama import TOOLED, TOOLS

from finery import Bundle, Model, RequirementError
from finery.rows import example_request
from finery.testing import run_step
from finery_eval.view.metrics import best_model
from finery_gguf.export import Export
from finery_serve.bundle.step import LlamaBundle
from finery_serve.check.answers import swap_fault
from finery_serve.check.step import Check
from finery_transformers.frozen.template import frozen_template

pytestmark = needs_llama_server
OTHER = CHATML.replace("assistant\n", "assistant:\n")


def test_a_served_model_without_a_fault(tmp_path: Path) -> None:
    model, trained = gguf_model(tmp_path / "m"), trained_model(tmp_path / "t", CHATML)
    step, made = check(tmp_path, model, trained=trained, judge=exact())
    assert faults(made) == {}
    scores = made.report().data()["scores"]
    assert scores["m"]["prompts"] == 1.0
    changed = [
        t["rows"] for t in made.report().data()["details"]["tables"] if "otherwise" in t["title"]
    ]
    assert scores["m"]["answers"] == 1.0, changed
    assert scores["m"]["lost"] == 0.0
    assert scores["m"]["accuracy"] == scores["m in finery"]["accuracy"]
    assert best_model(made.report()) == "m"  # the one that is shown
    assert [c["model"] for c in made.report().data()["details"]["comparisons"]] == ["m"]
    assert len(list(made.predictions())) == 2 * len(ROWS)
    step.verify({"": made})


def test_prompts_with_tools_are_compared(tmp_path: Path) -> None:
    rows = [{**row, "tools": TOOLS} for row in ROWS]
    trained = trained_model(tmp_path / "t", TOOLED)
    model = gguf_model(tmp_path / "m", template=TOOLED)
    assert faults(check(tmp_path / "a", model, rows, trained=trained)[1]) == {}
    wrong = gguf_model(tmp_path / "w", template=TOOLED.replace("| tojson }}{% endif", "}}{% endif"))
    made = check(tmp_path / "b", wrong, rows, trained=trained)[1]
    assert faults(made).keys() == {"template"}
    assert 0 < made.report().data()["scores"]["w"]["prompts"] < 1  # the edge cases without tools


def test_another_template_in_the_file(tmp_path: Path) -> None:
    model = gguf_model(tmp_path / "m", template=OTHER)
    step, made = check(tmp_path, model, trained=trained_model(tmp_path / "t", CHATML))
    assert faults(made).keys() == {"template"}
    assert "another chat template than the training" in faults(made)["template"]
    assert made.report().data()["scores"]["m"]["prompts"] == 0.0
    with pytest.raises(RequirementError) as raised:
        step.verify({"": made})
    shown = "\n".join(raised.value.details)
    assert "m: template:" in shown
    assert ">>>'\\n'" in shown
    assert "assistant" in shown


def test_a_switch_of_thinking_that_the_server_flips(tmp_path: Path) -> None:
    model = gguf_model(tmp_path / "m", template=THINKING)
    trained = trained_model(tmp_path / "t", THINKING)
    step, made = check(tmp_path, model, trained=trained)
    assert faults(made).keys() == {"thinking"}
    assert "with enable_thinking: true" in faults(made)["thinking"]
    with pytest.raises(RequirementError, match="doesn't answer as the model was trained"):
        step.verify({"": made})
    Check(models=[model], rows=step.rows, allow=["thinking"]).verify({"": made})


def test_a_client_that_leaves_the_system_message_out(tmp_path: Path) -> None:
    system = 'Name the "intent".\nUse {{ one }} word \\ no more: %} ü'
    facts = {
        "prompts": {**dict.fromkeys(("tools", "thinking", "switched"), False), "system": system}
    }
    trained = trained_model(tmp_path / "t", CHATML, facts)
    rows = [{"messages": [{"role": "system", "content": system}, *row["messages"]]} for row in ROWS]
    frozen = frozen_template(trained).source
    right = gguf_model(tmp_path / "m", template=frozen)
    step, made = check(tmp_path / "a", right, rows, trained=trained)
    assert faults(made) == {}
    without = gguf_model(tmp_path / "w", template=frozen_template(trained, system=False).source)
    step, made = check(tmp_path / "b", without, rows, trained=trained)
    assert faults(made).keys() == {"prompts"}
    with pytest.raises(RequirementError) as raised:
        step.verify({"": made})
    assert system.splitlines()[0] in "\n".join(raised.value.details)


def test_a_client_that_leaves_the_tools_out(tmp_path: Path) -> None:
    rows = [{**row, "tools": TOOLS} for row in ROWS]
    example = example_request(rows)
    trained = trained_model(
        tmp_path / "t", TOOLED, {"prompts": {"tools": True, "training_example": example}}
    )
    model = gguf_model(
        tmp_path / "m",
        {"frozen": {"training_example": example}},
        template=frozen_template(trained).source,
    )
    ship = bundle(tmp_path / "b", model)
    assert faults(check(tmp_path / "c", model, rows, trained=trained, bundle=ship)[1]) == {}
    request = json.loads(ship.file("request.json").read_text("utf-8"))
    assert request.pop("tools") == TOOLS
    ship.file("request.json").write_text(json.dumps(request), encoding="utf-8")
    found = faults(check(tmp_path / "d", model, rows, trained=trained, bundle=ship)[1])
    assert found.keys() == {"prompts"}
    assert found["prompts"].startswith(f"{len(rows)} of ")


def test_a_gguf_that_tells_servers_to_sample(tmp_path: Path) -> None:
    model = gguf_model(tmp_path / "m", sampling={"temp": 1.5, "top_p": 0.5})
    made = check(tmp_path, model)[1]
    assert faults(made).keys() == {"sampling"}
    assert "the temperature 1.5" in faults(made)["sampling"]
    assert made.report().data()["scores"]["m"]["answers"] == 1.0  # `finery serve` overrides it


def bundle(folder: Path, model: Model) -> Bundle:
    """A bundle of the model."""
    made = run_step(LlamaBundle(gguf=model, name="tiny"), folder)
    assert isinstance(made, Bundle)
    return made


def test_a_bundle_overrides_what_the_gguf_says(tmp_path: Path) -> None:
    model = gguf_model(tmp_path / "m", sampling={"temp": 1.5})
    made = check(tmp_path, model, bundle=bundle(tmp_path / "b", model))[1]
    assert faults(made) == {}


def test_a_training_that_is_not_in_what_is_served(tmp_path: Path) -> None:
    model = gguf_model(tmp_path / "m")
    made = check(tmp_path, model, base=gguf_model(tmp_path / "base"))[1]
    assert faults(made).keys() == {"adapter"}
    assert "all 3 answers are those of the base" in faults(made)["adapter"]


def test_answers_of_another_model() -> None:
    others = {"second": ["a", "x", "y"], "third": ["p", "q", "r"]}
    assert swap_fault(["a", "b", "y"], ["a", "b", "c"], others) is None  # as often as its own
    fault = swap_fault(["p", "q", "c"], ["a", "b", "c"], others)
    assert fault is not None
    assert "answers as 'third': of 3 rows" in fault.what
    assert swap_fault(["p", "y", "z"], ["a", "b", "c"], others) is None  # by chance


def test_the_tokenizers_are_the_same(tmp_path: Path) -> None:
    """What the tests of faults build on."""
    from finery_gguf.llama import Gguf

    model = gguf_model(tmp_path / "m")
    gguf = Gguf(model.file("tiny.gguf"), vocab_only=True)
    text = "<|im_start|>user\nWhere's the card?<|im_end|>\n"
    assert gguf.encode_prompt(text) == tiny_tokenizer()(text)["input_ids"]


# -- in a build ------------------------------------------------------------------------------------

BUILD = (
    RECIPE
    + """\
evaluate:
  served:
    use: serve.check
    models: tiny
    rows: rows
    judge: {use: eval.exact, max_tokens: 4}
    require: {tiny.answers: ">= 1", tiny.lost: "<= 0"}
"""
)


def test_a_build_passes_and_shows_the_scores(tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "p", BUILD)
    ran = project.run("build")
    assert ran.code == 0, ran.err
    shown = project.run("show", "served")
    assert "prompts" in shown.out
    assert project.ran() == []


def test_a_build_fails_by_the_name_of_the_fault(tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "p", BUILD, template=THINKING)
    ran = project.run("build")
    assert ran.code == 1
    assert "the server doesn't answer as the model was trained" in ran.err
    assert "tiny: thinking: the server writes" in ran.err
    assert "Faults" in project.run("show", "served").out
    required = 'require: {tiny.answers: ">= 1", tiny.lost: "<= 0"}'
    project.edit("recipe.yaml", required, "allow: [thinking]")
    again = project.run("build")
    assert again.code == 0, again.err  # judged on the kept result
    assert project.ran() == []


# -- a real export of an adapter -------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Model:
    """A LoRA that changes the answers of a small random model with SmolLM2's tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    tokenizer = smollm2_tokenizer(smollm2_gguf)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1,
        eos_token_id=2, pad_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    made: Any = LlamaForCausalLM._from_config(config)  # type: ignore[no-untyped-call]
    made.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned: Any = get_peft_model(made, lora)
    tuned.save_pretrained(str(folder / "lora"))
    base = Model(folder / "base", meta={"format": "transformers", "name": "tiny"})
    return Model(folder / "lora", meta={"format": "adapter"}, refs={"base": base})


@pytest.mark.slow
def test_an_export_of_the_base_instead_of_the_adapter(tmp_path: Path, adapter: Model) -> None:
    base = adapter.refs["base"]
    assert isinstance(base, Model)
    found = {}
    for name, exported in {"right": adapter, "wrong": base}.items():
        made = run_step(Export(model=exported, quantization=["bf16"]), tmp_path / name)
        model = made[""]
        model.ref = name
        checked = check(tmp_path / f"check-{name}", model, trained=adapter, base=base)[1]
        assert checked.report().data()["scores"][name]["prompts"] == 1.0
        found[name] = faults(checked).keys() & {"adapter", "template", "prompts", "thinking"}
    assert found == {"right": set(), "wrong": {"adapter"}}
