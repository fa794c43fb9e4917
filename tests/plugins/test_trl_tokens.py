"""Rows to tokens: where loss lies, and what is refused before a training starts."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import CHATML, tiny_tokenizer

from finery import DataError, StepError
from finery.rows import Row, with_id
from finery.testing import TestJob
from finery_trl.rows.example import NO_LOSS, Example
from finery_trl.rows.tokens import Reading, Tokens, examples_of


def row(question: str = "where is my card", answer: str = "card_arrival") -> Row:
    said = [{"role": "assistant", "content": answer}]
    return with_id({"prompt": [{"role": "user", "content": question}], "completion": said})


def read(
    rows: list[Row], template: str = CHATML, job: TestJob | None = None, **limits: Any
) -> list[Example]:
    tokens = Tokens.of(tiny_tokenizer(template), {})
    given: dict[str, Any] = {"what": "rows", "max_length": 200, "too_long": "error", **limits}
    return list(examples_of(rows, Reading(tokens, job or TestJob(), **given)))


def test_loss_lies_on_the_answer_up_to_the_end_of_its_turn() -> None:
    (example,) = read([row()])
    learned = [t for t, label in zip(example.tokens, example.labels, strict=True) if label >= 0]
    assert tiny_tokenizer().decode(learned) == "card_arrival<|im_end|>"
    assert [label for label in example.labels if label != NO_LOSS] == learned
    assert example.loss_tokens == len(learned)


def test_of_messages_all_answers_are_learned() -> None:
    turns = ["hi", "hello", "where is my card", "card_arrival"]
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]
    (example,) = read([with_id({"messages": messages})])
    learned = [tiny_tokenizer().decode(answer.tokens) for answer in example.answers()]
    assert learned == ["hello<|im_end|>", "card_arrival<|im_end|>"]


def test_it_is_what_trl_itself_makes_of_the_row_less_the_line_break_behind_it(
    tmp_path: Path,
) -> None:
    from datasets import Dataset  # type: ignore[import-untyped]
    from tiny_llama import tiny_llama
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from finery_transformers.loading import load_model, quiet

    rows = [row(), row("my card is late", "late")]
    config = SFTConfig(
        output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none",
        completion_only_loss=True,
    )  # fmt: skip
    with quiet():
        model = load_model(tiny_llama(tmp_path / "tiny"))
        data = Dataset.from_list([{k: r[k] for k in ("prompt", "completion")} for r in rows])
        trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tiny_tokenizer())
    theirs: Any = trainer.train_dataset
    assert [r["input_ids"][:-1] for r in theirs] == [e.tokens for e in read(rows)]
    assert [r["labels"][:-1] for r in theirs] == [e.labels for e in read(rows)]


def test_a_template_that_changes_the_prompt_once_it_is_answered_is_refused() -> None:
    template = "{% if not add_generation_prompt %}Chat: {% endif %}" + CHATML
    with pytest.raises(StepError, match="a prompt that differs from the one used") as caught:
        read([row()], template)
    assert caught.value.details[0] == f"{row()['id']}: turn 2: from token 0"
    assert "at inference: …'<|im_start|>user" in caught.value.details[1]
    assert "in training:  …'Chat: <|im_start|>user" in caught.value.details[2]


def test_a_template_without_end_of_turn_is_refused() -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer = tiny_tokenizer(template)
    tokenizer.eos_token = None
    with pytest.raises(StepError, match="can't learn to stop"):
        Tokens.of(tokenizer, {})


def test_long_rows_are_refused_by_name() -> None:
    rows = [row(), row("x" * 300), row("y" * 250)]
    with pytest.raises(DataError, match="2 of 3 rows are longer than 200 tokens") as caught:
        read(rows)
    assert rows[1]["id"] in caught.value.what
    assert "or too_long: drop" in str(caught.value.fix)


def test_long_rows_are_dropped_and_named_when_asked() -> None:
    job, rows = TestJob(), [row(), row("x" * 300)]
    assert [e.row_id for e in read(rows, job=job, too_long="drop")] == [rows[0]["id"]]
    (logged,) = [e["message"] for e in job.events if e["event"] == "log"]
    assert "1 of 2 rows" in logged
    assert rows[1]["id"] in logged


def test_missing_keys_stay_missing_for_the_template() -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.keys() | list }}")
    tools = with_id(
        {
            "prompt": [{"role": "user", "content": "hi"}],
            "completion": [{"role": "assistant", "content": "yes", "tool_calls": []}],
        }
    )
    plain, _ = read([row("hi", "no"), tools], template)
    assert "tool_calls" not in tiny_tokenizer().decode(plain.tokens)


def test_an_argument_that_the_template_does_not_read_is_refused() -> None:
    tokenizer = tiny_tokenizer(CHATML + "{% if enable_thinking is defined %}{% endif %}")
    Tokens.of(tokenizer, {"enable_thinking": False})
    with pytest.raises(StepError, match="doesn't read 'enable_thinkin'"):
        Tokens.of(tokenizer, {"enable_thinkin": False})
