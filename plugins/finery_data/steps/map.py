"""`data.map`: rewrite rows with templates."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal

from finery import DataError, Dataset, Job, Step, UsageError, setting, takes
from finery.advanced import did_you_mean
from finery.rows import Conversation, Message, Row, Turns, with_turns
from finery.rows.badrow import BadRow
from finery.rows.parts import (
    STANDARD_COLUMNS,
    TURN_TEXTS,
    is_conversation,
    read_numbered,
    replace_content,
    row_label,
    row_texts,
    template_variables,
    text_of,
)
from finery.rows.templates.sandbox import compile_template, render, template_names

if TYPE_CHECKING:
    from jinja2 import Template


class Map(Step, seeded=False, packages=("jinja2",), version="1"):
    """Rewrite rows with templates over their texts and columns.

    Templates are Jinja, in its sandbox. They see the row's columns by name, its texts `system`,
    `user` (the last user turn), `assistant` (the answer), `chosen` and `rejected`, and `row`. All
    templates see the row as it was. It is an error if no row has a column, even if the template
    allows for that, or if the result of a template is empty in every row. A row that changes gets a
    new id, and its old one as parent; tools, tool calls and columns that no template writes are
    kept. Rows without turns (documents) become conversations if there is a template for
    `user`.
    """

    rows: list[Dataset] = takes(help="Rows to rewrite, in this order.")
    system: str | None = setting(
        None,
        help="Template of the system prompt. An empty result means no system prompt.",
        examples=["Name the intent."],
    )
    user: str | None = setting(
        None, help="Template of the last user turn.", examples=["{{ user | trim }}"]
    )
    assistant: str | None = setting(
        None, help="Template of the answer; in preference rows, of the chosen answer."
    )
    rejected: str | None = setting(None, help="Template of the rejected answer of a preference.")
    turns: Literal["last", "all"] = setting(
        "last",
        help="all: `user` and `assistant` rewrite every turn of their role, and each template sees "
        "that turn's text.",
    )
    label: str | None = setting(
        None, help="Template of the label.", examples=["{{ label | lower }}"]
    )
    columns: dict[str, str] = setting(
        {},
        help="Column: template. Adds or replaces columns.",
        examples=[{"length": "{{ user | length }}"}],
    )
    remove: list[str] = setting(
        [], column_of="rows", help="Columns to remove.", examples=[["source"]]
    )

    def check(self) -> None:
        """Raise `UsageError` for templates that aren't Jinja, or none at all."""
        if not self._templates() and not self.remove:
            raise UsageError("data.map changes nothing", fix='add a template, e.g. user: "…"')
        for field, names in (("columns", list(self.columns)), ("remove", self.remove)):
            for name in names:
                if name in STANDARD_COLUMNS - ({"tools"} if field == "remove" else set()):
                    raise UsageError(
                        f"'{name}' can't be written or removed as a column",
                        where=f"{field}.{name}" if field == "columns" else field,
                        fix="use the templates system, user, assistant and rejected",
                    )

    def run(self, job: Job) -> Dataset:
        """Write the rows, all of them, in order."""
        dataset = Dataset.write(job.out, self._rewritten(job))
        if not len(dataset):
            raise DataError("there are no rows", fix="check the steps that `rows` names")
        return dataset

    def _sources(self) -> dict[str, str]:
        """Setting → the template that it holds."""
        fields = ("system", "user", "assistant", "rejected", "label")
        sources = {f: getattr(self, f) for f in fields if getattr(self, f) is not None}
        return sources | {f"columns.{name}": source for name, source in self.columns.items()}

    def _templates(self) -> "dict[str, Template]":
        return {where: compile_template(source, where) for where, source in self._sources().items()}

    def _rewritten(self, job: Job) -> Iterator[Row]:
        writer, changes, number = _Writer(self, self._templates()), 0, 0
        used = _Used(self._sources(), self.remove)
        for number, row in read_numbered(job, self.rows):
            used.meet(row)
            try:
                rewritten = replace_content(row, writer.written(row))
            except BadRow as error:
                raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error
            changes += rewritten is not row
            yield rewritten
        if number:
            used.refuse_unknown(writer.rendered)
        job.log(f"{changes:,} of {number:,} rows changed")


