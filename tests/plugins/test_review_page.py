"""The review page in a browser, with keys as people press them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from reviewing import Review, Window, built_in, chat, decisions, files_of, pair, reviewing, window
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

ROWS = [chat(f"question {n}", f"answer {n}", label="xy"[n % 2]) for n in range(6)]
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"of":"é"}'}}
TOOLS: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "look it up"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"found": [1, 2]}'},
        {"role": "assistant", "content": "found"},
    ],
    "tools": [{"type": "function", "function": {"name": "look_up"}}],
    "score": 0.5,
    "checks": [
        {"name": "short", "passed": True},
        {"name": "polite", "passed": False, "detail": "no"},
    ],
    "judge": {"score": 3, "reason": "dry"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Window]:
    with window() as opened:
        yield opened


@pytest.fixture
def made(built: MakeProject) -> Project:
    return built(files_of(ROWS))


@pytest.fixture
def review(made: Project) -> Iterator[Review]:
    with reviewing(made, "rows", "--reviewer", "Ann") as found:
        yield found


@pytest.fixture
def page(browser: Window, review: Review) -> Iterator[Window]:
    browser.open(review.address)
    yield browser
    assert browser.errors() == []


def save(page: Window) -> None:
    """Press Ctrl+Enter."""
    page.chord(Keys.CONTROL, Keys.ENTER)


def told(project: Project) -> list[tuple[str, ...]]:
    """(row's number, what was decided) of each line, and the comment where there is one."""
    number = {row["id"]: str(n) for n, row in enumerate(ROWS)}
    lines = decisions(project)
    return [(number[x["id"]], x["do"], *([x["reason"]] if "reason" in x else [])) for x in lines]


# -- deciding -------------------------------------------------------------------------------------


@pytest.mark.quick
def test_rows_are_decided_by_keys_alone_and_the_page_can_be_loaded_again(
    made: Project, page: Window
) -> None:
    page.at("Row 1", "undecided")
    assert "token" not in page.driver.current_url
    page.press("a")
    page.at("Row 2")
    assert page.text("#live") == "Row 1 accepted. Row 2, undecided"
    page.press("r")
    page.at("Row 3")
    page.press("j", "k", "k")
    page.at("Row 2", "rejected")
    assert page.text(".banner").startswith("Rejected by Ann, ")
    page.press("n")
    page.at("Row 3")
    assert told(made) == [("0", "accept"), ("1", "reject")]
    assert page.text("#tally b") == "2 of 6 decided"
    page.driver.refresh()
    page.at("Row 3", "undecided")
    page.press("u")
    page.at("Row 2", "undecided")
    page.press("u")
    page.at("Row 1", "undecided")
    page.press("u")
    page.until(lambda: page.text("#live") == "There is nothing to undo in this window")
    assert told(made)[2:] == [("1", "undo"), ("0", "undo")]


def test_an_edit_changes_any_turn(made: Project, page: Window) -> None:
    page.press("e")
    page.until(lambda: page.run("return document.activeElement.value") == "answer 0")
    page.press(" ", "m", "o", "r", "e")
    page.chord(Keys.SHIFT, Keys.TAB)
    page.press("!")
    save(page)
    page.at("Row 2")
    page.press("k")
    page.at("Row 1", "edited")
    said = [e.text for e in page.all(".turns > :not(details) .turn .said")]
    assert said == ["question 0!", "answer 0 more"]
    assert page.text(".original .user .said") == "question 0"
    line = decisions(made)[0]
    assert list(line["set"]) == ["messages"]
    assert list(line) == ["id", "do", "set", "by", "at", "prompt"]
    page.press("e")
    page.until(lambda: page.run("return document.activeElement.value") == "answer 0 more")
    page.press(*[Keys.BACKSPACE] * 5)
    save(page)
    page.at("Row 2")
    assert decisions(made)[1]["set"]["messages"][1]["content"] == "answer 0"
    assert made.ran() == ["reviewed"]
    assert made.rows("reviewed")[0]["messages"][0]["content"] == "question 0!"


def test_an_edit_that_is_no_good_is_told_and_nothing_typed_is_lost(
    made: Project, page: Window
) -> None:
    page.press("e")
    page.until(lambda: page.run("return document.activeElement.value") == "answer 0")
    page.press(*[Keys.BACKSPACE] * 8)
    save(page)
    page.until(lambda: "turn 2 (assistant) is empty" in page.text("#alert"))
    page.press("n", "e", "w")
    page.run("document.querySelector('[data-do=next]').click()")
    page.at("Row 2")
    page.press("k")
    page.until(lambda: page.run("return document.activeElement.value") == "new")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all(".editor"))
    page.press("e")
    page.until(lambda: page.run("return document.activeElement.value") == "answer 0")
    save(page)
    page.until(lambda: page.text("#live") == "Nothing has changed")
    assert not (made.folder / "reviews/rows.jsonl").exists()
    page.errors()  # of the answer 422


