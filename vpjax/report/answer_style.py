"""How `vpjax.report.answer_page` looks, by day and by night, on a desk and a phone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5f6670; --back: #f6f7f8;
  --card: #fff; --line: #dfe2e6; --bar: #bcd9ee; --wrong: #b84a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa2ad; --back: #15181c;
  --card: #1f2329; --line: #333941; --bar: #1f4f73; --wrong: #f09355; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back);
  margin: 0 auto; max-width: 80rem; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .2rem 0; }
.about, .file, .true { color: var(--soft); }
.facts { margin-top: .6rem; }
.bars { border-collapse: collapse; width: 100%; max-width: 34rem; font-size: .9rem; }
.bars th { text-align: left; font-weight: 400; padding: .12rem .8rem .12rem 0; max-width: 14rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars td:nth-child(2) { width: 70%; }
.bars td:last-child { text-align: right; padding-left: .8rem; font-variant-numeric: tabular-nums; }
.bars i { display: block; height: .9rem; background: var(--bar); border-radius: 2px;
  min-width: 1px; }
.tools { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: center;
  margin: 1.2rem 0 0; font-size: .9rem; }
.tools[hidden] { display: none; }
.tools output { color: var(--soft); }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: .25rem .5rem; max-width: 12rem; }
.cards { display: grid; gap: .8rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; padding-bottom: .5rem; min-width: 0; }
article[hidden] { display: none; }
article[data-wrong] { border-color: var(--wrong); }
article[data-wrong] .true { color: var(--wrong); }
.picture { aspect-ratio: 1; position: relative; background: var(--back); }
.picture img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.picture .small { image-rendering: pixelated; }
ol { list-style: none; margin: .5rem .6rem .2rem; padding: 0; font-size: .88rem; }
li { margin: .2rem 0; }
ol li { position: relative; display: flex; justify-content: space-between; gap: .5rem;
  padding: .12rem .4rem; border-radius: 4px; overflow: hidden; }
ol i { position: absolute; inset: 0 auto 0 0; background: var(--bar); border-radius: 4px; }
ol span { position: relative; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
ol b { position: relative; font-weight: 500; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.file, .true { margin: .1rem 1rem; font-size: .8rem; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
details { margin: 1rem 0; font-size: .9rem; } summary { cursor: pointer; }
details ul { padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 30rem) { .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  body { padding: 1rem .7rem 2rem; } h1 { font-size: 1.3rem; } }
@media print { .tools { display: none; } article { break-inside: avoid; } }
"""

# Chooses and sorts cards; without it the page shows all of them as they were given.
SCRIPT = """
const tools = document.querySelector(".tools"), cards = document.querySelector(".cards");
const given = [...cards.children];
function update() {
  const of = tools.of.value, by = tools.by.value;
  const order = { up: (a, b) => a.dataset.share - b.dataset.share,
                  down: (a, b) => b.dataset.share - a.dataset.share }[by];
  let count = 0;
  for (const card of order ? [...given].sort(order) : given) {
    const fits = !of || (tools.of.selectedIndex === tools.of.querySelector('[value="!"]')?.index
      ? "wrong" in card.dataset : card.dataset.class === of);
    card.hidden = !fits;
    count += fits;
    cards.append(card);
  }
  tools.querySelector("output").value = count === given.length ? "" : `${count} pictures`;
}
tools.hidden = given.length < 2;
tools.addEventListener("change", update);
"""