class _Used:
    """Finds names in the settings of a `data.map` that no row has: a mistyped name gives no error
    if a template allows for its absence.
    """

    def __init__(self, sources: dict[str, str], removed: list[str]) -> None:
        self._sources = sources
        self._named = {where: template_names(source) for where, source in sources.items()}
        self._named |= {"remove": set(removed)} if removed else {}
        self._known: dict[str, None] = dict.fromkeys(TURN_TEXTS)
        self._shapes: set[tuple[str, ...]] = set()

    def meet(self, row: Row) -> None:
        """Note the columns and texts of a row."""
        shape = tuple(row)
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._known.update(dict.fromkeys([*row, *row_texts(row)]))

    def refuse_unknown(self, rendered: Collection[str]) -> None:
        """Raise `DataError` for a column that no row has, or a template that wrote to none."""
        for where, names in self._named.items():
            for name in sorted(names - self._known.keys()):
                raise DataError(
                    f"no row has a column '{name}'",
                    where=where,
                    fix=did_you_mean(name, self._known.keys() - {"id", "parents"}),
                )
        for where in self._sources.keys() - rendered:
            raise DataError(
                f"no row has {_TARGETS[where]} to rewrite", where=where, fix="remove it"
            )


_TARGETS = {
    "user": "a user turn",
    "assistant": "an answer",
    "rejected": "a rejected answer",
    "system": "turns that a system prompt could come before",
}


class _Writer:
    """Writes one row after the other with the templates of a `data.map`.

    rendered: the templates that wrote something so far.
    """

    def __init__(self, step: Map, templates: "dict[str, Template]") -> None:
        self._every = step.turns == "all"
        self._removed = step.remove
        self._columns = [where for where in templates if where.startswith("columns.")]
        self._templates = templates
        self.rendered: set[str] = set()

    def written(self, row: Row) -> Row:
        """A new row; raises `BadRow` where a template fails or leaves a turn empty."""
        names = template_variables(row)
        content = {k: v for k, v in row.items() if k not in self._removed}
        if is_conversation(row):
            content = with_turns(content, self._turns(Turns.of(row), names))
        elif "user" in self._templates:
            turns = self._with_system([], names)
            turns.append({"role": "user", "content": self._full("user", names)})
            if "assistant" in self._templates:
                turns.append({"role": "assistant", "content": self._full("assistant", names)})
            content = {"messages": turns, **content}
        if "label" in self._templates:
            content["label"] = self._full("label", names)
        for where in self._columns:
            content[where.removeprefix("columns.")] = self._rendered(where, names)
        return content

    def _turns(self, turns: Turns, names: dict[str, Any]) -> Turns:
        prompt = self._written(turns.prompt, "user", "user", names)
        if self._every:
            prompt = self._written(prompt, "assistant", "assistant", names)
        return turns._replace(
            prompt=self._with_system(prompt, names),
            answer=self._written(turns.answer, "assistant", "assistant", names),
            rejected=turns.rejected
            and self._written(turns.rejected, "assistant", "rejected", names),
        )

    def _written(
        self, turns: Conversation, role: str, template: str, names: dict[str, Any]
    ) -> Conversation:
        if template not in self._templates:
            return list(turns)
        places = [i for i, turn in enumerate(turns) if turn["role"] == role]
        chosen = set(places if self._every else places[-1:])
        return [
            self._turn(turn, template, names) if i in chosen else turn
            for i, turn in enumerate(turns)
        ]

    def _turn(self, turn: Message, template: str, names: dict[str, Any]) -> Message:
        # Its text without its tool calls, which aren't changed.
        own = {template: text_of({"content": turn.get("content")})}
        text = self._rendered(template, {**names, **own})
        if not text.strip() and not turn.get("tool_calls"):
            raise BadRow(f"{template} gives an empty text", "fill it in, or remove the row")
        return {**turn, "content": text}

    def _with_system(self, turns: Conversation, names: dict[str, Any]) -> Conversation:
        if "system" not in self._templates:
            return turns
        text = self._rendered("system", names)
        rest = [turn for turn in turns if turn["role"] != "system"]
        return [{"role": "system", "content": text}, *rest] if text.strip() else rest

    def _full(self, where: str, names: dict[str, Any]) -> str:
        text = self._rendered(where, names)
        if not text.strip():
            raise BadRow(f"{where} gives an empty text", "fill it in, or remove the row")
        return text.strip() if where == "label" else text

    def _rendered(self, where: str, names: dict[str, Any]) -> str:
        self.rendered.add(where)
        return render(self._templates[where], where, names)
