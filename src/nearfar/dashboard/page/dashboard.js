// Shows what /events sends. Everything from outside is set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const UNITS = ["B", "kB", "MB", "GB", "TB"];

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

const whole = (value) => (value ?? 0).toLocaleString("en");

function rate(value) {
  value = value ?? 0;
  return value >= 10 || value === 0 ? whole(Math.round(value)) : value.toFixed(1);
}

function size(value) {
  if (value === null || value === undefined) return "–";
  let power = 0;
  while (value >= 999.95 && power < UNITS.length - 1) { value /= 1000; power += 1; }
  return `${power ? value.toFixed(1) : Math.round(value)} ${UNITS[power]}`;
}

function duration(seconds) {
  if (seconds === 0) return "0";
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const total = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(total / 3600), minutes = Math.floor(total / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)} h` : `${minutes}:${two(total % 60)} min`;
}

const failures = (reasons) => Object.entries(reasons).sort((a, b) => b[1] - a[1])
  .map(([reason, count]) => `${reason} ${whole(count)}`).join(", ");
const total = (reasons) => Object.values(reasons).reduce((sum, count) => sum + count, 0);

// -- what each program shows: tiles [label, text, kind], charts, tables ------------------------------------

function tiles(status) {
  const c = status.counts, r = status.rates, found = [];
  const add = (label, text, kind) => found.push([label, text, kind]);
  const trouble = (name, label, counts) => { if (counts[name]) add(label ?? name, whole(counts[name]), "bad"); };
  if (status.workers) {
    add("workers", whole(c.workers), c.workers ? "" : "waits");
    add("running", whole(c.running));
    if ("waiting" in c) add("waiting", whole(c.waiting));
    add("done", whole(c.done));
    add("tasks/s", rate(r.done));
    for (const name of ["raised", "lost", "stale", "malformed", "turned away", "put off", "held back"]) trouble(name, name, c);
    const d = status.task_seconds;
    if (d && d.buckets.some(Boolean)) {
      add("median run", duration(d.p50)); add("90 % below", duration(d.p90)); add("99 % below", duration(d.p99));
    }
    if ("bytes" in c) add("kept for clients", size(c.bytes));
    if ("clients" in c) add("clients", whole(c.clients));
    if ("agents" in c) add("agents", whole(c.agents));
  }
  if ("saved" in c) {
    if ("expected" in c) add("of all", `${Math.floor(100 * (c.saved + c.already + c.failed) / Math.max(1, c.expected))} %`);
    if ("urls" in c) add("URLs read", whole(c.urls));
    add("saved", whole(c.saved));
    if (c.already) add("already there", whole(c.already));
    add("failed", whole(c.failed), c.failed ? "bad" : "");
    if ("left" in c) add("not ended", whole(c.left + c.waiting));
    add("files/s", rate(r.saved));
    add("received", size(c.received));
    add("a second", size(r.received));
  }
  const q = status.queue;
  if (q) {
    const all = q.counts;
    add("waiting", all.maxsize ? `${whole(all.size)} of ${whole(all.maxsize)}` : whole(all.size));
    add("in hand", whole(all.unsettled - all.size));
    add("oldest item", all.unsettled ? duration(q.oldest) : "–", q.oldest > 60 ? "waits" : "");
    add("put/s", rate(q.rates.stored));
    add("done/s", rate(q.rates.settled));
    add("done", whole(all.settled));
    add("bytes waiting", size(all.bytes));
    add("producers", whole(all.producers));
    add("consumers", whole(all.consumers), all.consumers ? "" : "waits");
    trouble("redelivered", "redelivered", all);
    trouble("dead", "dead letters", all);
    for (const name of ["lost producers", "late", "dropped", "undeliverable", "malformed", "turned away"]) trouble(name, name, all);
  }
  return found;
}

// A chart: title, format, and its lines: [label, color, function of the counts over time].
const RATE = (name) => (h, i) => {
  const j = Math.max(0, i - 5), now = h.counts[name], t = h.time;
  if (!now || now[i] == null || now[j] == null || i === j || t[i] <= t[j]) return null;
  return Math.max(0, now[i] - now[j]) / (t[i] - t[j]);
};
const LEVEL = (name, less) => (h, i) => {
  const now = h.counts[name]?.[i];
  return now == null ? null : now - (less ? h.counts[less]?.[i] ?? 0 : 0);
};
const LIVE = (name) => (h, i) => h.live[name]?.[i] ?? null;

function charts(status) {
  const found = [];
  if (status.workers) {
    found.push(["Tasks per second", rate, [["done", "--blue", RATE("done")], ["raised", "--red", RATE("raised")], ["lost", "--amber", RATE("lost")]]]);
    const states = [["running", "--blue", LEVEL("running")]];
    if ("waiting" in status.counts) states.push(["waiting", "--amber", LEVEL("waiting")]);
    found.push(["Tasks by state", whole, states]);
    found.push(["Run time of a task", duration, [["median", "--green", LIVE("p50")], ["90 %", "--amber", LIVE("p90")], ["99 %", "--red", LIVE("p99")]]]);
  }
  if ("saved" in status.counts) {
    found.push(["Files per second", rate, [["saved", "--green", RATE("saved")], ["failed", "--red", RATE("failed")]]]);
    found.push(["Bytes per second", size, [["received", "--blue", RATE("received")]]]);
  }
  if (status.queue) {
    found.push(["Items per second", rate, [["put", "--blue", RATE("stored")], ["done", "--green", RATE("settled")], ["redelivered", "--amber", RATE("redelivered")], ["dead", "--red", RATE("dead")]]]);
    found.push(["Items in the queue", whole, [["waiting", "--amber", LEVEL("size")], ["in hand", "--blue", LEVEL("unsettled", "size")]]]);
    if (!status.workers && !("saved" in status.counts)) found.push(["Age of the oldest item", duration, [["oldest", "--violet", LIVE("oldest")]]]);
  }
  return found;
}

// A table: id, title, heads [text, class], rows of cells (text, or [text, class], or an element), hint.
function tables(status) {
  const found = [];
  if (status.hosts) {
    found.push(["hosts", "Hosts", [["host", "wide"], ["in flight", "number"], ["waiting", "number"], ["saved", "number"], ["failed", "number"], ["reasons", "wrap"], ["parked", "number"], ["received", "number"], ["a second", "number"]],
      status.hosts.map((h) => [[h.host, "wide"], whole(h.active), whole(h.waiting), whole(h.saved), [whole(total(h.failed)), total(h.failed) ? "number bad" : "number"], failures(h.failed), [h.parked ? duration(h.parked) : "", "number waits"], size(h.bytes), h.rate ? size(h.rate) : ""])]);
  }
  if (status.files && status.files.length) {
    found.push(["files", "Files now coming", [["file", "wide"], ["", ""], ["received", "number"], ["of", "number"]],
      status.files.map((f) => [[f.name, "wide"], bar(f.bytes, f.size), size(f.bytes), f.size ? size(f.size) : "?"])]);
  }
  if (status.reasons && Object.keys(status.reasons).length) {
    found.push(["reasons", "Failed, by reason", [["reason", "wide"], ["files", "number"]],
      Object.entries(status.reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => [[reason, "wide"], whole(count)])]);
  }
  if (status.workers) {
    const shown = status.workers.length, all = status.counts.workers;
    found.push(["workers", "Workers", [["worker", ""], ["host", ""], ["pid", "number"], ["tasks", "number"], ["tasks/s", "number"], ["memory", "number"], ["runs", "wide"], ["for", "number"]],
      status.workers.map((w) => [w.name, w.host, String(w.pid), whole(w.tasks), rate(w.rate), size(w.memory), [w.runs || "–", "wide"], w.runs ? duration(w.seconds) : ""]),
      shown < all ? `${whole(all - shown)} more are not shown` : ""]);
  }
  if (status.queue) {
    const q = status.queue;
    found.push(["consumers", "Consumers", [["consumer", "wide"], ["in hand", "number"], ["delivered ahead", "number"], ["delivered in all", "number"]],
      q.consumers.map((c) => [[c.name, "wide"], whole(c.taken), whole(c.ahead), whole(c.delivered)])]);
    if (q.dead_letters.length) {
      found.push(["letters", "Dead letters", [["producer", ""], ["items", "number"], ["bytes", "number"], ["attempts", "number"], ["what became of each attempt", "wrap"]],
        q.dead_letters.map((l) => [l.producer, whole(l.items), whole(l.bytes), whole(l.attempts), [inRuns(l.history), "wrap"]]),
        `To export them: nearfar queue --dead-letters ${q.address} --json; to put them into the queue again: nearfar queue --requeue ${q.address}`]);
    }
  }
  return found;
}

// "5 × it was lost; it gave up" for repeated lines.
function inRuns(lines) {
  const runs = [];
  for (const line of lines) {
    if (runs.length && runs.at(-1)[0] === line) runs.at(-1)[1] += 1;
    else runs.push([line, 1]);
  }
  return runs.map(([line, count]) => (count > 1 ? `${count} × ${line}` : line)).join("; ");
}

function bar(done, all) {
  const element = make("progress");
  if (all) { element.max = all; element.value = Math.min(done, all); }
  return element;
}

// -- drawing -----------------------------------------------------------------------------------------------

function drawTiles(status) {
  $("tiles").replaceChildren(...tiles(status).map(([label, text, kind]) => {
    const tile = make("div", undefined, `tile ${kind ?? ""}`);
    tile.append(make("b", text), make("span", label));
    return tile;
  }));
}

function card(id, title) {
  let element = $(id);
  if (!element) {
    element = make("section", undefined, "card");
    element.id = id;
    element.append(make("h2", title));
    $("tables").append(element);
  }
  return element;
}

function drawTable([id, title, heads, rows, hint]) {
  const element = card(id, title);
  if (!element.querySelector("table")) {
    const table = make("table"), row = make("tr"), scroll = make("div", undefined, "scroll");
    for (const [text, kind] of heads) {
      const head = make("th", text, kind === "number" ? kind : "");
      head.scope = "col";
      row.append(head);
    }
    table.append(make("thead"), make("tbody"));
    table.tHead.append(row);
    scroll.append(table);
    element.append(scroll, make("p", "", "hint"));
  }
  element.hidden = false;
  element.querySelector("h2").replaceChildren(title, make("small", rows.length > 8 ? whole(rows.length) : ""));
  element.querySelector(".hint").textContent = rows.length ? hint ?? "" : "none";
  element.querySelector("tbody").replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    cells.forEach((cell, index) => {
      const [content, kind] = Array.isArray(cell) ? cell : [cell, heads[index][1]];
      const td = make("td", undefined, kind);
      td.append(content);
      if (kind === "wide") td.title = content;
      row.append(td);
    });
    return row;
  }));
}

const groups = new Map();

function drawFailures(rows) {
  const element = card("failures", "Failures");
  element.hidden = !rows.length;
  const shown = rows.map((row) => {
    const key = `${row.title.split(":")[0]}\n${row.traceback.match(/^ +File .*$/gm) ?? row.title}`;
    let found = groups.get(key);
    if (!found) {
      found = { details: make("details"), count: make("b"), title: make("code"), time: make("time"), text: make("pre") };
      const summary = make("summary");
      summary.append(found.count, found.title, found.time);
      found.details.append(summary, found.text);
      groups.set(key, found);
    }
    found.count.textContent = `${whole(row.count)} ×`;
    found.title.textContent = row.title;
    found.time.textContent = `last ${new Date(row.last * 1000).toLocaleTimeString()}`;
    if (found.text.textContent !== row.traceback) found.text.textContent = row.traceback;
    return found.details;
  });
  if (shown.some((details, index) => element.children[index + 1] !== details) || element.children.length !== shown.length + 1)
    element.replaceChildren(element.firstChild, ...shown);
}

let plots = [];
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function makePlots(status) {
  plots.forEach((plot) => plot.chart.destroy());
  $("charts").replaceChildren();
  const places = charts(status).map(([title, format, lines]) => {
    const place = make("section", undefined, "card");
    place.append(make("h2", title));
    $("charts").append(place);
    return [place, format, lines];
  });
  plots = places.map(([place, format, lines]) => { // when the layout of all is known
    const axis = { stroke: color("--dim"), grid: { stroke: color("--grid"), width: 1 }, ticks: { stroke: color("--grid"), width: 1 }, font: "11px system-ui, sans-serif" };
    const chart = new uPlot({
      width: place.clientWidth - 24, height: 170, padding: [6, 14, 0, 0],
      legend: { live: true },
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, space: 70, size: 30, values: (u, times) => times.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false })) },
        { ...axis, size: 62, space: 26, values: (u, values) => values.map((value) => format(value)) },
      ],
      series: [
        { label: "time", value: (u, t) => (t == null ? "" : new Date(t * 1000).toLocaleTimeString([], { hour12: false })) },
        ...lines.map(([label, stroke]) => ({ label, stroke: color(stroke), width: 1.75, points: { show: false }, spanGaps: false, value: (u, value) => (value == null ? "–" : format(value)) })),
      ],
    }, [[], ...lines.map(() => [])], place);
    return { chart, lines, place };
  });
}

function drawPlots() {
  for (const { chart, lines } of plots) {
    chart.setData([past.time, ...lines.map(([, , value]) => past.time.map((_, index) => value(past, index)))]);
    if (chart.cursor.idx == null && past.time.length) chart.setLegend({ idx: past.time.length - 1 });
  }
}

// -- events ------------------------------------------------------------------------------------------------

const KEPT = 300;
let past = { time: [], counts: {}, live: {} }, shape = "", latest = null, heard = 0;

function remember(status) {
  if (past.time.at(-1) >= status.time) return;
  past.time.push(status.time);
  const note = (series, name, value) => {
    (series[name] ??= Array(past.time.length - 1).fill(null)).push(value);
  };
  const counts = { ...status.counts, ...(status.queue?.counts ?? {}) };
  for (const name of new Set([...Object.keys(past.counts), ...Object.keys(counts)])) note(past.counts, name, counts[name] ?? null);
  const lately = status.task_seconds?.buckets.some(Boolean) ? status.task_seconds : {};
  const live = { p50: lately.p50, p90: lately.p90, p99: lately.p99, oldest: status.queue?.oldest };
  for (const name in live) note(past.live, name, live[name] ?? null);
  if (past.time.length > KEPT) {
    past.time.shift();
    for (const series of [past.counts, past.live]) for (const name in series) series[name].shift();
  }
}

function show(status) {
  latest = status;
  $("program").textContent = status.program;
  $("address").textContent = status.queue?.address ?? status.address;
  $("about").textContent = `${status.host}, pid ${status.pid}, up ${duration(status.time - status.started)}`;
  $("version").textContent = `version ${status.version}`;
  document.title = `nearfar ${status.program} ${status.queue?.address ?? status.address}`;
  drawTiles(status);
  const now = JSON.stringify(charts(status).map(([title, , lines]) => [title, lines.length]));
  if (now !== shape) { shape = now; makePlots(status); }
  drawPlots();
  if (document.getSelection().type === "Range") return; // let the user copy
  const drawn = tables(status);
  for (const id of ["hosts", "files", "reasons", "workers", "consumers", "letters"]) if ($(id)) $(id).hidden = true;
  drawn.forEach(drawTable);
  if (status.failures) drawFailures(status.failures);
}

function state(text, kind) {
  $("state").textContent = text;
  $("state").className = kind;
}

function tell() {
  if (!latest) return;
  const silent = (Date.now() - heard) / 1000;
  if (silent > 5) state(`no news for ${duration(silent)}`, "bad");
  else if (!latest.ready) state(`waits for ${latest.waits_for || "its peers"}`, "waits");
  else state("live", "good");
}

function listen() {
  const events = new EventSource("events");
  events.addEventListener("history", (event) => {
    past = JSON.parse(event.data);
  });
  events.addEventListener("status", (event) => {
    const status = JSON.parse(event.data);
    heard = Date.now();
    remember(status);
    show(status);
    tell();
  });
  events.onerror = () => {
    if (!latest) state("cannot connect", "bad");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

setInterval(tell, 1000);
new ResizeObserver(() => plots.forEach(({ chart, place }) => chart.setSize({ width: place.clientWidth - 24, height: 170 }))).observe($("charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (latest) { makePlots(latest); drawPlots(); } });
listen();
