"""`retrieve.index` and the search by words: bm25s's own scores, the same bytes, nothing lost."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery import DataError, Index
from finery.rows.dropped import DROPPED
from finery.testing import TestJob, dataset, run_step
from finery_retrieve.index.retriever import Retriever, fuse_rankings, top_scores
from finery_retrieve.index.words import (
    FOLDER,
    Bm25,
    Language,
    Lexical,
    LexicalWriter,
    Words,
    split,
)
from finery_retrieve.steps.index import RetrieveIndex

TEXTS = [
    "Files up to 50 MB are read. Larger files are refused.",
    "Passwords expire after ninety days, and the last five can't be used again.",
    "An invoice is sent on the first day of a month.",
    "Refunds take five days. Refunds of invoices take ten.",
]


def chunks(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "source": f"{n}.md", "line": n + 1} for n, text in enumerate(texts)]


def index_of(folder: Path, texts: list[str], **settings: Any) -> Index:
    rows = dataset(folder / "rows", chunks(*texts))
    index = run_step(RetrieveIndex(rows=[rows], **settings), folder / "index")
    assert isinstance(index, Index)
    return index


def sources(index: Index, question: str, k: int = 10) -> list[str]:
    return [hit.source for hit in Retriever.open(index, TestJob()).search([question], k)[0]]


def test_a_chunk_is_found_by_its_words_with_its_place(tmp_path: Path) -> None:
    retriever = Retriever.open(index_of(tmp_path, TEXTS), TestJob())
    (hits,) = retriever.search(["When do my passwords expire?"], 3)
    assert [(hit.source, hit.text, hit.place) for hit in hits] == [("1.md", TEXTS[1], {"line": 2})]
    assert hits[0].score > 0
    assert retriever.chunk(hits[0].id) == type(hits[0])(
        hits[0].id, TEXTS[1], "1.md", "", 0.0, {"line": 2}
    )
    assert retriever.chunk("nothing") is None


def test_what_shares_no_word_is_not_found(tmp_path: Path) -> None:
    index = index_of(tmp_path, TEXTS)
    assert sources(index, "zebra") == sources(index, "") == sources(index, "of the and") == []
    assert sources(index, "refund") == ["3.md"]


def test_headings_find_a_chunk_that_lacks_them(tmp_path: Path) -> None:
    rows = [{"text": "Run pip.", "heading": "Guide > Install"}, {"text": "Run it."}]
    step = RetrieveIndex(rows=[dataset(tmp_path / "rows", rows)])
    (hits,) = Retriever.open(run_step(step, tmp_path / "i"), TestJob()).search(["install"], 2)
    assert [hit.text for hit in hits] == ["Run pip."]


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire", "bm25l", "bm25+"])
def test_scores_are_those_of_bm25s(tmp_path: Path, method: Any) -> None:
    """The library's documented use, over the same texts and questions."""
    import bm25s
    from Stemmer import Stemmer

    stemmer = Stemmer("english")
    library = bm25s.BM25(method=method, k1=1.2, b=0.6, delta=0.7)
    words = bm25s.tokenize(TEXTS, stopwords="en", stemmer=stemmer, show_progress=False)
    library.index(words, show_progress=False)
    settings = Bm25(method=method, k1=1.2, b=0.6, delta=0.7)
    index = index_of(tmp_path, TEXTS, bm25=settings)
    lexical = Lexical(index.path / FOLDER, "english")
    for question in ("five days of refunds", "larger invoices expire", "files files"):
        asked = bm25s.tokenize(
            [question], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        expected = library.get_scores(asked[0])
        np.testing.assert_allclose(lexical.scores(question)[0], expected, rtol=1e-6)
        documents, _ = library.retrieve(asked, k=1, show_progress=False)
        assert sources(index, question, 1) == [f"{documents[0, 0]}.md"]


european = st.characters(max_codepoint=0x24F, exclude_characters="\u0130\u00ad")
"""Without İ, whose lower case has a combining mark: bm25s cuts words at such marks."""


@given(st.lists(st.text(european, max_size=60), min_size=1, max_size=4))
@pytest.mark.parametrize("language", ["none", "english", "german"])
def test_words_are_those_of_bm25s(language: str, texts: list[str]) -> None:
    import bm25s
    from Stemmer import Stemmer

    plain = language == "none"
    expected = bm25s.tokenize(
        [unicodedata.normalize("NFKC", text) for text in texts],
        stopwords=[] if plain else language, stemmer=None if plain else Stemmer(language),
        return_ids=False, show_progress=False,
    )  # fmt: skip
    words = Words(language)
    assert [words.of(text) for text in texts] == expected


@pytest.mark.parametrize(("chunk", "question"), [
    ("税金の払い戻しは三十日後です。", "払い戻しはいつですか"),
    ("环境保护税的税率", "保护税"),
    ("환불은 30일 후에", "환불을 언제"),
    (unicodedata.normalize("NFD", "Die Rückgabe"), unicodedata.normalize("NFC", "Rückgabe?")),
    ("Die Rück\u00adgabe", "Rückgabe"),
])  # fmt: skip
def test_words_of_every_script_are_found(tmp_path: Path, chunk: str, question: str) -> None:
    settings = Bm25(language="none")
    assert sources(index_of(tmp_path, [chunk, *TEXTS], bm25=settings), question, 1) == ["0.md"]


@pytest.mark.parametrize(("text", "expected"), [
    ("50MBの税金", ["50mb", "の税", "税金"]),
    ("税、金", ["税", "金"]),
    ("कीमत a", ["कीमत"]),
])  # fmt: skip
def test_texts_are_split_by_script(text: str, expected: list[str]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize("language", get_args(Language))
def test_every_language_works(language: str) -> None:
    assert Words(language).of("Hamburg") != []


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_the_best_are_sorted_and_ties_keep_their_order(scores: list[float], count: int) -> None:
    ranked = sorted(enumerate(scores), key=lambda item: (-item[1], item[0]))
    expected = [item for item in ranked if item[1] > 0][:count]
    assert top_scores(np.array(scores, dtype=np.float32), count, threshold=0.0) == expected


def test_fusion_adds_reciprocal_ranks() -> None:
    assert fuse_rankings([[(4, 9.0), (7, 8.0)], [(7, 0.9), (2, 0.8)]], 3) == [
        (7, 1 / 62 + 1 / 61),
        (4, 1 / 61),
        (2, 1 / 62),
    ]


def test_the_same_chunks_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """The order of sets and dicts in bm25s depends on the hash seed; that of an index doesn't."""
    rows = dataset(tmp_path / "rows", chunks(*TEXTS))
    code = (
        "import sys; from pathlib import Path; from finery import Dataset;"
        "from finery.testing import run_step;"
        "from finery_retrieve.steps.index import RetrieveIndex;"
        "rows = Dataset(Path(sys.argv[1]), meta={'rows': 4});"
        "run_step(RetrieveIndex(rows=[rows]), Path(sys.argv[2]))"
    )
    contents = []
    for seed in ("1", "2"):
        place = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, rows.path, place],
            check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        files = sorted(path for path in (place / "out").rglob("*") if path.is_file())
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_chunks_without_text_and_repeated_ones_are_listed(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "one word"}, {"id": "b", "text": " \n"}, {"id": "a", "text": "two"}]
    job = TestJob(tmp_path / "job")
    index = RetrieveIndex(rows=[dataset(tmp_path / "rows", rows)]).run(job)
    assert index.meta["dropped"] == {"empty": 1, "repeated": 1}
    dropped = [json.loads(line) for line in (index.path / DROPPED).read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in dropped] == [("b", "empty"), ("a", "repeated")]
    assert any("dropped: empty 1, repeated 1" in str(event) for event in job.events)


@pytest.mark.parametrize(
    ("rows", "settings", "what"),
    [
        ([{"text": ""}], {}, "no rows are left"),
        ([{"body": "some text"}], {}, "no rows are left"),
        ([{"text": 3}], {}, "isn't text"),
        ([{"text": "!!! ---"}], {}, "no chunk has a word"),
    ],
)
def test_nothing_to_find_is_an_error(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], what: str
) -> None:
    step = RetrieveIndex(rows=[dataset(tmp_path / "rows", rows)], **settings)
    with pytest.raises(DataError, match=what):
        run_step(step, tmp_path / "index")


@pytest.mark.slow
def test_texts_are_not_held(tmp_path: Path) -> None:
    """Four bytes a word are: of 100 texts of 1 MB with the same word, a tenth."""
    import tracemalloc

    text = "filesystem " * 90_000
    writer = LexicalWriter(Bm25())
    writer.add(text)
    tracemalloc.start()
    for _ in range(10):
        writer.add(text)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 0.5 * 10 * len(text)
