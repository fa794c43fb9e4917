"use strict";
// Fills each `.answers` with a form of filters and the records that pass them. Texts of rows and
// models only ever become text nodes.
(() => {
  const PAGE = 10;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== ""));
    return made;
  }

  function choice(label, options, chosen) {
    const select = element("select", {});
    options.forEach(([value, text]) => {
      const option = element("option", { value }, text);
      option.selected = value === chosen;
      select.append(option);
    });
    return [element("label", {}, label, select), select];
  }

  // What to show, by whether the first and the second side are right.
  const KINDS = [
    ["flips", "one right, one wrong", (a, b) => a !== b],
    ["lost", "right, then wrong", (a, b) => a === true && b === false],
    ["gained", "wrong, then right", (a, b) => a === false && b === true],
    ["wrong", "both wrong", (a, b) => a === false && b === false],
    ["right", "both right", (a, b) => a === true && b === true],
    ["all", "all", () => true],
  ];
  const ONE_SIDE = [
    ["wrong", "wrong", (a) => a === false], ["right", "right", (a) => a === true],
    ["all", "all", () => true],
  ];

  function shown(record, sides) {
    const list = element("dl");
    const marked = new Set();
    const item = element("li");
    record.fields.forEach(([label, text, tone, side, isFolded]) => {
      if (["id", "row", "prompt"].includes(label)) {
        item.append(element("div", { class: label === "prompt" ? "text" : "id" }, text));
        return;
      }
      const value = element("dd", { class: tone === "soft" ? "soft" : "" });
      if (isFolded) {
        value.append(element("details", {}, element("summary", {}, label), element("div", {}, text)));
      } else {
        value.append(text || "(empty)");
      }
      const verdict = record.verdicts[side];
      const isFirst = side >= 0 && !marked.has(side);
      if (isFirst && verdict !== null && verdict !== undefined) {
        const mark = verdict ? "✓ right " : "✗ wrong ";
        value.prepend(element("span", { class: verdict ? "right" : "wrong" }, mark));
      }
      const name = side < 0 ? label : isFirst ? sides[side] : isFolded ? "" : label;
      if (side >= 0) marked.add(side);
      list.append(element("dt", {}, isFolded ? "" : name), value);
    });
    item.append(list);
    return item;
  }

  function fill(place) {
    const source = document.getElementById(place.dataset.source);
    const { sides, side, tags, records } = JSON.parse(source.textContent);
    source.remove();
    const texts = records.map((record) =>
      record.fields.map((field) => field[1]).join("\n").toLowerCase());
    const names = sides.map((name, index) => [String(index), name]);
    const last = side < 0 ? sides.length - 1 : side;
    const [firstLabel, first] = choice("First model", names, last === 0 && sides.length > 1 ? "1" : "0");
    const [secondLabel, second] = choice("Second model", names, String(Math.max(last, 0)));
    const kinds = sides.length > 1 ? KINDS : sides.length ? ONE_SIDE : [["all", "all", () => true]];
    const [kindLabel, kind] = choice("Show", kinds.map(([value, text]) => [value, text]), kinds[0][0]);
    const search = element("input", { type: "search", autocomplete: "off" });
    const form = element("form", { role: "search" });
    if (sides.length > 1) form.append(firstLabel, secondLabel);
    if (sides.length) form.append(kindLabel);
    const selects = tags.map((tag, index) => {
      const values = [...new Set(records.map((record) => record.tags[index]))].sort();
      const [label, select] = choice(tag, [["", "all"], ...values.map((v) => [`=${v}`, v || "–"])], "");
      form.append(label);
      return select;
    });
    form.append(element("label", {}, "Text or id", search));
    const count = element("p", { class: "soft", role: "status" });
    const list = element("ol");
    const more = element("button", { type: "button" }, "Show more");
    place.append(form, count, list, more);
    let found = [];

    function add() {
      const start = list.children.length;
      const next = found.slice(start, start + PAGE);
      list.append(...next.map((number) => shown(records[number], sides)));
      more.hidden = list.children.length >= found.length;
      return start;
    }

    function filter() {
      const words = search.value.toLowerCase();
      const [a, b] = [Number(first.value), Number(second.value)];
      const passes = kinds.find(([value]) => value === kind.value)[2];
      found = [];
      records.forEach(({ verdicts, tags: values }, number) => {
        const isTagged = selects.every((s, index) => !s.value || s.value === `=${values[index]}`);
        if (isTagged && passes(verdicts[a], verdicts[b]) && texts[number].includes(words)) {
          found.push(number);
        }
      });
      count.textContent = `${found.length.toLocaleString("en")} of ${records.length.toLocaleString("en")}`;
      list.replaceChildren();
      add();
    }

    more.addEventListener("click", () => {
      const start = add();
      const item = list.children[start];
      if (item) { item.tabIndex = -1; item.focus(); }
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", filter);
    filter();
    if (!found.length) { kind.value = "all"; filter(); }
  }

  document.querySelectorAll(".answers").forEach(fill);
})();
