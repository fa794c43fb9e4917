"""Whole projects: copied folders, steps in steps, neighbours of one name, shadowed libraries."""

import os
import shutil
import sqlite3
from pathlib import Path

from attacking import (
    Attack,
    Change,
    World,
    attacks,
    both,
    distribution,
    edit,
    in_file,
    link,
    more,
    put,
    step,
)

READ = "(HERE / 'words.txt').read_text()"
WORDS = {"words.txt": "old words"}
NESTED = '''
from finery import Metrics, Model, nested_step, takes
from finery.rows.report import Report, Score

class Judge(Step, seeded=False):
    """A judge."""
    models: list[Model] = takes(uses_name=True, help="The models.")
    def run(self, job: Job) -> Metrics:
        return Metrics.write(job.out, Report(rows=1, scores={"m": {"accuracy": Score(SCORE)}}))

class Learn(Step, seeded=False):
    """A trainer that asks a judge."""
    judge: Step | None = nested_step("evaluate", given={"models": "me"}, help="The judge.")
    def run(self, job: Job) -> Model:
        self.judge.models = []
        scores = self.judge.run(job).report().data()["scores"]
        (job.out / "w").write_text(str(scores))
        return Model(job.out, meta={"format": "x"})
'''
LEARN = {
    "recipe.yaml": "finery: 1\nname: t\nplugins: [steps.py]\ntrain:\n"
    "  a: {use: a.learn, judge: {use: a.judge}}\n"
}


def odd_name(world: World) -> None:
    """A file whose name isn't UTF-8."""
    Path(os.fsdecode(os.fsencode(world.path("d")) + b"/\xff")).write_text("x")


def moved(world: World) -> None:
    """Use a copy of the recipe's folder instead, with another text in it."""
    copied = world.folder / "p/two"
    os.rename(world.folder / "p/one", copied)
    (copied / "words.txt").write_text("new words")


def copied(world: World) -> None:
    """Use a copy of the recipe's folder, with another module in it."""
    shutil.copytree(world.folder / "p/one", world.folder / "p/two")
    (world.folder / "p/two/deep/hidden.py").write_text("X = 2\n")
    (world.folder / "p/one/recipe.yaml").unlink()


def odd_text(text: str) -> Change:
    """Another text in the file whose name isn't UTF-8."""

    def change(world: World) -> None:
        Path(os.fsdecode(os.fsencode(world.path("d")) + b"/\xff")).write_text(text)

    return change


def recipe_in(name: str) -> Change:
    """Build the recipe in another folder of the project from the next build on."""

    def change(world: World) -> None:
        world.recipe = world.cwd = f"p/{name}"

    return change


def nested(score: str) -> dict[str, str | bytes]:
    """A step with a step inside."""
    files = step("answer = 1", NESTED.replace("SCORE", score))
    return {**in_file(files, '"a.answer": Answer', '"a.answer": Answer, "a.learn": Learn, '
                      '"a.judge": Judge'), **LEARN}  # fmt: skip


def logged(word: str) -> Change:
    """Add a row to a database by its write-ahead log, while the file itself stays as it is."""

    def change(world: World) -> None:
        path, copy = world.path("d.db"), world.path("../copy.db")
        world.path("../copy.db").write_bytes(path.read_bytes())
        connection = sqlite3.connect(copy)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO words VALUES (?)", [word])
        connection.commit()
        for end in ("", "-wal"):
            path.with_name(f"d.db{end}").write_bytes(copy.with_name(f"copy.db{end}").read_bytes())
        connection.close()

    return change


