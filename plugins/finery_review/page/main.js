// The page: shows where we are, and turns keys and buttons into decisions.

import { Gone, Refused } from "./api.js";
import { useKeys } from "./keys.js";
import { commentHint, emptyView, rowView, shownRow } from "./row.js";
import * as s from "./store.js";
import { makeTable } from "./table.js";
import { counted, el } from "./text.js";

const { store } = s;
const by = (id) => document.getElementById(id);
const EVERY = 1500; // milliseconds between questions after other windows' decisions
const DONE = { accept: "accepted", reject: "rejected", edit: "edited", swap: "swapped", note: "commented on", undo: "undecided again" };

const ALL = { status: "", label: "", text: "", check: "" };

let editing = false;
let pending = ""; // a decision that waits for its comment
let drawn = 0; // the last drawing that began
let shownNow; // the row on the page
let busy = Promise.resolve();

// -- what is shown --------------------------------------------------------------------------------

function say(text) {
  const same = by("live").textContent === text; // screen readers announce only changes
  by("live").textContent = same ? `${text}\u00a0` : text;
}

function warn(text) {
  if (!by("alert").hidden && by("alert").firstChild.textContent === text) return;
  by("alert").replaceChildren(el("span", {}, text), el("button", { type: "button", class: "round", "aria-label": "Close the message", onclick: calm }, "×"));
  by("alert").hidden = false;
}

function calm() {
  by("alert").hidden = true;
}

/** Run actions one after the other, and show what goes wrong. */
function run(action) {
  busy = busy.then(action).catch((error) => {
    if (error instanceof Refused || error instanceof Gone) warn(error.message);
    else {
      warn(`This page has a bug: ${error.message}`);
      throw error;
    }
  });
  return busy;
}

function showWhole() {
  const { title, total, counts, notices } = store.review;
  by("title").textContent = title;
  document.title = `${title} – finery review`;
  const kinds = ["accepted", "edited", "swapped", "rejected"];
  const decided = kinds.reduce((sum, kind) => sum + (counts[kind] ?? 0), 0);
  const bar = by("progress");
  bar.setAttribute("aria-valuemax", String(total));
  bar.setAttribute("aria-valuenow", String(decided));
  bar.setAttribute("aria-valuetext", `${decided} of ${total} rows decided`);
  bar.replaceChildren(...kinds.map((kind) => {
    const part = el("span", { class: kind });
    part.style.width = `${total ? (100 * (counts[kind] ?? 0)) / total : 0}%`;
    return part;
  }));
  const parts = [...kinds, "stale"].filter((kind) => counts[kind]).map((kind) => el("span", { class: kind }, `${counts[kind].toLocaleString("en")} ${kind}`));
  by("tally").replaceChildren(el("b", {}, `${decided.toLocaleString("en")} of ${total.toLocaleString("en")} decided`), ...parts);
  if (notices.length > (showWhole.told ?? 0)) warn(notices.at(-1));
  showWhole.told = notices.length;
}

function showFilters() {
  by("status").value = store.filters.status;
  by("text").value = store.filters.text;
  const { labels } = store.review;
  by("label-filter").hidden = !labels.length;
  by("label").replaceChildren(el("option", { value: "" }, "any"), ...labels.map((name) => el("option", { value: name }, name)));
  by("label").value = store.filters.label;
  const { checks, scored, audited } = store.review;
  by("check-filter").hidden = !Object.keys(checks).length;
  by("check").replaceChildren(el("option", { value: "" }, "any"), ...Object.entries(checks).map(([name, count]) => el("option", { value: name }, `${name} (${count.toLocaleString("en")})`)));
  by("check").value = store.filters.check;
  by("order-filter").hidden = !scored && !audited;
  for (const option of by("order").options) option.hidden = option.value === "suspicious" ? !audited : option.value !== "" && !scored;
  by("order").value = store.filters.order;
}

function showFound() {
  by("found").textContent = store.list.length === store.review.total ? "" : counted(store.list.length, "row");
}

