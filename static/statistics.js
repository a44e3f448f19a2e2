// The Statistics tab: the histogram of lengths, and the maximum length that one can move.

import { axis, colour, number, plot } from "./charts.js";

const HEIGHT = 260;
let chart = null;
let box = null;
let bins = [];

// -- between lengths and places on the axis: bin i reaches from i - 0.5 to i + 0.5 --------

function place(length) {
  const at = bins.findIndex((bin) => length <= bin.last);
  if (at < 0) return bins.length - 0.5;
  const { first, last } = bins[at];
  return at - 0.5 + Math.min(1, Math.max(0, (length - first + 1) / (last - first + 1)));
}

function length(place) {
  const at = Math.min(bins.length - 1, Math.max(0, Math.round(place)));
  const { first, last } = bins[at];
  return Math.max(2, Math.round(first - 1 + (place - at + 0.5) * (last - first + 1)));
}

const field = () => document.getElementById("max-length");
const range = () => document.getElementById("max-length-range");

function line(chart) {
  const at = Number(field()?.value);
  if (!at) return;
  const x = Math.round(chart.valToPos(place(at), "x", true));
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.strokeStyle = colour("red");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

function draw() {
  const label = (at) => (bins[at] ? number.format(bins[at].first) : "");
  const span = (at) => {
    const bin = bins[at];
    if (!bin) return "–";
    return bin.first === bin.last ? number.format(bin.first) : `${number.format(bin.first)}–${number.format(bin.last)}`;
  };
  chart = plot(
    box,
    HEIGHT,
    {
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: false, range: [-0.6, bins.length - 0.4] }, y: { range: (_, _low, high) => [0, high * 1.05 || 1] } },
      axes: [
        { ...axis(), incrs: [1, 2, 4, 8, 16, 32], grid: { show: false }, values: (_, marks) => marks.map((at) => (Number.isInteger(at) ? label(at) : "")) },
        { ...axis(), size: 64, values: (_, marks) => marks.map((at) => (Number.isInteger(at) ? number.format(at) : "")) },
      ],
      series: [
        { label: box.dataset.textLength, value: (_, at) => (at == null ? "–" : span(at)) },
        {
          label: box.dataset.textRows,
          stroke: () => colour("primary"),
          fill: () => colour("primary"),
          paths: uPlot.paths.bars({ size: [0.9, 100] }),
          points: { show: false },
          value: (_, at) => (at == null ? "–" : number.format(at)),
        },
      ],
      hooks: { draw: [line] },
    },
    [bins.map((_, at) => at), bins.map((bin) => bin.rows)],
  );
  chart.over.addEventListener("click", (event) => {
    if (!field()) return;
    field().value = length(chart.posToVal(event.offsetX, "x"));
    field().dispatchEvent(new Event("input", { bubbles: true }));
  });
}

// The tab is filled in once the measure is done, so the chart is looked for after each change.
function find() {
  const found = document.getElementById("lengths-chart");
  if (found === box) return;
  chart?.destroy();
  chart = null;
  box = found;
  if (!box) return;
  bins = JSON.parse(box.dataset.bins);
  if (!bins.length) return;
  slide();
  draw();
}

// The range goes along the axis in equal steps.
const STEPS = 250;

function slide() {
  range().value = Math.round((STEPS * (place(Number(field().value) || 2) + 0.5)) / bins.length);
}

document.addEventListener("input", (event) => {
  if (event.target === range()) {
    field().value = length((range().value * bins.length) / STEPS - 0.5);
    field().dispatchEvent(new Event("input", { bubbles: true }));
  } else if (event.target === field()) {
    if (document.activeElement !== range()) slide();
    chart?.redraw(false);
  }
});

// choosing another model asks for its statistics
document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submit]")) event.target.form.requestSubmit();
});

new MutationObserver(find).observe(document.getElementById("main"), { childList: true, subtree: true });
find();
