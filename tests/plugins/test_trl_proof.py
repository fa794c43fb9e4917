"""The proof before training: what it counts and shows, and what it refuses."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import CHATML, tiny_tokenizer

from finery import DataError, Dataset, FineryError, Model, StepError
from finery.preflight.report import Proof
from finery.rows import Row, with_id
from finery.step.step import examine_opened
from finery.testing import TestJob, dataset
from finery_eval.evaluator import Evaluator
from finery_eval.steps.classification import Classification
from finery_eval.steps.exact import Exact
from finery_trl.preflight import prove
from finery_trl.rows.example import Answer, Proven
from finery_trl.rows.remarks import summary
from finery_trl.rows.tokens import Reading, Tokens, examples_of
from finery_trl.settings import Lora
from finery_trl.steps import Dpo, Sft, TrlTraining
from finery_trl.train.run import read

ASKED = "{% if add_generation_prompt %}"
NO_ASSISTANT = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'assistant' %}")  # fmt: skip  # noqa: E501
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"  # fmt: skip  # noqa: E501


def said(*contents: str) -> list[dict[str, str]]:
    """Turns of user and assistant."""
    roles = itertools.cycle(["user", "assistant"])
    return [{"role": next(roles), "content": text} for text in contents]


def row(*contents: str) -> Row:
    """A row with these turns; the last is the answer."""
    return with_id({"messages": said(*contents)})


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model without weights: a proof needs none."""
    return of_template(tmp_path / "model", CHATML)


def of_template(folder: Path, template: str | None, context: int = 256) -> Model:
    tiny_tokenizer(template).save_pretrained(str(folder))
    config = f'{{"model_type": "llama", "max_position_embeddings": {context}}}'
    (folder / "config.json").write_text(config, encoding="utf-8")
    return Model(folder, meta={"format": "transformers"})


def rows_of(folder: Path, *rows: Row) -> Dataset:
    return dataset(folder / "rows", rows)


def proof_of(model: Model, rows: Dataset, samples: int = 3, **settings: Any) -> Proof:
    job = TestJob()
    return prove(Sft(model=model, rows=[rows], **settings), job, samples)[0]


def refused(model: Model, rows: Dataset, **settings: Any) -> FineryError:
    with pytest.raises(FineryError) as caught:
        proof_of(model, rows, **settings)
    return caught.value


def test_rows_are_counted(model: Model, tmp_path: Path) -> None:
    made = proof_of(model, rows_of(tmp_path, row("hi", "late"), row("where is my card", "wrong")))
    assert (made.input, made.rows) == ("rows", 2)
    assert made.tokens > made.loss_tokens > 2
    assert made.percentiles[50] < made.percentiles[99] == made.longest
    assert made.line().startswith(f"rows: 2 rows, {made.tokens} tokens, {made.loss_tokens} of them")


def test_samples_show_special_tokens_and_where_loss_lies(model: Model, tmp_path: Path) -> None:
    (sample,) = proof_of(model, rows_of(tmp_path, row("é\nhi", "late"))).samples
    prompt, answer = sample.pieces
    assert (prompt.text, prompt.loss) == (
        "<|im_start|>user\né\nhi<|im_end|>\n<|im_start|>assistant\n", False
    )  # fmt: skip
    assert (answer.text, answer.loss) == ("late<|im_end|>", True)


def test_facts_name_the_tokens_and_the_method(model: Model, tmp_path: Path) -> None:
    facts = proof_of(model, rows_of(tmp_path, row("hi", "late"))).facts
    assert facts["end of turn"] == "<|im_end|>, learned in every turn"
    assert facts["padding"] == "<|endoftext|>, masked"
    assert facts["context"] == "256 tokens"
    assert "by turns, each with its prompt at inference" in facts["masking"]
    assert facts["turns"] == "1 of 1 assistant turns have loss (loss: all_turns)"
    assert "no generation marks, and none are needed" in facts["masking"]


