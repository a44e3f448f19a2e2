// Charts, drawn by uPlot: of runs, one figure per chart, zoomed together; and what others share.

const lang = document.documentElement.lang.startsWith("zh") ? "zh-CN" : "en";
const number = new Intl.NumberFormat("en");
const probe = document.createElement("i");
document.body.append(probe);

export const HUES = ["primary", "orange", "green", "purple", "red", "teal", "yellow", "pink"];
export { lang, number };

// A theme's colour, worked out by the browser: a canvas does not know variables.
export function colour(name) {
  probe.style.color = `var(--tblr-${name})`;
  return getComputedStyle(probe).color;
}

export const axis = () => ({ stroke: () => colour("secondary"), grid: { stroke: () => colour("border-color"), width: 1 }, ticks: { show: false } });

// A running mean that forgets, corrected for its start, so that the first points count fully.
export function smooth(values, keep) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    if (value == null) return null;
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

const short = (at) => (at && Math.abs(at) < 0.001 ? Number(at.toPrecision(4)).toExponential() : String(Number(at.toPrecision(4))));
export const precise = (_, at) => (at == null ? "–" : short(at));
const whole = (_, at) => (at == null ? "–" : number.format(at));
export const percent = (_, at) => (at == null ? "–" : `${Math.round(at)} %`);
export const gibibytes = (_, at) => (at == null ? "–" : `${Number((at / 2 ** 30).toPrecision(3))} GiB`);
export const BINARY = Array.from({ length: 30 }, (_, at) => 2 ** (20 + at)); // from a MiB

// A time on the axis or in the legend: the day too, where more than one is shown; seconds, where
// less than an hour is.
export function clock(range) {
  const long = ["24h", "7d", "30d"].includes(range);
  const day = long ? { month: "numeric", day: "numeric" } : { second: range === "15m" ? "2-digit" : undefined };
  const format = new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...day });
  return (at) => format.format(at * 1000);
}

// A reading that came late leaves no hole in a line; an engine or a node that was away does.
const LATE = 3;

export function bridged(values) {
  let seen = -1;
  const filled = [...values];
  values.forEach((value, at) => {
    if (value == null) return;
    if (seen >= 0 && at - seen - 1 <= LATE) filled.fill(undefined, seen + 1, at);
    seen = at;
  });
  return filled;
}

const charts = new Set();
const others = new Set();
let range = null; // of x, in all charts that share it

export function zoom(next) {
  range = next;
  for (const chart of charts) chart.zoomed();
  document.dispatchEvent(new CustomEvent("charts:zoom", { detail: range }));
}

export const zoomedTo = () => range;

export class Chart {
  // series: [{label, hue, alpha?, width?, points?}]; `x` is the label of the axis, `apart` has an
  // x of its own, `format` words for a value on the y axis, `when` words for an x that is a time,
  // `floor` a y axis that starts at 0, `incrs` the steps that the y axis may have, `gaps` whether a
  // null breaks the line (undefined never does)
  constructor(box, { height = 200, series, x, apart = false, format = precise, top = null, when = null, floor = false, incrs, gaps = false }) {
    Object.assign(this, { box, height, series, x, apart, format, top, when, floor, incrs, gaps, log: false, plot: null, data: null });
    charts.add(this);
    this.seen = new ResizeObserver(() => this.fit());
    this.seen.observe(box);
  }

  close() {
    this.seen.disconnect();
    this.plot?.destroy();
    this.plot = null;
    charts.delete(this);
  }

  draw(data) {
    this.data = data;
    if (!this.box.offsetParent) return; // its tab is not shown; fit() comes when it is
    if (!this.plot) this.make();
    else this.plot.setData(this.shown(), this.apart || !range);
    if (range && !this.apart) this.zoomed();
  }

  // A logarithm has no room for what is not above 0.
  shown() {
    if (!this.log) return this.data;
    return this.data.map((values, at) => (at ? values.map((value) => (value > 0 ? value : null)) : values));
  }

  setLog(on) {
    if (this.log === on) return;
    this.log = on;
    this.remake();
  }

