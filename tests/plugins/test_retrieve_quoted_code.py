"""Quotes that contain code: what is quoted, not how code is skipped, is compared with the chunk."""

from finery_retrieve.citations import check_citations, citations

CHUNK = "Steps that don't depend on the failed one are built first if you add `--keep-going`."


def test_a_quote_with_code_is_compared_with_the_code() -> None:
    answer = 'Yes. "are built first if you add `--keep-going`" [1]'
    assert citations(answer)[0].quote == "are built first if you add `--keep-going`"
    assert check_citations(answer, [CHUNK]).faults == []


def test_a_quote_with_other_code_is_altered() -> None:
    checked = check_citations("Yes. “are built first if you add `--force`” [1]", [CHUNK])
    assert [of.text for of in checked.altered] == ["are built first if you add `--force`"]


def test_numbers_in_code_are_no_citations() -> None:
    assert citations("Take `rows[0]`, and ```[2]```") == []