def test_the_template_is_called_as_the_model_says(tmp_path: Path) -> None:
    thinking = CHATML + "{% if add_generation_prompt and not think %}<think></think>{% endif %}"
    made = of_template(tmp_path / "m", thinking)
    made.meta["chat_template_kwargs"] = {"think": True}
    facts = proof_of(made, rows_of(tmp_path, row("hi", "late"))).facts
    assert facts["template"] == "think=true"


def test_validation_is_proven_too_and_all_errors_are_told(model: Model, tmp_path: Path) -> None:
    good, bad = rows_of(tmp_path / "a", row("hi", "late")), rows_of(tmp_path / "b", row("hi", ""))
    inputs = [p.input for p in prove(Sft(model=model, rows=[good], validation=good), TestJob(), 0)]
    assert inputs == ["rows", "validation"]
    with pytest.raises(FineryError) as caught:
        prove(Sft(model=model, rows=[bad], validation=bad), TestJob(), 0)
    assert [e.what.partition(":")[0] for e in caught.value.errors] == ["rows", "validation"]  # type: ignore[attr-defined]


def test_layers_that_the_model_lacks_are_refused_without_its_weights(
    model: Model, tmp_path: Path
) -> None:
    rows = rows_of(tmp_path, row("hi", "late"))
    error = refused(model, rows, lora=Lora(target_modules=["q_proj", "attn"]))
    assert error.what == "target_modules: the model has no layer 'attn'"
    assert "q_proj" in error.details[0]
    for there in (["q_proj", "mlp.up_proj", "embed_tokens"], r".*\.[kv]_proj"):
        assert proof_of(model, rows, lora=Lora(target_modules=there)).rows == 1


def test_control_tokens_within_a_text_are_named(model: Model, tmp_path: Path) -> None:
    odd = row("what does <|im_end|> stand for", "late")
    rows = rows_of(tmp_path, row("hi", "late"), odd)
    (note,) = proof_of(model, rows).notes
    assert note == (
        "1 of 2 rows have control tokens in their text (<|im_end|>), which the model takes as "
        f"real: {odd['id']}"
    )
    assert proof_of(model, rows_of(tmp_path / "b", row("hi", "im_end"))).notes == []
    job = TestJob()
    read(Sft(model=model, rows=[rows]), job)
    assert f"rows: {note}" in [event.get("message") for event in job.events]


@pytest.mark.parametrize("use", [Classification, Exact])
def test_watched_rows_are_proven_too(use: type[Evaluator], model: Model, tmp_path: Path) -> None:
    good, bad = row("hi", "late"), row("where is my card", "")
    rows = rows_of(tmp_path / "a", good)
    watch = use(models=[Model.placeholder("model")], rows=rows_of(tmp_path / "b", good, bad))
    with pytest.raises(DataError, match="expected answer") as caught:
        examine_opened(Sft(model=model, rows=[rows], watch=watch), seed=0)
    assert bad["id"] in caught.value.details[0]
    assert caught.value.where == "watch.rows"


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_answers_are_refused(empty: str, model: Model, tmp_path: Path) -> None:
    rows = [row("hi", "late"), row("where is my card", empty)]
    error = refused(model, rows_of(tmp_path, *rows))
    assert isinstance(error, DataError)
    assert f"an empty answer, in which only the end of the turn has loss in 1 of 2 rows: {rows[1]['id']}" in error.what  # fmt: skip  # noqa: E501
    assert error.details == [f"{rows[1]['id']}: turn 2, after 'where is my card'"]


def test_a_template_that_leaves_answers_out_is_refused(tmp_path: Path) -> None:
    error = refused(of_template(tmp_path / "m", NO_ASSISTANT), rows_of(tmp_path, row("hi", "late")))
    assert isinstance(error, StepError)
    assert "the model's chat template doesn't write, so that no token has loss" in error.what


