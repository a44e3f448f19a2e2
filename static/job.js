// A job's page, live: one event stream feeds the state, the curve, the log and the events.

const page = document.getElementById("job");
const text = page.dataset;
const lang = document.documentElement.lang.startsWith("zh") ? "zh-CN" : "en";
const number = new Intl.NumberFormat("en");
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
  if (name === "charts") draw();
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

function addEvent({ at, message }) {
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

// -- the loss curve ---------------------------------------------------------------------

const box = document.getElementById("job-chart");
const steps = new Map(); // step → metrics
let chart = null;
let stale = false;

const probe = document.createElement("i");
box.after(probe);

// A theme's colour, worked out by the browser: a canvas does not know variables.
function colour(name) {
  probe.style.color = `var(--tblr-${name})`;
  return getComputedStyle(probe).color;
}

function columns() {
  const rows = [...steps.values()].sort((a, b) => a.step - b.step);
  // A running mean that forgets, corrected for its start, so that the first points count fully.
  const keep = 0.9;
  let mean = 0;
  let weight = 0;
  const smooth = rows.map((row) => {
    if (row.loss == null) return null;
    mean = keep * mean + (1 - keep) * row.loss;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
  return [
    rows.map((row) => row.step),
    rows.map((row) => row.loss ?? null),
    smooth,
    rows.map((row) => row.eval_loss ?? null),
  ];
}

function line(label, name, more = {}) {
  const show = (_, at) => (at == null ? "–" : at.toPrecision(4));
  return { label, stroke: () => colour(name), width: 1.5, value: show, ...more };
}

function draw() {
  if (!steps.size || !box.offsetParent) {
    stale = true; // drawn when its tab is shown
    return;
  }
  stale = false;
  if (chart) {
    chart.setData(columns());
    return;
  }
  value("no-chart").remove();
  const axis = { stroke: () => colour("secondary"), grid: { stroke: () => colour("border-color"), width: 1 }, ticks: { show: false } };
  chart = new uPlot(
    {
      width: box.clientWidth,
      height: 320,
      scales: { x: { time: false } },
      axes: [{ ...axis, values: (_, marks) => marks.map((mark) => (Number.isInteger(mark) ? number.format(mark) : "")) }, { ...axis, size: 56 }],
      series: [
        { label: text.textStep, value: (_, at) => (at == null ? "–" : number.format(at)) },
        line(text.textTrain, "secondary", { width: 1, alpha: 0.5 }),
        line(text.textSmooth, "primary", { width: 2, spanGaps: true }),
        line(text.textEval, "orange", { spanGaps: true, points: { show: true, size: 6 } }),
      ],
    },
    columns(),
    box,
  );
}

new ResizeObserver(() => {
  if (stale) draw();
  else if (chart && box.clientWidth) chart.setSize({ width: box.clientWidth, height: 320 });
}).observe(box);
// the theme's colours are read anew when the page changes between light and dark
new MutationObserver(() => chart?.redraw()).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });

let waiting = 0;

function addMetrics(rows) {
  for (const row of rows) steps.set(row.step, row);
  waiting ||= requestAnimationFrame(() => {
    waiting = 0;
    draw();
  });
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
  const wanted = () => [latest.state, latest.reason, latest.phase, latest.result_model].join();
  shown ||= [text.state, text.reason, text.phase, latest.result_model].join();
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
on("event", addEvent);
source.addEventListener("done", () => source.close());
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
