"use strict";
// Curves of a job, or of several over each other: `drawCurves` draws them, `step` and `evaluation` events add to them.

const POINTS = 500; // about one a pixel of a panel; a range that is zoomed into is asked for again
const COLOURS = ["--first", "--second", "--third", "--wait"];
// What is drawn first, and in which words; every other number of a step gets a panel of its own behind them.
const TITLES = {
  loss: "Loss", learning_rate: "Learning rate", grad_norm: "Gradient norm", tokens_per_second: "Tokens per second",
  memory_bytes: "Memory, GB",
};
const NOT_DRAWN = ["step", "total_steps", "epoch", "tokens", "seconds", "gpu_memory_bytes", "eval_seconds", "seq", "attempt"];
const PANEL_HEIGHT = 220;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The numbers of a row by name, those of `metrics` among them; every name of an evaluation has its prefix. */
function numbersOf(row, prefix = "") {
  const own = {};
  for (const [name, value] of Object.entries({ ...row, ...row.metrics }))
    if (typeof value === "number" && !NOT_DRAWN.includes(name))
      own[name.startsWith(prefix) ? name : prefix + name] = name === "memory_bytes" ? value / 1e9 : value;
  return own;
}

/** Exponential moving average, corrected for its start; `weight` 0 changes nothing. */
function smoothed(values, weight) {
  if (!weight) return values;
  let [mean, sum] = [0, 0];
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

/** The points of one run: a map of step to numbers, which grows. */
class Run {
  constructor(label, metrics) {
    this.label = label;
    this.rows = new Map();
    for (const row of metrics.steps) this.add(row);
    for (const row of metrics.evals) this.add(row, "eval_");
  }

  add(row, prefix = "") {
    const own = numbersOf(row, prefix);
    this.rows.set(row.step, { ...this.rows.get(row.step), ...own });
  }
}

/** Panels for runs in `place`. Returns a function that draws them again after points were added. */
function drawCurves(place, runs, onZoom) {
  const controls = document.createElement("div");
  controls.className = "row";
  controls.innerHTML = `<label>Smoothing <input type="range" min="0" max="0.99" step="0.01" value="0"></label>
    <label><input type="checkbox"> Logarithmic loss</label>
    <button type="button" class="plain">Whole run</button><span class="hint">Drag over a curve to zoom in.</span>`;
  const [smoothing, logarithmic] = controls.querySelectorAll("input");
  const panels = document.createElement("div");
  panels.className = "panels";
  const title = document.createElement("h2");
  title.textContent = "Curves";
  place.replaceChildren(title, controls, panels);
  let plots = new Map();

  const namesOf = () => {
    const found = new Set(runs.flatMap((run) => [...run.rows.values()].flatMap(Object.keys)));
    const isOfPanel = (name) => !(name.startsWith("eval_") && found.has("loss") && name === "eval_loss");
    const first = Object.keys(TITLES).filter((name) => found.has(name));
    return [...first, ...[...found].filter((name) => !(name in TITLES) && isOfPanel(name)).sort()];
  };
  // The runs that have a second line in a panel: the loss of their evaluations.
  const evaluatedIn = (name) => (name === "loss" ? runs.filter((run) => [...run.rows.values()].some((row) => "eval_loss" in row)) : []);
  const tableOf = (name) => {
    const steps = [...new Set(runs.flatMap((run) => [...run.rows.keys()]))].sort((a, b) => a - b);
    const lines = runs.map((run) => smoothed(steps.map((step) => run.rows.get(step)?.[name] ?? null), Number(smoothing.value)));
    return [steps, ...lines, ...evaluatedIn(name).map((run) => steps.map((step) => run.rows.get(step)?.eval_loss ?? null))];
  };
  const make = (name) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = TITLES[name] || name;
    figure.append(caption);
    panels.append(figure);
    const line = (label, index, more) => ({ label, stroke: colour(COLOURS[index % COLOURS.length]), width: 1.5, spanGaps: true, ...more });
    const series = [{ label: "step" }, ...runs.map((run, index) => line(run.label, index))];
    const colourOf = (run) => (runs.length === 1 ? 1 : runs.indexOf(run));
    for (const run of evaluatedIn(name)) series.push(line(`${run.label} evaluation`, colourOf(run), { dash: [5, 4], points: { show: true } }));
    const values = (_, marks) => marks.map((mark) => (mark === null ? "" : String(Number(mark.toPrecision(4)))));
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    return new uPlot(
      {
        width: figure.clientWidth || 400, height: PANEL_HEIGHT, series, axes: [axis, { ...axis, size: 70, values }],
        cursor: { sync: { key: "steps" } },
        scales: { x: { time: false }, y: { distr: name === "loss" && logarithmic.checked ? 3 : 1 } },
        hooks: { setSelect: [(plot) => plot.select.width > 0 && onZoom?.(plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x"))] },
      },
      tableOf(name), figure,
    );
  };
  const draw = () => {
    for (const name of namesOf()) {
      const plot = plots.get(name);
      const table = tableOf(name);
      if (plot && plot.series.length !== table.length) return again(); // the first evaluation of a run
      if (plot) plot.setData(table);
      else plots.set(name, make(name));
    }
  };
  const again = () => {
    panels.replaceChildren();
    plots = new Map();
    draw();
  };
  smoothing.addEventListener("input", draw);
  logarithmic.addEventListener("change", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  controls.querySelector("button").addEventListener("click", () => onZoom?.(null, null));
  addEventListener("resize", () => plots.forEach((plot) => plot.setSize({ width: plot.root.parentElement.clientWidth, height: PANEL_HEIGHT })));
  draw();
  return draw;
}

/** The curves of the jobs that a page shows: pairs of an id and a label. */
async function curvesOfJobs(place, jobs) {
  const read = async (job, from, to) => {
    const range = from === null ? "" : `&from_step=${Math.max(0, Math.floor(from))}&to_step=${Math.max(0, Math.ceil(to))}`;
    return (await ask(`/jobs/${job}/metrics?points=${POINTS}${range}`)).json();
  };
  const readAll = (from, to) => Promise.all(jobs.map(async ([job, label]) => new Run(label, await read(job, from, to))));
  const runs = await readAll(null);
  let redraw = null;
  let isWhole = true;
  const zoom = async (from, to) => {
    isWhole = from === null;
    (await readAll(from, to)).forEach((run, index) => (runs[index].rows = run.rows));
    redraw?.();
  };
  const draw = () => {
    if (!runs.some((run) => run.rows.size)) return;
    if (redraw) redraw();
    else {
      redraw = drawCurves(place, runs, zoom);
      performance.mark("curves drawn"); // bench/pages.py reads it
    }
  };
  let isAsked = false;
  const later = () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => { isAsked = false; draw(); });
  };
  document.addEventListener("step", (event) => { if (isWhole) { runs[0].add(event.detail); later(); } });
  document.addEventListener("evaluation", (event) => { if (isWhole) { runs[0].add(event.detail, "eval_"); later(); } });
  draw();
}

for (const place of document.querySelectorAll("#curves[data-job]")) curvesOfJobs(place, [[place.dataset.job, "training"]]);
for (const place of document.querySelectorAll("#curves[data-runs]")) curvesOfJobs(place, JSON.parse(place.dataset.runs));
