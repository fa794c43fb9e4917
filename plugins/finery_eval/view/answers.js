"use strict";
// Fills each `.answers` with a form of filters and the answers that pass them. Texts of rows and
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

  // What to show, by whether the first and the second model are right.
  const KINDS = [
    ["flips", "one right, one wrong", (a, b) => a !== b],
    ["lost", "right, then wrong", (a, b) => a === true && b === false],
    ["gained", "wrong, then right", (a, b) => a === false && b === true],
    ["wrong", "both wrong", (a, b) => a === false && b === false],
    ["right", "both right", (a, b) => a === true && b === true],
    ["all", "all answers", () => true],
  ];

  function shown(row, models) {
    const list = element("dl");
    if (row.expected) list.append(element("dt", {}, "expected"), element("dd", {}, row.expected));
    row.answers.forEach(([text, right, why, thinking], index) => {
      const mark = right === null ? "" : right ? "✓ right " : "✗ wrong ";
      const kind = right === null ? "" : right ? "right" : "wrong";
      const answer = element("dd", {}, text || "(empty)");
      if (mark) answer.prepend(element("span", { class: kind }, mark));
      if (why) answer.append(element("div", { class: "why" }, why));
      if (thinking) {
        const summary = element("summary", {}, "thinking");
        answer.append(element("details", {}, summary, element("div", { class: "text" }, thinking)));
      }
      list.append(element("dt", {}, models[index]), answer);
    });
    const head = element("div", { class: "id" }, [row.id, row.at].filter(Boolean).join(", "));
    return element("li", {}, head, element("div", { class: "text" }, row.prompt), list);
  }

  function fill(place) {
    const source = document.getElementById(place.dataset.source);
    const { models, roles, rows } = JSON.parse(source.textContent);
    source.remove();
    const texts = rows.map((row) =>
      [row.id, row.prompt, row.expected, ...row.answers.map((a) => a[0])].join("\n").toLowerCase());
    const names = models.map((model, index) => [String(index), model]);
    const tuned = Math.max(roles.lastIndexOf("tuned"), 0);
    const first = Math.max(roles.lastIndexOf("base"), 0);
    const second = tuned === first ? models.length - 1 : tuned;
    const [firstLabel, firstModel] = choice("First model", names, String(first));
    const [secondLabel, secondModel] = choice("Second model", names, String(second));
    const kinds = models.length > 1 ? KINDS
      : [["wrong", "wrong answers", (a) => a === false], ["right", "right answers", (a) => a === true],
         ["all", "all answers", () => true]];
    const [kindLabel, kind] = choice("Show", kinds.map(([value, text]) => [value, text]), kinds[0][0]);
    const search = element("input", { type: "search", autocomplete: "off" });
    const searchLabel = element("label", {}, "Text or id", search);
    const form = element("form", { role: "search" });
    if (models.length > 1) form.append(firstLabel, secondLabel);
    form.append(kindLabel, searchLabel);
    const count = element("p", { class: "soft", role: "status" });
    const list = element("ol");
    const more = element("button", { type: "button" }, "Show more");
    place.append(form, count, list, more);
    let found = [];

    function add() {
      const start = list.children.length;
      const next = found.slice(start, start + PAGE);
      list.append(...next.map((number) => shown(rows[number], models)));
      more.hidden = list.children.length >= found.length;
      return start;
    }

    function filter() {
      const words = search.value.toLowerCase();
      const [a, b] = [Number(firstModel.value), Number(secondModel.value)];
      const passes = kinds.find(([value]) => value === kind.value)[2];
      found = [];
      rows.forEach((row, number) => {
        if (passes(row.answers[a][1], row.answers[b][1]) && texts[number].includes(words)) {
          found.push(number);
        }
      });
      count.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
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