def another(page: Window, label: str) -> None:
    """Choose to write a label that no row has, and write it."""
    page.press("a")
    page.until(lambda: page.run("return document.activeElement.id") == "label-other")
    page.press(*label, Keys.ENTER)


def test_labels_and_comments(made: Project, page: Window) -> None:
    page.press("l")
    page.until(lambda: page.run("return document.activeElement.id") == "label-input")
    another(page, "z")
    page.at("Row 2")
    page.press("l")
    page.until(lambda: page.run("return document.activeElement.id") == "label-input")
    page.press("x")
    assert page.run("return document.getElementById('label-input').value") == "x"
    page.press(Keys.ENTER)
    page.at("Row 3")
    page.press("k", Keys.BACKSPACE)
    page.at("Row 2", "undecided")
    page.press("c")
    page.until(lambda: page.run("return document.activeElement.id") == "comment")
    page.press("h", "m", Keys.ENTER)
    page.until(lambda: "Commented by Ann" in page.text(".banner"))
    page.at("Row 2", "undecided")
    page.press("a")
    page.at("Row 3")
    page.press("a")
    page.at("Row 4")
    page.press("k", "c", "o", "k", Keys.ENTER)
    page.until(lambda: page.text("#live") == "Comment saved")
    page.at("Row 3", "accepted")
    page.press(Keys.BACKSPACE)
    page.at("Row 3", "undecided")
    assert told(made) == [
        ("0", "edit"), ("1", "edit"), ("1", "undo"), ("1", "note", "hm"),
        ("1", "accept", "hm"), ("2", "accept"),
        ("2", "accept", "ok"), ("2", "undo"),
    ]  # fmt: skip
    assert decisions(made)[0]["set"] == {"label": "z"}
    page.press("k", "k")
    page.at("Row 1", "edited")
    assert page.run("return document.getElementById('label-input').value") == "z"


def test_an_answer_that_is_the_label_changes_with_it(built: MakeProject, browser: Window) -> None:
    made = built(files_of([chat("one", "x", label="x"), chat("two", "y", label="y")]))
    with reviewing(made) as review:
        browser.open(review.address)
        browser.press("l")
        another(browser, "z")
        browser.at("Row 2")
        browser.run("document.getElementById('answer-too').click()")
        browser.press("l")
        another(browser, "w")
        browser.until(lambda: len(decisions(made)) == 2)
    both, alone = (line["set"] for line in decisions(made))
    assert (both["label"], both["messages"][-1]["content"]) == ("z", "z")
    assert alone == {"label": "w"}


# -- audits ---------------------------------------------------------------------------------------

AUDITED = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
  valid: {use: data.validate, rows: rows, label: output}
  audit: {use: data.audit, rows: valid}
  reviewed: {use: review.apply, rows: audit, reviews: reviews/audit.jsonl}
