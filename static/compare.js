// Several runs in each chart, along steps, epochs or minutes.

import { Chart, HUES, colour, controls, smooth } from "./charts.js";

const page = document.getElementById("compare");
const words = JSON.parse(page?.dataset.words ?? "{}");
const jobs = JSON.parse(page?.dataset.curves ?? "[]");
const drawn = {};
const axis = document.getElementById("compare-x");

function paint() {
  for (const mark of document.querySelectorAll("[data-hue]")) mark.style.background = colour(HUES[mark.dataset.hue % HUES.length]);
}

const along = {
  step: (row) => row.step,
  epoch: (row) => row.epoch ?? row.step,
  minutes: (row, first) => (row.t == null ? null : (row.t - first) / 60),
};

function columns(key, keep) {
  const tables = jobs.map(({ rows }) => {
    const first = rows.find((row) => row.t != null)?.t ?? 0;
    const own = rows.filter((row) => row[key] != null && along[axis.value](row, first) != null);
    const values = own.map((row) => row[key]);
    const exact = key.startsWith("eval") || key === "lr";
    return [own.map((row) => along[axis.value](row, first)), exact ? values : smooth(values, keep)];
  });
  return uPlot.join(tables);
}

function draw() {
  for (const figure of page.querySelectorAll("[data-figure]")) {
    const key = figure.dataset.figure;
    if (!jobs.some(({ rows }) => rows.some((row) => row[key] != null))) continue;
    figure.hidden = false;
    page.querySelector("[data-value=no-chart]")?.remove();
    document.getElementById("chart-bar").hidden = false;
    drawn[key] ??= new Chart(figure.querySelector("[data-chart]"), {
      height: key === "loss" || key === "eval_loss" ? 280 : 200,
      series: jobs.map(({ name }, at) => ({ label: name, hue: HUES[at % HUES.length], points: key.startsWith("eval") })),
      x: words[axis.value],
    });
    if (key.endsWith("loss") || key === "grad_norm") drawn[key].setLog(bar.log());
    drawn[key].draw(columns(key, bar.keep()));
  }
}

let bar = null;

if (page) {
  paint();
  new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  bar = controls(document.getElementById("chart-bar"), draw);
  axis.addEventListener("change", () => {
    document.getElementById("chart-bar").elements.reset.click();
    for (const chart of Object.values(drawn)) {
      chart.x = words[axis.value];
      chart.data = null;
      chart.remake();
    }
    draw();
  });
  draw();
}
