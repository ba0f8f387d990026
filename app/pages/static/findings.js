"use strict";
// What a check and an estimate of a job found, as parts of a page.

const NONE = "–";
const SIZES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

const numberText = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en", { maximumSignificantDigits: 4 }));
const countText = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en"));

function sizeText(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  const [unit, name] = SIZES.find(([least]) => bytes >= least) || [1, "bytes"];
  return `${(bytes / unit).toFixed(unit === 1 ? 0 : 1)} ${name}`;
}

function durationText(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${numberText(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** An element with children; a string becomes text, never markup. */
function made(name, children = [], attributes = {}) {
  const element = document.createElement(name);
  element.append(...children);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const factsOf = (facts) =>
  made("dl", Object.entries(facts).map(([name, value]) => made("div", [made("dt", [name]), made("dd", [value])])), { class: "facts" });

const verdictOf = (found, good) =>
  found.valid
    ? made("p", [good], { class: "succeeded" })
    : made("p", [`Not valid: ${found.error.message} ${found.error.hint || ""}`], { class: "wrong" });

/** The rows of a split, counted. */
const splitFacts = (split) => ({
  Rows: countText(split.rows), Tokens: countText(split.tokens), "Tokens that are learned": countText(split.supervised_tokens),
  "Longest row, tokens": countText(split.longest_row_tokens), "Rows cut to max_seq_length": countText(split.truncated_rows),
});

function previewOf(row) {
  const spans = row.spans.map((span) => (span.trained ? made("mark", [span.text]) : span.text));
  const about = `Record ${row.record}: ${row.tokens} tokens, ${row.supervised_tokens} learned`;
  return made("figure", [made("figcaption", [about]), made("pre", spans, { tabindex: 0, "aria-label": `record ${row.record}` })]);
}

/** The answer of POST /jobs/validate. */
function checkOf(found) {
  const { source, train, eval: evaluation } = found.data_report || {};
  const parts = [made("h2", ["Check"]), verdictOf(found, "Valid: this job would be queued, and its rows are prepared already.")];
  if (source) parts.push(factsOf({ Layout: source.layout || NONE, Records: countText(source.records), "Records dropped": countText(source.dropped) }));
  if (train) parts.push(factsOf(splitFacts(train)));
  if (evaluation) parts.push(made("h3", ["Evaluation rows"]), factsOf(splitFacts(evaluation)));
  const issues = [...(source?.fixes || []), ...(source?.warnings || []), ...(train?.left_out || []), ...(train?.findings || [])];
  const said = [...issues.map((one) => `${countText(one.count)} × ${one.message || one.code.replaceAll("_", " ")}`), ...found.notices.map((one) => one.message || one.code)];
  if (said.length) parts.push(made("h3", ["Worth knowing"]), made("ul", said.map((text) => made("li", [text]))));
  if (found.preview.length) parts.push(made("h3", ["The first rows; what is learned is marked"]), ...found.preview.map(previewOf));
  return parts;
}

/** The answer of POST /jobs/estimate. */
function estimateOf(found) {
  const parts = [made("h2", ["Estimate"]), verdictOf(found, "Valid.")];
  const { tokens } = found;
  if (!tokens) return parts;
  parts.push(factsOf({
    Steps: countText(tokens.steps), "Tokens of a step": numberText(tokens.mean_step), "Tokens of all steps": countText(tokens.total),
    "Trained parameters": countText(found.trained_parameters), Adapter: sizeText(found.adapter_bytes), Checkpoint: sizeText(found.checkpoint_bytes),
    Memory: `${sizeText(found.least_memory_bytes)} to ${sizeText(found.most_memory_bytes)}`,
  }));
  const columns = ["Worker", "Fits", "Memory", "A step", "All steps", "Why"];
  const fits = (one) => (one.fits === null ? "not known" : one.fits ? "yes" : "no");
  const rows = found.workers.map((one) => [
    `${one.worker}: ${one.device}`, fits(one), sizeText(one.memory_with_margin_bytes), durationText(one.step_seconds), durationText(one.seconds), one.reason,
  ]);
  const head = made("thead", [made("tr", columns.map((name) => made("th", [name], { scope: "col" })))]);
  const body = made("tbody", rows.map((row) => made("tr", row.map((text) => made("td", [text])))));
  parts.push(rows.length ? made("div", [made("table", [head, body])], { class: "wide", tabindex: 0, role: "region", "aria-label": "Workers" }) : made("p", ["No training worker has been seen yet."]));
  return parts;
}