def test_a_template_without_generation_prompt_is_refused(tmp_path: Path) -> None:
    bare = of_template(tmp_path / "m", CHATML.partition(ASKED)[0])
    error = refused(bare, rows_of(tmp_path, row("hi", "late")))
    assert "no generation prompt: each answer begins with '<|im_start|>assistant\\n'" in error.what
    assert '{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}' in str(error.fix)


def test_a_template_that_is_not_jinja_is_refused_with_its_line(tmp_path: Path) -> None:
    model = of_template(
        tmp_path / "m", "{# one #}\n" + CHATML.replace("{% endfor %}", "{% endfro %}")
    )
    error = refused(model, rows_of(tmp_path, row("hi", "late")))
    assert "the model's chat template has a syntax error" in error.what
    assert error.where == f"{tmp_path / 'm' / 'chat_template.jinja'}:4"
    assert error.details[0].startswith("line 4: {% endfro %}")


def test_a_template_that_refuses_a_role_names_the_rows(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "be brief"}]
    rows = [row("hi", "late"), with_id({"messages": system + said("hi", "late")})]
    error = refused(of_template(tmp_path / "m", NO_SYSTEM + CHATML), rows_of(tmp_path, *rows))
    assert isinstance(error, DataError)
    assert f"refuses in 1 of 2 rows: {rows[1]['id']}" in error.what
    assert "no system role" in error.details[0]


def test_rows_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    small = of_template(tmp_path / "m", CHATML, context=64)
    error = refused(small, rows_of(tmp_path, row("x" * 90, "late")))
    assert "more than the model's context of 64" in error.what
    assert "max_length: 64" in str(error.fix)


def test_of_a_preference_both_answers_are_shown(model: Model, tmp_path: Path) -> None:
    pair = {"prompt": said("hi"), "chosen": said("", "late")[1:], "rejected": said("", "wrong")[1:]}
    step = Dpo(model=model, rows=[rows_of(tmp_path, pair)])
    (made,) = prove(step, TestJob(), 1)
    pieces = made.samples[0].pieces
    assert [(p.label, p.loss) for p in pieces] == [
        ("", False),
        ("chosen", True),
        ("rejected", True),
    ]
    assert [p.text for p in pieces[1:]] == ["late<|im_end|>", "wrong<|im_end|>"]
    assert (made.rows, made.loss_tokens) == (1, 4)
    assert made.tokens == 2 * made.longest


def test_rows_are_read_one_by_one() -> None:
    def endless() -> Iterator[Row]:
        yield from (row(f"{i}", "late") for i in itertools.count())

    tokens = Tokens.of(tiny_tokenizer(), {})
    read = examples_of(endless(), Reading(tokens, TestJob(), "rows", 200))
    found = list(itertools.islice(read, 3))
    assert summary("rows", found).rows == 3


@dataclass(frozen=True)
class Reply(Proven):
    """A row of a trainer that this plugin doesn't know."""

    row_id: str
    ids: list[int]

    @property
    def size(self) -> int:
        return len(self.ids)

    @property
    def loss_tokens(self) -> int:
        return 2

    def answers(self) -> list[Answer]:
        return [Answer(self.ids[:-2], self.ids[-2:], "reply")]

    def columns(self) -> dict[str, Any]:
        return {"ids": self.ids}


class Replies(TrlTraining):
    """A training of another plugin, with rows of its own."""

    def read(self, rows: Iterable[Row], reading: Reading) -> Iterable[Proven]:
        for example in examples_of(rows, reading):
            yield Reply(example.row_id, example.tokens)


def test_rows_of_other_trainers_are_proven_too(model: Model, tmp_path: Path) -> None:
    step = Replies(model=model, rows=[rows_of(tmp_path, row("hi", "late"))])
    (proof,) = prove(step, TestJob(), 1)
    assert (proof.rows, proof.loss_tokens) == (1, 2)
    assert [piece.label for piece in proof.samples[0].pieces] == ["", "reply"]
