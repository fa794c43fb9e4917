"""The links under `build/` to steps' outputs, and the views that they lead to.

A view is compared with its manifest only if its state differs from the one after the last build.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from finery.artifact.manifest import MANIFEST, Manifest
from finery.errors import UsageError, disk_full
from finery.recipe.document import Recipe, load
from finery.store.database import Store
from finery.store.links import REMOTE_SUFFIX, link_outputs
from finery.util.files import ABSENT, FileState, file_state
from finery.util.paths import project_folder, shown
from finery.util.text import counted, size


def build_folder(recipe: Recipe) -> Path:
    """`build/<recipe>` in the project folder, which users open."""
    return project_folder(recipe.path) / "build" / recipe.name


def refuse_shared_folder(recipe: Recipe, store: Store) -> None:
    """Raise `RecipeError` where another recipe of the project builds into the same folder.

    That is one which was built before, still exists, and still has this name: a recipe that was
    moved, deleted or renamed leaves its folder to whoever takes the name.
    """
    for path in store.recipes().values():
        if _builds_into(path, recipe):
            file = recipe.path.stem if recipe.path.stem != "recipe" else "2"
            raise recipe.error(
                f"{shown(path)} has the name '{recipe.name}' too, and builds into "
                f"{shown(build_folder(recipe))}/",
                ["name"],
                fix=f"give one of them another name, such as name: {recipe.name}-{file}",
            )


def _builds_into(path: Path, recipe: Recipe) -> bool:
    """Whether the recipe at `path` is a different one than `recipe`, in the same folder."""
    try:
        if os.path.samefile(path, recipe.path):
            return False
        other_recipe = load(path)
    except (OSError, UsageError):  # it is gone, or broken: its name can't be known
        return False
    return build_folder(other_recipe) == build_folder(recipe)


class OutputLinks:
    """Links the outputs of steps in `folder`, which is `build/<recipe>`.

    In place of the link to an output that only a shared store has, there is a text that says so.

    states_before: `states` at the end of the last build.
    argument: the recipe in commands.
    states: path → state of the links (each the state of the view's folder) or texts, of the views'
        manifests, and of folders in views, as this build found or left them.
    """

    def __init__(
        self, store: Store, folder: Path, states_before: Mapping[str, FileState], argument: str = ""
    ) -> None:
        self.folder = folder
        self.states: dict[str, FileState] = {}
        self._store = store
        self._views = f"{store.root}/views"
        self._states_before = states_before
        self._argument = argument

    def link(self, step: str, outputs: Mapping[str, Manifest], *, is_new: bool = False) -> None:
        """Link a step's outputs. Creates or repairs their views if they changed.

        is_new: whether this build made them.
        """
        target = f"{self.folder}/{step}"
        visible = {name: m for name, m in outputs.items() if name or outputs.keys() == {""}}
        links = {f"{target}/{name}" if name else target: m for name, m in visible.items()}
        remote_links = {
            link
            for link, m in links.items()
            if self._store.shared and not self._store.shared.is_here([m])
        }
        states = {} if is_new else self._states_of(links, remote_links)
        expected = {
            f"{name}{REMOTE_SUFFIX}" if f"{target}/{name}" in remote_links else name
            for name in visible
        }
        is_same = (  # links lead to the views of these artifacts, and there are no others
            bool(states)
            and all(self._states_before.get(path) == s != ABSENT for path, s in states.items())
            and all(
                link in remote_links or states[link] == file_state(self._folder(m))
                for link, m in links.items()
            )
            and (outputs.keys() == {""} or expected == {*os.listdir(target)})
        )
        if not is_same:
            command = f"finery fetch {self._argument}{step}"
            texts = {link: _remote_note(links[link], command) for link in remote_links}
            try:
                link_outputs(self._store.root, Path(target), outputs, texts)
            except OSError as error:
                problem = f"can't link its outputs in {target}: {error.strerror}"
                raise disk_full(error) or UsageError(problem) from error
            states = self._states_of(links, remote_links)
        self.states |= states

    def _states_of(
        self, links: Mapping[str, Manifest], away: Collection[str]
    ) -> dict[str, FileState]:
        states = {}
        for link, manifest in links.items():
            if link in away:
                states[f"{link}{REMOTE_SUFFIX}"] = file_state(f"{link}{REMOTE_SUFFIX}")
                continue
            states[link] = file_state(link)
            for path in self._inner_paths(manifest):
                states[path] = file_state(path)
        return states

    def _inner_paths(self, manifest: Manifest) -> list[str]:
        """Paths in a view that can change without changing the state of its folder."""
        folder = self._folder(manifest)
        paths = [f"{folder}/{MANIFEST}"]
        for name in (*manifest.files, *manifest.external):
            path_parts = name.split("/")
            paths += [f"{folder}/{'/'.join(path_parts[:i])}" for i in range(1, len(path_parts))]
        return paths

    def _folder(self, manifest: Manifest) -> str:
        return f"{self._views}/{manifest.view}"


def _remote_note(manifest: Manifest, command: str) -> str:
    """What is in place of an output that isn't here."""
    files = counted(len(manifest.files), "file")
    return (
        f"This output is in the shared store, not on this machine: {files}, "
        f"{size(manifest.size())}.\nTo copy it here: {command}\n"
    )
