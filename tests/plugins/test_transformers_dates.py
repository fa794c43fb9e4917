"""Chat templates that write today's date, and the notes about them."""

import re
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import CHATML, tiny_tokenizer

from finery import Model
from finery.rows import with_id
from finery.testing import TestJob, dataset
from finery_transformers.chat import PromptTemplate
from finery_transformers.dates import WritesDate, writes_date
from finery_trl.preflight import prove
from finery_trl.steps import Sft

LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today Date: {{ date_string }}\n" + CHATML
)
"""As Llama 3.2 does it."""


def dated(template: str, **arguments: Any) -> WritesDate | None:
    return writes_date(PromptTemplate(tiny_tokenizer(template), arguments))


def today(form: str) -> str:
    return datetime.now().strftime(form)


def test_a_template_whose_date_can_be_set() -> None:
    assert dated(LLAMA) == WritesDate(today("%d %b %Y"), "date_string")
    assert dated(LLAMA, date_string="26 Jul 2024") is None


def test_a_template_whose_date_can_not_be_set() -> None:
    fixed = "{{ strftime_now('%Y-%m-%d') }} {{ last_update }} {{ strftime_now('%H') }}" + CHATML
    assert dated(fixed) == WritesDate(today("%Y-%m-%d"), "")


@pytest.mark.parametrize(("name", "argument"), [("gptoss", ""), ("llama3_2", "date_string")])
def test_the_templates_of_trl(name: str, argument: str) -> None:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    date = dated((folder / f"{name}.jinja").read_text(encoding="utf-8"))
    assert date is not None
    assert date.argument == argument


@pytest.mark.parametrize(("given", "fix"), [
    (LLAMA, r'`chat_template_kwargs: \{date_string: "\d\d \w+ \d{4}"\}`'),
    ("{{ strftime_now('%Y') }}" + CHATML, r"`chat_template: ./chat.jinja`"),
])  # fmt: skip
def test_a_deep_check_says_so(tmp_path: Path, given: str, fix: str) -> None:
    folder = tmp_path / "model"
    tiny_tokenizer(given).save_pretrained(str(folder))
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    model = Model(folder, meta={"format": "transformers", "repo": "meta-llama/Tiny"})
    rows = dataset(tmp_path / "rows", [with_id({"prompt": "hi", "completion": "late"})])
    (proof,) = prove(Sft(model=model, rows=[rows]), TestJob(), 0)
    (note,) = (note for note in proof.notes if "today's date" in note)
    assert note.startswith("the chat template of meta-llama/Tiny writes today's date (")
    assert re.search(fix, note)