"""
ASKED = {
    "order": ["I'd like {} rolls", "Please keep {} loaves for me", "Can I order {} cakes today"],
    "question": [
        "When do you open on day {}",
        "Do you have {} kinds of bread",
        "Is bread {} vegan",
    ],
}


def test_the_most_suspicious_label_comes_first_and_its_proposal_is_one_key_away(
    built: MakeProject, browser: Window
) -> None:
    rows = [
        {"prompt": text.format(n), "completion": label}
        for n in range(100, 112)
        for label, texts in ASKED.items()
        for text in texts
    ]
    rows[20]["completion"], rows[31]["completion"] = "question", "ordr"
    made = built(
        {"recipe.yaml": AUDITED, "rows.jsonl": "".join(f"{json.dumps(r)}\n" for r in rows)}
    )
    with reviewing(made, "audit") as review:
        browser.open(review.address)
        browser.until(lambda: browser.title() in ("Row 21", "Row 32"))
        first, second = (
            ("Row 21", "Row 32") if browser.title() == "Row 21" else ("Row 32", "Row 21")
        )
        assert browser.text(".proposal") == "Proposal: order p"
        browser.press("p")
        browser.at(second)
        browser.press("k")
        browser.at(first, "edited")
        browser.run("document.getElementById('check').value = 'label-typo'")
        browser.run("document.getElementById('check').dispatchEvent(new Event('change'))")
        browser.until(lambda: browser.text("#found") == "1 row")
        browser.at("Row 32")
        browser.press("l", "o", Keys.ENTER)  # `order`, and not `ordr`, which is the row's own
        browser.until(lambda: len(decisions(made, "audit")) == 2)
    assert {line["do"] for line in decisions(made, "audit")} == {"edit"}
    assert made.ran() == ["reviewed"]
    labels = [row["completion"] for row in made.rows("reviewed")]
    assert labels == [label for _ in range(12) for label in ASKED for _ in range(3)]
    assert "suspect-labels" not in made.here("check").out


def test_the_least_certain_request_comes_first_and_gets_its_answer(
    built: MakeProject, browser: Window
) -> None:
    recipe = AUDITED.partition("  rows:")[0] + (
        "  requests: {use: data.requests, path: log.jsonl}\n"
        "  reviewed: {use: review.apply, rows: requests, reviews: reviews/requests.jsonl}\n"
    )
    log = [
        {
            "finery": 1, "status": 200,
            "request": {"messages": [{"role": "user", "content": text}]},
            "response": {"choices": [
                {"message": {"role": "assistant", "content": answer}, "probability": probability},
            ]},
        }
        for text, answer, probability in (
            ("one", "order", 0.9), ("two", "question", 0.3), ("three", "order", 0.6),
        )
    ]  # fmt: skip
    lines = "".join(f"{json.dumps(line)}\n" for line in log)
    made = built({"recipe.yaml": recipe, "log.jsonl": lines})
    with reviewing(made, "requests") as review:
        browser.open(review.address)
        browser.at("Row 2")
        assert browser.text(".proposal") == "Proposal: question p"
        browser.press("p")
        browser.at("Row 3")
        browser.press("l")
        browser.until(lambda: browser.run("return document.activeElement.id") == "label-input")
        browser.press("q", Keys.ENTER)
        browser.at("Row 1")
        browser.press("l")
        browser.until(lambda: browser.run("return document.activeElement.id") == "label-input")
        another(browser, "z")
        browser.until(lambda: len(decisions(made, "requests")) == 3)
    assert made.ran() == ["reviewed"]
    answers = {row["messages"][0]["content"]: row["messages"][1] for row in made.rows("reviewed")}
    assert {text: turn["content"] for text, turn in answers.items()} == {
        "one": "z", "two": "question", "three": "question",
    }  # fmt: skip


# -- preferences ----------------------------------------------------------------------------------


def test_preferences_lie_side_by_side_and_are_swapped(built: MakeProject, browser: Window) -> None:
    made = built(files_of([pair(n) for n in range(3)]))
    with reviewing(made) as review:
        browser.open(review.address)
        chosen, rejected = browser.all(".side")
        assert chosen.rect["y"] == rejected.rect["y"]
        assert chosen.rect["x"] < rejected.rect["x"]
        assert [e.text for e in browser.all(".side .said")] == ["good 0", "bad 0"]
        browser.press("s")
        browser.at("Row 2")
        browser.press("k")
        browser.at("Row 1", "swapped")
        assert [e.text for e in browser.all(".side .said")] == ["bad 0", "good 0"]
        browser.press("e")
        browser.until(lambda: browser.run("return document.activeElement.value") == "bad 0")
        browser.press("!")
        save(browser)
        browser.at("Row 2")
        browser.press("s")
        browser.at("Row 3")
        browser.press("k", "s")  # and back
        browser.at("Row 2", "undecided")
        assert [e.text for e in browser.all(".side .said")] == ["good 1", "bad 1"]
    assert browser.errors() == []
    assert made.ran() == ["reviewed"]
    row = made.rows("reviewed")[0]
    assert (row["chosen"], row["rejected"]) == ("bad 0!", "good 0")


# -- looking --------------------------------------------------------------------------------------


def test_tool_calls_checks_scores_and_columns_are_shown(
    built: MakeProject, browser: Window
) -> None:
    made = built(files_of([chat("q", source="here"), {**TOOLS}]))
    with reviewing(made) as review:
        browser.open(review.address)
        assert "source" in browser.text("aside")
        browser.press("j")
        browser.at("Row 2")
        assert browser.text(".call code") == "look_up"
        assert browser.text(".call .code") == '{\n  "of": "é"\n}'
        assert browser.text(".tool .code") == '{\n  "found": [\n    1,\n    2\n  ]\n}'
        assert [e.text for e in browser.all(".check")] == [
            "✓\npassed:\nshort",
            "✗\nfailed:\npolite\nno",
        ]
        assert {"dry", "3", "0.5"} <= {e.text for e in browser.all("aside dd")}
        browser.press("t")
        browser.until(lambda: browser.text("#line-1 .checks") == "0.5 ✗ polite")
        assert browser.text("#line-0 .checks") == ""
        browser.press("t", "e")
        browser.until(lambda: browser.run("return document.activeElement.value") == "found")
        browser.chord(Keys.SHIFT, Keys.TAB)
        browser.chord(Keys.SHIFT, Keys.TAB)
        browser.press("x")
        save(browser)
        browser.until(lambda: "tool calls: no JSON" in browser.text(".problem"))
        browser.press(Keys.BACKSPACE, Keys.ESCAPE)
    assert browser.errors() == []


def test_keys_count_in_the_order_they_were_pressed_however_slow_the_page(
    made: Project, page: Window
) -> None:
    """All in one go, before the page can draw once: none may be taken for another's."""
    pressed = """
      const press = (key) => document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
      return (async () => {
        for (const key of arguments[0]) {
          press(key);
          for (let wait = 0; wait < 20; wait++) await null;
        }
        return document.activeElement.value ?? document.activeElement.id;
      })();
    """
    assert page.run(pressed, ["e"]) == "answer 0"
    page.run("document.getElementById('help-button').focus()")
    assert page.run(pressed, ["Escape"]) == "row-title"
    assert not page.all("form.editor")
    assert page.run(pressed, ["e", "Escape", "c"]) == ""
    page.press(Keys.ESCAPE)
    page.run(pressed, ["a", "e"])
    page.at("Row 2")
    page.until(lambda: page.run("return document.activeElement.value") == "answer 1")
    assert told(made) == [("0", "accept")]


