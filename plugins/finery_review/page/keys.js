// Keys: what each does, and the help that lists them.

import { el } from "./text.js";

const OFF = "finery-review-keys-off";
const WRITES = "input:not([type=checkbox]), textarea, select";

/** Whether single keys do something; who dictates or uses a screen reader may turn them off. */
export const areOn = () => localStorage.getItem(OFF) === null;

/** Listen to keys. `actions`: [keys, what they do, action, whether holding the key repeats it]. */
export function useKeys(actions) {
  const byKey = new Map(actions.flatMap(([keys, , run, repeats]) => keys.map((key) => [key, { run, repeats }])));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.target.matches(WRITES)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const found = byKey.get(event.key);
    if (!found || (!areOn() && event.key !== "?")) return;
    if (event.target.closest(".long") && event.key.startsWith("Arrow")) return; // it scrolls
    event.preventDefault();
    if (!event.repeat || found.repeats) found.run();
  });
  const shown = actions.map(([keys, what]) => el("div", {}, el("dt", {}, keys.filter((key) => !key.startsWith("Arrow")).map((key) => el("kbd", {}, key))), el("dd", {}, what)));
  document.getElementById("keys").replaceChildren(...shown);
  const box = document.getElementById("keys-on");
  box.checked = areOn();
  box.addEventListener("change", () => (box.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "")));
}
