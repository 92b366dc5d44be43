"use strict";
// One question's answers side by side. All texts are set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const STEP = 40; // questions that are drawn at once
const COLUMNS = 4; // conditions that are shown beside the base at first
const $ = (id) => document.getElementById(id);
let found = [];
let drawn = 0;

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function metric() { return data.metrics[$("metric").selectedIndex]; }

// 1 for a value that is good, -1 for one that is bad, 0 where nothing says
function goodness(value) {
  const of = metric();
  if (of.kind !== "share" || !of.better) return 0;
  return (value === 1) === (of.better === "higher") ? 1 : -1;
}

// how much worse than the base a value is, as the page's sums count it
function loss(base, value) {
  if (base === null || value === null || base === value) return 0;
  return metric().better === "lower" ? value - base : base - value;
}

function shown() {
  return [...$("columns").querySelectorAll("input:checked")].map((box) => Number(box.value));
}

function defaults() {
  const effects = metric().effects;
  const order = effects.map((_, i) => i).filter((i) => i !== data.base);
  order.sort((a, b) => effects[b] - effects[a] || a - b);
  const chosen = new Set([data.base, ...order.slice(0, COLUMNS)]);
  for (const box of $("columns").querySelectorAll("input")) box.checked = chosen.has(Number(box.value));
}

function verdict(cell, base, isBase) {
  const [value, why] = cell;
  if (value === null) return ["none", "\u2013 no value: " + data.texts[why]];
  const good = goodness(value);
  const number = metric().kind === "share" ? (value === 1 ? "yes" : value === 0 ? "no" : String(value))
    : String(Number(value.toPrecision(4)));
  let kind = good > 0 ? "good" : good < 0 ? "bad" : "plain";
  let text = (good > 0 ? "\u2713 " : good < 0 ? "\u2717 " : "") + number;
  const change = isBase || !base ? 0 : loss(base[0], value);
  if (change !== 0 && metric().better) {
    kind += change > 0 ? " worse" : " improved";
    text += change > 0 ? "  \u25bc worse than base" : "  \u25b2 better than base";
  } else if (change !== 0) {
    text += "  \u25c6 not as base";
  }
  return [kind, text];
}

function select() {
  const words = $("search").value.toLowerCase();
  const columns = shown();
  found = metric().questions.filter((question) => {
    const cells = columns.map((i) => question.cells[i]).filter(Boolean);
    if (words) {
      const texts = [question.id, data.texts[question.input], ...cells.map((cell) => data.texts[cell[2]])];
      if (!texts.some((text) => text.toLowerCase().includes(words))) return false;
    }
    if (!$("changed").checked) return true;
    const base = question.cells[data.base];
    return base && cells.some((cell) => loss(base[0], cell[0]) > 0);
  });
  if ($("order").value === "worst") found.sort((a, b) => b.worst - a.worst || a.place - b.place);
  else found.sort((a, b) => a.place - b.place);
  draw();
}

function draw() {
  const table = make("table");
  const head = table.appendChild(make("thead")).appendChild(make("tr"));
  head.append(make("th", "question"));
  for (const i of shown()) head.append(make("th", data.conditions[i]));
  table.append(make("tbody"));
  $("answers").replaceChildren(table);
  drawn = 0;
  more();
}

function more() {
  const body = $("answers").querySelector("tbody");
  const columns = shown();
  for (const question of found.slice(drawn, drawn + STEP)) {
    const row = body.appendChild(make("tr"));
    const first = row.appendChild(make("th"));
    first.append(make("div", question.id, "soft"), make("div", data.texts[question.input], "text"));
    if (question.worst > 0 && metric().kind === "share") {
      first.append(make("div", "\u25bc worse in " + question.worst + (question.worst > 1 ? " conditions" : " condition"), "verdict"));
    }
    for (const i of columns) {
      const cell = question.cells[i];
      if (!cell) { row.append(make("td", "not asked", "none")); continue; }
      const [kind, text] = verdict(cell, question.cells[data.base], i === data.base);
      const place = row.appendChild(make("td", undefined, kind));
      place.append(make("div", text, "verdict"), make("div", data.texts[cell[2]], "text"));
    }
  }
  if (!found.length) body.append(make("tr")), body.lastChild.append(make("th", "no question fits"));
  drawn = Math.min(drawn + STEP, found.length);
  const of = metric();
  const left = of.total > of.questions.length ? `; the page holds ${of.questions.length} of ${of.total}, the worst ones` : "";
  $("count").textContent = `${drawn} of ${found.length} questions shown${left}`;
  $("more").hidden = drawn >= found.length;
}

for (const of of data.metrics) $("metric").append(make("option", `${of.task}: ${of.metric}`));
data.conditions.forEach((name, i) => {
  const label = make("label");
  const box = make("input");
  box.type = "checkbox";
  box.value = String(i);
  box.addEventListener("change", select);
  label.append(box, " ", name);
  $("columns").append(label);
});
$("metric").addEventListener("change", () => { defaults(); select(); });
for (const id of ["order", "changed"]) $(id).addEventListener("change", select);
$("search").addEventListener("input", select);
$("more").addEventListener("click", more);
$("every").addEventListener("click", () => {
  for (const box of $("columns").querySelectorAll("input")) box.checked = true;
  select();
});
$("few").addEventListener("click", () => { defaults(); select(); });
if (data.metrics.length) { $("explore").hidden = false; defaults(); select(); }
