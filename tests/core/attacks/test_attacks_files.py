"""Files beside the code that no setting names: a step reads them, and they change."""

import json
import os
import pickle
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from attacking import (
    RECIPE,
    Attack,
    Change,
    World,
    attacks,
    both,
    edit,
    in_file,
    in_step,
    link,
    more,
    put,
    remove,
    step,
)

OLD, NEW = "old words\n", "new words\n"


def database(*words: str) -> bytes:
    """An SQLite database of words."""
    with tempfile.TemporaryDirectory() as folder:
        with sqlite3.connect(f"{folder}/d") as connection:
            connection.execute("CREATE TABLE words (word)")
            connection.executemany("INSERT INTO words VALUES (?)", [(w,) for w in words])
        connection.close()
        return Path(folder, "d").read_bytes()


def numbers(*values: float) -> bytes:
    """What numpy.save writes of some numbers."""
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % len(values)
    head = head.ljust(117) + b"\n"
    import struct

    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(head))
        + head
        + struct.pack(f"<{len(values)}d", *values)
    )


def reads(name: str, body: str, top: str = "", file: str = "words.txt", **kind: Any) -> Attack:
    """An attack by another text in a file that `body` reads."""
    return Attack(name, step(body, top) | {file: OLD}, put(file, NEW), **kind)


def appears(name: str, body: str, file: str, top: str = "", **kind: Any) -> Attack:
    """An attack by a file that appears."""
    files = step(body, top) | {"folder/one.txt": OLD}
    return Attack(name, files, put(file, NEW), **kind)


