"""data.file as a step: formats found, templates, bad rows, what is kept and counted."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import MakeProject

from finery import DataError, Dataset, Files, Inputs
from finery.advanced import value_of
from finery.rows import row_id
from finery.rows.dropped import read_dropped
from finery.testing import TestJob
from finery_data.sources.source import Columns
from finery_data.steps.file import File, first_rows

PAIR = Columns(user="{{ text }}", assistant="{{ intent }}")
LABELLED = Columns(user="{{ text }}", assistant="{{ intent }}", label="{{ intent }}")


def lines(*rows: Any) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)


def alpaca(n: int) -> list[dict[str, str]]:
    return [{"instruction": f"say {i}", "output": f"{i}"} for i in range(n)]


def files(folder: Path, **contents: str) -> Files:
    paths = []
    for name, content in contents.items():
        paths.append(folder / name.replace("_", "."))
        paths[-1].write_text(content, encoding="utf-8")
    return Files([p.name for p in paths], paths)


def load(folder: Path, content: str, *, name: str = "x_jsonl", **settings: Any) -> tuple[Any, str]:
    """The dataset and the log."""
    job = TestJob(folder, seed=None)
    made = File(path=files(folder, **{name: content}), **settings).run(job)
    return made, "\n".join(e["message"] for e in job.events if e["event"] == "log")


def failure(folder: Path, content: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, content, **settings)
    return str(caught.value).replace(f"{folder}/", "")


def test_ratings_as_text_are_ratings_and_ones_and_zeros_where_the_recipe_says_so(
    tmp_path: Path,
) -> None:
    rated = lines({"prompt": "a", "completion": "b", "label": "True"})
    made, _ = load(tmp_path / "a", rated)
    assert [row["label"] for row in made] == ["true"]
    numbers = rated.replace('"True"', "1")
    made, _ = load(tmp_path / "b", numbers)
    assert [row["label"] for row in made] == ["1"]  # it may name a class
    made, _ = load(tmp_path / "c", numbers, format="rating")
    assert [row["label"] for row in made] == ["true"]


def test_rows_have_ids_and_only_known_columns(tmp_path: Path) -> None:
    made, _ = load(tmp_path, lines({**alpaca(1)[0], "id": 7, "score": 1, "label": "a"}))
    (row,) = made
    assert list(row) == ["id", "messages", "label"]
    assert row["id"] == row_id(row)
    meta = {"format": "alpaca", "bad_rows": 0, "duplicates": 0, "rows": 1}
    assert made.meta == {**meta, "columns": ["id", "label", "messages"]}


def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    source = files(tmp_path, a_jsonl=lines(*alpaca(2)), b_csv="instruction,output\nx,y\n")
    made = File(path=source).run(TestJob(tmp_path))
    assert [r["messages"][0]["content"] for r in made] == ["say 0", "say 1", "x"]


BAD = lines({"instruction": "say", "output": ""})


@pytest.mark.parametrize(
    ("take", "contents", "rows"),
    [
        (10, {"a_jsonl": lines(*alpaca(20)), "b_jsonl": BAD}, 10),
        (20, {"a_jsonl": lines(*alpaca(20)), "b_txt": "plain text"}, 20),
        (1_100, {"a_jsonl": lines(*alpaca(1_200)), "b_jsonl": BAD}, 1_000),
        (5, {"a_jsonl": lines(*alpaca(5)) + BAD}, 5),
    ],
)
def test_rows_that_are_not_taken_are_no_mistake(
    tmp_path: Path, take: int, contents: dict[str, str], rows: int
) -> None:
    step = File(path=files(tmp_path, **contents), take=take)
    assert len(first_rows(step, TestJob(tmp_path / "check"))) == rows
    assert len(step.run(TestJob(tmp_path / "job", seed=None))) == take


@pytest.mark.parametrize(
    ("take", "first"), [(None, alpaca(20)), (30, alpaca(20)), (None, alpaca(300))]
)
def test_rows_of_a_later_file_that_are_taken_are_checked(
    tmp_path: Path, take: int | None, first: list[Any]
) -> None:
    step = File(path=files(tmp_path, a_jsonl=lines(*first), b_jsonl=BAD), take=take)
    with pytest.raises(DataError, match=r"b\.jsonl:1"):
        first_rows(step, TestJob(tmp_path / "check"))


def test_duplicates_are_kept_counted_and_logged(tmp_path: Path) -> None:
    rows = [{**row, "n": i} for i, row in enumerate(alpaca(2) * 2)]
    made, log = load(tmp_path, lines(*rows), keep=["n"])
    assert (len(made), made.meta["duplicates"]) == (4, 2)
    assert "2 of 4 rows are duplicates" in log


def test_tools_and_calls_come_through(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    made, _ = load(tmp_path, lines({"messages": turns, "tools": [tool]}))
    assert [(r["messages"], r["tools"]) for r in made] == [(turns, [tool])]


# which format


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    text = failure(tmp_path, "text,intent\na,b\n", name="x_csv")
    assert text.startswith("x.csv:2: error: the columns fit no known format: text, intent")
    assert 'fix: write columns: {user: "{{ text }}", assistant: "{{ intent }}"}' in text


def test_columns_that_fit_two_formats_must_be_told(tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}
    text = failure(tmp_path, lines(row))
    assert "x.jsonl:1: error: the columns fit the formats completion and preference" in text
    assert "fix: choose one: format: completion or preference" in text
    assert "chosen" in next(iter(load(tmp_path, lines(row), format="preference")[0]))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"format": "alpaca", "columns": PAIR}, "exclude each other"),
        ({"columns": Columns(user="x")}, "no template for the assistant turn"),
        ({"format": "preference", "prompts_only": True}, "have answers"),
        ({"columns": LABELLED, "keep": {"label": "x"}}, "both make a label"),
        ({"keep": {"messages": "x"}}, "can't be named 'messages'"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what.replace("{", r"\{")):
        File(path=Files(["x"]), **settings)


# columns


def test_columns_build_rows_of_any_table(tmp_path: Path) -> None:
    columns = Columns(
        system="Name it.",
        user="{{ text | trim }}",
        assistant="{{ intent }}",
        label="{{ intent }}\n",
    )
    made, _ = load(tmp_path, "text,intent\n hi ,greet\n", name="x_csv", columns=columns)
    (row,) = made
    assert [m["content"] for m in row["messages"]] == ["Name it.", "hi", "greet"]
    assert (row["label"], made.meta["format"]) == ("greet", "columns")


@pytest.mark.parametrize(
    ("user", "what"),
    [
        (
            "{{ txt }}",
            "columns.user: 'txt' is undefined",
        ),
        ("{{ none }}", "columns.user: a column is empty (null)"),
        ("{{ 1 / 0 }}", "columns.user: division by zero"),
        (
            "{{ text.__class__.__mro__ }}",
            "columns.user: access to attribute '__class__' of 'str' object is unsafe",
        ),
    ],
)
def test_columns_refuse_row(tmp_path: Path, user: str, what: str) -> None:
    row = {"text": "a", "none": None, "blank": " "}
    text = failure(tmp_path, lines(row), columns=Columns(user=user, assistant="x"))
    assert text.startswith(f"x.jsonl:1: error: {what}")


# keep


def test_keep_a_list_or_new_names(tmp_path: Path) -> None:
    row = {**alpaca(1)[0], "id": 7, "score": 0.5}
    made, _ = load(tmp_path, lines(row), keep={"source_id": "id", "score": "score"})
    assert next(iter(made))["source_id"] == 7
    assert next(iter(load(tmp_path, lines(row), keep=["score"])[0]))["score"] == 0.5


# bad rows


def test_one_bad_row_names_file_and_line(tmp_path: Path) -> None:
    text = failure(tmp_path, lines(*alpaca(2), "", {"instruction": "a", "output": ""}, *alpaca(2)))
    assert text.splitlines() == [
        "x.jsonl:4: error: 'output' is empty",
        "  1 bad row of 5",
        "  fix: fill it in, or remove the row; or skip bad rows with bad_rows: skip",
    ]


def test_bad_rows_are_listed_up_to_ten(tmp_path: Path) -> None:
    bad = [f"{{{i}" for i in range(12)]
    text = failure(tmp_path, lines(*alpaca(1), *bad)).splitlines()
    assert text[1] == "  12 bad rows of 13:"
    assert [line.split(" invalid")[0] for line in text[2:12]] == [
        f"  x.jsonl:{i}:" for i in range(2, 12)
    ]
    assert text[12] == "  … and 2 more"


def test_skip_logs_and_counts_each_bad_row(tmp_path: Path) -> None:
    content = lines("broken", *alpaca(2), {"instruction": "a"})
    made, log = load(tmp_path, content, bad_rows="skip")
    assert (len(made), made.meta["bad_rows"], made.meta["format"]) == (2, 2, "alpaca")
    shown = log.replace(f"{tmp_path}/", "")
    assert "skipped x.jsonl:1: invalid JSON" in shown
    assert "skipped x.jsonl:4: there is no column 'output'" in shown
    assert "skipped 2 of 4 rows" in shown
    lines_of = [(line["reason"], line["detail"], line["row"]) for line in read_dropped(made)]
    assert [(reason, detail[:9]) for reason, detail, _ in lines_of] == [
        ("bad-row", "line 1: i"), ("bad-row", "line 4: t"),
    ]  # fmt: skip
    assert lines_of[1][2] == {"instruction": "a"}


def test_a_bad_row_of_a_table_with_a_header_is_named_by_its_line(tmp_path: Path) -> None:
    table = "prompt,completion\na,b\n\nc,\n"
    made, _ = load(tmp_path, table, name="x_csv", bad_rows="skip")
    assert [line["detail"] for line in read_dropped(made)] == ["line 4: 'completion' is empty"]


MIXED = [{"prompt": text, "completion": "a"} for text in ("Grüße", "plain", "“Möbel”", "Öl")]


def encoded(folder: Path, *encodings: str) -> Files:
    """A file of `MIXED`, one encoding for each row."""
    texts = (json.dumps(row, ensure_ascii=False) + "\n" for row in MIXED)
    parts = (text.encode(name) for text, name in zip(texts, encodings, strict=True))
    (folder / "x.jsonl").write_bytes(b"".join(parts))
    return Files(["x.jsonl"], [folder / "x.jsonl"])


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["cp1252"] * 4, "cp1252"),
        (["utf-8", "utf-8", "cp1252", "utf-8"], ["utf-8", "cp1252"]),
        (["utf-16-le"] * 4, "utf-16-le"),
        (["utf-8"] * 4, "UTF8"),
        (["utf-8"] * 4, ["ascii", "utf-8"]),
    ],
)
def test_rows_are_read_in_the_encoding_that_the_recipe_names(
    tmp_path: Path, names: list[str], encoding: str | list[str]
) -> None:
    step = File(path=encoded(tmp_path, *names), encoding=encoding)
    rows = list(step.run(TestJob(tmp_path)))
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in MIXED]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["cp1252"] * 4, ["3 lines aren't UTF-8 (lines 1, 3, 4); as cp1252, line 1 reads", "Grüße",
                          "set `encoding: cp1252`", "iconv -f cp1252"]),
        (["utf-8", "utf-8", "cp1252", "utf-8"],
         ["1 line isn't UTF-8 (line 3), but 2 with other letters than ASCII are; as cp1252, line 3",
          "“Möbel”", "set `encoding: [utf-8, cp1252]`"]),
        (["cp437"] + ["utf-8"] * 3, ["1 line isn't UTF-8 (line 1), nor cp1252: set `encoding` to"]),
    ],
)  # fmt: skip
def test_advice_on_an_encoding_names_the_lines_and_corrupts_none(
    tmp_path: Path, names: list[str], parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        File(path=encoded(tmp_path, *names)).run(TestJob(tmp_path))
    assert [part for part in parts if part not in str(caught.value.fix)] == []


SEVEN_BIT = ("iso2022_jp", "iso-2022-kr", "iso2022_jp_2004", "hz", "utf-7", "raw_unicode_escape")


@pytest.mark.parametrize("name", ["shift_jis", "euc_jp", "gb18030", "cp949", "koi8-r", "ascii"])
def test_encodings_that_write_letters_in_other_bytes_than_ascii_share_a_file(name: str) -> None:
    assert File(path=Files([]), encoding=["utf-8", name]).encodings() == ["utf-8", name]


@pytest.mark.parametrize(
    ("encoding", "what"),
    [
        ("cp1253x", "there is no text encoding 'cp1253x'"),
        ("base64", "there is no text encoding 'base64'"),
        ("utf\0", "there is no text encoding 'utf\\x00'"),
        (["utf-8", "utf-16"], "a file in utf-16 has no lines in other"),
        (["utf-8", "utf-16-le"], "a file in utf-16-le has no lines in other"),
        (["utf-8", "cp500"], "a file in cp500 has no lines in other"),
        *((["utf-8", name], f"a file in {name} has no lines in other") for name in SEVEN_BIT),
        ([], "`encoding` is empty"),
    ],
)
def test_encodings_that_can_not_be(encoding: str | list[str], what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        File(path=Files([]), encoding=encoding)


@pytest.mark.parametrize(
    ("written", "fix"),
    [("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("utf-8-sig", "utf-8")],
)
def test_utf_16_without_its_mark_is_an_error_with_the_byte_order(
    tmp_path: Path, written: str, fix: str
) -> None:
    source = files(tmp_path, x_csv="")
    source.paths[0].write_bytes("prompt,completion\na,ü\n".encode(written))
    with pytest.raises(DataError, match=r"x\.csv: error: .* isn't utf-16") as caught:
        File(path=source, encoding="utf-16").run(TestJob(tmp_path))
    assert caught.value.fix == f"set `encoding` to {fix}"


def test_a_damaged_file_is_not_told_to_be_in_the_encoding_that_failed(tmp_path: Path) -> None:
    source = files(tmp_path, x_csv="")
    source.paths[0].write_bytes("prompt,completion\na,ü\n".encode("utf-16")[:-1])
    with pytest.raises(DataError) as caught:
        File(path=source, encoding="UTF16").run(TestJob(tmp_path))
    assert caught.value.fix == "set `encoding` to the one that the file was saved in"


def test_a_byte_that_the_encoding_lacks_is_named_by_its_line(tmp_path: Path) -> None:
    source = files(tmp_path, x_csv="prompt,completion\na,b\n")
    source.paths[0].write_bytes(source.paths[0].read_bytes() + b"c\x81,d\n")
    with pytest.raises(DataError, match=r"x\.csv:3: error: a byte \(0x81\) isn't cp1252"):
        File(path=source, encoding="cp1252").run(TestJob(tmp_path))


RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: x.csv, SETTINGS}
  valid: {use: data.validate, rows: rows}
"""


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ('bad_rows: skip, columns: {user: "{{ txt }}", assistant: "{{ label }}"}',
         "'txt'"),
        ('bad_rows: skip, columns: {user: "{{ text }}", assistant: "{{ label }}"}, keep: [topic]',
         "keep: no row has a column 'topic'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rows", [2, 300])
