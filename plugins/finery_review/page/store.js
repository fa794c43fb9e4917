// What the page knows: rows, decisions on them, which are listed, and what can be undone.

import { api, Refused } from "./api.js";

const STATUS = { u: "undecided", t: "stale", a: "accepted", r: "rejected", e: "edited", s: "swapped" };
const KEPT = 60; // rows whose content is kept
const UNDO = "finery-review-undo";

export const store = {
  review: null, // the server's facts about the whole review
  filters: { status: "", label: "", text: "", order: "", check: "" },
  list: [], // numbers of the rows that the filters let through; it stays while they stay
  place: 0, // where in the list we are; its length where there is nothing to show
  view: "row",
  statuses: new Map(), // row → status
  states: new Map(), // row → what is decided
  drafts: new Map(), // row → edits that aren't saved
  comments: new Map(), // row → a comment that isn't saved
};

const contents = new Map();
const listeners = new Set();
let heard = null; // the place in the log up to which every row's decision is known here

/** Call `listener(what)` when something changes: `list`, `place`, `states`, `whole`. */
export const listen = (listener) => listeners.add(listener);

/** Tell the listeners. */
export const tell = (what) => listeners.forEach((listener) => listener(what));

/** The number of the row that is shown, undefined where there is none. */
export const current = () => store.list[store.place];

export const isOpen = (row) => ["undecided", "stale"].includes(store.statuses.get(row) ?? "undecided");

/** Show what an answer says. False if a newer answer has overtaken it. */
function take(answer) {
  const { review } = store;
  if (answer.generation < review.generation) return false;
  if (answer.generation === review.generation && answer.lines < review.lines) return false;
  for (const state of answer.rows ?? []) {
    store.states.set(state.row, state);
    store.statuses.set(state.row, state.status);
  }
  const { total, counts, generation, lines, notices } = answer;
  store.review = { ...store.review, total, counts, generation, lines, notices };
  tell("whole");
  return true;
}

/** Begin: what is reviewed, and how far it is. */
export async function begin() {
  store.review = await api.review();
  heard = placeOf(store.review);
  tell("whole");
}

/** List the rows that the filters let through. */
export async function list() {
  const wanted = JSON.stringify(store.filters);
  const found = await api.list(store.filters);
  if (wanted !== JSON.stringify(store.filters)) return; // typed on
  store.list = found.rows;
  found.rows.forEach((row, index) => store.statuses.set(row, STATUS[found.statuses[index]]));
  tell("list");
}

/** All about a row: its content, and the decision on it. */
export async function load(row) {
  if (!contents.has(row)) {
    const asked = api.row(row);
    contents.set(row, asked);
    asked.catch(() => contents.delete(row));
    if (contents.size > KEPT) contents.delete(contents.keys().next().value);
  }
  const found = await contents.get(row);
  if (!store.states.has(row)) {
    store.states.set(row, found);
    store.statuses.set(row, found.status);
  }
  return found;
}

/** Load what is likely to be looked at next. */
export function prefetch(row) {
  if (row !== undefined) load(row).catch(() => {});
}

/** Go to a place in the list. */
export function go(place) {
  store.place = Math.max(0, Math.min(place, store.list.length));
  tell("place");
}

/** The place of the next undecided row after this one, else of the first; -1 where all are decided. */
export function nextOpen() {
  const after = store.list.findIndex((row, index) => index > store.place && isOpen(row));
  return after >= 0 ? after : store.list.findIndex((row) => isOpen(row));
}

/** Decide on a row; throws `Refused` with status 409 where another window was first. */
export async function decide(row, wish, { undoable = true } = {}) {
  const state = store.states.get(row) ?? (await load(row));
  const before = store.states.get(row) ?? state;
  try {
    const answer = await api.decide({ row, id: before.id, seen: before.seen, ...wish });
    take(answer);
    if (undoable) remember(row, before.decision);
    tell("states");
  } catch (error) {
    if (error instanceof Refused && error.status === 409) await reload(row);
    throw error;
  }
}

async function reload(row) {
  contents.delete(row);
  store.states.delete(row);
  await load(row);
  tell("states");
}

// Undo: what a row's decision was before each of this window's own, kept over a reload.

const undos = () => JSON.parse(sessionStorage.getItem(UNDO) ?? "[]");
const keepUndos = (all) => sessionStorage.setItem(UNDO, JSON.stringify(all.slice(-500)));

function remember(row, before) {
  const { id, seen } = store.states.get(row);
  keepUndos([...undos(), { row, id, seen, before: before ?? null }]);
}

/** Take back this window's last decision: what counted before counts again. The row, or null. */
export async function undo() {
  const all = undos();
  const last = all.pop();
  if (!last) return null;
  const { row, id, seen, before } = last;
  await load(row);
  const state = store.states.get(row);
  if (state.id !== id || state.seen !== seen) {
    keepUndos(all);
    throw new Refused(409, { what: "Another window has decided on that row since, so nothing was undone." });
  }
  const wish = before ? { do: before.do, reason: before.reason ?? "", columns: before.set ?? null } : { do: "undo" };
  await decide(row, wish, { undoable: false });
  const earlier = all.findLast((entry) => entry.row === row);
  if (earlier) earlier.seen = store.states.get(row).seen; // what counts again was written anew
  keepUndos(all);
  return row;
}

const placeOf = ({ generation, lines }) => ({ generation, lines });

/**
 * Hear what other windows decided. True where everything must be loaded again.
 *
 * Only these answers move `heard`: the answer to a decision has the lines of other windows before
 * it in its count, but not their rows.
 */
export async function hear() {
  const answer = await api.changes(heard.generation, heard.lines);
  if (answer.again) {
    contents.clear();
    store.states.clear();
    store.statuses.clear();
    take(answer);
    heard = placeOf(answer);
    return true;
  }
  // This window's own decisions come as well. They are shown already, and drawing them again would
  // close what was opened in the next row.
  const changed = answer.rows.some((state) => store.states.get(state.row)?.seen !== state.seen);
  if (!take(answer)) return false; // the next time, the same lines and more
  heard = placeOf(answer);
  if (changed) tell("states");
  return false;
}