def test_the_table_moves_decides_and_opens_by_keys(made: Project, page: Window) -> None:
    page.press("t", Keys.ARROW_DOWN, Keys.ARROW_DOWN, "a", "r")
    page.until(lambda: told(made) == [("2", "accept"), ("3", "reject")] if _has(made) else False)
    chosen = "return document.querySelector('[aria-selected=true]').id"
    page.until(lambda: page.run(chosen) == "line-4")
    active = "return document.activeElement.getAttribute('aria-activedescendant')"
    assert page.run(active) == "line-4"
    assert page.text("#line-2 .status") == "accepted"
    page.press(Keys.HOME, Keys.ENTER)
    page.at("Row 1")
    page.press("t", Keys.END)
    page.until(lambda: page.run(chosen) == "line-5")
    page.driver.refresh()
    page.until(lambda: page.all(".spacer .line") and page.run(chosen) == "line-5")
    page.press("t")
    page.at("Row 6")


def test_rows_of_an_overtaken_order_are_not_shown(built: MakeProject, browser: Window) -> None:
    rows = [chat(f"question {n}", score=score) for n, score in enumerate((2, 9, 1))]
    with reviewing(built(files_of(rows)), "rows") as review:
        browser.open(review.address)
        browser.at("Row 1")
        browser.run(  # the new order's list comes after the rows of the old one
            "const real = window.fetch; window.fetch = async (path, options) => {"
            "if (path.startsWith('/api/list')) await new Promise((go) => setTimeout(go, 700));"
            "return real(path, options); }"
        )
        browser.run(
            "document.getElementById('view-table').click();"
            "const order = document.getElementById('order'); order.value = 'highest';"
            "order.dispatchEvent(new Event('change'))"
        )
        prompts = [f"#line-{place} .prompt" for place in range(3)]
        shown = ["question 1", "question 0", "question 2"]
        browser.until(lambda: [browser.text(place) for place in prompts] == shown)


