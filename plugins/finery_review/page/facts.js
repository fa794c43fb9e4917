// What is known about a row beside its turns: checks, scores, findings, where it comes from.

import { block, el, json, marked } from "./text.js";
import { EDITABLE } from "./turns.js";

const ELSEWHERE = new Set([...EDITABLE, "tools", "label", "id", "parents"]);
const JUDGED = new Set(["checks", "judge", "score", "scores", "rubric", "rating"]);

/** The parts of the panel beside a row, those that there are. */
export function factsOf(found) {
  const { content, generated, findings, audit } = found;
  const lines = [...generated, Object.fromEntries(Object.entries(content).filter(([name]) => JUDGED.has(name)))];
  const columns = Object.entries(content).filter(([name]) => !ELSEWHERE.has(name) && !JUDGED.has(name));
  return [
    part("Checks", lines.flatMap((line) => checksOf(line.checks))),
    part("Judge", lines.flatMap((line) => [...JUDGED].filter((name) => name !== "checks" && line[name] !== undefined && line[name] !== null)
      .flatMap((name) => name === "judge" ? judgeOf(line[name], isTold(line.checks)) : [tree({ [name]: line[name] })]))),
    part("Audit", audit.flatMap(doubtsOf)),
    part("Findings", findings.filter((line) => !audit.some(({ detail }) => detail === line.detail)).map((line) => check({ name: line.check, passed: false, detail: line.detail }))),
    part("Columns", columns.length ? [tree(Object.fromEntries(columns))] : []),
    part("Generated", generated.map((line) => rest(line)).filter(Boolean)),
    part("Row", [tree({ id: content.id, ...(content.parents?.length ? { "made from": content.parents.join(", ") } : {}) })]),
  ].filter(Boolean);
}

/** What an audit says of a label: how suspicious it is, what it proposes, and the rows that agree. */
function doubtsOf({ check: name, field, label, proposed, suspicion, detail, nearest }) {
  const words = detail ?? `${field ? `${field}: ` : ""}${label}; next best: ${proposed}`;
  return [
    check({ name: `${Math.round(100 * suspicion)} %`, passed: name ? false : undefined, detail: words }),
    proposed && (name || !label) ? el("p", { class: "proposal" }, "Proposal: ", el("b", {}, marked(proposed)), " ", el("kbd", {}, "p")) : null,
    nearest?.length ? el("details", {}, el("summary", {}, proposed ? "the most similar rows with the proposed label" : "rows that say something else"), nearest.map(([id, text]) => block(text, { title: id }))) : null,
  ];
}

function part(title, children) {
  return children.length ? el("section", { class: "fact" }, el("h3", {}, title), children) : null;
}

/** Checks in whatever shape they come: names, objects, or name → outcome. */
function checksOf(checks) {
  if (Array.isArray(checks)) return checks.map((one) => check(normal(one)));
  if (checks && typeof checks === "object") {
    return Object.entries(checks).map(([name, value]) => check(normal(value && typeof value === "object" ? { name, ...value } : { name, passed: value })));
  }
  return [];
}

/** Whether checks already show a judge's scores. */
const isTold = (checks) => Array.isArray(checks) && checks.some((one) => String(one?.check).startsWith("judge."));

/** What a judge said; of a pair, one line for each order in which it was shown. */
function judgeOf(judge, told) {
  if (told && judge && typeof judge === "object") judge = { ...judge, scores: undefined };
  const { orders, ...others } = judge && typeof judge === "object" && Array.isArray(judge.orders) ? judge : { judge };
  if (!orders) return [tree(judge)];
  const first = (seen) => (seen.order ? "rejected shown first" : "chosen shown first");
  const said = (seen) => [seen.side || seen.problem || "no verdict", seen.reason].filter(Boolean).join(": ");
  return [...orders.map((seen) => check({ name: first(seen), detail: said(seen) })), tree(others)];
}

function normal(one) {
  if (!one || typeof one !== "object") return { name: String(one) };
  const first = (...names) => names.map((name) => one[name]).find((value) => value !== undefined && value !== null);
  return {
    name: first("name", "check", "use", "kind") ?? json(one),
    passed: first("passed", "ok", "pass", "success", "valid"),
    detail: [first("value", "score"), first("detail", "why", "reason", "message", "error")]
      .filter((part) => part !== undefined).map((part) => (typeof part === "string" ? part : json(part))).join(" ") || undefined,
  };
}

function check({ name, passed, detail }) {
  const [state, sign, said] = passed === undefined ? ["", "•", ""] : passed === true ? ["good", "✓", "passed: "] : passed === false ? ["bad", "✗", "failed: "] : ["", "•", `${passed}: `];
  return el("p", { class: `check ${state}` },
    el("span", { "aria-hidden": "true" }, sign), el("span", { class: "unseen" }, said),
    el("b", {}, String(name)), detail === undefined ? null : el("span", { class: "detail" }, detail));
}

function rest(line) {
  const left = Object.entries(line).filter(([name]) => !JUDGED.has(name));
  return left.length ? el("details", {}, el("summary", {}, "how it came about"), tree(Object.fromEntries(left))) : null;
}

/** Any value as nested names and values. */
function tree(value, depth = 0) {
  if (value === null || typeof value !== "object") return el("div", { class: "value" }, leaf(value));
  if (depth > 3 || (Array.isArray(value) && value.every((item) => item === null || typeof item !== "object"))) return el("div", { class: "value" }, leaf(Array.isArray(value) ? value.join(", ") : json(value)));
  return el("dl", {}, Object.entries(value).filter(([, inner]) => inner !== undefined).map(([name, inner]) => el("div", {}, el("dt", {}, Array.isArray(value) ? String(Number(name) + 1) : name), el("dd", {}, tree(inner, depth + 1)))));
}

function leaf(value) {
  if (typeof value === "number") return String(Math.round(value * 1e6) / 1e6);
  return typeof value === "string" ? block(value) : String(value);
}
