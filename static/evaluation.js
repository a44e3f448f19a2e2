// The charts of an evaluation: how the scores of its rows are distributed, and what became of a
// line of models.

import { HUES, axis, colour, number, plot } from "./charts.js";

const HEIGHT = 200;

const words = (kind) => (value) => (value == null ? "–" : kind === "perplexity" ? value.toFixed(2) : `${Number((100 * value).toFixed(1))}%`);
const STEPS = [1, 2, 5, 10, 20, 50, 100];
const WHOLE = Array.from({ length: 18 }, (_, at) => [1, 2, 5][at % 3] * 10 ** Math.floor(at / 3));

// -- bars: of each bin one for each candidate, side by side ---------------------------------

function distribution(box) {
  const { kind, bins, series } = JSON.parse(box.dataset.distribution);
  const said = words(kind);
  const name = ([low, high]) => (low === high ? said(low) : `${said(low)}–${said(high)}`);
  const wide = 0.84 / series.length; // of a bin
  const places = bins.flatMap((_, at) => series.map((_one, of) => at + (of + 0.5) * wide - 0.42));
  const columns = series.map(({ rows }, of) => places.map((_, at) => (at % series.length === of ? rows[Math.floor(at / series.length)] : undefined)));
  const bin = (at) => Math.floor(at / series.length);
  plot(
    box,
    HEIGHT,
    {
      scales: { x: { time: false, range: [-0.6, bins.length - 0.4] }, y: { range: (_, _low, high) => [0, high * 1.05 || 1] } },
      cursor: { drag: { x: false, y: false }, points: { show: false }, dataIdx: (_, of, at) => (at == null || !of ? at : bin(at) * series.length + of - 1) },
      axes: [
        { ...axis(), size: 30, grid: { show: false }, incrs: STEPS, values: (_, marks) => marks.map((at) => (bins[at] ? said(bins[at][0]) : "")) },
        { ...axis(), size: 52, incrs: WHOLE, values: (_, marks) => marks.map((at) => number.format(at)) },
      ],
      series: [
        { label: box.dataset.textScore, value: (_, at, _of, index) => (index == null ? "–" : name(bins[bin(index)])) },
        ...series.map(({ label }, of) => ({
          label,
          stroke: () => colour(HUES[of % HUES.length]),
          fill: () => colour(HUES[of % HUES.length]),
          paths: uPlot.paths.bars({ size: [wide * 0.94, 48] }),
          points: { show: false },
          value: (_, rows) => (rows == null ? "–" : number.format(rows)),
        })),
      ],
    },
    [places, ...columns],
  );
}

// -- points with the intervals in which they lie with 95 % certainty ------------------------

function history(box) {
  const lines = JSON.parse(box.dataset.history);
  const said = words(box.dataset.kind);
  const whiskers = (chart) => {
    const { ctx } = chart;
    ctx.save();
    ctx.strokeStyle = colour("primary");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath();
    lines.forEach(({ low, high }, at) => {
      const x = chart.valToPos(at + 1, "x", true);
      const cap = 4 * devicePixelRatio;
      const [top, bottom] = [high, low].map((value) => chart.valToPos(value, "y", true));
      ctx.moveTo(x, top);
      ctx.lineTo(x, bottom);
      for (const y of [top, bottom]) {
        ctx.moveTo(x - cap, y);
        ctx.lineTo(x + cap, y);
      }
    });
    ctx.stroke();
    ctx.restore();
  };
  const ends = lines.flatMap(({ low, high }) => [low, high]);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const margin = (most - least || 0.1) * 0.08;
  plot(
    box,
    HEIGHT,
    {
      scales: { x: { time: false, range: [0.5, lines.length + 0.5] }, y: { range: [least - margin, most + margin] } },
      cursor: { drag: { x: false, y: false } },
      axes: [
        { ...axis(), size: 30, grid: { show: false }, incrs: STEPS, values: (_, marks) => marks.map((at) => (lines[at - 1] ? `#${at}` : "")) },
        { ...axis(), size: 60, values: (_, marks) => marks.map(said) },
      ],
      series: [
        { label: box.dataset.textModel, value: (_, at) => (at == null ? "–" : `#${at} ${lines[at - 1].label}`) },
        { label: box.dataset.textScore, stroke: () => colour("primary"), width: 1, dash: [3, 5], points: { show: true, size: 8, fill: () => colour("primary") }, value: (_, at) => said(at) },
        { label: box.dataset.textInterval, paths: () => null, points: { show: false }, value: (_, _at, _of, index) => (index == null ? "–" : `${said(lines[index].low)} – ${said(lines[index].high)}`) },
      ],
      hooks: { draw: [whiskers] },
    },
    [lines.map((_, at) => at + 1), lines.map(({ value }) => value), lines.map(({ value }) => value)],
  );
}

for (const box of document.querySelectorAll("[data-distribution]")) distribution(box);
for (const box of document.querySelectorAll("[data-history]")) history(box);