def _has(project: Project) -> bool:
    return (project.folder / "reviews/rows.jsonl").exists()


def test_filters(made: Project, page: Window) -> None:
    page.press("a")
    page.at("Row 2")
    page.press("f", "a", "c", Keys.ENTER)  # accepted
    page.at("Row 1", "accepted")
    assert page.text("#found") == "1 row"
    page.run("document.getElementById('status').focus()")
    page.press("u", "n", "d", Keys.ENTER)
    page.until(lambda: page.text("#found") == "5 rows")
    page.press(Keys.ESCAPE, "/", *"question 4")
    page.until(lambda: page.text("#found") == "1 row")
    page.press(Keys.ENTER)
    page.at("Row 5")
    assert "1 of 1 shown" in page.text(".of")
    page.press("/", "z")
    page.at("No row fits")
    page.driver.refresh()
    page.at("No row fits")
    page.press(Keys.TAB)
    page.run("document.querySelector('.empty button').click()")
    page.until(lambda: page.text("#found") == "")


def test_two_windows_hear_of_each_other_and_do_not_overwrite(
    made: Project, review: Review, page: Window
) -> None:
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("window")
    page.open(review.address)
    page.press("r")
    page.at("Row 2")
    page.driver.switch_to.window(first)
    page.at("Row 1", "rejected")  # it heard
    page.run("clearTimeout(window.stop); document.hidden")
    assert review.decide(1, "accept").status == 200
    page.press("j")
    page.at("Row 2", "accepted")
    # Decided by another between hearing and pressing: told, not overwritten.
    page.run("window.fetchNow = window.fetch; window.fetch = (p, o) => p.startsWith('/api/changes')"
             " ? new Promise(() => {}) : fetchNow(p, o)")  # fmt: skip
    time.sleep(1.6)
    page.press("j")
    page.at("Row 3", "undecided")
    assert review.decide(2, "reject", reason="mine").status == 200
    page.press("a")
    page.until(lambda: "another window decided on this row" in page.text("#alert"))
    page.at("Row 3", "rejected")
    assert "mine" in page.text(".banner")
    assert told(made) == [("0", "reject"), ("1", "accept"), ("2", "reject", "mine")]
    page.press("a")
    page.until(lambda: told(made)[-1][:2] == ("2", "accept"))
    page.driver.switch_to.window(page.driver.window_handles[-1])
    page.driver.close()
    page.driver.switch_to.window(first)
    assert [error for error in page.errors() if "409" not in error] == []


def test_the_end_of_the_server_is_told(page: Window, review: Review) -> None:
    review.end()
    page.press("a")
    page.until(lambda: "The review has ended" in page.text("#alert"))
    page.at("Row 1", "undecided")
    page.errors()  # of the connection


# -- many rows, and bad ones ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Project:
    rows = [chat(f"question {n} " + "word " * 80, f"answer {n}") for n in range(5000)]
    return built_in(tmp_path_factory.mktemp("many"), files_of(rows))