/** Draw what the view shows; the newest drawing wins where one overtakes another. */
async function draw() {
  const number = ++drawn;
  const table = store.view === "table";
  by("row-view").hidden = table;
  by("table-view").hidden = !table;
  by("view-row").setAttribute("aria-pressed", String(!table));
  by("view-table").setAttribute("aria-pressed", String(table));
  document.body.dataset.view = store.view;
  const row = s.current();
  for (const button of by("actions").querySelectorAll(".decide button")) button.disabled = row === undefined && button.dataset.do !== "undo";
  keepAddress();
  if (table) {
    the.table.show();
    return;
  }
  if (row === undefined) {
    put(emptyView({ all: () => filter(ALL), open: () => filter({ ...ALL, status: "undecided" }), first: () => s.go(0) }));
    by("actions").querySelector("[data-do=swap]").hidden = !store.review.preferences;
    by("actions").querySelector("[data-do=propose]").hidden = true;
    return;
  }
  const found = await s.load(row);
  if (number !== drawn) return;
  const state = store.states.get(row);
  const shown = shownRow(found, state);
  by("actions").querySelector("[data-do=swap]").hidden = shown.chosen === undefined || shown.rejected === undefined;
  by("actions").querySelector("[data-do=propose]").hidden = !hasProposal(found);
  editing ||= store.drafts.has(row);
  put(rowView(found, state, editing, { label, comment, edited, pending: () => pending, left: () => wait("") }));
  s.prefetch(store.list[store.place + 1]);
}

/** Put a view in place. What had the focus keeps it, with what was typed; else the title gets it. */
function put(view) {
  const active = document.activeElement;
  const inside = by("row-view").contains(active) || active === document.body;
  const moved = shownNow !== s.current();
  shownNow = s.current();
  by("row-view").replaceChildren(view);
  if (moved) by("stage").scrollTop = 0;
  if (!inside || editing || document.querySelector("dialog[open]")) return;
  const again = active.id && !moved ? by(active.id) : null;
  if (again && "value" in again) {
    again.value = active.value;
    again.setSelectionRange(active.selectionStart, active.selectionEnd);
  }
  (again ?? by("row-title"))?.focus({ preventScroll: true });
}

// -- where we are ---------------------------------------------------------------------------------

/** Keep the place in the address, for reloading the page. */
function keepAddress() {
  const said = new URLSearchParams();
  if (store.view === "table") said.set("view", "table");
  for (const [name, value] of Object.entries(store.filters)) if (value) said.set(name, value);
  if (s.current() !== undefined) said.set("row", String(s.current() + 1));
  history.replaceState(null, "", `/#${said}`);
}

function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  store.view = said.get("view") === "table" ? "table" : "row";
  for (const name of Object.keys(store.filters)) store.filters[name] = said.get(name) ?? "";
  return Number(said.get("row") ?? 0) - 1;
}

async function filter(filters, row = s.current()) {
  Object.assign(store.filters, filters);
  showFilters();
  await s.list();
  showFound();
  s.go(Math.max(0, store.list.indexOf(row)));
  say(`${counted(store.list.length, "row")} shown`);
}

function go(place) {
  editing = false;
  pending = "";
  s.go(place);
}

function step(by) {
  const place = store.place + by;
  if (place < 0 || (place >= store.list.length && s.nextOpen() >= 0)) return say(by < 0 ? "This is the first row" : "This is the last row");
  go(place);
  return sayPlace();
}

function jump() {
  const place = s.nextOpen();
  go(place < 0 ? store.list.length : place);
  if (place < 0) say("No row shown is undecided");
  else sayPlace();
}

function sayPlace(before = "") {
  const row = s.current();
  say(row === undefined ? `${before}No row is left to decide on` : `${before}Row ${row + 1}, ${store.statuses.get(row)}`);
}

function view(name) {
  store.view = name;
  if (s.current() === undefined && store.list.length) store.place = store.list.length - 1;
  say(name === "table" ? "Table" : "Row");
  return draw().then(() => (name === "table" ? the.table.focus() : by("row-title")?.focus({ preventScroll: true })));
}

// -- what is decided ------------------------------------------------------------------------------

const written = () => (store.view === "row" ? by("comment")?.value ?? "" : "");

