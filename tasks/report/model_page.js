"use strict";

// Draws the runs of a model. Every text of a run reaches the page as text, never as markup, and every address is made
// here of a run's id or a version's number.

const { model, base, fields, runs: packed } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const LISTED = 50;
const WORDS = {
  published: "published", now: "champion now", waiting: "waits for approval", declined: "declined", unchanged: "unchanged", rejected: "rejected", refused: "batch refused", rollback: "rollback",
};
const COLOURS = { now: "good", declined: "bad", rejected: "bad", refused: "bad", rollback: "second" };
const colour = (mark) => `var(--${COLOURS[mark] ?? "accent"})`;
const filling = (mark) => (mark === "unchanged" || mark === "waiting" ? "var(--card)" : colour(mark));

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "title", "g"].includes(name);
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function link(run) {
  if (!base || run.report === false) return "";
  const report = /^[0-9a-f-]{36}$/.test(run.id) ? `runs/${run.id}` : run.version ? `models/${model}/versions/${run.version}` : "";
  return report && run.verdict !== "rollback" ? `${base}${report}/report.html` : "";
}

// A rollback or a person's decision has an id of another form.
const isRun = (run) => /^([0-9a-f-]{36}|version-[0-9]+)$/.test(run.id);

function anchor(run, child) {
  const address = link(run);
  if (!address) return child;
  if (!(child instanceof SVGElement)) return element("a", { href: address }, child);
  const made = document.createElementNS(SVG, "a");
  made.setAttribute("href", address);
  made.append(child);
  return made;
}

