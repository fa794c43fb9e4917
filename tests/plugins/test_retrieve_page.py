"""The app's page in a real browser: answers, sources, citations, hostile text, keys, phones."""

import json
from collections.abc import Iterator

import pytest
from answering import HOSTILE, Running, running, tiny_bundle
from llama_server import needs_llama_server
from needs import need
from reviewing import Window, window
from selenium.webdriver.common.keys import Keys

from finery import Bundle
from finery_retrieve.index.chunks import escape_control_tokens

pytestmark = [needs_llama_server, pytest.mark.slow]
need("bm25s")
ANSWER = (
    'Up to 50 MB. "… Larger files are left out" [1] [2], “there is no limit” [1; 2], as in [9]. '
    '`rows[3]` is code, and "OK" [1] too short for a quote. '
    "<script>document.title='run'</script><b>x</b>"
)
"""What the model must answer; a grammar of llama.cpp sees to it."""
QUESTION = "Which files are read, with tags? <b>bold</b>"


def only(text: str) -> str:
    """A grammar that allows one text. https://github.com/ggml-org/llama.cpp/tree/master/grammars"""
    return f"root ::= {json.dumps(text)}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a model that always answers the same."""
    return tiny_bundle(tmp_path_factory.mktemp("page"), grammar=only(ANSWER), max_tokens=700)


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Iterator[Running]:
    """Its app."""
    with running(bundle) as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Window]:
    """A window."""
    with window(1300, 900) as opened:
        yield opened


@pytest.fixture
def page(app: Running, browser: Window) -> Window:
    """A window with the page, newly loaded."""
    show(browser, app.page)
    return browser


def show(page: Window, address: str) -> None:
    """Load the page, and wait until it can be used."""
    page.driver.get("about:blank")
    page.driver.get(address)
    page.until(lambda: page.text("#name") == "guide")


def ask(page: Window, question: str = QUESTION) -> None:
    """Type a question where the focus is, and wait for the answer's end."""
    page.press(question, Keys.ENTER)
    page.until(lambda: page.text("#live").startswith("Answer:"))


def labels(page: Window, selector: str) -> list[str]:
    """The texts of elements."""
    return [element.text for element in page.all(selector)]


def test_an_answer_and_its_sources(page: Window) -> None:
    ask(page)
    assert page.text("article > h2") == QUESTION
    shown = page.text(".answer")
    assert shown.startswith('Up to 50 MB. "… Larger files are left out" [1] [2], ')
    assert "“there is no limit” [1: not a quote from it, 2: not a quote from it], as in" in shown
    assert '[9: no such source]. `rows[3]` is code, and "OK" [1] too short' in shown
    assert labels(page, ".answer a") == ["1", "2", "1", "2", "1"]
    assert page.text("details .label") == "[1] guide/limits.md"
    assert page.text("details .where") == "Limits > Files · line 12"
    assert "It cites the sources 1, 2." in page.text("#live")
    assert page.errors() == []


def test_cited_sources_are_open_and_a_citation_leads_to_its_source(page: Window) -> None:
    ask(page)
    states = page.run("return [...document.querySelectorAll('.sources details')].map(d => d.open)")
    assert states == [True, True, False][: len(states)]
    first = "document.querySelector('.sources details')"
    page.run(f"{first}.open = false; document.querySelector('.answer a').focus()")
    page.press(Keys.ENTER)
    assert page.run(f"return {first}.open && document.activeElement.parentElement === {first}")


def test_hostile_text_stays_text(page: Window) -> None:
    ask(page, "tags")
    assert page.text("details .label") == f"[1] {HOSTILE['source']}"
    assert page.text("details .where").startswith(str(HOSTILE["heading"]))
    assert page.text("blockquote") == escape_control_tokens(str(HOSTILE["text"]))
    assert "<b>x</b>" in page.text(".answer")
    assert page.all("#answers b, #answers img, #answers script") == []
    assert page.driver.title == "guide"
    assert page.errors() == []


def test_a_quote_of_long_white_space_is_searched_in_no_time(page: Window) -> None:
    """In one pass: the browser gives up on a script that takes minutes."""
    look = "return position('one two', arguments[0])"
    spaces = " " * 50_000
    assert page.driver.execute_script(look, f"x{spaces}y") is None
    assert page.driver.execute_script(look, spaces) is None
    ellipses = f"\u2026{spaces}... one{spaces}two ...{spaces}\u2026"
    assert page.driver.execute_script(look, ellipses) == [0, 7]


def test_it_is_used_with_the_keyboard_alone(page: Window) -> None:
    assert page.run("return document.activeElement.id") == "question"
    page.press("two")
    page.chord(Keys.SHIFT, Keys.ENTER)
    page.press("lines?", Keys.ENTER)
    page.until(lambda: page.text("#live"))
    assert page.text("article > h2") == "two\nlines?"
    page.press(Keys.ENTER)
    assert len(page.all("article")) == 1
    page.press("again?", Keys.ENTER)
    page.until(lambda: len(page.all("article")) == 2 and not page.all("#send[hidden]"))
    assert page.text("article > h2") == "again?"


def test_a_key_is_taken_from_the_address_or_typed(bundle: Bundle) -> None:
    with running(bundle, "--host", "0.0.0.0") as app, window() as page:
        key = app.page.partition("#key=")[2]
        page.driver.get(app.page.partition("#")[0])
        page.until(lambda: page.run("return document.activeElement.id") == "key")
        page.press("wrong", Keys.ENTER)
        page.until(lambda: "invalid API key" in page.text("#locked"))
        page.run("document.querySelector('#key').value = ''")
        page.press(key, Keys.ENTER)
        page.until(lambda: page.text("#name") == "guide")
        ask(page)
        show(page, app.page)
        assert "key" not in page.run("return location.href")


def test_what_goes_wrong_is_said(bundle: Bundle) -> None:
    with running(bundle) as app, window() as page:
        show(page, app.page)
        ask(page)
        page.paste("word " * 2000)
        page.press(Keys.ENTER)
        page.until(
            lambda: "the model's server refuses" in page.text(".error[role=alert]:not(#locked)")
        )
        app.end()
        page.press("Which?", Keys.ENTER)
        page.until(lambda: "The server doesn't answer" in page.text("article .error"))


def test_a_phone_shows_all_of_it(app: Running) -> None:
    with window(500, 900) as page:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        show(page, app.page)
        ask(page, "tags and files")
        assert page.run("return document.documentElement.scrollWidth") == 390
        right = "[...document.querySelectorAll('main *')].map(e => e.getBoundingClientRect().right)"
        assert page.run(f"return Math.max(...{right})") <= 390
        tops = "[...document.querySelectorAll('.answer, .sources')].map(e => e.offsetTop)"
        answer, sources = page.run(f"return {tops}")
        assert answer < sources
