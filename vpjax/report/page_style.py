"""How a page looks and what can be done with it: its style sheet and its script.

Without the script the page has everything: tables are in their first order and pictures fit the
window. Colours follow the reader's system. Nothing is fetched.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --back: #fff; --soft: #f4f5f7;
  --line: #d1d9e0; --warn: #b34700; --warn-back: #fdf3ec; --link: #0060a0; --mark: #dbeaf7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --dim: #a0a8b3; --back: #14171c; --soft: #1f242b; --line: #3a424c;
    --warn: #ffa657; --warn-back: #2c2118; --link: #6cb6ff; --mark: #23384d; }
}
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back);
  margin: 0 auto; max-width: 70rem; padding: 1rem 1.25rem 4rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin-top: 1rem; }
h2 { font-size: 1.3rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { font-size: 1.05rem; }
p { max-width: 48rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0; font-size: .95rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem;
  margin: 1.2rem 0; padding: 0; }
.facts div { background: var(--soft); border-radius: .5rem; padding: .7rem .9rem; }
.facts dt, .facts dd.note { color: var(--dim); font-size: .85rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.facts dd.value { font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.scroll { overflow: auto; margin: .8rem 0; }
.scroll.long { max-height: 32rem; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem; }
.caption { color: var(--dim); font-size: .9rem; margin-top: -.4rem; }
th, td { padding: .25rem .7rem; text-align: left; vertical-align: top; }
td { max-width: 34rem; border-bottom: 1px solid var(--soft); min-width: 3rem; }
td.n { white-space: nowrap; } td.w { overflow-wrap: anywhere; min-width: 14rem; }
.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.c { text-align: center; }
th { border-bottom: 2px solid var(--dim); vertical-align: bottom; background: var(--back);
  position: sticky; top: 0; z-index: 1; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th button::after { content: "\\2195"; opacity: .4; margin-left: .25em; }
th[aria-sort] button::after { content: "\\2193"; opacity: 1; }
th[aria-sort=ascending] button::after { content: "\\2191"; }
tbody tr:hover td { background: var(--mark); }
tr.follows td { color: var(--dim); font-style: italic; }
tbody + tbody tr:first-child td { border-top: 2px solid var(--line); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); }
th:first-child { z-index: 2; }
[title] { cursor: help; text-decoration: underline dotted var(--dim); text-underline-offset: .2em; }
.warnings { border-left: 4px solid var(--warn); padding: .6rem 1rem .6rem 2rem; margin: 1rem 0;
  background: var(--warn-back); }
figure { margin: 1rem 0 1.6rem; overflow-x: auto; }
figcaption { color: var(--dim); font-size: .9rem; margin-top: .3rem; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem; display: block;
  cursor: zoom-in; }
figure img.whole { max-width: none; cursor: zoom-out; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .8rem; }
.sheet figure { margin: 0; } .sheet img { width: 100%; cursor: auto; background: none; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem;
  border-radius: .4rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media (max-width: 34rem) {
  body { padding: .5rem .8rem 3rem; } h1 { font-size: 1.35rem; } th, td { padding: .25rem .45rem; }
  .facts { grid-template-columns: repeat(2, 1fr); } .facts dd.value { font-size: 1.1rem; }
  td { max-width: 17rem; } td.w { min-width: 10rem; } .sheet { grid-template-columns: 1fr; }
}
@media print { .scroll, .scroll.long { overflow: visible; max-height: none; } }
"""

# Rows of a <tbody> are sorted among themselves: below it are means. A row of the class "follows"
# stays below the row it belongs to. What is no number, such as "-", comes last either way.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies.length === 0 || [...table.tBodies].every((b) => b.rows.length < 2)) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, heads, column));
  });
}
function value(text) {
  const plain = text.replace(/,/g, "").replace("\\u2212", "-").trim();
  const found = / of \\d+ /.test(plain) ? null : plain.match(/^[-+]?\\d+(\\.\\d+)?(e[-+]?\\d+)?/i);
  return found ? Number(found[0]) : null;
}
function sort(table, heads, column) {
  const head = heads[column], was = head.getAttribute("aria-sort");
  const texts = [...table.tBodies].flatMap((body) => [...body.rows])
    .map((row) => row.cells[column].textContent.trim());
  const said = texts.filter((text) => text && text !== "-");
  const numbers = said.length > 0 && said.filter((t) => value(t) !== null).length * 2 > said.length;
  const first = numbers ? "descending" : "ascending";
  const other = numbers ? "ascending" : "descending";
  const now = was === first ? other : first;
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", now);
  const sign = now === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const groups = [];
    for (const row of body.rows) {
      if (row.classList.contains("follows") && groups.length) groups.at(-1).push(row);
      else groups.push([row]);
    }
    const keyed = groups.map((rows) => {
      const text = rows[0].cells[column].textContent.trim();
      const key = numbers ? value(text) : text;
      return { rows, key: text === "-" || text === "" ? null : key };
    });
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      if (numbers) return sign * (a.key - b.key);
      return sign * a.key.localeCompare(b.key, undefined, { numeric: true });
    });
    keyed.forEach(({ rows }) => body.append(...rows));
  }
}
for (const image of document.querySelectorAll("figure > img:not(.row)")) {
  image.addEventListener("click", () => image.classList.toggle("whole"));
}
"""