const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(2)} %`);
const day = (run) => run.time.slice(0, 10);
const minute = (run) => run.time.slice(0, 16).replace("T", " ");
const number = (value) => value.toLocaleString("en-US");

function title(run) {
  const version = run.version ? `, version ${run.version}` : "";
  const accuracy = run.accuracy === null ? "" : `: ${percent(run.accuracy)}`;
  return `${minute(run)} UTC, ${WORDS[run.verdict]}${version}${accuracy}${run.why ? `. ${run.why}` : ""}`;
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

// One chart: points (x, y) with the run that each stands for; `text` writes a value, `label` the chart in words.
function chart(points, { text, xText, label, height = 220, dots = true, interval = false, line = false, zero = false }) {
  const made = element("div", { class: "chart" });
  const draw = () => {
    const width = Math.max(made.clientWidth, 240), left = 58, bottom = height - 24, right = width - 10, top = 8;
    const xs = points.map((each) => each.x);
    const values = points.flatMap(({ y, run }) => (interval && run.lower !== null ? [y, run.lower, run.upper] : [y]));
    if (zero) values.push(0);
    let [low, high] = [values, values].map((each, i) => each.reduce((a, b) => (i ? Math.max(a, b) : Math.min(a, b))));
    if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.05, high + Math.abs(high || 1) * 0.05];
    const first = xs.reduce((a, b) => Math.min(a, b)), last = xs.reduce((a, b) => Math.max(a, b));
    const x = (value) => (first === last ? (left + right) / 2 : left + 8 + ((value - first) / (last - first)) * (right - left - 16));
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    for (const at of ticks(low, high, 4)) {
      svg.append(element("line", { class: "axis", x1: left, x2: right, y1: y(at), y2: y(at) }));
      svg.append(element("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, text(at)));
    }
    if (zero) svg.append(element("line", { class: "zero", x1: left, x2: right, y1: y(0), y2: y(0) }));
    const ends = first === last ? [[first, "middle"]] : [[first, "start"], [last, "end"]];
    for (const [at, side] of ends) {
      svg.append(element("text", { x: side === "middle" ? x(at) : side === "start" ? left : right, y: height - 4, "text-anchor": side }, xText(at)));
    }
    if (interval) {
      const bars = points.filter(({ run }) => run.lower !== null);
      const path = bars.map((each) => `M${x(each.x).toFixed(1)} ${y(each.run.lower).toFixed(1)}V${y(each.run.upper).toFixed(1)}`);
      svg.append(element("path", { class: "interval", style: "stroke: var(--accent)", d: path.join("") }));
    }
    if (line) {
      const path = points.map((each, i) => `${i ? "L" : "M"}${x(each.x).toFixed(1)} ${y(each.y).toFixed(1)}`);
      svg.append(element("path", { style: "stroke: var(--accent)", d: path.join("") }));
    }
    if (dots || points.length === 1) {
      for (const each of points) {
        const mark = each.mark ?? each.run.verdict, style = `fill: ${filling(mark)}; stroke: ${colour(mark)}`;
        const dot = element("circle", { class: "dot", style, cx: x(each.x).toFixed(1), cy: y(each.y).toFixed(1), r: points.length > 300 ? 2.5 : 4 });
        dot.append(element("title", {}, title(each.run)));
        svg.append(anchor(each.run, dot));
      }
    }
    made.replaceChildren(svg);
  };
  let width = 0;
  new ResizeObserver(() => {
    if (made.clientWidth !== width) { width = made.clientWidth; draw(); }
  }).observe(made);
  return made;
}

function section(heading, ...children) {
  document.getElementById("sections").append(element("section", {}, element("h2", {}, heading), ...children));
}

function keys(marks) {
  const made = element("p", { class: "keys soft" });
  for (const mark of marks) {
    const dot = element("i", { style: `background: ${filling(mark)}; border-color: ${colour(mark)}` });
    made.append(element("span", {}, dot, WORDS[mark]));
  }
  return made;
}

function tile(name, value) {
  document.getElementById("tiles").append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

function table(runs) {
  const body = element("tbody");
  const heads = ["Time (UTC)", "Verdict", "Version", "Accuracy", "Why", "Images", "Seeds", "Seconds", "Device"];
  const rows = (some) => some.map((run) => element("tr", {},
    element("th", { scope: "row" }, anchor(run, element("span", {}, minute(run)))),
    element("td", { class: { rejected: "fail", refused: "fail", declined: "fail", published: "pass" }[run.verdict] ?? "" }, WORDS[run.verdict]),
    element("td", { class: "number" }, run.version ? String(run.version) : ""),
    element("td", { class: "number" }, percent(run.accuracy)),
    element("td", { class: "because" }, run.why),
    element("td", { class: "number" }, run.images ? number(run.images) : ""),
    element("td", { class: "number" }, run.seeds ? String(run.seeds) : ""),
    element("td", { class: "number" }, run.seconds ? run.seconds.toFixed(1) : ""),
    element("td", {}, run.device)));
  body.append(...rows(runs.slice(0, LISTED)));
  const head = element("tr", {}, ...heads.map((name, at) => element("th", { scope: "col", class: [2, 3, 5, 6, 7].includes(at) ? "number" : "" }, name)));
  const made = element("table", { class: "runs" }, element("caption", {}, "The runs, the newest first"), element("thead", {}, head), body);
  const wide = element("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Runs" }, made);
  if (runs.length <= LISTED) return [wide];
  const more = element("button", { type: "button" }, `Show all ${number(runs.length)}`);
  more.addEventListener("click", () => { body.append(...rows(runs.slice(LISTED))); more.remove(); });
  return [wide, more];
}

function show(runs) {
  const moves = runs.filter((run) => run.verdict === "published" || run.verdict === "rollback");
  const champion = moves.at(-1), published = runs.filter((run) => run.verdict === "published");
  const judged = runs.filter((run) => run.accuracy !== null);
  const current = champion && published.find((run) => run.version === champion.version);
  const bad = runs.filter((run) => run.verdict === "rejected" || run.verdict === "refused").length;
  document.getElementById("lead").textContent = champion
    ? `Version ${champion.version} is the champion since ${minute(champion)} UTC.`
    : "Nothing was published yet.";
  if (current && current.accuracy !== null) tile("accuracy of the champion", percent(current.accuracy));
  tile("versions", number(published.length));
  tile("runs", number(runs.filter(isRun).length));
  tile("rejected or refused", number(bad));
  const waiting = new Map();  // the last that is known of each version that a person has to approve
  for (const run of runs) if (run.verdict === "waiting" || waiting.has(run.version)) waiting.set(run.version, run.verdict);
  const undecided = [...waiting].filter(([, verdict]) => verdict === "waiting" || verdict === "unchanged").map(([version]) => version);
  if (undecided.length) tile("waiting for approval", undecided.map((version) => `version ${version}`).join(", "));

  const time = (run) => Date.parse(run.time);
  const short = runs.length && time(runs.at(-1)) - time(runs[0]) < 2 * 86_400_000;  // then a day says too little
  const date = (at) => new Date(at).toISOString().slice(...(short ? [5, 16] : [0, 10])).replace("T", " ");
  const mark = (run) => (run.verdict === "published" && run.version === champion?.version ? "now" : run.verdict);
  const accurate = published.filter((run) => run.accuracy !== null);
  if (accurate.length) {
    const points = accurate.map((run) => ({ x: run.version, y: run.accuracy, run, mark: mark(run) }));
    section("Accuracy of each version", keys(["published", "now"]), chart(points, {
      text: percent, xText: (at) => `version ${at}`, interval: true,
      label: `Test accuracy of ${points.length} versions, with 95 % intervals; the last one ${percent(points.at(-1).y)}`,
    }));
  }
  if (judged.length) {
    const points = judged.map((run) => ({ x: time(run), y: run.accuracy, run, mark: mark(run) }));
    for (const run of runs) {  // what has no accuracy of its own stands at the champion's
      if (run.verdict === "rollback") {
        const target = accurate.find((each) => each.version === run.version);
        if (target) points.push({ x: time(run), y: target.accuracy, run });
      }
    }
    section("Accuracy of each run", keys(["published", "now", "unchanged", "rejected", "rollback", "waiting", "declined"].filter((each) => each !== "waiting" && each !== "declined" || runs.some((run) => run.verdict === each))), chart(points, {
      text: percent, xText: date, interval: true,
      label: `Test accuracy of ${judged.length} runs from ${day(judged[0])} to ${day(judged.at(-1))}, with 95 % intervals`,
    }));
  }
  const names = [...new Set(judged.flatMap((run) => Object.keys(run.margins)))];
  const charts = names.map((name) => {
    const points = judged.filter((run) => run.margins[name] !== undefined).map((run) => ({ x: time(run), y: run.margins[name], run }));
    return element("div", {}, element("h3", {}, name, element("span", {}, `last ${points.at(-1).y}`)), chart(points, {
      text: (at) => String(Number(at.toPrecision(3))), xText: date, height: 150, dots: points.length <= 60, line: true, zero: true,
      label: `Margin of ${name} in ${points.length} runs; the last one ${points.at(-1).y}`,
    }));
  });
  if (charts.length) section("Margins of the gate's rows", element("p", { class: "soft" }, "Below the dashed line a row fails."), element("div", { class: "pair" }, ...charts));

  const trained = judged.filter((run) => run.images);
  const costs = [
    ["Training images", "images", (at) => number(at)],
    ["Batches", "batches", (at) => number(at)],
    ["Seconds of computation", "seconds", (at) => number(at)],
  ].flatMap(([heading, field, text]) => {
    const points = trained.filter((run) => run[field]).map((run) => ({ x: time(run), y: run[field], run }));
    if (!points.length) return [];
    return [element("div", {}, element("h3", {}, heading, element("span", {}, `last ${text(points.at(-1).y)}`)), chart(points, {
      text, xText: date, height: 150, dots: points.length <= 60, line: true,
      label: `${heading} in ${points.length} runs; the last one ${text(points.at(-1).y)}`,
    }))];
  });
  if (costs.length) section("Data and time", element("div", { class: "pair" }, ...costs));
  if (runs.length) section("Runs", ...table([...runs].reverse()));
}

(async () => {
  const bytes = Uint8Array.from(atob(packed), (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const text = await new Response(stream).text();
  show(text.split("\n").filter(Boolean).map((line) => {
    const run = Object.fromEntries(JSON.parse(line).map((value, at) => [fields[at], value]));
    const [names, values] = run.margins;
    return { ...run, margins: Object.fromEntries(names.map((name, at) => [name, values[at]])) };
  }));
})();
