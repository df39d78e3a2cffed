"""How `vpjax.report.demo_page` looks, beyond the page of predictions, and what it does.

The script sends a photo to the server that the page came from and shows the answer. Whatever comes
from a file or a class's name is set as text, never as HTML.
"""

STYLE = """
:root { --link: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --link: #6cb6ff; } }
h2 { margin-top: 1.6rem; font-size: 1.1rem; }
[hidden] { display: none !important; }
button { font: inherit; font-size: .9rem; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; padding: .35rem .8rem; cursor: pointer; }
button:hover, button[aria-pressed=true] { border-color: var(--link); color: var(--link); }
:focus-visible, .drop:focus-within { outline: 2px solid var(--link); outline-offset: 2px; }
.drop { display: block; position: relative; margin: 1.2rem 0 .8rem; padding: 1.6rem 1rem;
  text-align: center; border: 2px dashed var(--line); border-radius: 12px;
  background: var(--card); cursor: pointer; }
.drop:hover, .over .drop { border-color: var(--link); }
.over .drop { background: var(--bar); }
.drop b { display: block; font-size: 1.15rem; font-weight: 600; }
.drop span { color: var(--soft); font-size: .9rem; }
.drop u { color: var(--link); }
.drop input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.answered .drop { padding: .8rem 1rem; } .answered .drop b { font-size: 1rem; }
#examples { display: flex; flex-wrap: wrap; gap: .5rem; margin: .8rem 0 0; }
#examples button { padding: 0; overflow: hidden; width: 5.2rem; text-align: left; }
#examples .picture { width: 100%; }
#examples span { display: block; padding: .1rem .4rem .2rem; font-size: .78rem; color: var(--soft);
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#message { min-height: 1.5rem; margin: .8rem 0 0; color: var(--soft); }
#message.wrong { color: var(--wrong); overflow-wrap: anywhere; }
.two { display: grid; grid-template: "photo classes" auto "photo near" 1fr /
  minmax(0, 26rem) minmax(0, 1fr); gap: 1.2rem 2rem; align-items: start; margin-top: .6rem; }
.two h2 { margin-top: 0; }
.photo { grid-area: photo; } .classes { grid-area: classes; } .near { grid-area: near; }
figure { margin: 0; }
.stack { position: relative; border-radius: 10px; overflow: hidden; background: var(--card); }
.stack img { display: block; width: 100%; }
.stack #heat { position: absolute; inset: 0; height: 100%; }
.small { image-rendering: pixelated; }
.choose { display: flex; flex-wrap: wrap; gap: .4rem; margin: .7rem 0 .5rem; }
.scale { display: flex; align-items: center; gap: .6rem; color: var(--soft); font-size: .85rem; }
.scale i { flex: 1; max-width: 9rem; height: .6rem; border-radius: 3px; background:
  linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
.scale input { flex: 1; min-width: 4rem; max-width: 9rem; accent-color: var(--link); }
figcaption, .note { color: var(--soft); font-size: .9rem; margin-top: .5rem; }
#top { margin: 0; font-size: 1rem; max-width: 36rem; }
#top li { padding: .35rem .7rem; margin: .35rem 0; background: var(--card); }
#top li:first-child { font-size: 1.15rem; font-weight: 600; }
#top b { font-weight: inherit; }
#true.wrong { color: var(--wrong); } #true.right { color: var(--ink); }
.cards { grid-template-columns: repeat(3, minmax(0, 1fr)); margin-top: .6rem; max-width: 36rem; }
.cards p { margin: .25rem .6rem 0; font-size: .88rem; display: flex; gap: .5rem;
  justify-content: space-between; }
.cards p span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.cards p b { font-weight: 500; font-variant-numeric: tabular-nums; }
.cards p.file { display: block; font-size: .78rem; }
.cards .other { border-style: dashed; }
@media (max-width: 46rem) {
  .two { grid-template: "classes" "photo" "near" / minmax(0, 1fr); } }
@media (max-width: 60rem) {
  .cards { gap: .5rem; grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .cards p, .cards p span { display: block; } }
@media (max-width: 30rem) {
  .drop { padding: 1.1rem .8rem; } #examples button { width: calc(25% - .375rem); } }
"""

