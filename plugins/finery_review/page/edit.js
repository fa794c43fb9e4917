// Editing a row: every turn, tool calls as JSON, and documents. What isn't touched stays as it is.

import { store } from "./store.js";
import { el, json } from "./text.js";
import { ANSWERS, asTurns, contentOf, EDITABLE } from "./turns.js";

/** A form over the row as it is shown; `done(columns)` with the changed columns, null for none. */
export function editor(row, shown, done) {
  const draft = store.drafts.get(row) ?? new Map();
  const fields = [];
  const problem = el("p", { class: "problem", role: "alert" });

  const field = (key, title, value, write, kind = "text") => {
    const id = `edit-${fields.length}`;
    const area = el("textarea", { id, dir: "auto", rows: 1, spellcheck: kind === "json" ? "false" : "true", class: kind === "json" ? "code" : null });
    area.value = value;
    const before = area.value; // line ends as the browser has them
    if (draft.has(key)) area.value = draft.get(key);
    area.addEventListener("input", () => {
      if (area.value === before) draft.delete(key);
      else draft.set(key, area.value);
      if (draft.size) store.drafts.set(row, draft);
      else store.drafts.delete(row);
      fit(area);
    });
    fields.push({ area, before, write, kind, title });
    return el("div", { class: "field" }, el("label", { for: id }, title), area);
  };

  const parts = EDITABLE.filter((name) => shown[name] !== undefined && shown[name] !== null)
    .map((name) => el("fieldset", { class: `column ${name}` }, el("legend", { class: isNamedInside(shown, name) ? "unseen" : null }, name), fieldsOf(shown, name, field)));

  const save = () => {
    const made = structuredClone(shown); // without what an earlier attempt wrote before it failed
    const changed = fields.filter(({ area, before }) => area.value !== before);
    for (const { area, write, title } of changed) {
      const wrong = write(made, area.value);
      area.setAttribute("aria-invalid", String(Boolean(wrong)));
      if (wrong) {
        problem.textContent = `${title}: ${wrong}`;
        area.focus();
        return;
      }
    }
    const columns = EDITABLE.filter((name) => json(made[name]) !== json(shown[name])).map((name) => [name, made[name]]);
    done(columns.length ? Object.fromEntries(columns) : null);
  };

  const form = el("form", { class: "editor", "aria-label": "Edit the row" }, parts, problem,
    el("div", { class: "buttons" },
      el("button", { type: "submit", class: "primary" }, "Save ", el("kbd", {}, "Ctrl+Enter")),
      el("button", { type: "button", onclick: () => done(undefined) }, "Cancel ", el("kbd", {}, "Esc"))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      save();
    } else if (event.key === "Escape") {
      event.preventDefault();
      done(undefined);
    }
  });
  // As soon as the form is in the page, and before another key counts: who opens it types on.
  queueMicrotask(() => {
    fields.forEach(({ area }) => fit(area));
    answerField(fields)?.focus();
  });
  return form;
}

/** Whether the fields of a column say enough without its name above them. */
const isNamedInside = (shown, name) => name === "messages" || ANSWERS.includes(name) || typeof shown[name] === "string";

/** A field for each turn of a column, and for its tool calls. `write(made, text)` returns what is wrong. */
function fieldsOf(shown, name, field) {
  if (typeof shown[name] === "string") {
    return [field(name, name, shown[name], (made, text) => void (made[name] = text))];
  }
  return asTurns(shown[name], "assistant").flatMap((turn, index) => {
    const write = (made, text) => void (made[name][index].content = text);
    const alone = shown[name].length === 1 && ANSWERS.includes(name);
    const title = alone ? name : `${index + 1}. ${turn.role ?? "?"}`;
    const said = typeof turn.content === "string" || !turn.tool_calls;
    const one = said ? [field(`${name}.${index}`, title, contentOf(turn), write)] : [];
    if (!turn.tool_calls) return one;
    const calls = (made, text) => {
      try {
        made[name][index].tool_calls = JSON.parse(text);
      } catch (error) {
        return `no JSON: ${error.message}`;
      }
      return undefined;
    };
    return [...one, field(`${name}.${index}.calls`, `${title}: tool calls`, json(turn.tool_calls), calls, "json")];
  });
}

/** The last answer's field: what is edited most. */
function answerField(fields) {
  const last = (pattern) => fields.findLast(({ title }) => pattern.test(title));
  return (last(/^(completion|chosen|text)/) ?? last(/assistant$/) ?? fields.at(-1))?.area;
}

function fit(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight * 0.6)}px`;
}
