// One row: the decision on it, its turns, and what is known about it.

import { editor } from "./edit.js";
import { factsOf } from "./facts.js";
import { store } from "./store.js";
import { counted, el, marked, when } from "./text.js";
import { answerOf, conversation, EDITABLE, toolsOf, withAnswer } from "./turns.js";

const WORDS = { accept: "Accepted", reject: "Rejected", edit: "Edited", swap: "Swapped", note: "Commented" };

/** The row after the decision on it. */
export function shownRow(found, state) {
  if (!state.becomes) return found.content;
  const rest = Object.entries(found.content).filter(([name]) => !EDITABLE.includes(name) && name !== "label");
  return { ...Object.fromEntries(rest), ...state.becomes };
}

/** The view of a row. `on` has what its controls do: label, comment, edited. */
export function rowView(found, state, editing, on) {
  const shown = shownRow(found, state);
  const main = editing
    ? editor(state.row, shown, on.edited)
    : el("div", { class: "turns" }, toolsOf(shown), conversation(shown), original(found, state));
  return el("div", { class: `row ${state.status}` },
    el("div", { class: "reading" }, head(state), banner(state), main),
    el("aside", { "aria-label": "About the row" }, labelOf(shown, on), commentOf(state, on), factsOf(found)));
}

function head(state) {
  const place = store.list.length === store.review.total ? "" : ` · ${store.place + 1} of ${store.list.length.toLocaleString("en")} shown`;
  return el("div", { class: "head" },
    el("h2", { id: "row-title", tabindex: "-1" }, `Row ${(state.row + 1).toLocaleString("en")}`),
    el("span", { class: "of" }, `of ${store.review.total.toLocaleString("en")}${place}`),
    el("span", { class: `status ${state.status}` }, state.status));
}

function banner(state) {
  const { decision, before, status } = state;
  if (status === "stale" && before) {
    return el("p", { class: "banner stale" }, `This row has changed. Before, it was ${status_of(before)}`, ...by(before), ". Decide again.");
  }
  if (!decision) return null;
  return el("p", { class: `banner ${status}` }, WORDS[decision.do], ...by(decision),
    status === "edited" || status === "swapped" ? (state.becomes ? "" : ": it doesn't fit the row any more. Decide again.") : "");
}

const status_of = (decision) => WORDS[decision.do].toLowerCase();

function by({ by: name, at, reason }) {
  const made = [];
  if (name) made.push(" by ", el("bdi", {}, marked(name)));
  if (at) made.push(`, ${when(at)}`);
  if (reason) made.push(": ", el("q", { dir: "auto" }, marked(reason)));
  return made;
}

/** The row before an edit, to compare with. */
function original(found, state) {
  if (state.status !== "edited" || !state.becomes) return null;
  return el("details", { class: "original" }, el("summary", {}, "as it was before the edit"), conversation(found.content));
}

const OTHER = "\u0000other";

/** The label as a choice among those of all rows; another one can be written. */
function labelOf(shown, on) {
  const { labels, answers_are_labels: isAnswer } = store.review;
  const label = isAnswer ? answerOf(shown) : shown.label;
  if (label !== undefined && label !== null && typeof label !== "string") {
    return el("section", { class: "fact" }, el("h3", {}, "Label"), el("p", {}, JSON.stringify(label)));
  }
  if (label === undefined && !labels.length) return null;
  const names = label && !labels.includes(label) ? [label, ...labels] : labels;
  const choice = el("select", { id: "label-input", dir: "auto" },
    label && label !== "" ? null : el("option", { value: "" }, "none"),
    names.map((name) => el("option", { value: name }, name)),
    el("option", { value: OTHER }, "another label …"));
  choice.value = label ?? "";
  const other = el("input", { id: "label-other", hidden: true, "aria-label": "Another label", autocomplete: "off", spellcheck: "false", dir: "auto" });
  const equals = !isAnswer && Boolean(label) && withAnswer(shown, label, label) !== null;
  const both = el("input", { type: "checkbox", id: "answer-too", checked: true });
  const save = () => {
    const text = choice.value === OTHER ? other.value.trim() : choice.value;
    if (isAnswer && !text) return;
    const answer = isAnswer || (equals && both.checked && text) ? withAnswer(shown, label, text) : {};
    on.label(isAnswer ? answer : { ...answer, label: text || null });
  };
  choice.addEventListener("change", () => {
    other.hidden = choice.value !== OTHER;
    if (!other.hidden) other.focus();
  });
  for (const control of [choice, other]) control.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    save();
  });
  return el("section", { class: "fact" },
    el("label", { for: "label-input" }, isAnswer ? "Answer " : "Label ", el("kbd", {}, "l")), choice, other,
    el("button", { type: "button", id: "label-save", onclick: save }, "Save"),
    equals ? el("label", { for: "answer-too" }, both, " Change the answer, too: it is the label") : null,
    el("p", { class: "hint" }, "Choose one; Enter saves it as an edit."));
}

function commentOf(state, on) {
  const area = el("textarea", { id: "comment", rows: 2, dir: "auto", placeholder: "Why" });
  const saved = state.decision?.reason ?? "";
  area.value = store.comments.get(state.row) ?? saved;
  area.addEventListener("input", () => (area.value === saved ? store.comments.delete(state.row) : store.comments.set(state.row, area.value)));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      on.comment(area.value);
    }
  });
  area.addEventListener("blur", () => area.isConnected && on.left());
  return el("section", { class: "fact" }, el("label", { for: "comment" }, "Comment ", el("kbd", {}, "c")), area,
    el("p", { class: "hint", id: "comment-hint" }, commentHint(on.pending())));
}

/** What Enter in the comment does. */
export function commentHint(pending) {
  return pending ? `Enter will ${pending} the row with this reason; Esc leaves.` : "Enter saves it; it also goes along with the decision.";
}

/** What is shown where there is no row: nothing fits the filters, or all is done. */
export function emptyView(on) {
  const { counts, total } = store.review;
  const open = (counts.undecided ?? 0) + (counts.stale ?? 0);
  if (!store.list.length && (open || !total || store.filters.status !== "undecided" || store.filters.text || store.filters.label)) {
    return el("div", { class: "empty" }, el("h2", { id: "row-title", tabindex: "-1" }, total ? "No row fits" : "There are no rows"),
      el("p", {}, total ? "No row has this status, label and text." : "The step made none."),
      total ? el("button", { type: "button", onclick: on.all }, "Show all rows") : null);
  }
  return el("div", { class: "empty done" }, el("p", { class: "tick", "aria-hidden": "true" }, "✓"),
    el("h2", { id: "row-title", tabindex: "-1" }, open ? "All rows shown are decided" : `All ${counted(total, "row")} are decided`),
    el("p", {}, open ? `${counted(open, "other row")} ${open === 1 ? "is" : "are"} undecided.` : "Ctrl-C in the terminal ends the review; finery build goes on from there."),
    el("div", { class: "buttons" },
      open ? el("button", { type: "button", class: "primary", onclick: on.open }, "Show undecided rows") : null,
      el("button", { type: "button", onclick: on.first }, "Look through them again")));
}
