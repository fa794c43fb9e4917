"""Arguments and options that several commands share, and how a shell completes them.

docs/reference/recipe.md has the set-up of completion. Completing may neither fail nor print: the
caller is a shell.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from finery.cli.console import print_note
from finery.cli.targets import RECIPE, Target, find_target, names_recipe, recipe_file, steps_in
from finery.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_words(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes, and the steps of the recipe that the words before name."""
    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="file")]
    recipes = [] if _recipe_before(ctx) is not None else _recipes(incomplete)
    return [*recipes, *complete_steps(ctx, param, incomplete)]


def complete_steps(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The steps of the recipe that the words before name."""
    steps = steps_in(_recipe_before(ctx) or Path(RECIPE))
    return [CompletionItem(n, help=use) for n, use in steps.items() if n.startswith(incomplete)]


def complete_types(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Plugins and step types that are installed, and recipes."""
    from finery.plugin.manager import load_plugins

    plugins = load_plugins()
    plugins.are_broken_reported = True
    names = [*(plugin.name for plugin in plugins.plugins), *sorted(plugins.step_types)]
    types = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*types, *_recipes(incomplete)]


def _recipe_before(ctx: click.Context) -> Path | None:
    """The recipe that the words before name."""
    option = ctx.params.get("recipe")
    words = [str(option)] if option else [str(word) for word in ctx.params.get("words") or ()]
    named = next((Path(word) for word in words if option or names_recipe(word)), None)
    return named / RECIPE if named is not None and named.is_dir() else named


def _recipes(incomplete: str) -> Iterator[CompletionItem]:
    """Recipe files here, and folders with a recipe."""
    for entry in sorted(os.scandir("."), key=lambda entry: entry.name):
        is_recipe = entry.name.endswith((".yaml", ".yml")) and entry.is_file()
        if entry.name.startswith(incomplete) and (
            is_recipe or os.path.exists(os.path.join(entry.name, RECIPE))
        ):
            yield CompletionItem(entry.name, help="recipe")


def _with_words(
    function: F, metavar: str, complete: Complete = complete_words, default: str = RECIPE
) -> F:
    """Add the words of a command line and `--recipe`. default: the recipe without one."""
    text = "The recipe, where it isn't an argument."
    text += f" [default: {default}]" if default else ""
    function = click.option(
        "--recipe", "-r", type=click.Path(path_type=Path), help=text, shell_complete=complete
    )(function)
    return click.argument("words", nargs=-1, metavar=metavar, shell_complete=complete)(function)


