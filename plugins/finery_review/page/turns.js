// A row as a conversation: its turns, tool calls, and the two answers of a preference.

import { block, el, json } from "./text.js";

const ROLES = ["system", "user", "assistant", "tool"];
export const ANSWERS = ["completion", "chosen", "rejected"];
export const EDITABLE = ["messages", "prompt", ...ANSWERS, "text"];

/** The turns of a column: text stands for one turn. */
export function asTurns(value, role) {
  if (typeof value === "string") return [{ role, content: value }];
  return Array.isArray(value) ? value.map((turn) => (turn && typeof turn === "object" ? turn : { role, content: String(turn) })) : [];
}

/** The text of a turn's content. */
export function contentOf(turn) {
  const { content } = turn;
  if (typeof content === "string") return content;
  if (content === null || content === undefined) return "";
  const parts = Array.isArray(content) && content.every((part) => typeof part?.text === "string");
  return parts ? content.map((part) => part.text).join("") : json(content);
}

/** The text of the answer, undefined where there is none. */
export function answerOf(row) {
  const last = asTurns(row.completion ?? row.messages, "assistant").at(-1);
  return last?.role === "assistant" ? contentOf(last).trim() : undefined;
}

/** The column with the answer, now `text`; null unless the answer is exactly `label`, or is missing as that is. */
export function withAnswer(row, label, text) {
  const name = ["completion", "messages"].find((column) => row[column] !== undefined && row[column] !== null);
  if (!name) return null;
  if (typeof row[name] === "string") return row[name].trim() === label ? { [name]: text } : null;
  const turns = structuredClone(asTurns(row[name], "assistant"));
  const last = turns.at(-1);
  if (label === undefined && name === "messages" && last?.role !== "assistant") return { messages: [...turns, { role: "assistant", content: text }] };
  if (last?.role !== "assistant" || contentOf(last).trim() !== label) return null;
  last.content = text;
  return { [name]: turns };
}

/** The row's turns; for a preference the prompt, and the two answers side by side. */
export function conversation(row) {
  if (row.messages) return thread(asTurns(row.messages, "user"));
  const made = [];
  if (row.prompt !== undefined) made.push(thread(asTurns(row.prompt, "user")));
  if (row.completion !== undefined) made.push(thread(asTurns(row.completion, "assistant")));
  if (row.chosen !== undefined || row.rejected !== undefined) made.push(pair(row));
  if (typeof row.text === "string") made.push(el("div", { class: "thread" }, block(row.text, { class: "document" })));
  return el("div", {}, made);
}

function thread(turns) {
  return el("div", { class: "thread" }, turns.map((turn, index) => turnOf(turn, index + 1)));
}

function pair(row) {
  const side = (name) =>
    el("section", { class: `side ${name}`, "aria-label": `${name} answer` },
      el("h3", {}, name),
      asTurns(row[name] ?? "", "assistant").map((turn, index) => turnOf(turn, index + 1, true)));
  return el("div", { class: "pair" }, side("chosen"), side("rejected"));
}

function turnOf(turn, number, bare = false) {
  const role = String(turn.role ?? "?");
  const known = ROLES.includes(role) ? role : "other";
  const { role: _role, content: _content, tool_calls: calls, ...more } = turn;
  const text = role === "tool" ? readable(contentOf(turn)) : contentOf(turn);
  return el("article", { class: `turn ${known}`, "aria-label": `turn ${number}, ${role}` },
    bare && role === "assistant" ? null : el("h3", { class: "role" }, role),
    el("div", { class: "said" },
      text || !calls ? block(text, { class: role === "tool" ? "code" : null }) : null,
      (Array.isArray(calls) ? calls : []).map(callOf),
      Object.entries(more).map(([name, value]) => extra(name, value))));
}

function callOf(call) {
  const made = call?.function ?? call ?? {};
  return el("div", { class: "call" },
    el("h4", {}, "calls ", el("code", {}, String(made.name ?? "?")), call?.id ? el("small", {}, String(call.id)) : null),
    block(readable(made.arguments ?? {}), { class: "code" }));
}

/** JSON on several lines where it is JSON, the text itself where it isn't. */
function readable(value) {
  if (typeof value !== "string") return json(value);
  try {
    const parsed = JSON.parse(value);
    return parsed && typeof parsed === "object" ? json(parsed) : value;
  } catch {
    return value;
  }
}

function extra(name, value) {
  if (value === null || value === undefined) return null;
  return el("div", { class: "extra" }, el("span", {}, name), block(typeof value === "string" ? value : json(value)));
}

/** The tools that the row offers. */
export function toolsOf(row) {
  if (!Array.isArray(row.tools) || !row.tools.length) return null;
  const names = row.tools.map((tool) => tool?.function?.name ?? tool?.name ?? "?").join(", ");
  return el("details", { class: "tools" }, el("summary", {}, `tools: ${names}`), block(json(row.tools), { class: "code" }));
}
