"""Arguments and options that several commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from finery.cli.console import print_note
from finery.cli.targets import RECIPE, Target, find_target, names_recipe, recipe_file
from finery.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
Complete = Callable[[click.Context, click.Parameter, str], list[Any]]


def _completing(what: str) -> Complete:
    """Completes a word. The module is only imported when a shell needs it."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from finery.cli import complete as completions

        found: list[Any] = getattr(completions, f"complete_{what}")(ctx, param, incomplete)
        return found

    return complete


complete_steps, complete_types = _completing("steps"), _completing("types")
"""Completions of steps, and of plugins and step types."""


def recipe_words(function: F) -> F:
    """`[RECIPE]` and `--recipe`; the command gets `recipe`, the file. A step is an error."""

    def only_recipe(target: Target, command: str) -> dict[str, Any]:
        if target.steps:
            raise UsageError(
                f"'{target.steps[0]}' is not a recipe, and {command} takes no step",
                fix=f"finery {command} {target.recipe}",
            )
        return {"recipe": target.recipe}

    return _with_target(function, only_recipe, "[RECIPE]", takes_step=False)


def recipe_and_step(function: F) -> F:
    """`[RECIPE] STEP` and `--recipe`; the command gets `recipe`, the file, and `step`, a name."""

    def with_step(target: Target, command: str) -> dict[str, Any]:
        values = _one_step(target, command)
        if values["step"] is None:  # or what follows it
            context = click.get_current_context()
            words = " ".join(context.command.collect_usage_pieces(context)[1:])
            needed = " and ".join(word for word in words.split() if not word.startswith("["))
            raise UsageError(f"{command} needs {needed}", fix=f"finery {command} {words}")
        return values

    return _with_target(function, with_step, "[RECIPE] STEP")


def recipe_step_and_folder(function: F) -> F:
    """`[RECIPE] STEP DIR`, or `[RECIPE] [STEP]` with `--bundle`; the command gets `recipe`, `step`
    and `folder`, the latter two None with `--bundle` where they aren't given.
    """

    @functools.wraps(function)
    def called(
        words: tuple[str, ...], recipe: Path | None, bundle: Path | None, **options: Any
    ) -> Any:
        if bundle is None and not words:
            raise UsageError("export needs STEP and DIR", fix="finery export [RECIPE] STEP DIR")
        names, folder = (words, None) if bundle else (words[:-1], Path(words[-1]))
        target = find_target(names, recipe, "export")
        if target.note:
            print_note(target.note, err=True)
        values = _one_step(target, "export")
        if bundle is None and values["step"] is None:
            raise UsageError("export needs STEP and DIR", fix="finery export [RECIPE] STEP DIR")
        return function(**values, folder=folder, bundle=bundle, **options)

    text = f"The recipe, where it isn't an argument. [default: {RECIPE}]"
    return _with_words(called, "[RECIPE] STEP DIR", "words", text)  # type: ignore[return-value]


def recipe_and_optional_step(function: F) -> F:
    """`[RECIPE] [STEP]` and `--recipe`; the command gets `recipe`, the file, and `step` or None."""
    return _with_target(function, _one_step, "[RECIPE] [STEP]")


def recipe_and_steps(function: F) -> F:
    """`[RECIPE] [STEP]…`, `--recipe` and `--step`; the command gets `recipe` and `steps`, names."""

    function = click.option(
        "--step", "steps", multiple=True, metavar="STEP", shell_complete=_completing("steps"),
        help="Only this step and what it needs, as STEP without the option. Repeatable.",
    )(function)  # fmt: skip
    return _with_target(
        function,
        lambda target, command: {
            "recipe": target.recipe,
            "steps": tuple(step.partition(".")[0] for step in target.steps),
        },
        "[RECIPE] [STEP]...",
    )  # fmt: skip


def recipe_and_name(metavar: str) -> Callable[[F], F]:
    """A recipe, a plugin or a step type, and `--recipe`. Gives `recipe` and `name`; each may be
    None.

    A word only names the recipe if it can't be anything else.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def called(words: tuple[str, ...], recipe: Path | None, **options: Any) -> Any:
            command = _called()
            recipes = [word for word in words if names_recipe(word, strict=True)]
            names = [word for word in words if word not in recipes]
            if len(recipes) + (recipe is not None) > 1 or len(names) > 1:
                raise UsageError("too many names", fix=f"finery {command} {metavar}")
            named = recipe or (Path(recipes[0]) if recipes else None)
            file = recipe_file(named) if named is not None else None
            return function(recipe=file, name=next(iter(names), None), **options)

        text = "The recipe, where it isn't an argument."
        return _with_words(called, metavar, "types", text)  # type: ignore[return-value]

    return decorate


def _called() -> str:
    """The command as users type it after `finery`: `show`, `cache pin`."""
    context: click.Context | None = click.get_current_context()
    names = []
    while context is not None and context.parent is not None:
        names.append(str(context.info_name))
        context = context.parent
    return " ".join(reversed(names))


def _one_step(target: Target, command: str) -> dict[str, Any]:
    if len(target.steps) > 1:
        raise UsageError(
            f"{command} takes one step, not {len(target.steps)}: {', '.join(target.steps)}",
            fix=f"finery {command} {target.steps[0]}",
        )
    return {"recipe": target.recipe, "step": next(iter(target.steps), None)}


def _with_target(
    function: F,
    arguments: Callable[[Target, str], dict[str, Any]],
    metavar: str,
    *,
    takes_step: bool = True,
) -> F:
    """Give a function the words and `--recipe` of a command line as what `arguments` makes."""

    @functools.wraps(function)
    def called(words: tuple[str, ...], recipe: Path | None, **options: Any) -> Any:
        command = _called()
        target = find_target(words, recipe, command, takes_step=takes_step)
        if target.note:
            print_note(target.note, err=True)
        named = arguments(target, command)
        if "steps" in named:
            options["steps"] = tuple(dict.fromkeys((*named.pop("steps"), *options["steps"])))
        return function(**named, **options)

    text = f"The recipe, where it isn't an argument. [default: {RECIPE}]"
    return _with_words(called, metavar, "words", text)  # type: ignore[return-value]


def _with_words(function: F, metavar: str, completed: str, text: str) -> F:
    """Add the words of a command line and `--recipe`. text: its help."""
    complete = _completing(completed)
    function = click.option(
        "--recipe", "-r", type=click.Path(path_type=Path), help=text, shell_complete=complete
    )(function)
    return click.argument("words", nargs=-1, metavar=metavar, shell_complete=complete)(function)


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