async function decide(kind, more = {}) {
  const row = s.current();
  if (row === undefined) return;
  calm();
  const reason = store.view === "row" ? written() : store.states.get(row)?.decision?.reason ?? "";
  await s.decide(row, { do: kind, reason, ...more });
  store.comments.delete(row);
  const did = `Row ${row + 1} ${DONE[kind]}. `;
  if (kind === "note" || kind === "undo") {
    say(did);
    return;
  }
  editing = false;
  const place = s.nextOpen();
  if (store.view === "table") s.go(Math.min(store.place + 1, store.list.length - 1));
  else s.go(place < 0 ? store.list.length : place);
  sayPlace(did);
}

async function swap() {
  const row = s.current();
  if (row === undefined) return;
  const { content } = await s.load(row);
  if (content.chosen === undefined || content.rejected === undefined) return say("This row doesn't have two answers to swap");
  const decision = store.states.get(row)?.decision;
  if (decision?.do === "swap") return clear(); // back as they were
  if (decision?.do !== "edit") return decide("swap");
  const shown = shownRow({ content }, store.states.get(row));
  return decide("edit", { columns: { ...decision.set, chosen: shown.rejected, rejected: shown.chosen } });
}

const hasProposal = ({ proposal }) => Object.keys(proposal ?? {}).length > 0;

/** Take what an audit proposes, as an edit. */
async function propose() {
  const row = s.current();
  if (row === undefined) return undefined;
  const found = await s.load(row);
  if (!hasProposal(found)) return say("There is no proposal for this row");
  return decide("edit", { columns: found.proposal });
}

async function undo() {
  calm();
  const row = await s.undo();
  if (row === null) return say("There is nothing to undo in this window");
  if (!store.list.includes(row)) await filter(ALL, row);
  else go(store.list.indexOf(row));
  return say(`Undone: row ${row + 1} is ${store.statuses.get(row)}`);
}

/** Make the row undecided again. */
async function clear() {
  const row = s.current();
  if (row === undefined || !store.states.get(row)?.decision) return say("This row is already undecided");
  return decide("undo", { reason: "" });
}

function edit() {
  if (s.current() === undefined) return undefined;
  store.view = "row";
  editing = true;
  return draw();
}

/** Discard the edit, wherever the focus is. */
function leave() {
  if (editing && store.view === "row") edited(undefined);
}

/** The editor is done: changed columns, null where nothing is changed, undefined where it was left. */
function edited(columns) {
  const row = s.current();
  run(async () => {
    if (columns) {
      const before = store.states.get(row)?.decision;
      await decide("edit", { columns: { ...(before?.do === "edit" ? before.set : {}), ...(before?.do === "swap" ? swapped(row) : {}), ...columns } });
    } else say(columns === null ? "Nothing has changed" : "Edit discarded");
    store.drafts.delete(row);
    editing = false;
    await draw();
    by("row-title")?.focus({ preventScroll: true });
  });
}

const swapped = (row) => {
  const { chosen, rejected } = store.states.get(row).becomes ?? {};
  return { chosen, rejected };
};

/** Save a label, with all columns that change with it. */
function label(columns) {
  run(async () => {
    const row = s.current();
    const before = store.states.get(row)?.decision;
    const kept = before?.do === "edit" ? before.set : before?.do === "swap" ? swapped(row) : {};
    await decide("edit", { columns: { ...kept, ...columns } });
    by("row-title")?.focus({ preventScroll: true });
  });
}

/** Save a comment: with the decision that waits for it, with the one that counts, or by itself. */
function comment(text) {
  run(async () => {
    const row = s.current();
    const state = store.states.get(row);
    const wish = pending || (state.decision ? state.decision.do : "note");
    const columns = wish === "edit" ? { columns: state.decision.set } : {};
    const only = !pending && wish !== "note"; // the decision stands, and we stay
    const empty = wish === "note" && !text.trim();
    if (empty && state.decision) await s.decide(row, { do: "undo" });
    else if (only) await s.decide(row, { do: wish, reason: text, ...columns });
    else if (!empty) await decide(wish, { reason: text });
    store.comments.delete(row);
    if (only) say("Comment saved");
    pending = "";
    by("row-title")?.focus({ preventScroll: true });
  });
}