SCRIPT = """
"use strict";
const $ = (id) => document.getElementById(id);
const limit = Number(document.body.dataset.limit), mebi = 2 ** 20;
let wanted = 0, page = 0, url = null;

function make(tag, text, kind) {
  const out = document.createElement(tag);
  if (text !== undefined) out.textContent = text;
  if (kind) out.className = kind;
  return out;
}
function picture(source, small, alt) {
  const box = make("div", undefined, "picture");
  if (source) {
    const image = make("img", undefined, small ? "small" : "");
    image.src = source;
    image.alt = alt;
    box.append(image);
  }
  return box;
}
function say(text, wrong) {
  $("message").textContent = text;
  $("message").className = wrong ? "wrong" : "";
}
const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The program does not answer any more. Start it again.");
  }
  let said = {};
  try { said = await answer.json(); } catch {}
  if (!answer.ok) throw new Error(said.error || `The program failed (${answer.status}).`);
  return said;
}
async function look(address, body, name) {
  const mine = ++wanted;
  say(`Looking at ${name} ...`);
  $("main").setAttribute("aria-busy", "true");
  try {
    const said = await ask(address, {
      method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
    if (mine === wanted) show(said, name);
  } catch (error) {
    if (mine === wanted) { $("answer").hidden = true; say(`${name}: ${error.message}`, true); }
  }
  if (mine === wanted) $("main").removeAttribute("aria-busy");
}
function take(files, kind) {
  const file = files[0];
  if (!file) {
    say(kind === "drop" ? "That is no file. Save the picture first, or copy it and paste it here."
                        : "There is no picture to paste.", true);
  } else if (file.size > limit) {
    wanted++;
    $("answer").hidden = true;
    say(`${file.name} has ${(file.size / mebi).toFixed(0)} MiB; up to ${limit / mebi} MiB are ` +
        "taken.", true);
  } else {
    const more = files.length > 1 ? `, the first of ${files.length} files` : "";
    look("look", file, (file.name || "the picture") + more);
  }
}
function show(said, name) {
  say(`${name}: ${said.about}. Answered in ${(said.milliseconds / 1000).toFixed(2)} s.`);
  document.body.classList.add("answered");
  $("answer").hidden = false;
  $("picture").src = said.picture;
  $("picture").className = said.small ? "small" : "";
  $("size").textContent = `${said.size[0]} × ${said.size[1]}`;
  const rows = said.top.map(({ name, share }) => {
    const row = make("li"), bar = make("i");
    bar.style.width = `${100 * share}%`;
    row.append(bar, make("span", name), make("b", percent(share)));
    return row;
  });
  $("top").replaceChildren(...rows);
  const several = said.several.join(", ") || "none";
  $("several").textContent = `From a probability of 0.5 on: ${several}.`;
  const right = said.top[0].name === said.true;
  $("true").textContent = said.true ? `It is ${said.true}.` : "";
  $("true").className = `note ${right || document.body.dataset.several ? "right" : "wrong"}`;
  maps(said.maps);
  near(said.near, said.top[0].name);
}
function maps(found) {
  const before = $("choose").querySelector("[aria-pressed=true]")?.textContent;
  const buttons = found.map((map) => {
    const button = make("button", map.name);
    button.type = "button";
    button.addEventListener("click", () => choose(button, map));
    return button;
  });
  $("choose").replaceChildren(...buttons);
  $("maps").hidden = found.length === 0;
  $("heat").hidden = found.length === 0;
  if (found.length === 0) return;
  const same = found.findIndex((map) => map.name === before);
  choose(buttons[Math.max(same, 0)], found[Math.max(same, 0)]);
}
function choose(button, map) {
  for (const each of $("choose").children) each.setAttribute("aria-pressed", each === button);
  $("heat").src = map.picture;
  $("heat").alt = map.text;
  $("text").textContent = map.text;
}
function near(found, best) {
  $("near").replaceChildren(...found.map((one) => {
    const card = make("article", undefined, one.name === best ? "" : "other");
    const line = make("p");
    line.append(make("span", one.name), make("b", one.cosine.toFixed(3)));
    const file = make("p", one.file, "file");
    file.title = one.file;
    card.append(picture(one.source, one.small, one.name), line, file);
    return card;
  }));
}
async function examples() {
  try {
    const found = await ask(`examples?page=${page++}`);
    $("examples").replaceChildren(...found.examples.map((one) => {
      const button = make("button");
      button.type = "button";
      button.title = one.file;
      button.append(picture(one.source, one.small, one.file), make("span", one.true));
      button.addEventListener("click", () => look(`examples/${one.number}`, null, one.file));
      return button;
    }));
    $("examples").hidden = false;
    $("more").textContent = "Other examples";
  } catch (error) {
    say(error.message, true);
  }
}

$("file").addEventListener("change", () => {
  if ($("file").files.length) take([...$("file").files]);
  $("file").value = "";  // or the same file could not be chosen again
});
let inside = 0;
addEventListener("dragenter", (e) => { e.preventDefault(); inside++; mark(); });
addEventListener("dragleave", () => { inside--; mark(); });
addEventListener("dragover", (e) => e.preventDefault());
addEventListener("drop", (e) => {
  e.preventDefault();
  inside = 0;
  mark();
  take([...e.dataTransfer.files], "drop");
});
function mark() { document.body.classList.toggle("over", inside > 0); }
addEventListener("paste", (e) => take([...e.clipboardData.files]));
$("strength").addEventListener("input", () => { $("heat").style.opacity = $("strength").value; });
$("heat").style.opacity = $("strength").value;
$("more")?.addEventListener("click", examples);
"""
