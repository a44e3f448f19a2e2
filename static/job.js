// A job's page, live: one event stream feeds the state, the curves, the log and the events.

import { Chart, HUES, controls, lang, number, smooth } from "./charts.js";

const page = document.getElementById("job");
const text = page.dataset;
const value = (name) => page.querySelector(`[data-value="${name}"]`);

// -- tabs: real addresses, switched without asking for them ------------------------------

function show(name) {
  for (const tab of page.querySelectorAll('[role="tab"]')) {
    const chosen = tab.dataset.tab === name;
    tab.classList.toggle("active", chosen);
    tab.setAttribute("aria-selected", chosen);
    document.getElementById(`panel-${tab.dataset.tab}`).hidden = !chosen;
  }
  history.replaceState(null, "", `?tab=${name}`);
  if (name === "log") log.scrollTop = log.scrollHeight;
}

page.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-tab]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  show(link.dataset.tab);
});

page.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
  const tabs = [...page.querySelectorAll('[role="tab"]')];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || !tabs.includes(event.target)) return;
  const next = tabs.at((tabs.indexOf(event.target) + step) % tabs.length);
  next.focus();
  show(next.dataset.tab);
});

// -- the log: text only, whatever a run prints; follows its end unless one reads further up

const log = document.getElementById("job-log");
const LOG_LIMIT = 1_000_000; // characters kept on the page
log.scrollTop = log.scrollHeight;

function addLog({ text: more }) {
  const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(more);
  let size = log.textContent.length;
  while (size > LOG_LIMIT && log.childNodes.length > 1) {
    size -= log.firstChild.length;
    log.firstChild.remove();
  }
  if (following) log.scrollTop = log.scrollHeight;
}

// -- events -----------------------------------------------------------------------------

function addEvent({ at, message, kind }) {
  if (kind === "sample" || kind === "checkpoint") refresh(kind === "sample" ? "samples" : "checkpoints");
  if (kind === "sample") return;
  const row = document.createElement("li");
  row.className = "list-row";
  const words = document.createElement("span");
  words.className = "list-main";
  words.textContent = message;
  const time = document.createElement("time");
  const date = new Date(at);
  time.dateTime = date.toISOString();
  time.dataset.ago = "";
  time.textContent = date.toLocaleTimeString(lang);
  time.title = date.toLocaleString(lang);
  row.append(words, time);
  document.getElementById("job-events").append(row);
}

// A fragment of the page, asked for anew: several answers at once are one question.
const asked = {};

function refresh(name) {
  clearTimeout(asked[name]);
  asked[name] = setTimeout(() => htmx.trigger(document.getElementById(`panel-${name}`), "renew"), 500);
}

// -- the curves --------------------------------------------------------------------------

const words = JSON.parse(text.words);
const steps = new Map(); // step → metrics
const plain = (label, key, hue) => ({ key, series: [{ label, hue }], columns: (get) => [get(key)] });
// a figure for each kind of metric: it appears with its first number
const figures = [
  {
    key: "loss",
    height: 300,
    logs: true,
    series: [
      { label: words.train, hue: "secondary", width: 1, alpha: 0.5 },
      { label: words.smooth, hue: "primary", width: 2 },
      { label: words.eval, hue: "orange", points: true },
    ],
    columns: (get, keep) => [get("loss"), smooth(get("loss"), keep), get("eval_loss")],
  },
  {
    key: "accuracy",
    series: [{ label: words.accuracy, hue: "primary" }, { label: words.eval_accuracy, hue: "orange", points: true }],
    columns: (get, keep) => [smooth(get("accuracy"), keep), get("eval_accuracy")],
  },
  plain(words.lr, "lr", "primary"),
  { key: "grad_norm", logs: true, series: [{ label: words.grad_norm, hue: "secondary", width: 1, alpha: 0.5 }, { label: words.smooth, hue: "primary" }], columns: (get, keep) => [get("grad_norm"), smooth(get("grad_norm"), keep)] },
  {
    key: "rewards_chosen",
    series: [{ label: words.rewards_chosen, hue: "green" }, { label: words.rewards_rejected, hue: "red" }, { label: words.margin, hue: "primary" }],
    columns: (get, keep) => ["rewards_chosen", "rewards_rejected", "margin"].map((key) => smooth(get(key), keep)),
  },
  { key: "reward_accuracy", series: [{ label: words.reward_accuracy, hue: "primary" }], columns: (get, keep) => [smooth(get("reward_accuracy"), keep)] },
];

function boxOf(key) {
  const figure = page.querySelector(`[data-figure="${key}"]`);
  figure.hidden = false;
  return figure.querySelector("[data-chart]");
}

const bar = controls(document.getElementById("chart-bar"), draw);

