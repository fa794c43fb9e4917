// The table: only the rows that can be seen are there, so that any number of them is quick.

import { api } from "./api.js";
import { store } from "./store.js";
import { el, marked } from "./text.js";

const HEIGHT = 44; // of a row, as in style.css
const PAGE = 100;
const MARGIN = 8;
const HEADS = ["Row", "Status", "Prompt", "Answer", "Label", "Checks"];

/** Make the table in `place`; `open(place)` shows a row, `move(place)` goes to one. */
export function makeTable(place, { open, move }) {
  const spacer = el("div", { class: "spacer", role: "rowgroup" });
  const grid = el("div", { class: "grid", role: "grid", tabindex: "0", "aria-label": "Rows", "aria-colcount": String(HEADS.length) },
    el("div", { class: "line heads", role: "row", "aria-rowindex": "1" },
      HEADS.map((name) => el("div", { role: "columnheader", class: `of-${name.toLowerCase()}` }, name))),
    spacer);
  place.replaceChildren(grid);
  const pages = new Map(); // page of the list → what its rows hold, once it is there
  let paged = null; // the list that the pages are of
  const again = new Set(); // rows and decisions for which a page was loaded once more
  let lines = new Map(); // place → its line

  const ask = (page) => {
    if (pages.has(page)) return;
    pages.set(page, null);
    load(page);
  };

  const load = (page) => {
    const list = store.list;
    api.summaries(list.slice(page * PAGE, (page + 1) * PAGE)).then((found) => {
      if (list !== store.list) return;
      pages.set(page, found);
      if (found.some(isChecked)) grid.classList.add("checked");
      for (const state of found) if (!store.states.has(state.row)) store.states.set(state.row, state);
      draw();
    }, () => list === store.list && pages.delete(page));
  };

  /** Load a page once more after a decision on one of its rows: an edit changes the row's texts. */
  const reload = (page, row, found) => {
    const seen = store.states.get(row)?.seen;
    const key = `${row} ${seen}`;
    if (!found || seen === undefined || seen === found.seen || again.has(key)) return;
    again.add(key);
    load(page);
  };

  const line = (at) => {
    const page = Math.floor(at / PAGE);
    ask(page);
    const row = store.list[at];
    const found = pages.get(page)?.[at % PAGE];
    reload(page, row, found);
    const status = store.statuses.get(row) ?? "undecided";
    const label = store.states.get(row)?.becomes?.label ?? found?.label ?? "";
    const made = el("div", {
      class: `line ${status}`, role: "row", id: `line-${at}`, "aria-rowindex": String(at + 2), "aria-selected": String(at === store.place),
      onclick: () => move(at), ondblclick: () => open(at),
    },
      cell("row", (row + 1).toLocaleString("en")),
      el("div", { role: "gridcell", class: "status-cell" }, el("span", { class: `status ${status}` }, status)),
      cell("prompt", found ? found.prompt : "…"), cell("answer", found?.answer ?? ""), cell("label", label), el("div", { role: "gridcell", class: "checks" }, found ? verdictOf(found) : []));
    made.style.transform = `translateY(${at * HEIGHT}px)`;
    return made;
  };

  const draw = () => {
    if (place.hidden) return;
    if (paged !== store.list) pages.clear(); // a page may have come while a new list was on its way
    paged = store.list;
    const height = grid.clientHeight || window.innerHeight;
    const first = Math.max(0, Math.floor(grid.scrollTop / HEIGHT) - MARGIN);
    const last = Math.min(store.list.length, Math.ceil((grid.scrollTop + height) / HEIGHT) + MARGIN);
    spacer.style.height = `${store.list.length * HEIGHT}px`;
    grid.setAttribute("aria-rowcount", String(store.list.length + 1));
    lines = new Map();
    for (let at = first; at < last; at += 1) lines.set(at, line(at));
    spacer.replaceChildren(...lines.values());
    if (lines.has(store.place)) grid.setAttribute("aria-activedescendant", `line-${store.place}`);
    else grid.removeAttribute("aria-activedescendant");
  };

  const show = () => {
    const top = store.place * HEIGHT;
    const seen = grid.clientHeight - HEIGHT; // the heads stay at the top
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + HEIGHT > grid.scrollTop + seen) grid.scrollTop = top + HEIGHT - seen;
    draw();
  };

  let waiting = false;
  grid.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  });
  grid.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(grid.clientHeight / HEIGHT) - 2);
    const to = { ArrowDown: store.place + 1, ArrowUp: store.place - 1, PageDown: store.place + page, PageUp: store.place - page, Home: 0, End: store.list.length - 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") open(store.place);
    else if (to !== undefined) move(Math.max(0, Math.min(to, store.list.length - 1)));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  window.addEventListener("resize", draw);
  return { draw, show, focus: () => grid.focus({ preventScroll: true }) };
}

const isChecked = ({ score, failed }) => score !== null || failed.length > 0;

/** What a judge gave a row, and the checks that it failed. */
function verdictOf({ score, failed }) {
  const given = score === null ? [] : [el("b", {}, String(Math.round(score * 100) / 100))];
  return [...given, ...failed.map((name) => el("span", { class: "failed" }, " ✗ ", marked(name)))];
}

function cell(kind, text) {
  return el("div", { role: "gridcell", class: kind, dir: "auto" }, marked(text));
}
