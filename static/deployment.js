// A deployment's page: its curves, which renew themselves, and its engines' log, which follows.

import { BINARY, Chart, HUES, bridged, clock, gibibytes, number, percent } from "./charts.js";

// -- the curves --------------------------------------------------------------------------

const REST = { "15m": 10, "1h": 15, "24h": 60, "7d": 60 }; // seconds between two questions
const seconds = (_, at) => (at == null ? "–" : at < 1 ? `${number.format(Number((at * 1000).toPrecision(3)))} ms` : `${Number(at.toPrecision(3))} s`);
const WHOLE = Array.from({ length: 24 }, (_, at) => [1, 2, 5][at % 3] * 10 ** Math.floor(at / 3));

function figures(words, range) {
  const shared = { x: words.time, apart: true, when: clock(range), height: 180, floor: true, gaps: true };
  const pair = (first, second, points) => [{ label: first, hue: "primary", points }, { label: second, hue: "orange", points }];
  return {
    requests: { options: { ...shared, series: [{ label: words.requests, hue: "primary" }, { label: words.errors, hue: "red" }] }, columns: (of) => [of.requests, of.errors] },
    first_token: { options: { ...shared, series: pair(words.half, words.most, true), format: seconds }, columns: (of) => [of.first_token.p50, of.first_token.p95] },
    tokens: { options: { ...shared, series: pair(words.generated, words.prompted) }, columns: (of) => [of.generated, of.prompted] },
    between_tokens: { options: { ...shared, series: pair(words.half, words.most, true), format: seconds }, columns: (of) => [of.between_tokens.p50, of.between_tokens.p95] },
    queue: { options: { ...shared, incrs: WHOLE, series: pair(words.running, words.waiting) }, columns: (of) => [of.running, of.waiting] },
    cache: { options: { ...shared, series: [{ label: words.cache, hue: "primary" }], format: percent, top: 100 }, columns: (of) => [of.cache] },
  };
}

function watch(box) {
  const words = JSON.parse(box.dataset.words);
  const form = box.querySelector("form");
  const lost = box.querySelector("[data-lost]");
  const nothing = box.querySelector("[data-none]");
  let drawn = {};
  let range = "";
  let timer = 0;
  let asked = 0; // only the answer to the last question counts

  // One figure: it appears with its first number, and stays.
  function show(key, options, columns, times) {
    const figure = box.querySelector(`[data-figure="${key}"]`);
    if (!drawn[key] && !columns.some((values) => values.some((value) => value != null))) return;
    figure.hidden = false;
    if (drawn[key]?.series.length !== options.series.length) {
      drawn[key]?.close();
      drawn[key] = new Chart(figure.querySelector("[data-chart]"), options);
    }
    drawn[key].draw([times, ...columns.map(bridged)]);
  }

  function draw(found) {
    nothing.hidden = !found.empty;
    box.querySelector(".charts").hidden = found.empty;
    if (found.empty) return;
    const all = figures(words, range);
    for (const [key, { options, columns }] of Object.entries(all)) show(key, options, columns(found), found.t);
    const names = Object.keys(found.devices);
    const series = names.map((label, at) => ({ label, hue: HUES[at % HUES.length] }));
    for (const [key, more] of [["use", { format: percent, top: 100 }], ["memory", { format: gibibytes, incrs: BINARY }]]) {
      if (names.length) show(key, { ...all.cache.options, top: null, ...more, series }, names.map((name) => found.devices[name][key]), found.t);
    }
  }

  async function renew() {
    clearTimeout(timer);
    if (!box.isConnected) return;
    const mine = (asked += 1);
    // nothing moves while the page is not seen, or somebody reads a curve
    if (!document.hidden && !box.querySelector("[data-chart]:hover")) {
      const answer = await fetch(`${box.dataset.url}?range=${range}`).catch(() => null);
      const found = answer?.ok ? await answer.json().catch(() => null) : null;
      if (mine !== asked) return;
      lost.hidden = Boolean(found);
      if (found) draw(found);
    }
    timer = setTimeout(renew, REST[range] * 1000);
  }

  function choose() {
    range = form.elements.range.value;
    for (const chart of Object.values(drawn)) chart.close();
    drawn = {};
    renew();
  }

  form.addEventListener("change", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("visibilitychange", () => document.hidden || renew());
  choose();
}

// -- the log: text only, whatever an engine prints; follows its end unless one reads further up --

const LIMIT = 1_000_000; // characters kept on the page
let source = null;

function follow(panel) {
  source?.close();
  const log = panel.querySelector("#deploy-log");
  const lost = panel.querySelector("[data-lost]");
  const text = log.dataset;
  let empty = !log.textContent;
  if (empty) log.textContent = text.nothing;
  log.scrollTop = log.scrollHeight;
  if (!text.stream) return;

  function add(more) {
    const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (empty) log.textContent = "";
    empty = false;
    log.append(more);
    let size = log.textContent.length;
    while (size > LIMIT && log.childNodes.length > 1) {
      size -= log.firstChild.length;
      log.firstChild.remove();
    }
    if (following) log.scrollTop = log.scrollHeight;
  }

  let silence = 0;
  const mine = (source = new EventSource(text.stream));
  mine.addEventListener("log", (event) => add(JSON.parse(event.data).text));
  mine.addEventListener("start", (event) => add(`\n— ${text.start.replace("{number}", JSON.parse(event.data).start)} —\n`));
  mine.addEventListener("done", () => mine.close());
  mine.onopen = () => {
    clearTimeout(silence);
    lost.hidden = true;
  };
  mine.onerror = () => {
    clearTimeout(silence);
    silence = setTimeout(() => (lost.hidden = mine.readyState !== EventSource.CONNECTING), 5000);
  };
}

// -- both come as fragments of the page ---------------------------------------------------

const begun = new WeakSet();

function begin() {
  for (const [id, act] of [["deployment-charts", watch], ["deployment-log", follow]]) {
    const box = document.getElementById(id);
    if (!box || begun.has(box)) continue;
    begun.add(box);
    act(box);
  }
}

document.addEventListener("htmx:after:swap", begin);
begin();