def database(world: World) -> None:
    """A database with a write-ahead log."""
    with sqlite3.connect(world.path("d.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE words (word)")
    connection.close()


ROWS = """\
import sqlite3
c = sqlite3.connect(f"file:{HERE}/d.db?mode=ro", uri=True)
answer = c.execute("SELECT * FROM words").fetchall()
c.close()
"""
ONE = {f"one/{name}": text for name, text in {**step(f"answer = {READ}"), **WORDS}.items()}
RELATIVE = {
    f"one/{name}": text
    for name, text in {**step("answer = open('words.txt').read()"), **WORDS}.items()
}

CASES = [
    # -- folders
    Attack("a recipe's folder copied, another text in it", ONE, both(moved, recipe_in("two")),
           prepare=recipe_in("one"), quick=True),
    Attack("the same by a path relative to the recipe", RELATIVE, both(moved, recipe_in("two")),
           prepare=recipe_in("one")),
    Attack("a recipe's folder copied, another module of a computed name in it", {
           f"one/{name}": text for name, text in {**step(
           "answer = __import__('hid' + 'den').X", "sys.path.insert(0, str(HERE / 'deep'))"),
           "deep/hidden.py": "X = 1\n"}.items()}, both(copied, recipe_in("two")),
           prepare=recipe_in("one")),
    Attack("two plugin files with neighbours of one name", {
           **more("a: {use: a.answer}", "b: {use: b.answer}", plugins="a/one.py, b/two.py"),
           "a/one.py": step("answer = beside.X", "import beside")["steps.py"],
           "b/two.py": str(step("answer = beside.X", "import beside")["steps.py"]).replace(
               "a.answer", "b.answer"), "a/beside.py": "X = 1\n", "b/beside.py": "X = 2\n"},
           edit("2", "3", "b/beside.py"), same=True, quick=True),
    Attack("the plugin files in another order", {
           **more("a: {use: a.answer}", "b: {use: b.answer}", plugins="a/one.py, b/two.py"),
           "a/one.py": step("answer = beside.X", "import beside")["steps.py"],
           "b/two.py": str(step("answer = beside.X", "import beside")["steps.py"]).replace(
               "a.answer", "b.answer"), "a/beside.py": "X = 1\n", "b/beside.py": "X = 2\n"},
           edit("a/one.py, b/two.py", "b/two.py, a/one.py", "recipe.yaml"), same=True),
    Attack("another plugin file before", {
           **more("a: {use: a.answer}", plugins="a/one.py"),
           "a/one.py": step("answer = beside.X", "import beside")["steps.py"],
           "a/beside.py": "X = 1\n", "b/other.py": "", "b/beside.py": "X = 2\n"},
           edit("[a/one.py]", "[b/other.py, a/one.py]", "recipe.yaml"), same=True),
    # -- libraries that something hides
    Attack("a module that hides an installed library", {**step("import sound; answer = sound.X"),
           **distribution("sound", "1.0", {"sound/__init__.py": "X = 1\n"}), "../lib/other.py": ""},
           put("../lib/sound.py", "X = 2\n"), env={"PYTHONPATH": "{w}/lib"}),
    Attack("a module that hides one of the standard library, on the path", {**step(
           "import colorsys; answer = colorsys.__doc__"), "../lib/other.py": ""},
           put("../lib/colorsys.py", '"""Mine."""\n'), env={"PYTHONPATH": "{w}/lib"}),
    Attack("a module that hides one that a library imports", {**step(
           "import sound; answer = sound.X"), "../lib/other.py": "",
           "site/sound.py": "from colorsys import __doc__ as X\n"},
           put("../lib/colorsys.py", '"""Mine."""\n'), env={"PYTHONPATH": "{w}/lib"}),
    Attack("an extension module beside a module", step("try:\n    from helper import X as answer\n"
           "except ImportError:\n    answer = 0") | {"helper.py": "X = 1\n"},
           put("helper.abi3.so", b"no library")),
    # -- steps in steps
    Attack("the class of a nested step", nested("0.1"), edit("0.1", "0.2")),
    Attack("what a nested step reads", {**nested("float(open('s.txt').read())"), "s.txt": "0.1"},
           put("s.txt", "0.2"), quick=True),
    Attack("what a nested step imports", {**nested("__import__('score').X"),
           "score.py": "X = 0.1\n"}, edit("0.1", "0.2", "score.py")),
    # -- other ways to the same file
    Attack("a text by a descriptor's name in /proc", step("d = os.open(HERE / 'words.txt', 0)\n"
           "answer = open(f'/proc/self/fd/{d}').read()") | WORDS, put("words.txt", "new")),
    Attack("a text by the working directory's name in /proc",
           step("answer = open('/proc/self/cwd/words.txt').read()") | WORDS,
           put("words.txt", "new")),
    Attack("a text by a link outside the project", step(
           "answer = (HERE.parent / 'far').read_text()") | WORDS, put("words.txt", "new"),
           prepare=link("../far", "{w}/p/words.txt"), quick=True),
    Attack("a text by a link to the project", step("answer = (HERE.parent / 'far/words.txt')"
           ".read_text()") | WORDS, put("words.txt", "new"), prepare=link("../far", "{w}/p")),
    Attack("a text by a path with slashes", step("answer = open(f'/{HERE}//words.txt').read()")
           | WORDS, put("words.txt", "new")),
    Attack("a text by a link with dots", step("answer = open('l/../../words.txt').read()")
           | {**WORDS, "deep/er/x": ""}, put("words.txt", "new"), prepare=link("l", "deep/er")),
    Attack("a text that is renamed first", step("import shutil\nif os.path.exists('words.txt'): "
           "shutil.copy('words.txt', 'w.tmp'); os.replace('w.tmp', 'w.txt')\n"
           "answer = open('w.txt').read()") | WORDS, put("words.txt", "new")),
    Attack("a row in a write-ahead log", step(ROWS), logged("b"), prepare=database),
    Attack("a file of which there are many", step("answer = len([p.read_text() for p in sorted("
           "(HERE / 'd').iterdir())]), (HERE / 'd/0777').read_text()")
           | {f"d/{i:04}": "1" for i in range(1200)}, put("d/0777", "2")),
    Attack("one file more than many", step("answer = len(os.listdir('d'))")
           | {f"d/{i:04}": "1" for i in range(1200)}, put("d/1200", "2")),
    Attack("a name that isn't UTF-8", step("answer = [open(b'd/' + n).read() for n in "
           "os.listdir(b'd')]") | {"d/a": "1"}, put("d/a", "2"), prepare=odd_name),
    Attack("a text in a file whose name isn't UTF-8", step("answer = open(b'd/\\xff').read()")
           | {"d/a": "1"}, odd_text("new"), prepare=odd_text("old")),
    Attack("a name with a newline", step("answer = open('a\\nb').read()") | {"a\nb": "1"},
           put("a\nb", "2")),
    Attack("an empty file that was absent", step("try:\n    open('w')\n    answer = 1\n"
           "except OSError:\n    answer = 0"), put("w", "")),
    Attack("the output of another step, undeclared", {**in_file(step(
           "answer = open('build/t/a/rows-00000.jsonl').read() if self.tag else 1"),
           "    tag: int", "    rows: list[Dataset] = []\n    tag: int"),
           **more("a: {use: a.answer}", "b: {use: a.answer, rows: [a]}",
                  "c: {use: a.answer, tag: 1, rows: [b]}")},
           edit("if self.tag else 1", "if self.tag else 2"), same=True),
    Attack("a directory in place of a text", step("try:\n    answer = open('w').read()\n"
           "except OSError as e:\n    answer = e.errno") | {"w": "1"},
           both(lambda w: w.path("w").unlink(), put("w/x", "2"))),
    Attack("a folder in place of a file in a path", step("try:\n    answer = open('d/w').read()\n"
           "except OSError as e:\n    answer = e.errno") | {"d": "a file"},
           both(lambda w: w.path("d").unlink(), put("d/w", "1"))),
    # -- what the build decides from
    Attack("the default of a setting, read from a file", in_file(step("answer = self.word") | WORDS,
           "    tag: int", f"    word: str = setting({READ}, help='A word.')\n    tag: int"),
           put("words.txt", "new")),
    Attack("a word that check keeps", in_file(step("answer = WORD[0]", "WORD = ['none']") | WORDS,
           "    def run", f"    def check(self):\n        WORD[0] = {READ}\n\n    def run"),
           put("words.txt", "new")),
    Attack("a property of the step", in_file(step("answer = self.word") | WORDS, "    def run",
           f"    @property\n    def word(self): return {READ}\n\n    def run"),
           put("words.txt", "new")),
    Attack("code that cache_key names", in_file(step("answer = __import__('he' + 'lper').X")
           | {"helper.py": "X = 1\n"}, "    def run", "    def cache_key(self):\n"
           "        from finery import Key\n        return Key(code=['helper'])\n\n    def run"),
           edit("1", "2", "helper.py"), same=True),
    Attack("a text that two steps read, one cached", step(f"answer = {READ}, self.tag") | WORDS
           | more("a: {use: a.answer}", "b: {use: a.answer, tag: 1}"),
           edit("tag: 1", "tag: 2", "recipe.yaml"),
           then=[put("words.txt", "new"), edit("tag: 2", "tag: 1", "recipe.yaml")]),
    Attack("equal steps", step(f"answer = {READ}") | WORDS
           | more("a: {use: a.answer}", "b: {use: a.answer}"), put("words.txt", "new")),
    Attack("a step whose input reruns with the same rows", {**in_file(step(
           f"answer = {READ}[:3] if self.tag else [r for d in self.rows for r in d]"),
           "    tag: int", "    rows: list[Dataset] = []\n    tag: int"), **WORDS,
           **more("a: {use: a.answer, tag: 1}", "b: {use: a.answer, rows: [a]}")},
           put("words.txt", "old things"), same=True),
]  # fmt: skip


@attacks(CASES)
def test_a_project(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