def test_check_finds_a_column_that_no_row_has_also_where_bad_rows_are_skipped(
    project: MakeProject, settings: str, what: str, rows: int
) -> None:
    table = "text,label\n" + "".join(f"question {n},a\n" for n in range(rows)) + "bad\n"
    made = project({"recipe.yaml": RECIPE.replace("SETTINGS", settings), "x.csv": table})
    ran = made.here("check")
    assert ran.code == 2
    assert what in ran.err


@pytest.mark.parametrize("encoding", ['"utf\\0"', "cp1253x", "[utf-8, hz]", "[]"])
def test_a_wrong_encoding_is_an_error_at_its_setting(project: MakeProject, encoding: str) -> None:
    recipe = RECIPE.replace("SETTINGS", f"encoding: {encoding}")
    ran = project({"recipe.yaml": recipe, "x.csv": "text,label\na,b\n"}).here("check")
    assert (ran.code, ran.err.startswith("recipe.yaml:4:39: error: step 'rows': ")) == (2, True)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("use: data.validate, label: labl", "5:47"),
        ("use: data.split, stratify: labl", "5:50"),
        ("use: data.split, group: labl", "5:47"),
        ("use: data.sample, n: 2, by: labl", "5:51"),
        ("use: data.filter, min_characters: {labl: 2}", "5:57"),
        ("use: data.map, remove: [labl]", "5:46"),
    ],
)
def test_check_finds_a_setting_that_names_a_column_which_no_row_has(
    project: MakeProject, setting: str, place: str
) -> None:
    columns = 'columns: {user: "{{ text }}", assistant: "{{ label }}"}, keep: [tone]'
    recipe = RECIPE.replace("SETTINGS", columns).replace("use: data.validate", setting)
    made = project({"recipe.yaml": recipe, "x.csv": "text,label,tone\nhow are you,a,b\n"})
    ran = made.here("check")
    assert ran.code == 2
    assert "error: no row has a column 'labl'" in ran.err
    made.edit("recipe.yaml", "labl", "tone")
    assert made.here("check").code == 0