def _with_target(
    arguments: Callable[[Target, str], dict[str, Any]], metavar: str, *, takes_step: bool = True
) -> Callable[[F], F]:
    """Give a command the words and `--recipe` of its line as what `arguments` makes of them."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def called(words: tuple[str, ...], recipe: Path | None, **options: Any) -> Any:
            command = _command_name()
            target = _target(words, recipe, command, takes_step=takes_step)
            return function(**options | arguments(target, command))

        return _with_words(called, metavar)  # type: ignore[return-value]

    return decorate


def _target(
    words: tuple[str, ...], recipe: Path | None, command: str, *, takes_step: bool = True
) -> Target:
    target = find_target(words, recipe, command, takes_step=takes_step)
    if target.note:
        print_note(target.note, err=True)
    return target


def _command_name() -> str:
    """The command as users type it after `finery`: `show`, `cache pin`."""
    context = click.get_current_context()
    return context.command_path.removeprefix(context.find_root().command_path).strip()


def _only_recipe(target: Target, command: str) -> dict[str, Any]:
    if target.steps:
        raise UsageError(
            f"'{target.steps[0]}' is not a recipe, and {command} takes no step",
            fix=f"finery {command} {target.recipe}",
        )
    return {"recipe": target.recipe}


def _optional_step(target: Target, command: str) -> dict[str, Any]:
    if len(target.steps) > 1:
        raise UsageError(
            f"{command} takes one step, not {len(target.steps)}: {', '.join(target.steps)}",
            fix=f"finery {command} {target.steps[0]}",
        )
    return {"recipe": target.recipe, "step": next(iter(target.steps), None)}


def _one_step(target: Target, command: str) -> dict[str, Any]:
    values = _optional_step(target, command)
    if values["step"] is None:  # or what follows it
        context = click.get_current_context()
        words = " ".join(context.command.collect_usage_pieces(context)[1:])
        needed = " and ".join(word for word in words.split() if not word.startswith("["))
        raise UsageError(f"{command} needs {needed}", fix=f"finery {command} {words}")
    return values


recipe_words = _with_target(_only_recipe, "[RECIPE]", takes_step=False)
"""`[RECIPE]` and `--recipe`; the command gets `recipe`, the file. A step is an error."""
recipe_and_step = _with_target(_one_step, "[RECIPE] STEP")
"""`[RECIPE] STEP` and `--recipe`; the command gets `recipe`, the file, and `step`, a name."""
recipe_and_optional_step = _with_target(_optional_step, "[RECIPE] [STEP]")
"""`[RECIPE] [STEP]` and `--recipe`; the command gets `recipe`, the file, and `step` or None."""


def recipe_step_and_folder(function: F) -> F:
    """`[RECIPE] STEP DIR`, or `[RECIPE] [STEP]` with `--bundle`; the command gets `recipe`, `step`
    and `folder`, the latter two None with `--bundle` where they aren't given.
    """

    @functools.wraps(function)
    def called(
        words: tuple[str, ...], recipe: Path | None, bundle: Path | None, **options: Any
    ) -> Any:
        names, folder = (words, None) if bundle or not words else (words[:-1], Path(words[-1]))
        values = (
            _optional_step(_target(names, recipe, "export"), "export") if words or bundle else {}
        )
        if bundle is None and values.get("step") is None:
            raise UsageError("export needs STEP and DIR", fix="finery export [RECIPE] STEP DIR")
        return function(**values, folder=folder, bundle=bundle, **options)

    return _with_words(called, "[RECIPE] STEP DIR")  # type: ignore[return-value]


def recipe_and_steps(function: F) -> F:
    """`[RECIPE] [STEP]…`, `--recipe` and `--step`; the command gets `recipe` and `steps`, names."""

    @functools.wraps(function)
    def called(named: tuple[str, ...], steps: tuple[str, ...], **options: Any) -> Any:
        return function(steps=tuple(dict.fromkeys((*named, *steps))), **options)

    with_option = click.option(
        "--step", "steps", multiple=True, metavar="STEP", shell_complete=complete_steps,
        help="Only this step and what it needs, as STEP without the option. Repeatable.",
    )(called)  # fmt: skip

    def named_steps(target: Target, command: str) -> dict[str, Any]:
        return {"recipe": target.recipe, "named": [n.partition(".")[0] for n in target.steps]}

    return _with_target(named_steps, "[RECIPE] [STEP]...")(with_option)  # type: ignore[return-value]


def recipe_and_name(metavar: str) -> Callable[[F], F]:
    """A recipe, a plugin or a step type, and `--recipe`. Gives `recipe` and `name`; each may be
    None.

    A word only names the recipe if it can't be anything else.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def called(words: tuple[str, ...], recipe: Path | None, **options: Any) -> Any:
            recipes = [word for word in words if names_recipe(word, strict=True)]
            names = [word for word in words if word not in recipes]
            if len(recipes) + (recipe is not None) > 1 or len(names) > 1:
                raise UsageError("too many names", fix=f"finery {_command_name()} {metavar}")
            named = recipe or (Path(recipes[0]) if recipes else None)
            file = recipe_file(named) if named is not None else None
            return function(recipe=file, name=next(iter(names), None), **options)

        return _with_words(called, metavar, complete_types, "")  # type: ignore[return-value]

    return decorate


def matrix_option(function: F) -> F:
    """`--set PATH=VALUE` and `--matrix PATH=VALUE,VALUE`, each any number of times.

    The command gets them as `overrides`.
    """

    @functools.wraps(function)
    def called(overrides: tuple[str, ...], axes: tuple[str, ...], **options: Any) -> Any:
        from finery.recipe.document import MATRIX_OPTION

        return function(
            overrides=(*overrides, *(f"{MATRIX_OPTION}{axis}" for axis in axes)), **options
        )

    with_set = click.option(
        "--set", "overrides", multiple=True, metavar="PATH=VALUE",
        help="Override a setting: --set train.sft.epochs=1.",
    )(called)  # fmt: skip
    return click.option(
        "--matrix", "axes", multiple=True, metavar="PATH=VALUE,VALUE",
        help="Build a variant for each value: --matrix train.sft.learning_rate=1e-4,2e-4. `off` "
        "builds the recipe without its matrix.",
    )(with_set)  # type: ignore[return-value]  # fmt: skip


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")(function)
