"""How a report looks: the house style of finery's pages, light and dark. No script at all."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page's own policy: nothing is loaded, nothing runs, whatever the rows hold."""

STYLE = """
:root {
  --page: #f6f6f4; --card: #ffffff; --text: #1d2125; --soft: #5d6670; --line: #e2e3e0;
  --back: #f0f1ee; --s0: #2f7ed8; --s1: #d9480f; --s2: #7048c6; --s3: #0b8a83; --s4: #b8327e;
  --s5: #868e96; --bad: #a05a00; --good: #2b8a3e; --wrong: #c92a2a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131619; --card: #1b1f24; --text: #e6e8ea; --soft: #9aa4ae; --line: #2c3238;
    --back: #22272d; --s0: #5aa9f5; --s1: #ff8a4c; --s2: #b197fc; --s3: #3bc9bf; --s4: #f783ac;
    --s5: #8b95a0; --bad: #ffc069; --good: #69db7c; --wrong: #ff8787;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 1.45rem; font-weight: 650; margin: 0 0 4px; overflow-wrap: anywhere; }
h1 + p { margin: 0 0 16px; color: var(--soft); }
h2 { font-size: 1.05rem; font-weight: 650; margin: 0 0 10px; }
h3 { font-size: .95rem; font-weight: 650; margin: 18px 0 6px; overflow-wrap: anywhere; }
h2 + h3 { margin-top: 0; }
p { margin: 0 0 10px; }
small, .soft { color: var(--soft); font-size: .85rem; font-weight: 400; }
section.card, .tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
}
section.card { padding: 16px 18px; margin: 0 0 16px; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 0 0 16px;
}
.tile { padding: 12px 16px; min-width: 0; }
.tile > span, .tile small {
  display: block; color: var(--soft); font-size: .82rem; overflow-wrap: anywhere;
}
.tile b {
  display: block; font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums;
}
.key {
  display: inline-block; width: .7em; height: .7em; border-radius: 3px; margin-right: .45em;
}
.k0 { background: var(--s0); } .k1 { background: var(--s1); } .k2 { background: var(--s2); }
.k3 { background: var(--s3); } .k4 { background: var(--s4); } .k5 { background: var(--s5); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td {
  padding: 5px 12px 5px 0; text-align: right; border-bottom: 1px solid var(--line);
  font-weight: 400;
}
th:first-child, td:first-child { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
th, td { white-space: nowrap; }
thead th { color: var(--soft); font-size: .85rem; white-space: nowrap; }
tbody th { color: var(--soft); }
tbody tr:last-child > * { border-bottom: 0; }
.plots {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 6px 32px;
}
.plots > div { min-width: 0; }
.plot { margin: 0 0 8px; }
.plot svg {
  display: block; width: 100%; height: 150px; border-bottom: 1px solid var(--soft);
  border-top: 1px dashed var(--line);
}
.plot .top, .plot figcaption { color: var(--soft); font-size: .78rem; }
.plot figcaption { text-align: center; }
.plot polygon {
  fill-opacity: .22; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke-linejoin:
  round;
}
.s0 { fill: var(--s0); stroke: var(--s0); } .s1 { fill: var(--s1); stroke: var(--s1); }
.s2 { fill: var(--s2); stroke: var(--s2); } .s3 { fill: var(--s3); stroke: var(--s3); }
.s4 { fill: var(--s4); stroke: var(--s4); } .s5 { fill: var(--s5); stroke: var(--s5); }
.plot .several polygon { fill-opacity: .07; }
.plot rect { fill: transparent; }
.plot rect:hover { fill: var(--text); fill-opacity: .08; }
.ticks { position: relative; height: 1.3em; margin: 0 1.2em 0 0; width: 100%; }
.ticks span {
  position: absolute; transform: translateX(-50%); color: var(--soft); font-size: .75rem;
}
.ticks span:first-child { transform: none; }
.ticks span[style*="left:100"] { transform: translateX(-100%); }
ul.bars { list-style: none; margin: 0; padding: 0; }
ul.bars.many { columns: 2; column-gap: 36px; }
ul.bars li {
  display: grid; grid-template-columns: minmax(90px, 42%) 1fr minmax(84px, auto); gap: 0 10px;
  align-items: center; padding: 3px 0; break-inside: avoid;
}
ul.bars .name { overflow-wrap: anywhere; font-size: .88rem; line-height: 1.25; }
ul.bars .track { display: grid; gap: 2px; min-width: 0; }
ul.bars .track i { display: block; height: 12px; border-radius: 3px; min-width: 1px; }
ul.bars .track.of3 i { height: 6px; }
ul.bars .n {
  color: var(--soft); font-size: .82rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
details { margin: 6px 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
summary:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; border-radius: 4px; }
ul.plain { margin: 4px 0 8px; padding-left: 1.1em; }
ul.plain li { overflow-wrap: anywhere; font-size: .88rem; margin: 2px 0; }
.warn { color: var(--bad); font-weight: 600; }
.samples {
  display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px),
  1fr)); align-items: start;
}
article { border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px; min-width: 0; }
article > header {
  display: flex; gap: 8px; justify-content: space-between; flex-wrap: wrap; color:
  var(--soft); font-size: .78rem; margin-bottom: 4px;
}
code { font: .92em/1.4 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.turn {
  margin: 6px 0; padding: 6px 10px; border-radius: 8px; background: var(--back); min-width: 0;
}
.turn.assistant, .turn.chosen { border-left: 3px solid var(--good); }
.turn.rejected { border-left: 3px solid var(--wrong); }
.turn.user { border-left: 3px solid var(--s0); }
.turn.system, .turn.tool { border-left: 3px solid var(--s5); }
.turn b { display: block; font-size: .74rem; font-weight: 600; color: var(--soft); }
.turn div {
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; max-height: 22em;
  overflow-y: auto; font-size: .9rem;
}
footer { color: var(--soft); font-size: .82rem; }
@media (max-width: 760px) { ul.bars.many { columns: 1; } }
@media (max-width: 560px) {
  main { padding: 18px 12px 28px; }
  section.card { padding: 14px 12px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px 12px; }
  .tile b { font-size: 1.2rem; }
  table { font-size: .85rem; }
  th, td { padding-right: 8px; }
  .glance th:first-child { white-space: normal; min-width: 7.5em; }
}
@media print { section.card { break-inside: avoid-page; } .turn div { max-height: none; } }
"""