/** Give a field of the row the focus. */
async function focusOn(id) {
  if (store.view !== "row") await view("row");
  else if (!by(id)) await draw();
  by(id)?.focus();
  by(id)?.select?.();
}

async function rejectWithReason() {
  if (s.current() === undefined) return;
  await focusOn("comment");
  wait("reject");
  say("Write why; Enter rejects the row");
}

/** Have a decision wait for its comment, or none. */
function wait(kind) {
  pending = kind;
  if (by("comment-hint")) by("comment-hint").textContent = commentHint(pending);
}

// -- beginning ------------------------------------------------------------------------------------

const the = { table: null };
const help = () => by("help").showModal();
const ACTIONS = {
  accept: () => run(() => decide("accept")),
  reject: () => run(() => decide("reject")),
  edit: () => run(edit),
  swap: () => run(swap),
  propose: () => run(propose),
  undo: () => run(undo),
  next: () => run(() => step(1)),
  previous: () => run(() => step(-1)),
};

function wire() {
  the.table = makeTable(by("table-view"), { move: (place) => run(() => go(place)), open: (place) => run(() => (go(place), view("row"))) });
  by("actions").addEventListener("click", (event) => ACTIONS[event.target.closest("button")?.dataset.do]?.());
  by("view-row").addEventListener("click", () => view("row"));
  by("view-table").addEventListener("click", () => view("table"));
  by("help-button").addEventListener("click", help);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["status", "label", "check", "order"]) by(name).addEventListener("change", () => {
    const { value } = by(name); // an action that still runs may show the filters as they were
    run(() => filter({ [name]: value }));
  });
  let typing;
  by("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => run(() => filter({ text: by("text").value })), 200);
  });
  by("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter") (store.view === "table" ? the.table.focus() : by("row-title")?.focus());
  });
  useKeys([
    [["a"], "accept", ACTIONS.accept],
    [["r"], "reject", ACTIONS.reject],
    [["R"], "reject with a reason", () => run(rejectWithReason)],
    [["e"], "edit", ACTIONS.edit],
    [["p"], "take the proposal", ACTIONS.propose],
    [["Escape"], "discard the edit", leave],
    [["s"], "swap chosen and rejected", ACTIONS.swap],
    [["l"], "change the label", () => run(() => focusOn("label-input"))],
    [["c"], "comment", () => run(() => focusOn("comment"))],
    [["u"], "undo this window's last decision", ACTIONS.undo],
    [["Backspace"], "make the row undecided again", () => run(clear)],
    [["j", "ArrowRight"], "next row", ACTIONS.next, true],
    [["k", "ArrowLeft"], "previous row", ACTIONS.previous, true],
    [["n"], "next undecided row", () => run(jump)],
    [["t"], "table, and back", () => view(store.view === "table" ? "row" : "table")],
    [["f"], "choose which rows are shown", () => by("status").focus()],
    [["/"], "search", () => by("text").focus()],
    [["?"], "this help", help],
  ]);
  s.listen((what) => {
    if (what === "whole") showWhole();
    else if (!(editing && what === "states")) run(draw);
  });
  window.addEventListener("beforeunload", (event) => {
    if (store.drafts.size || store.comments.size) event.preventDefault();
  });
}

/** Hear of other windows every now and then. What is decided here doesn't wait for it. */
async function hear() {
  try {
    if (!document.hidden && (await s.hear())) run(() => filter({}));
  } catch (error) {
    run(() => Promise.reject(error));
  }
  setTimeout(hear, EVERY);
}

async function start() {
  wire();
  const row = readAddress();
  await s.begin();
  if (store.review.audited && !location.hash.includes("=")) store.filters.order = "suspicious";
  showFilters();
  await s.list();
  showFound();
  const place = store.list.indexOf(row);
  s.go(place >= 0 ? place : row < 0 ? Math.max(0, store.list.findIndex((n) => s.isOpen(n))) : 0);
  setTimeout(hear, EVERY);
}

run(start);
