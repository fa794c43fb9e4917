"""The chat template of a model: another one, its digest, its arguments, tools as text."""

import json
from pathlib import Path
from typing import Any

import pytest
from needs import need
from tiny_gguf import write_tiny_gguf
from tiny_llama import CHATML, tiny_llama

from finery import File, Files, Model, UsageError
from finery.testing import TestJob, examine
from finery_local.model import LocalModel
from finery_local.template import digest_of
from finery_transformers.loading import load_tokenizer

need("trl")

OTHER = "{{ messages[0].content }}!"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_llama(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def other(tmp_path: Path) -> File:
    (tmp_path / "other.jinja").write_text(OTHER)
    return File(["./other.jinja"], [tmp_path / "other.jinja"])


def take(path: Path, **settings: Any) -> Model:
    step = LocalModel(path=Files([str(path)], [path]), **settings)
    step.check()
    return step.run(TestJob(seed=None))


def stored(model: Model, folder: Path) -> Model:
    """The model with all its files in one folder, as a later step gets it."""
    folder.mkdir()
    for name, path in model.external.items():
        (folder / name).symlink_to(path)
    for path in model.path.iterdir():
        (folder / path.name).symlink_to(path)
    return Model(folder, meta=model.meta, refs=model.refs)


def trl_template(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def test_a_models_own_template_is_known_by_its_digest(folder: Path) -> None:
    model = take(folder)
    assert model.meta["chat_template_digest"] == digest_of(CHATML)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": OTHER}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": several}))
    assert take(folder).meta["chat_template_digest"] == digest_of(several)
    gguf = write_tiny_gguf(folder.with_name("t.gguf"))
    assert take(gguf).meta["chat_template_digest"] == digest_of(CHATML)


def test_a_file_replaces_the_template_of_a_folder(folder: Path, other: File) -> None:
    model = take(folder, chat_template=other)
    assert load_tokenizer(stored(model, folder.with_name("s"))).chat_template == OTHER
    assert model.meta["chat_template_digest"] == digest_of(OTHER)
    assert "chat_template.jinja" not in {**model.external, **model.meta["files"]}
    assert (folder / "chat_template.jinja").read_text() == CHATML


def test_a_file_replaces_the_template_in_the_tokenizers_configuration(
    folder: Path, other: File
) -> None:
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHATML}))
    model = take(folder, chat_template=other)
    assert load_tokenizer(stored(model, folder.with_name("s"))).chat_template == OTHER


def test_a_name_takes_the_template_of_the_trl_package(folder: Path) -> None:
    model = take(folder, chat_template=File(["llama3_1"]), tools_as="text")
    template = load_tokenizer(stored(model, folder.with_name("s"))).chat_template
    assert str(template).endswith(trl_template("llama3_1"))
    assert model.meta["chat_template_digest"] == digest_of(trl_template("llama3_1"))


def test_a_name_that_trl_lacks(folder: Path) -> None:
    given = File(["llama3_2x"])
    step = LocalModel(path=Files([str(folder)]), chat_template=given)
    for found_by in (lambda: examine(step), lambda: take(folder, chat_template=given)):
        with pytest.raises(UsageError, match="has no chat template 'llama3_2x'") as caught:
            found_by()
        assert caught.value.where == "chat_template"
        assert "llama3_2" in str(caught.value.fix)


def test_only_a_named_template_depends_on_trl(folder: Path, other: File) -> None:
    def packages(given: File | None) -> tuple[str, ...]:
        step = LocalModel(path=Files([str(folder)]), chat_template=given)
        return (*step.cache_key().packages,)

    assert "trl" in packages(File(["qwen3"]))
    assert "trl" not in packages(other) + packages(None)