def test_a_file_with_garbled_text_gets_a_note(project: MakeProject) -> None:
    rows = lines(*({"prompt": f"{n} SchÃ¶ne GrÃ¼ÃŸe", "completion": "a"} for n in range(4)))
    recipe = RECIPE.replace(", SETTINGS", "").replace("x.csv", "x.jsonl")
    made = project({"recipe.yaml": recipe, "x.jsonl": rows})
    note = "note: 4 of the first 4 rows of rows have garbled text, e.g. 'prompt': 'Ã¶' for 'ö'"
    assert note in made.here("check").out


@pytest.mark.parametrize("text", ["a\0b", "\0"])
def test_nul_is_a_bad_row(tmp_path: Path, text: str) -> None:
    row = {"instruction": "a", "output": text}
    assert "a text holds a NUL character" in failure(tmp_path, lines(row))


@pytest.mark.parametrize(
    ("name", "content"),
    [("x_jsonl", ""), ("x_jsonl", "\n \n"), ("x_json", "[]"), ("x_csv", ""), ("x_csv", "a,b\n")],
)
def test_no_rows_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    assert "the file has no rows" in failure(tmp_path, content, name=name)


def test_memory_stays_flat_for_a_big_file(tmp_path: Path) -> None:
    import tracemalloc

    row = lines({"instruction": "x" * 2_000, "output": "y"})
    with (tmp_path / "big.jsonl").open("w") as out:
        out.writelines(row for _ in range(10_000))
    tracemalloc.start()
    made: Dataset = File(path=Files(["big"], [tmp_path / "big.jsonl"])).run(TestJob(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 10_000
    assert peak < 4_000_000  # bytes; the file has 20 million


@pytest.mark.parametrize(("name", "content"), [
    ("x_csv", "text,intent\na,b\n,c\n"),
    ("x_jsonl", lines({"text": "a", "intent": "b"}, "{broken", {"text": "", "intent": "c"})),
])  # fmt: skip
def test_a_sample_is_made_as_the_step_makes_rows(name: str, content: str, tmp_path: Path) -> None:
    """Before a build, notes read the prompts and answers that the models will get."""
    step = File(path=files(tmp_path, **{name: content}), columns=PAIR)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    sample = value_of(step.forecast(cast(Inputs, None)).sample)
    row, *others = islice(sample or (), 9)
    assert row == {"messages": turns}
    assert others[:1] in ([], [{"text": "", "intent": "c"}])  # no row can be made of it
