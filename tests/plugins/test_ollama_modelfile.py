"""Modelfile syntax, and the step's settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import DataError
from finery_ollama.modelfile import read_modelfile, write_modelfile


def test_commands_read_back() -> None:
    commands = [
        ("FROM", "./model.gguf"),
        ("TEMPLATE", 'a\n{{ .Content }} "b"\n'),
        ("SYSTEM", 'Say "hi".'),
        ("PARAMETER stop", "<|im_end|>"),
        ("PARAMETER temperature", "0"),
    ]
    text = write_modelfile(commands, "a comment")
    assert text.startswith("# a comment\nFROM ./model.gguf\n")
    assert read_modelfile(text) == commands


@pytest.mark.parametrize(
    "value", ["", " a ", '"', '"""', 'a"""b', 'ends with "', "two\n\nlines\n", "tab\tand\r\nreturn"]
)
def test_odd_values_read_back(value: str) -> None:
    commands = [("FROM", "x"), ("SYSTEM", value), ("PARAMETER stop", "y")]
    assert read_modelfile(write_modelfile(commands, "")) == commands


@pytest.mark.parametrize("value", ['a """\nb', "zero width\u200djoiner", "bell\x07", '"""\n'])
def test_values_that_ollama_would_garble_are_refused(value: str) -> None:
    with pytest.raises(DataError, match="SYSTEM can't be written in a Modelfile"):
        write_modelfile([("SYSTEM", value)], "")


@given(st.text(alphabet='"\n\r\t a\u200d#'))
def test_a_value_reads_back_or_is_refused(value: str) -> None:
    commands = [("FROM", "x"), ("SYSTEM", value), ("PARAMETER stop", "y")]
    try:
        text = write_modelfile(commands, "c")
    except DataError:
        return
    assert read_modelfile(text) == commands
