// A node's page: what its devices did, one line each.

import { BINARY, Chart, HUES, bridged, clock, gibibytes, percent } from "./charts.js";

const REST = { "1h": 15, "24h": 60, "7d": 300, "30d": 300 }; // seconds between two questions
const box = document.getElementById("node-history");
const words = JSON.parse(box.dataset.words);
const form = box.querySelector("form");
const unit = (name) => (_, at) => (at == null ? "–" : `${Math.round(at)} ${name}`);
const FIGURES = {
  use: { format: percent, top: 100 },
  memory: { format: gibibytes, incrs: BINARY, floor: true },
  temperature: { format: unit("°C"), floor: true },
  power: { format: unit("W"), floor: true },
};
let drawn = {};
let timer = 0;
let asked = 0; // only the answer to the last question counts

function draw(found) {
  const names = Object.keys(found.devices);
  const series = names.map((label, at) => ({ label, hue: HUES[at % HUES.length], dash: at < HUES.length ? undefined : [4, 3] }));
  let empty = true;
  for (const [key, options] of Object.entries(FIGURES)) {
    const columns = names.map((name) => found.devices[name][key]);
    const figure = box.querySelector(`[data-figure="${key}"]`);
    figure.hidden = !columns.some((values) => values.some((value) => value != null));
    if (figure.hidden) continue;
    empty = false;
    if (drawn[key]?.series.length !== series.length) {
      drawn[key]?.close();
      drawn[key] = new Chart(figure.querySelector("[data-chart]"), { x: words.time, apart: true, when: clock(found.range), height: 200, gaps: true, series, ...options });
    }
    drawn[key].draw([found.t, ...columns.map(bridged)]);
  }
  box.querySelector("[data-none]").hidden = !empty;
}

async function renew() {
  clearTimeout(timer);
  const range = form.elements.range.value;
  const mine = (asked += 1);
  // nothing moves while the page is not seen, or somebody reads a curve
  if (!document.hidden && !box.querySelector("[data-chart]:hover")) {
    const answer = await fetch(`${box.dataset.url}?range=${range}`).catch(() => null);
    const found = answer?.ok ? await answer.json().catch(() => null) : null;
    if (mine !== asked) return;
    box.querySelector("[data-lost]").hidden = Boolean(found);
    if (found) draw(found);
  }
  timer = setTimeout(renew, REST[range] * 1000);
}

form.addEventListener("change", () => {
  for (const chart of Object.values(drawn)) chart.close();
  drawn = {};
  renew();
});
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => document.hidden || renew());
renew();
