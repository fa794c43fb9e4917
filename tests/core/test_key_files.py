"""The definitions in keys are those committed, so that a review sees a change of them."""

from key_files import COMMAND, FILE, key_files


def test_the_definitions_in_keys_are_those_committed() -> None:
    assert FILE.read_text(encoding="utf-8") == key_files(), f"see the difference: {COMMAND}"