function draw() {
  if (!steps.size) return;
  const rows = [...steps.values()].sort((a, b) => a.step - b.step);
  const x = rows.map((row) => row.step);
  const get = (key) => rows.map((row) => row[key] ?? null);
  value("no-chart")?.remove();
  document.getElementById("chart-bar").hidden = false;
  for (const figure of figures) {
    if (!figure.chart) {
      if (!rows.some((row) => row[figure.key] != null)) continue;
      figure.chart = new Chart(boxOf(figure.key), { height: figure.height, series: figure.series, x: words.step });
    }
    if (figure.logs) figure.chart.setLog(bar.log());
    figure.chart.draw([x, ...figure.columns(get, bar.keep())]);
  }
}

let waiting = 0;

function addMetrics(rows) {
  for (const row of rows) steps.set(row.step, row);
  waiting ||= requestAnimationFrame(() => {
    waiting = 0;
    draw();
  });
}

// -- the devices: percent and memory, by minutes -------------------------------------------

const readings = [];
const devices = {};

function addDevices(rows) {
  readings.push(...rows);
  const names = [...new Set(readings.flatMap((row) => Object.keys(row.devices)))].sort();
  const minutes = readings.map((row) => (row.t - readings[0].t) / 60);
  for (const [key, scale, format, top] of [["use", 1, (_, at) => (at == null ? "–" : `${Math.round(at)} %`), 100], ["memory", 2 ** 30, (_, at) => (at == null ? "–" : `${Number(at.toPrecision(3))} GiB`), null]]) {
    if (!readings.some((row) => Object.values(row.devices).some((one) => one[key] != null))) continue;
    if (devices[key]?.series.length !== names.length) {
      devices[key]?.plot?.destroy();
      devices[key] = new Chart(boxOf(`device-${key}`), { series: names.map((label, at) => ({ label, hue: HUES[at % HUES.length] })), x: words.minutes, apart: true, format, top });
    }
    devices[key].draw([minutes, ...names.map((name) => readings.map((row) => (row.devices[name]?.[key] == null ? null : row.devices[name][key] / scale)))]);
  }
}

// -- the state --------------------------------------------------------------------------

// As the server writes them: 48s, 3m 12s, 2h 05m.
function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  const [unit, size] = whole < 3600 ? ["m", 60] : ["h", 3600];
  const rest = Math.floor((whole % size) / (size / 60));
  return `${Math.floor(whole / size)}${unit} ${String(rest).padStart(2, "0")}${unit === "m" ? "s" : "m"}`;
}

function tick() {
  const { started, finished } = value("elapsed").dataset;
  if (started) value("elapsed").textContent = duration(((finished ? new Date(finished) : Date.now()) - new Date(started)) / 1000);
}

// The card is replaced only when the state changes: nothing moves under the pointer meanwhile.
async function renew() {
  const answer = await fetch(text.live, { headers: { accept: "text/html" } }).catch(() => null);
  if (!answer?.ok) return;
  const card = document.createElement("template");
  card.innerHTML = await answer.text(); // our own page's HTML
  document.getElementById("job-live").replaceWith(card.content);
}

let latest = null;
let shown = "";
let renewing = false;

async function setState(state) {
  latest = state;
  paint();
  if (renewing) return; // whoever renews looks again afterwards
  renewing = true;
  const wanted = () => [latest.state, latest.reason, latest.phase, latest.result_model, latest.finishing].join();
  shown ||= [text.state, text.reason, text.phase, latest.result_model, text.finishing === "true"].join();
  while (shown !== wanted()) {
    shown = wanted();
    await renew();
    paint();
  }
  renewing = false;
}

function paint() {
  const state = latest;
  value("step").textContent = number.format(state.step);
  value("total").textContent = state.total ? number.format(state.total) : "–";
  if (state.total) Object.assign(value("progress"), { max: state.total, value: state.step });
  value("eta-box").hidden = state.eta == null;
  if (state.eta != null) value("eta").textContent = duration(state.eta);
  value("loss").textContent = state.loss == null ? "–" : String(Number(state.loss.toPrecision(4)));
  value("tokens").textContent = state.tokens_per_second ? number.format(state.tokens_per_second) : "–";
  Object.assign(value("elapsed").dataset, { started: state.started_at ?? "", finished: state.finished_at ?? "" });
  tick();
}

// -- the stream: the browser comes back by itself, with the last id ------------------------

const source = new EventSource(`${text.stream}?after=${encodeURIComponent(text.after)}`);
const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
on("state", setState);
on("log", addLog);
on("metrics", addMetrics);
on("devices", addDevices);
on("event", addEvent);
source.addEventListener("done", () => {
  source.close();
  htmx.trigger(document.getElementById("job-verdict"), "renew");
});
let silence = 0;
source.onopen = () => {
  clearTimeout(silence);
  value("lost").hidden = true;
};
source.onerror = () => {
  clearTimeout(silence);
  silence = setTimeout(() => (value("lost").hidden = source.readyState === EventSource.OPEN), 5000);
};
source.addEventListener("done", () => clearTimeout(silence));
setInterval(tick, 1000);
