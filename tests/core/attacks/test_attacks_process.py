"""What a process is made of: its environment, what steps leave in it, and code that is too much."""

from pathlib import Path
from typing import Any

from attacking import (
    Attack,
    Change,
    World,
    attacks,
    both,
    edit,
    in_helper,
    in_step,
    link,
    more,
    put,
    step,
    variable,
)


def environment(name: str, body: str, before: dict[str, str], after: dict[str, str],
                **kind: Any) -> Attack:  # fmt: skip
    """An attack by other environment variables of the build."""
    return Attack(name, step(body), variable(**after), env=before, same=True, **kind)


def folder(name: str) -> Change:
    """Run the next build in another folder."""

    def change(world: World) -> None:
        (world.folder / name).mkdir(exist_ok=True)
        world.cwd = name

    return change


def umask(mask: int) -> Change:
    """Run the next build with another umask."""

    def change(world: World) -> None:
        world.umask = mask

    return change


def arguments(*words: str) -> Change:
    """Run the next build with more arguments."""

    def change(world: World) -> None:
        world.arguments = words

    return change


def leaves(name: str, first: str, second: str, top: str = "", **kind: Any) -> Attack:
    """Two steps with one worker: `a` runs `first`; then only `b`, which runs `second`, reruns."""
    body = f"answer = 0\nif self.tag == 0:\n{_indented(first)}\nelse:\n{_indented(second)}"
    recipe = more("a: {use: a.answer}", "b: {use: a.answer, tag: 1, rows: [a]}")
    files = step(body, top)
    text = str(files["steps.py"]).replace(
        "    tag: int", "    rows: list[Dataset] = []\n    tag: int"
    )
    return Attack(
        name, {**files, **recipe, "steps.py": text}, both(arguments("--jobs", "1"),
        edit("tag: 1", "tag: 2", "recipe.yaml")), same=True, **kind,
    )  # fmt: skip


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def large(name: str, helper: str, old: str = "X = 1", new: str = "X = 2", **kind: Any) -> Attack:
    """An attack by code that a parser, or who walks its tree, may fail on."""
    return in_helper(name, helper, "answer = helper.X", old, new, **kind)


def nested(depth: int) -> str:
    """A function in a function in a function."""
    lines = [f"{' ' * i}def f{i}():" for i in range(depth)]
    return "\n".join([*lines, f"{' ' * depth}return 1"]) + "\nX = 1\n"


NEWER = "def f[T: (int, str) = int](x: T) -> T: ...\ntype A[*B] = C\nx = t'{1}'\n"

