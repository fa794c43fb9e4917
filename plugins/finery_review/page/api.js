// Requests to the server. Every answer is JSON.

/** The server refused: its status and message. */
export class Refused extends Error {
  constructor(status, answer) {
    super(answer.fix ? `${answer.what} (${answer.fix})` : answer.what);
    this.status = status;
  }
}

/** The server can't be reached. */
export class Gone extends Error {}

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch {
    throw new Gone("The review has ended, or its server can't be reached.");
  }
  if (answer.ok) return answer.json();
  const text = await answer.text();
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    said = { what: text };
  }
  throw new Refused(answer.status, said);
}

const get = (path, query = {}) => send(`${path}?${new URLSearchParams(query)}`);

export const api = {
  review: () => get("/api/review"),
  list: (filters) => get("/api/list", filters),
  summaries: (rows) => get("/api/summaries", { rows: rows.join(",") }),
  row: (row) => get("/api/row", { row }),
  changes: (generation, lines) => get("/api/changes", { generation, lines }),
  decide: (wish) =>
    send("/api/decide", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish),
    }),
};