  remake() {
    this.plot?.destroy();
    this.plot = null;
    if (this.data) this.draw(this.data);
  }

  make() {
    const marks = (_, values) => values.map((value) => (value == null ? "" : number.format(Number(value.toPrecision(6)))));
    const words = (plot, values) => values.map((value) => (value == null ? "" : this.format(plot, value)));
    const times = this.when && ((_, values) => values.map((value) => (value == null ? "" : this.when(value))));
    const span = this.top ? [0, this.top] : this.floor ? (_, low, high) => [0, high > 0 ? high * 1.1 : 1] : undefined;
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: this.height,
        scales: { x: { time: Boolean(this.when) }, y: this.log ? { distr: 3 } : { range: span } },
        axes: [{ ...axis(), size: 30, values: times || marks, ...(this.when && { space: 90 }) }, { ...axis(), size: 64, values: words, ...(this.incrs && { incrs: this.incrs }) }],
        cursor: { sync: this.apart ? undefined : { key: "runs" }, drag: { setScale: false }, bind: { dblclick: () => () => zoom(null) } },
        hooks: { setSelect: [(plot) => this.select(plot)] },
        series: [
          { label: this.x, value: this.when ? (_, at) => (at == null ? "–" : this.when(at)) : whole },
          ...this.series.map(({ label, hue, alpha = 1, width = 1.5, points = false, dash }) => ({
            label, width, alpha, dash, spanGaps: !this.gaps,
            stroke: () => colour(hue),
            points: points ? { show: true, size: 6 } : { show: false },
            value: this.format,
          })),
        ],
      },
      this.shown(),
      this.box,
    );
  }

  select(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (this.apart) return;
    zoom([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
  }

  zoomed() {
    if (!this.plot || this.apart) return;
    if (range) this.plot.setScale("x", { min: range[0], max: range[1] });
    else this.plot.setData(this.shown(), true);
  }

  fit() {
    if (!this.box.clientWidth || !this.data) return;
    if (!this.plot) this.draw(this.data);
    else if (this.plot.width !== this.box.clientWidth) this.plot.setSize({ width: this.box.clientWidth, height: this.height });
  }
}

// A chart that is no run's: as wide as its box, until it is destroyed.
export function plot(box, height, options, data) {
  const seen = new ResizeObserver(() => {
    if (box.clientWidth && box.clientWidth !== made.width) made.setSize({ width: box.clientWidth, height });
  });
  const destroy = [
    () => {
      seen.disconnect();
      others.delete(made);
    },
  ];
  const made = new uPlot({ ...options, width: box.clientWidth, height, hooks: { ...options.hooks, destroy } }, data, box);
  others.add(made);
  seen.observe(box);
  return made;
}

// the theme's colours are read anew when the page changes between light and dark
new MutationObserver(() => {
  for (const chart of charts) chart.plot?.redraw();
  for (const one of others) one.redraw();
}).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });

// -- the controls over the charts ----------------------------------------------------------

// `again` draws everything anew: with the smoothing of the slider, and the scale of the box.
export function controls(form, again) {
  const { smoothing, log, from, to, reset } = form.elements;
  const kept = localStorage.getItem("danlu_smoothing");
  if (kept !== null) smoothing.value = kept;
  const said = form.querySelector("output");
  const say = () => (said.textContent = Number(smoothing.value).toFixed(2));
  say();
  smoothing.addEventListener("input", () => {
    say();
    localStorage.setItem("danlu_smoothing", smoothing.value);
    again();
  });
  log.addEventListener("change", () => again());
  const typed = () => {
    const [first, last] = [from.value, to.value].map(Number);
    if (!from.value && !to.value) zoom(null);
    else if (to.value && last > first) zoom([first, last]);
  };
  from.addEventListener("change", typed);
  to.addEventListener("change", typed);
  reset.addEventListener("click", () => zoom(null));
  document.addEventListener("charts:zoom", ({ detail }) => {
    from.value = detail ? Math.round(detail[0]) : "";
    to.value = detail ? Math.round(detail[1]) : "";
    reset.disabled = !detail;
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  return { keep: () => Number(smoothing.value), log: () => log.checked };
}
