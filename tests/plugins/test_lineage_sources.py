"""Every source says where its rows are from, and a review which decision a row is due to."""

import json
import sqlite3

from conftest import MakeProject

RECIPE = """\
finery: 1
name: t
data:
  orders:
    use: sql.query
    path: orders.db
    query: SELECT q, a FROM orders ORDER BY id
    columns: {user: "{{ q }}", assistant: "{{ a }}"}
  loud: {use: data.map, rows: orders, user: "{{ user | upper }}"}
  reviewed: {use: review.apply, rows: loud, reviews: reviews/loud.jsonl}
"""


def test_a_row_of_a_database_leads_to_its_row_and_its_review(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE})
    with sqlite3.connect(made.folder / "orders.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, q TEXT, a TEXT)")
        rows = [(n, f"question {n}", f"answer {n}") for n in range(6)]
        database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    ran = made.run("build")
    assert ran.code == 0, ran.err
    row, other = made.rows("loud")[2], made.rows("loud")[4]
    edited = [{**row["messages"][0], "content": "edited by hand"}, row["messages"][1]]
    lines = [
        {"id": row["id"], "do": "edit", "set": {"messages": edited}, "by": "Ann"},
        {"id": other["id"], "do": "reject", "reason": "nonsense", "by": "Ann"},
    ]
    made.write({"reviews/loud.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})
    ran = made.run("build")
    assert ran.code == 0, ran.err
    new = made.rows("reviewed")[2]
    assert new["parents"] == [row["id"]]
    out = made.run("show", "--row", new["id"]).out
    print(out)
    assert "orders.db (row 3)" in out
    assert "reviews/loud.jsonl:1 (edit by Ann)" in out
    out = made.run("show", "--row", other["id"]).out
    print(out)
    assert "dropped: rejected" in out
    assert "reviews/loud.jsonl:2 (reject by Ann)" in out