HOSTILE = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'><svg onload='window.hurt = 1'>",
    "</div></main><h1>gone</h1><style>body { display: none }</style>",
    "<a href='javascript:window.hurt = 1'>click</a> javascript:window.hurt=1",
    "<iframe srcdoc='<script>parent.hurt = 1</script>'></iframe><base href='//evil.example'>",
    "\u202egnirts\u202c \u200b\u2066\u2069 \ufeff \x00 \x1b[31m \U000e0041\U000e0042",
    "{{ constructor.constructor('window.hurt = 1')() }} ${window.hurt = 1}",
    "x" * 20_000,
    "\u0301" * 5000,
    "__proto__",
]


def test_hostile_texts_are_only_texts(built: MakeProject, browser: Window) -> None:
    rows = [
        chat(
            text, text, label=text[:300], source=text, judge={text[:300]: text}, checks=[text[:300]]
        )
        for text in HOSTILE
    ]
    rows.append({"messages": [{"role": t, "content": "c", t: t} for t in HOSTILE[:4]]})
    rows.append({"messages": [None, 3, {"role": {"a": 1}, "content": [{"type": "image"}]}, {}]})
    rows += [
        {"messages": "text"},
        {"prompt": None, "chosen": 5, "rejected": [None]},
        {"text": HOSTILE[0]},
    ]
    rows += [{"odd": [[[[[["deep"]]]]]], "tools": [None]}, {"messages": [], "tools": HOSTILE[0]}]
    called = {"name": HOSTILE[0], "arguments": HOSTILE[1]}
    rows.append(
        {"messages": [{"role": "assistant", "tool_calls": [{"function": called}, None, 1]}]}
    )
    made = built(files_of(rows, RECIPE_ROWS))
    names = ["script", "img", "svg", "a", "iframe", "style", "h1", "base"]
    elements = ", ".join(f"main {name}" for name in names)
    hurt = f"return window.hurt === undefined && !document.querySelector('{elements}')"
    fits = "const s = document.getElementById('stage'); return s.scrollWidth <= s.clientWidth"
    with reviewing(made, "rows", "--reviewer", HOSTILE[1]) as review:
        browser.open(review.address)
        for number in range(len(rows)):
            browser.at(f"Row {number + 1}", "undecided")
            assert browser.run(hurt), rows[number]
            assert browser.run(fits), rows[number]
            if number < len(HOSTILE) and number not in (5, 7):
                assert browser.text(".user .text") == HOSTILE[number]
            if number == 5:
                marks = [e.text for e in browser.all(".user .unseen-mark")]
                assert marks == [
                    "U+202E", "U+202C", "U+200B", "U+2066", "U+2069", "U+FEFF", "U+0000", "U+001B",
                    "U+E0041", "U+E0042",
                ]  # fmt: skip
            browser.press("e", Keys.ESCAPE, "j")
        browser.press("t")
        browser.until(lambda: browser.all("#line-0 .prompt"))
        assert browser.run(hurt)
        browser.press(Keys.HOME, "r", "t", "k")
        browser.at("Row 1", "rejected")
        assert HOSTILE[1] in browser.text(".banner")
        assert browser.run(hurt)
        asked = browser.run(
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
        )
        assert set(asked) == {review.host}
    assert browser.errors() == []


