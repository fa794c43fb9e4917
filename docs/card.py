"""Draws docs/images/card.png: a model card as a page, 1,000 pixels wide.

finery card recipes/ticket-triage sft | python docs/card.py docs/images/card.png

Needs chromium and chromedriver.
"""

import base64
import io
import shutil
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image
from selenium import webdriver

WIDTH, COLOURS = 1000, 16
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = """\
<!doctype html><meta charset="utf-8"><style>
body {{ font: 16px/1.5 "DejaVu Sans", sans-serif; color: #1f2328; margin: 24px 32px; }}
h2 {{ border-bottom: 1px solid #d1d9e0; padding-bottom: .2em; }}
pre {{ background: #f6f8fa; border-radius: 6px; padding: 12px 16px; }}
code {{ font: 85% "DejaVu Sans Mono", monospace; background: #f6f8fa; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ border: 1px solid #d1d9e0; padding: 4px 8px; }}
</style>{body}"""


def page_of(card: str) -> str:
    """A card without its front matter as HTML."""
    markdown = card.split("\n---\n", 1)[1]
    return PAGE.format(body=MarkdownIt("commonmark").enable("table").render(markdown))


def picture_of(page: str) -> Image.Image:
    """The whole page, in few colours, so that its file is small."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for flag in ("headless=new", "no-sandbox", "hide-scrollbars", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={WIDTH},800")
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        driver.get(f"data:text/html;base64,{base64.b64encode(page.encode()).decode()}")
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
    return picture.convert("RGB").quantize(COLOURS)


if __name__ == "__main__":
    picture_of(page_of(sys.stdin.read())).save(Path(sys.argv[1]), optimize=True)
