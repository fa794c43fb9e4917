// Elements and texts. Row text only ever becomes text nodes, never HTML.

// Characters that can't be seen and change what is read: direction, zero width, control, tags.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const MOST_MARKS = 500;

/** An element with attributes (`on…` are listeners, null and false are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** The text with characters that can't be seen as visible marks. */
export function marked(text) {
  const made = document.createDocumentFragment();
  let from = 0;
  let marks = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match[0] === "\r" && text[match.index + 1] === "\n") continue;
    made.append(text.slice(from, match.index));
    from = match.index + match[0].length;
    marks += 1;
    if (marks > MOST_MARKS) {
      made.append(text.slice(from).replace(UNSEEN, "\u25af"));
      return made;
    }
    const name = `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    made.append(el("span", { class: "unseen-mark", title: "a character that can't be seen" }, name));
  }
  made.append(text.slice(from));
  return made;
}

const LONG = 4000;
const HUGE = 100000;

/** A block of text as it is written; a long one scrolls until it is opened, a huge one is cut. */
export function block(text, attributes = {}) {
  const made = el("div", { dir: "auto", ...attributes }, marked(text.slice(0, HUGE)));
  made.classList.add("text");
  if (text.length <= LONG && text.split("\n", 60).length < 60) return made;
  made.classList.add("long");
  made.tabIndex = 0; // so that keys can scroll it
  made.setAttribute("role", "region");
  made.setAttribute("aria-label", "long text");
  const open = el("button", { type: "button", class: "quiet", onclick: () => {
    made.replaceChildren(marked(text));
    made.classList.remove("long");
    open.remove();
  } }, `Show all ${text.length.toLocaleString("en")} characters`);
  return el("div", {}, made, open);
}

/** A value as JSON that people can read. */
export function json(value) {
  return JSON.stringify(value, null, 2);
}

/** `1 row`, `2 rows`. */
export function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** A time as this computer writes times. */
export function when(at) {
  const time = new Date(at);
  return Number.isNaN(time.valueOf()) ? at : time.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