RECIPE_ROWS = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.raw, path: rows.jsonl}
"""


# -- for everybody --------------------------------------------------------------------------------


def test_the_tab_key_alone_reaches_everything(made: Project, page: Window) -> None:
    seen: list[str] = []
    name = "const e = document.activeElement; return e.id || e.dataset.do || e.className"
    shows = """const style = getComputedStyle(document.activeElement);
        return style.outlineStyle !== 'none' || style.boxShadow !== 'none'"""
    page.run("document.activeElement.blur()")
    for _ in range(24):
        page.press(Keys.TAB)
        seen.append(page.run(name))
        assert page.run(shows) or not seen[-1], seen[-1]  # after the last comes the browser's own
    fields = {"status", "label", "text", "label-input", "comment"}
    buttons = {"view-row", "view-table", "help-button"}
    acts = {"previous", "accept", "edit", "reject", "undo", "next"}
    assert {"skip", *fields, *buttons, *acts} <= set(seen)
    while page.run(name) != "accept":
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    page.at("Row 2")
    assert page.run(name) == "accept"  # and can go on from there
    page.press(" ")
    page.at("Row 3")
    assert told(made) == [("0", "accept"), ("1", "accept")]


def test_everything_has_a_name_for_a_screen_reader(page: Window) -> None:
    for keys in ([], ["e"], [Keys.ESCAPE, "t"], ["?"]):
        page.press(*keys)
        time.sleep(0.3)
        nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        found = [
            (n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]
        ]
        controls = {"button", "textbox", "searchbox", "combobox", "checkbox", "grid", "progressbar",
                    "dialog", "group", "toolbar", "region", "article"}  # fmt: skip
        assert [f for f in found if f[0] in controls and not f[1]] == []
        assert {"button", "progressbar"} <= {role for role, _ in found} or keys == ["?"]
    page.press(Keys.ESCAPE)


CONTRAST = """
const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const shade = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const probe = document.body.appendChild(document.createElement('i'));
const of = (name) => {
  probe.style.color = `var(--${name})`;
  return shade(getComputedStyle(probe).color);
};
const inks = ['ink', 'dim', 'accent', 'accepted', 'rejected', 'edited', 'swapped', 'stale'];
const low = ['paper', 'raised', 'sunk', 'user'].flatMap((paper) => inks.map((ink) => {
  const [light, dark] = [of(paper), of(ink)].sort((x, y) => y - x);
  return [paper, ink, (light + 0.05) / (dark + 0.05)];
})).filter(([, , ratio]) => ratio < 4.5);
probe.remove();
return low;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(page: Window, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    assert page.run(CONTRAST) == []
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CUT_BUTTONS = """
const right = (b) => b.getBoundingClientRect().right;
const cut = (b) => b.scrollWidth > b.clientWidth + 1 || right(b) > innerWidth;
return [...document.querySelectorAll('#actions button')]
  .filter((b) => b.offsetWidth && cut(b)).map((b) => b.textContent);
"""


@pytest.mark.parametrize("width", [320, 390, 800])
def test_it_fits_narrow_windows(page: Window, width: int) -> None:
    size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for keys in ([], ["e"], [Keys.ESCAPE, "t"]):
            page.press(*keys)
            time.sleep(0.2)
            wide = "return document.documentElement.scrollWidth"
            assert page.run(wide) <= width
            assert page.run(CUT_BUTTONS) == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_opens_from_a_file_as_the_command_opens_it(
    tmp_path: Path, review: Review, browser: Window
) -> None:
    """The page that the command opens a browser with: a file, so another site."""
    start = tmp_path / "start.html"
    start.write_text(f'<meta http-equiv="refresh" content="0; url={review.address}">')
    browser.driver.get(start.as_uri())
    browser.at("Row 1")
    browser.driver.refresh()
    browser.at("Row 1")
    browser.press("a")
    browser.at("Row 2")
    assert browser.errors() == []


def test_another_site_can_not_put_it_in_a_frame_or_read_it(
    tmp_path: Path, review: Review, browser: Window
) -> None:
    browser.open(review.address)
    page = tmp_path / "evil.html"
    page.write_text(f"""<iframe src="{review.address}"></iframe>
        <script src="http://{review.host}/main.js" onerror="window.refused = 1"></script>
        <script>fetch("http://{review.host}/api/review", {{credentials: "include"}})
          .then(() => window.got = 1, () => window.got = 0)</script>""")
    browser.driver.get(page.as_uri())
    browser.until(lambda: browser.run("return window.refused === 1 && window.got === 0"))
    frame = browser.all("iframe")[0]
    browser.driver.switch_to.frame(frame)
    assert browser.all("#title") == []
    browser.driver.switch_to.default_content()
    browser.errors()