CASES = [
    # -- the environment of the build
    environment("TZ", "import time; answer = time.localtime(0).tm_hour, time.tzname",
                {"TZ": "UTC"}, {"TZ": "Asia/Tokyo"}, quick=True),
    environment("LANG", "import locale; answer = locale.setlocale(locale.LC_ALL, '')",
                {"LANG": "C"}, {"LANG": "C.UTF-8"}),
    environment("LC_ALL", "import locale; answer = locale.getpreferredencoding(), "
                "locale.setlocale(locale.LC_ALL, '')", {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}),
    environment("LC_NUMERIC", "answer = os.environ.get('LC_NUMERIC')",
                {"LC_NUMERIC": "C"}, {"LC_NUMERIC": "de_DE.UTF-8"}),
    environment("LANGUAGE", "answer = os.environ.get('LANGUAGE')",
                {"LANGUAGE": "en"}, {"LANGUAGE": "de"}),
    environment("PYTHONHASHSEED", "answer = list({'a', 'b', 'c', 'd', 'e'})",
                {"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}, quick=True),
    environment("no PYTHONHASHSEED at all", "answer = list({'a', 'b', 'c', 'd', 'e'}), hash('a')",
                {}, {"OTHER": "1"}),
    environment("PYTHONUTF8", "import locale; answer = sys.flags.utf8_mode, "
                "open(os.devnull).encoding", {}, {"PYTHONUTF8": "0"}),
    environment("PYTHONOPTIMIZE", "answer = __debug__", {}, {"PYTHONOPTIMIZE": "1"}),
    environment("PYTHONOPTIMIZE without docstrings", "answer = type(self).run.__doc__", {},
                {"PYTHONOPTIMIZE": "2"}, fails=True),
    environment("PYTHONDEVMODE", "answer = sys.flags.dev_mode", {}, {"PYTHONDEVMODE": "1"}),
    environment("PYTHONWARNINGS", "import warnings\ntry:\n    warnings.warn('x')\n"
                "except UserWarning:\n    answer = 1\nelse:\n    answer = 0",
                {}, {"PYTHONWARNINGS": "error::UserWarning"}),
    environment("PYTHONINTMAXSTRDIGITS", "answer = sys.get_int_max_str_digits()", {},
                {"PYTHONINTMAXSTRDIGITS": "0"}),
    environment("PYTHONIOENCODING", "answer = sys.stdout.encoding", {},
                {"PYTHONIOENCODING": "latin-1"}),
    environment("a variable that no step inherits", "answer = os.environ.get('WORD')",
                {"WORD": "one"}, {"WORD": "two"}),
    environment("USER", "answer = os.environ.get('USER')", {"USER": "ann"}, {"USER": "bob"},
                unseen="inherited variables"),
    environment("COLUMNS", "import shutil; answer = shutil.get_terminal_size()",
                {"COLUMNS": "80"}, {"COLUMNS": "100"}),
    environment("NO_COLOR", "answer = os.environ.get('NO_COLOR')", {}, {"NO_COLOR": "1"},
                unseen="inherited variables"),
    Attack("the umask",
           step("p = job.scratch / 'x'\np.write_text('x')\nanswer = oct(p.stat().st_mode)"),
           umask(0o077), same=True),
    Attack("the folder of the build", step("answer = os.getcwd(), os.path.abspath('x')"),
           folder("elsewhere"), same=True),
    Attack("a folder below the project", step("answer = os.getcwd()"), folder("p/deep"), same=True),
    Attack("a relative text from another folder", step("answer = open('words.txt').read()")
           | {"words.txt": "old"}, both(folder("elsewhere"), put("elsewhere/words.txt", "new")),
           same=True),
    Attack("a module of the folder of the build", step("answer = X",
           "try:\n    from strange import X\nexcept ImportError:\n    X = 0")
           | {"../elsewhere/strange.py": "X = 1\n"}, folder("elsewhere"), same=True),
    Attack("fewer jobs", step("answer = 1"), arguments("--jobs", "1"), same=True, precise=True),
    # -- what another step leaves in a process
    leaves("the precision of decimals", "import decimal; decimal.getcontext().prec = 3",
           "import decimal; answer = decimal.Decimal(1) / 3"),
    leaves("an environment variable", "os.environ['LEFT'] = 'x'",
           "answer = os.environ.get('LEFT')"),
    leaves("the working directory", "os.chdir('/')", "answer = os.getcwd()"),
    leaves("the umask that a step sets", "os.umask(0o077)",
           "p = job.scratch / 'x'; p.write_text('x'); answer = oct(p.stat().st_mode)"),
    leaves("a patched library", "import colorsys; colorsys.rgb_to_hls = max",
           "import colorsys; answer = colorsys.rgb_to_hls(1, 0, 0)"),
    leaves("a patched builtin", "import builtins; builtins.divmod = max", "answer = divmod(7, 3)"),
    leaves("a global variable", "global SEEN; SEEN = 1", "answer = SEEN", "SEEN = 0", quick=True),
    leaves("a list of the module", "SEEN.append(1)", "answer = SEEN", "SEEN = []"),
    leaves("an attribute of the class", "type(self).seen = 1",
           "answer = getattr(type(self), 'seen', 0)"),
    leaves("a cache of functools", "size(1)", "answer = size.cache_info().currsize",
           "from functools import lru_cache\n@lru_cache\ndef size(x): return x"),
    leaves("a seeded state of random", "import random; random.seed(3)",
           "import random; answer = random.random() == random.Random(3).random()"),
    leaves("the state of numpy.random", "import numpy; numpy.random.seed(3)",
           "import numpy; answer = numpy.random.rand() == numpy.random.RandomState(3).rand()"),
    leaves("the locale that a step sets", "import locale; locale.setlocale(locale.LC_ALL, 'C')",
           "import locale; answer = locale.setlocale(locale.LC_ALL)"),
    leaves("the time zone that a step sets", "import time; os.environ['TZ'] = 'Asia/Tokyo'; "
           "time.tzset()", "import time; answer = time.localtime(0).tm_hour"),
    leaves("a path in sys.path", "sys.path.insert(0, '/')", "answer = '/' in sys.path"),
    leaves("a module in sys.modules", "sys.modules['made_up'] = sys",
           "answer = 'made_up' in sys.modules"),
    leaves("the recursion limit", "sys.setrecursionlimit(5000)",
           "answer = sys.getrecursionlimit()"),
    leaves("a signal's handler", "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
           "import signal; answer = str(signal.getsignal(signal.SIGUSR1))"),
    leaves("a filter of warnings", "import warnings; warnings.simplefilter('error')",
           "import warnings\ntry:\n    warnings.warn('x')\nexcept UserWarning:\n    answer = 1"),
    leaves("a trace function", "sys.setprofile(lambda *a: None)", "answer = sys.getprofile()"),
    leaves("numpy's print options", "import numpy; numpy.set_printoptions(precision=2)",
           "import numpy; answer = numpy.array([1 / 3])"),
    leaves("pandas's options", "import pandas; pandas.set_option('display.precision', 2)",
           "import pandas; answer = pandas.Series([1 / 3])"),
    leaves("a thread that goes on", "import threading, time\nthreading.Thread(target=lambda: ["
           "SEEN.append(time.sleep(0.01)) for _ in range(9)]).start()",
           "import time; time.sleep(0.3); answer = len(SEEN)", "SEEN = []"),
    # -- too much for a parser
    large("300 branches of elif", "X = 1\nif X == -1: pass\n" + "".join(
        f"elif X == {i + 5}: pass\n" for i in range(300))),
    large("5,000 branches of elif", "X = 1\nif X == -1: pass\n" + "".join(
        f"elif X == {i + 5}: pass\n" for i in range(2000))),
    large("500 terms of a sum", "X = 1\nY = " + " + ".join(["1"] * 500) + "\n", quick=True),
    large("900 terms of a sum", "X = 1\nY = " + " + ".join(["1"] * 900) + "\n"),
    large("200 chained calls", "X = 1\nY = ''" + ".strip()" * 200 + "\n"),
    large("1,000 chained calls", "X = 1\nY = ''" + ".strip()" * 1000 + "\n"),
    large("80 nested lists", "X = 1\nY = " + "[" * 80 + "]" * 80 + "\n"),
    large("15 nested loops", "X = 1\n" + "".join(" " * i + "for _ in ():\n" for i in range(15))
          + " " * 15 + "pass\n"),
    large("40 nested functions", nested(40)),
    large("95 nested functions", nested(95)),
    large("90 nested lambdas", "X = 1\nY = " + "lambda: " * 60 + "1\n"),
    large("500 comparisons", "X = 1\nY = " + " < ".join(["1"] * 500) + "\n"),
    large("500 attributes", "X = 1\ndef f(a): return a" + ".b" * 500 + "\n"),
    large("20,000 lines", "X = 1\n" + "".join(f"V{i} = {i + 5}\n" for i in range(20_000))),
    large("a string of a million characters", f"X = 1\nY = '{'a' * 1_000_000}'\n"),
    large("a byte-order mark", "\ufeffX = 1\n"),
    large("form feeds and carriage returns", "\fX = 1\r\nY = 3\r\n"),
    Attack("another encoding", step("answer = helper.X", "import helper")
           | {"helper.py": "# coding: latin-1\nX = 'ä'\n".encode("latin-1")},
           put("helper.py", "# coding: latin-1\nX = 'ö'\n".encode("latin-1"))),
    Attack("another declared encoding, the same bytes", step("answer = helper.X", "import helper")
           | {"helper.py": b"# coding: latin-1\nX = '\xc3\xa4'\n"},
           put("helper.py", b"# coding: utf-8-_\nX = '\xc3\xa4'\n".replace(b"-_", b"  "))),
    Attack("a helper of a newer Python in a branch", step("answer = helper.X", "import helper")
           | {"helper.py": "import sys\nif sys.version_info >= (3, 15):\n    import newer\nX = 1\n",
              "newer.py": NEWER}, edit("X = 1", "X = 2", "helper.py"), quick=True),
    Attack("a module that can't be parsed, under try", step("answer = X",
           "try:\n    from broken import X\nexcept SyntaxError:\n    X = 0")
           | {"broken.py": "X = = 1\n"}, put("broken.py", "X = 1\n")),
    Attack("a module with a null byte, under try", step("answer = X",
           "try:\n    from broken import X\nexcept (SyntaxError, ValueError):\n    X = 0")
           | {"broken.py": b"X = 1\0\n"}, put("broken.py", "X = 1\n")),
    Attack("a module that can't be decoded, under try", step("answer = X",
           "try:\n    from broken import X\nexcept (SyntaxError, ValueError):\n    X = 0")
           | {"broken.py": b"X = '\xff'\n"}, put("broken.py", "X = 1\n")),
    Attack("a module that raises, under try", step("answer = X",
           "try:\n    from broken import X\nexcept Exception:\n    X = 0")
           | {"broken.py": "raise OSError\nX = 1\n"}, edit("raise OSError\n", "", "broken.py")),
    Attack("a loop of links beside the code", step("answer = 1"), put("x.txt", "1"),
           prepare=link("loop", "loop"), precise=True),
    Attack("a folder named like a module", step("answer = X",
           "try:\n    from helper import X\nexcept ImportError:\n    X = 0")
           | {"helper.py/x": ""}, put("helper/__init__.py", "X = 1\n")),
    in_step("a name that isn't ASCII", "größe = 1", "answer = größe", "größe = 1", "größe = 2"),
    in_step("1.0 in place of 1", "Y = 1", "answer = Y", "Y = 1", "Y = 1.0"),
    in_step("True in place of 1", "Y = 1", "answer = Y", "Y = 1", "Y = True"),
    in_step("-0.0 in place of 0.0", "Y = 0.0", "answer = Y", "Y = 0.0", "Y = -0.0"),
    in_step("bytes in place of a string", "Y = 'a'", "answer = Y", "Y = 'a'", "Y = b'a'"),
    in_step("a surrogate in a string", r"Y = '\ud800'", "answer = ascii(Y)", r"\ud800", r"\udfff"),
    in_step("a private name", "class A:\n    def f(self): return self.__x\n    _A__x = 1",
            "answer = A().f()", "_A__x = 1", "_A__x = 2"),
    in_step("two functions in turn", "def f(): return 1\ndef g(): return 2", "answer = f(), g()",
            "def f(): return 1\ndef g(): return 2", "def g(): return 1\ndef f(): return 2"),
    in_step("the order of keys", "Y = {'a': 1, 'b': 2}", "answer = Y", "'a': 1, 'b': 2",
            "'b': 2, 'a': 1"),
    in_step("the kind of an argument", "def f(a, b=1): return a\nimport inspect",
            "answer = str(inspect.signature(f))", "a, b", "a, /, b"),
    in_step("async in place of def", "def f(): return 1", "answer = type(f()).__name__; ",
            "def f(): return 1", "def f(): yield 1"),
]  # fmt: skip


@attacks(CASES)
def test_a_process(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