def quiet(file: str, text: str) -> Change:
    """Another text of the same size, with the mtime of the one before."""

    def change(world: World) -> None:
        before = world.path(file).stat()
        world.write({file: text})
        os.utime(world.path(file), ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def made(folder: str) -> Change:
    """Make a folder."""
    return lambda world: world.path(folder).mkdir()


READ = "(HERE / 'words.txt').read_text()"
TWO = more("a: {use: a.answer}", "b: {use: a.answer, tag: 1}")
CACHED = "from functools import lru_cache\n@lru_cache\ndef words(): return " + READ
BRANCH = "name = (HERE / 'mode.txt').read_text().strip()\nanswer = (HERE / name).read_text()"
BRANCHES = step(BRANCH) | {"mode.txt": "x.txt", "x.txt": "1", "y.txt": "2"}
LISTS = "folder = HERE / 'folder'\nfolder.mkdir(exist_ok=True)\n"

CASES = [
    # -- how it is read
    reads("a text beside the code", f"answer = {READ}", quick=True),
    reads("a text by a relative path", "answer = open('words.txt').read()"),
    reads("a text by a relative path with dots", "answer = open('./x/../words.txt').read()",
          prepare=put("x/y", "")),
    reads("a text by bytes", "answer = open(os.fsencode(HERE / 'words.txt')).read()"),
    reads("a text by os.open", "fd = os.open('words.txt', 0); answer = os.read(fd, 99)"),
    reads("a text by os.open with dir_fd",
          "d = os.open(HERE / 'deep', 0)\nanswer = os.read(os.open('words.txt', 0, dir_fd=d), 99)",
          file="deep/words.txt", quick=True),
    reads("a text after chdir", "os.chdir('deep')\nanswer = open('words.txt').read()",
          file="deep/words.txt"),
    reads("a text through a mapping", "import mmap\nf = open('words.txt', 'rb')\n"
          "answer = bytes(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))"),
    reads("a text in a thread", "import threading\nseen = []\nt = threading.Thread("
          f"target=lambda: seen.append({READ}))\nt.start()\nt.join()\nanswer = seen"),
    reads("a text that another function keeps open", "answer = F.read()",
          "F = open(HERE / 'words.txt')"),
    reads("a text by fileinput", "import fileinput; answer = [*fileinput.input('words.txt')]"),
    reads("a text by linecache", "import linecache; answer = linecache.getline('words.txt', 1)"),
    reads("a text by codecs", "import codecs; answer = codecs.open('words.txt').read()"),
    reads("a text that is copied first", "import shutil\nshutil.copy(HERE / 'words.txt', "
          "job.scratch / 'w')\nanswer = (job.scratch / 'w').read_text()"),
    reads("a text that is sent by the kernel", "a = open('words.txt', 'rb')\n"
          "b = open(job.scratch / 'w', 'wb+')\nos.sendfile(b.fileno(), a.fileno(), 0, 99)\n"
          "b.seek(0)\nanswer = b.read()"),
    reads("a text that is linked into scratch", "os.link(HERE / 'words.txt', job.scratch / 'w')\n"
          "answer = (job.scratch / 'w').read_text()"),
    reads("a text by a symbolic link in scratch",
          "(job.scratch / 'w').symlink_to(HERE / 'words.txt')\n"
          "answer = (job.scratch / 'w').read_text()"),
    reads("a text opened for writing, too", "answer = open('words.txt', 'r+').read()"),
    Attack("a setting in TOML", step("import tomllib\nanswer = tomllib.load(open('c.toml', 'rb'))")
           | {"c.toml": "a = 1"}, put("c.toml", "a = 2")),
    Attack("a table in JSON",
           step("import json; answer = json.loads((HERE / 't.json').read_bytes())")
           | {"t.json": "[1]"}, put("t.json", "[2]")),
    Attack("a table in CSV", step("import csv; answer = [*csv.DictReader(open('t.csv'))]")
           | {"t.csv": "a\n1\n"}, put("t.csv", "a\n2\n")),
    Attack("a table in CSV by pandas", step("import pandas; answer = pandas.read_csv('t.csv')")
           | {"t.csv": "a\n1\n"}, put("t.csv", "a\n2\n")),
    Attack("a setting in INI", step("import configparser as c\np = c.ConfigParser()\n"
           "p.read('c.ini')\nanswer = p['a']['b']") | {"c.ini": "[a]\nb=1"},
           put("c.ini", "[a]\nb=2")),
    Attack("a pickle", step("import pickle; answer = pickle.load(open('o.pkl', 'rb'))")
           | {"o.pkl": pickle.dumps(1)}, put("o.pkl", pickle.dumps(2))),
    Attack("a pickle that names a class", step("import pickle; answer = pickle.load("
           "open('o.pkl', 'rb'))()") | {"o.pkl": b"cmods\nf\n.", "mods.py": "def f(): return 1\n"},
           edit("1", "2", "mods.py")),
    Attack("an array by numpy.load", step("import numpy; answer = numpy.load('a.npy').tolist()")
           | {"a.npy": numbers(1.0)}, put("a.npy", numbers(2.0))),
    Attack("an array by numpy.load as a mapping",
           step("import numpy; answer = numpy.load('a.npy', mmap_mode='r').tolist()")
           | {"a.npy": numbers(1.0)}, put("a.npy", numbers(2.0))),
    Attack("an array by numpy.fromfile", step("import numpy; answer = numpy.fromfile('a').tolist()")
           | {"a": numbers(1.0)[128:]}, put("a", numbers(2.0)[128:])),
    Attack("a table of SQLite", step("import sqlite3\nc = sqlite3.connect(HERE / 'd.db')\n"
           "answer = c.execute('SELECT * FROM words').fetchall()")
           | {"d.db": database("a")}, put("d.db", database("b")), quick=True),
    Attack("a table of SQLite by a URI", step("import sqlite3\n"
           "c = sqlite3.connect(f'file:{HERE}/d%2Edb?mode=ro', uri=True)\n"
           "answer = c.execute('SELECT * FROM words').fetchall()")
           | {"d.db": database("a")}, put("d.db", database("b"))),
    *[Attack(f"a table of SQLite by a URI with {what}", step(
           f"import sqlite3\nc = sqlite3.connect(f'file:{uri}', uri=True)\n"
           "answer = c.execute('SELECT * FROM words').fetchall()")
           | {"d.db": database("a")}, put("d.db", database("b")))
      for what, uri in [("a host", "//localhost{HERE}/d.db"), ("a fragment", "d.db#mode=memory"),
                        ("options", "d.db?mode=ro&x=mode=memory")]],
    Attack("a table of SQLite that is attached", step("import sqlite3\n"
           "c = sqlite3.connect(':memory:')\nc.execute(\"ATTACH 'd.db' AS d\")\n"
           "answer = c.execute('SELECT * FROM d.words').fetchall()")
           | {"d.db": database("a")}, put("d.db", database("b")), unseen="read by native code"),
    Attack("a template of Jinja", step("""
           import jinja2
           env = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / 'templates'))
           answer = env.get_template('a.j2').render(x=1)
           """) | {"templates/a.j2": "{% include 'b.j2' %}", "templates/b.j2": "{{ x }}"},
           put("templates/b.j2", "{{ x + 1 }}")),
    Attack("a template before another", step("""
           import jinja2
           env = jinja2.Environment(loader=jinja2.FileSystemLoader(['one', 'two']))
           answer = env.get_template('a.j2').render(x=1)
           """) | {"two/a.j2": "{{ x }}", "one/b.j2": ""}, put("one/a.j2", "{{ x + 1 }}"),
           unseen="exists and stat"),
    Attack("YAML",
           step("import yaml; answer = yaml.safe_load(open('c.yaml'))") | {"c.yaml": "a: 1"},
           put("c.yaml", "a: 2")),
    reads("a resource of a package", "from importlib.resources import files\n"
          "answer = files('pack').joinpath('words.txt').read_text()", "import pack",
          "pack/words.txt", prepare=put("pack/__init__.py", "")),
    reads("a resource of a namespace folder", "from importlib.resources import files\n"
          "answer = files('pack').joinpath('words.txt').read_text()", "", "pack/words.txt"),
    reads("a resource by pkgutil.get_data", "import pkgutil\n"
          "answer = pkgutil.get_data('pack', 'words.txt')", "import pack",
          "pack/words.txt", prepare=put("pack/__init__.py", ""), quick=True),
    reads("a resource by the package's loader", "answer = pack.__loader__.get_data("
          "os.path.join(pack.__path__[0], 'words.txt'))", "import pack", "pack/words.txt",
          prepare=put("pack/__init__.py", "")),
    reads("a resource by as_file", "from importlib.resources import files, as_file\n"
          "with as_file(files('pack') / 'words.txt') as p:\n    answer = p.read_text()",
          "import pack", "pack/words.txt", prepare=put("pack/__init__.py", "")),
    Attack("a comment in the recipe, which a step reads",
           step("answer = open('recipe.yaml').read()"),
           put("recipe.yaml", RECIPE + "# new\n")),
    Attack("a text beside a plugin file in another folder",
        {"../far/steps.py": step(f"answer = {READ}")["steps.py"], "../far/words.txt": OLD}
        | more("a: {use: a.answer}", plugins="../far/steps.py"), put("../far/words.txt", NEW)),
    Attack("a text in a folder of PYTHONPATH", step("answer = helper.X", "import helper")
           | {"../lib/helper.py": "import os\nX = open(os.path.dirname(__file__) + '/w').read()\n",
              "../lib/w": OLD}, put("../lib/w", NEW), env={"PYTHONPATH": "{w}/lib"}),
    # -- when it is read
    reads("a text at import", "answer = WORDS", f"WORDS = {READ}", quick=True),
    Attack("a text when a helper is imported", step("answer = helper.X", "import helper")
           | {"helper.py": "X = open('words.txt').read()\n", "words.txt": OLD},
           put("words.txt", NEW)),
    reads("a text in the body of a class", "answer = Mix.words", f"class Mix:\n    words = {READ}"),
    reads("a text in a default", "answer = f()", f"def f(x={READ}): return x"),
    Attack("a text in a cache of functools, two steps", step("answer = words()", CACHED) | TWO
           | {"words.txt": OLD}, put("words.txt", NEW), quick=True),
    Attack("a text in a cache, read by another step first", step("answer = words()", CACHED)
           | more("a: {use: a.answer}", "b: {use: a.answer, tag: 1}") | {"words.txt": OLD},
           edit("tag: 1", "tag: 2", "recipe.yaml"), then=[put("words.txt", NEW)]),
    Attack("a text kept in an attribute of a module", step("""
           if not hasattr(sys, 'words'): sys.words = (HERE / 'words.txt').read_text()
           answer = sys.words
           """) | TWO | {"words.txt": OLD}, put("words.txt", NEW)),
    Attack("a text that only a second step reads", step(
           f"answer = {READ} if self.tag else 0") | TWO | {"words.txt": OLD}, put("words.txt",
           NEW)),
    Attack("a text that chooses the class", in_file(step("answer = 1", end="""
           class Other(Answer, seeded=False):
               "Another answer."
               def run(self, job: Job) -> Dataset:
                   return Dataset.write(job.out, [{'prompt': 'other'}])
           KIND = Other if 'new' in (HERE / 'words.txt').read_text() else Answer
           """) | {"words.txt": OLD}, '"a.answer": Answer', '"a.answer": KIND'),
           put("words.txt", NEW)),
    Attack("a text in a hook", in_file(step("answer = self.word") | {"words.txt": OLD},
           '    return {"a.answer"', "    Answer.word = (HERE / 'words.txt').read_text()\n"
           '    return {"a.answer"'), put("words.txt", NEW)),
    # -- what is there
    appears("a file that was absent", "try:\n    answer = open('later.txt').read()\n"
            "except OSError:\n    answer = 0", "later.txt", quick=True),
    appears("a file that was absent, in an absent folder", "try:\n    answer = open("
            "'later/x/y.txt').read()\nexcept OSError:\n    answer = 0", "later/x/y.txt"),
    Attack("a file that goes", step("try:\n    answer = open('words.txt').read()\n"
           "except OSError:\n    answer = 0") | {"words.txt": OLD}, remove("words.txt")),
    appears("a file before another", "for n in ('first.txt', 'folder/one.txt'):\n    try:\n"
            "        answer = open(n).read()\n        break\n    except OSError: ...", "first.txt"),
    appears("a file that exists", "answer = Path('later.txt').exists()", "later.txt",
            unseen="exists and stat"),
    appears("a file that os.access looks for", "answer = os.access('later.txt', os.R_OK)",
            "later.txt", unseen="exists and stat"),
    Attack("the size of a file", step("answer = os.path.getsize('words.txt')")
           | {"words.txt": OLD}, put("words.txt", NEW * 2), unseen="exists and stat"),
    Attack("the target of a link", step("answer = os.readlink('l')") | {"v1": "", "v2": ""},
           link("l", "v2"), prepare=link("l", "v1"), unseen="exists and stat"),
    appears("a new file by listdir", "answer = sorted(os.listdir('folder'))", "folder/two.txt"),
    appears("a new file by scandir", "answer = sorted(e.name for e in os.scandir('folder'))",
            "folder/two.txt"),
    appears("a new file by a descriptor", "answer = sorted(os.listdir(os.open('folder', 0)))",
            "folder/two.txt"),
    appears("a new file by iterdir", "answer = sorted(p.name for p in (HERE / 'folder').iterdir())",
            "folder/two.txt"),
    appears("a new file by glob", "answer = sorted(p.name for p in HERE.glob('folder/*.txt'))",
            "folder/two.txt", quick=True),
    appears("a new file by rglob", "answer = sorted(p.name for p in HERE.rglob('t*.txt'))",
            "folder/deep/two.txt"),
    appears("a new file by glob.glob", "import glob; answer = glob.glob('folder/t*.txt')",
            "folder/two.txt"),
    appears("a new file by walk", "answer = sorted(f for *_, fs in os.walk('folder') for f in fs)",
            "folder/two.txt"),
    appears("a new file in a new folder by walk",
            "answer = sorted(f for *_, fs in os.walk('folder') for f in fs)", "folder/x/two.txt"),
    appears("a new file by fwalk", "answer = sorted(f for _, _, fs, _ in os.fwalk('folder')"
            " for f in fs)", "folder/two.txt"),
    appears("a new file in a folder that was absent", "try:\n    answer = os.listdir('later')\n"
            "except OSError:\n    answer = 0", "later/two.txt"),
    *[appears(f"a new file in a folder that was absent, by {name}", f"answer = sorted(map(str, "
              f"{call}))", "later/deep/two.txt")
      for name, call in [("glob", "Path('later').glob('deep/*.txt')"),
                         ("glob of its name", "Path().glob('later/*/t*.txt')"),
                         ("rglob", "(HERE / 'later').rglob('*.txt')")]],
    appears("a new file in a folder that was absent, by scandir", "try:\n"
            "    answer = [e.name for e in os.scandir('later')]\nexcept OSError:\n    answer = 0",
            "later/two.txt"),
    appears("a new file by glob below any folder",
            "answer = [Path(p).read_text() for p in __import__('glob').glob('*/two.txt')]",
            "folder/two.txt", unseen="exists and stat"),
    Attack("a listed file that becomes a folder", step(
        "answer = [e.name for e in os.scandir('folder') if e.is_file()]")
        | {"folder/one": OLD}, both(remove("folder/one"), put("folder/one/x", NEW))),
    Attack("a file in a registry of files", step("answer = [p.read_text() for p in "
           "sorted((HERE / 'folder').glob('*.txt'))]") | {"folder/one.txt": OLD},
           put("folder/one.txt", NEW)),
    Attack("a registry of modules by their files", step("""
           import importlib.util
           answer = []
           for p in sorted((HERE / 'rules').iterdir()):
               if p.suffix == '.py':
                   spec = importlib.util.spec_from_file_location(p.stem, p)
                   module = importlib.util.module_from_spec(spec)
                   spec.loader.exec_module(module)
                   answer.append(module.X)
           """) | {"rules/one.py": "X = 1\n"}, put("rules/two.py", "X = 2\n")),
    # -- links
    Attack("a link, retargeted", step("answer = open('l').read()") | {"v1": OLD, "v2": NEW},
           link("l", "v2"), prepare=link("l", "v1"), quick=True),
    Attack("a link to a folder, retargeted", step("answer = open('l/w').read()")
           | {"v1/w": OLD, "v2/w": NEW}, link("l", "v2"), prepare=link("l", "v1")),
    Attack("a link to a listed folder, retargeted", step("answer = sorted(os.listdir('l'))")
           | {"v1/one": OLD, "v2/two": NEW}, link("l", "v2"), prepare=link("l", "v1")),
    Attack("dots after a link", step("answer = open('l/../w').read()")
           | {"deep/v/x": "", "deep/w": OLD, "w": "other"}, put("deep/w", NEW),
           prepare=link("l", "deep/v")),
    Attack("a link to a file outside the project", step("answer = open('l').read()")
           | {"../v1": OLD}, put("../v1", NEW), prepare=link("l", "{w}/v1")),
    Attack("a broken link whose target appears", step("try:\n    answer = open('l').read()\n"
           "except OSError:\n    answer = 0"), put("v1", NEW), prepare=link("l", "v1")),
    # -- changes in a row
    Attack("a text changed and changed back", step(f"answer = {READ}") | {"words.txt": OLD},
           put("words.txt", NEW), then=[put("words.txt", OLD)]),
    Attack("a text changed, back, and to a third", step(f"answer = {READ}") | {"words.txt": OLD},
           put("words.txt", NEW), then=[put("words.txt", OLD), put("words.txt", "third\n")]),
    Attack("a text of the same size and mtime", step(f"answer = {READ}") | {"words.txt": OLD},
           quiet("words.txt", NEW)),
    Attack("a mode, then what it names", BRANCHES, put("mode.txt", "y.txt"),
           then=[put("y.txt", "3")], quick=True),
    Attack("a mode and back, after the other file changed", BRANCHES, put("mode.txt", "y.txt"),
           then=[put("x.txt", "3"), put("mode.txt", "x.txt")]),
    Attack("a file that appears, goes, and appears", step("try:\n    answer = open('w').read()\n"
           "except OSError:\n    answer = 0"), put("w", "1"), then=[remove("w"), put("w", "2")]),
    Attack("a listed folder and the file in it", step(LISTS
           + "answer = [(p.name, p.read_text()) for p in sorted(folder.iterdir())]")
           | {"folder/a": "1"}, put("folder/b", "2"), then=[put("folder/b", "3")]),
    # -- what is documented as unseen
    reads("a text that a child's arguments name",
          "import subprocess\nanswer = subprocess.check_output(['cat', 'words.txt'])"),
    reads("a text that os.system reads", "os.system('cat <words.txt >out')\n"
          "answer = open('out').read()"),
    reads("a text that posix_spawn reads", "d = os.open('out', os.O_WRONLY | os.O_CREAT, 0o600)\n"
          "p = os.posix_spawn('/bin/cat', ['cat', 'words.txt'], {}, file_actions=["
          "(os.POSIX_SPAWN_DUP2, d, 1)])\nos.waitpid(p, 0)\nanswer = open('out').read()"),
    reads("a text that spawnv reads", "answer = os.spawnv(os.P_WAIT, '/bin/grep', "
          "['grep', '-q', 'old', 'words.txt'])"),
    reads("a text by an argument with a space", "import subprocess\n"
          "answer = subprocess.check_output(['cat', 'two words.txt'])", file="two words.txt"),
    reads("a text in quotes in a command", "import subprocess\n"
          "answer = subprocess.check_output('cat \"two words.txt\"; true', shell=True)",
          file="two words.txt"),
    Attack("a text by an option", step("import subprocess\nanswer = subprocess.run("
           "['grep', '-c', '--file=words.txt', 'all.txt']).returncode")
           | {"words.txt": OLD, "all.txt": NEW}, put("words.txt", NEW)),
    reads("a text by an argument with a colon", "import subprocess\n"
          "code = 'import sys; print(open(sys.argv[1][3:]).read())'\n"
          "answer = subprocess.check_output([sys.executable, '-c', code, 'in:words.txt'])"),
    reads("a text in code that a child's arguments have", "import subprocess\n"
          "answer = subprocess.check_output([sys.executable, '-c', "
          "'print(open(\"words.txt\").read())'])"),
    reads("a text with a space in a command", "answer = os.popen('cat two\\\\ words.txt').read()",
          file="two words.txt"),
    reads("a text with = in a command", "answer = os.popen('cat a=b.txt').read()", file="a=b.txt"),
    appears("a missing file that a child's arguments name", "import subprocess\n"
            "answer = subprocess.run(['cat', 'folder/two.txt'], capture_output=True).stdout",
            "folder/two.txt"),
    appears("a missing file that a command names", "answer = os.popen('cat <two.txt').read()",
            "two.txt"),
    appears("a missing file that spawnv names", "answer = os.spawnv(os.P_WAIT, '/bin/cat', "
            "['cat', './two'])", "two"),
    Attack("another text beside one that a child makes", step("import subprocess\n"
           "subprocess.run(['cp', 'words.txt', 'made.txt'])\nos.system('cat made.txt >more.txt')\n"
           "answer = open('more.txt').read()") | {"words.txt": OLD}, put("other.txt", NEW),
           same=True),
    appears("a new file by a child that lists a folder", "import subprocess\n"
            "answer = subprocess.check_output(['ls', 'folder'])", "folder/two.txt"),
    reads("a text by a child", "import subprocess\n"
          "answer = subprocess.check_output('cat words.*', shell=True)", unseen="read by a child"),
    reads("a text by a fork", "import multiprocessing as m\n"
          "with m.get_context('fork').Pool(1) as p: answer = p.map(read, [1])",
          f"def read(x): return {READ}"),
    reads("a text by native code",
          "import ctypes\nc = ctypes.CDLL(None)\nbuffer = ctypes.create_string_buffer(99)\n"
          "c.read(c.open(b'words.txt', 0), buffer, 99)\nanswer = buffer.value",
          unseen="read by native code"),
    Attack("a text outside the project", step("answer = (HERE.parent / 'far.txt').read_text()")
           | {"../far.txt": OLD}, put("../far.txt", NEW), unseen="outside the project"),
    # -- what fails if it is missing
    *[Attack(f"{name} of what appears", step(
             f"import shutil\ntry:\n    {name}('w'{more_arguments}); answer = 1\n"
             "except OSError:\n    answer = 2"), change)
      for name, more_arguments, change in [
          ("os.remove", "", put("w", "1")), ("os.truncate", ", 0", put("w", "1")),
          ("os.rmdir", "", made("w")), ("os.chdir", "", made("w")),
          ("shutil.rmtree", "", made("w")),
      ]],
    Attack("a file that the step removes", step(
           "try:\n    os.remove('w'); answer = 1\nexcept OSError:\n    answer = 2") | {"w": "1"},
           put("README.md", "")),
    Attack("a text that the step reads and removes", step(
           "try:\n    answer = open('w').read(); os.remove('w')\nexcept OSError:\n    answer = 2")
           | {"w": "1"}, put("README.md", "")),
    Attack("a text read in another interpreter", step(
           "try:\n    import _xxsubinterpreters as s\n"
           "except ImportError:\n    import _interpreters as s  # Python 3.13\n"
           "s.run_string(s.create(), \"open('o', 'w').write(open('words.txt').read())\")\n"
           "answer = open('o').read()") | {"words.txt": OLD}, put("words.txt", NEW)),
    Attack("precise: a readme in a folder that the step enters", step("os.chdir(HERE); answer = 1"),
           put("README.md", ""), precise=True),
    Attack("precise: a file that the step makes and removes", step(
           "open('t', 'w').close(); os.remove('t'); answer = 1"), put("README.md", ""),
           precise=True),
    # -- what isn't read
    Attack("a file that nothing reads", step(f"answer = {READ}")
           | {"words.txt": OLD, "other.txt": OLD}, put("other.txt", NEW), precise=True, quick=True),
    Attack("a text written anew", step(f"answer = {READ}") | {"words.txt": OLD},
           put("words.txt", OLD), precise=True),
    Attack("a file beside a listed folder", step("answer = os.listdir('folder')")
           | {"folder/one": ""}, put("two", ""), precise=True),
    Attack("another text of a listed file", step("answer = os.listdir('folder')")
           | {"folder/one": "1"}, put("folder/one", "2"), precise=True),
    Attack("the file of another step", step(
           "answer = open(f'{self.tag}.txt').read()") | {"0.txt": OLD, "1.txt": OLD,
           "recipe.yaml": RECIPE}, put("1.txt", NEW), precise=True),
    in_step("json in the plugin file", f"T = {json.dumps({'a': 1})}", "answer = T", "1", "2"),
]  # fmt: skip


@attacks(CASES)
def test_a_file(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
