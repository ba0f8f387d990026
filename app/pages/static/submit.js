"use strict";
// The form of a new job. Its truth is `spec`, which is the JSON beside it; every field shows one value of it.

const form = document.getElementById("submit");
const fields = document.getElementById("fields");
const json = document.getElementById("json");
const inputs = [...fields.querySelectorAll("[data-kind]")];
const MOST_PROBLEMS = 20;
const unread = new Set(); // controls whose text cannot be read as it stands: they wait, and so does the request
let spec = {};
let isSending = false;
let submitted = 0; // jobs that this form has made: the next one needs another Idempotency-Key

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

const valueAt = (path) => path.split(".").reduce((value, name) => value?.[name], spec);

/** `object` with another value at a path; undefined takes it away, and objects that are empty then. */
function changed(object, [name, ...rest], value) {
  const inner = rest.length ? changed(isObject(object[name]) ? object[name] : {}, rest, value) : value;
  const copy = { ...object, [name]: inner };
  if (inner === undefined || (rest.length && !Object.keys(inner).length)) delete copy[name];
  return copy;
}

/** What an input says: undefined if it is empty. A text may stand in quotes, as in JSON, to have line breaks. */
function valueOf(input) {
  const { value } = input;
  if (value === "") return undefined;
  if (input.dataset.kind === "number") return Number(value);
  const read = parsed(value);
  const isMeant = input.dataset.kind === "text" ? typeof read === "string" : read !== undefined;
  return isMeant ? read : value;
}

/** Show the value of `spec` in its input. What an input cannot show stands behind it in grey. */
function show(input) {
  const value = valueAt(input.name);
  const { kind } = input.dataset;
  const text = JSON.stringify(value) ?? "";
  input.dataset.usual ??= input.placeholder ?? "";
  if (input.tagName === "SELECT") {
    if (text && ![...input.options].some((option) => option.value === text)) input.add(new Option(value, text));
    input.value = text;
    return;
  }
  const isPlain = typeof value === "string" && JSON.stringify(value) === `"${value}"` && !(kind === "json" && parsed(value) !== undefined);
  const isShown = kind === "json" || typeof value === (kind === "number" ? "number" : "string");
  input.value = isShown ? (isPlain ? value : text) : "";
  input.placeholder = isShown || !text ? input.dataset.usual : text;
}

function showJson() {
  json.value = JSON.stringify(spec, null, 2);
  showExamples();
}

function showExamples() {
  const curl = document.getElementById("curl");
  const needsKey = "needsKey" in curl.dataset;
  curl.textContent = asCurl(spec, needsKey);
  document.getElementById("python").textContent = asPython(spec, needsKey);
  if (document.querySelector("#checked > *, #estimated > *")) tell("The request has changed since: check it again.");
}

/** Say what is wrong at a control; an empty text takes it away. */
function say(control, text) {
  document.getElementById(`${control.id}.wrong`).textContent = text;
  if (text) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
  if (text) control.closest("details")?.setAttribute("open", "");
}

/** The same of a text that cannot be read. Returns whether it can. */
function isRead(control, wrong) {
  say(control, wrong);
  if (wrong) unread.add(control);
  else unread.delete(control);
  return !wrong;
}

function wrongIn(input) {
  if (input.validity.badInput) return "This is no number.";
  const isBegun = input.dataset.kind === "json" && /^\s*[[{"]/.test(input.value);
  return isBegun && parsed(input.value) === undefined ? "This is not JSON yet." : "";
}

const objectOf = (input) => input.name.slice(0, input.name.lastIndexOf("."));

function changeField(input) {
  if (!isRead(input, wrongIn(input))) return;
  const value = valueOf(input);
  spec = changed(spec, input.name.split("."), value);
  const isExcluded = (other) => other.dataset.only && other.dataset.only !== input.dataset.only && objectOf(other) === objectOf(input);
  if (value !== undefined && input.dataset.only)
    for (const other of inputs.filter(isExcluded)) {
      if (valueAt(other.name) === undefined) continue;
      spec = changed(spec, other.name.split("."), undefined);
      show(other);
    }
  showJson();
}

/** Take over what was written as JSON. While it is none, the fields wait: they would overwrite it. */
function changeJson() {
  const read = parsed(json.value);
  fields.disabled = !isRead(json, isObject(read) ? "" : "This is no JSON object yet. The fields wait until it is one.");
  if (fields.disabled) return;
  spec = read;
  for (const input of inputs) {
    isRead(input, "");
    show(input);
  }
  showExamples();
}

/** The input that a field of an error is about: its own, the first one within it, or the one that it is within. */
const inputOf = (field) =>
  inputs.find((input) => input.name === field) ||
  inputs.find((input) => input.name.startsWith(`${field}.`)) ||
  inputs.find((input) => field.startsWith(`${input.name}.`));

function forgetProblems() {
  inputs.forEach((input) => say(input, ""));
  document.getElementById("other-problems").replaceChildren();
}

/** Show every problem of an error at its field. One of a record stands at the dataset. */
function showProblems({ param, message, details }) {
  const found = new Map();
  for (const one of details.length ? details : [{ field: param, expected: message }]) {
    const place = one.record ? param : one.field || param || "";
    const where = one.record ? [`record ${one.record}`, one.line ? `line ${one.line}` : "", one.field].filter(Boolean).join(", ") : "";
    const what = [where, one.found && `found ${one.found}`, one.found ? `expected ${one.expected}` : one.expected].filter(Boolean).join(": ");
    const input = inputOf(place);
    const text = input?.name === place || one.record || !place ? what : `${place}: ${what}`;
    found.set(input, [...(found.get(input) || []), text]);
  }
  for (const [input, texts] of found) {
    const more = texts.length > MOST_PROBLEMS ? [`and ${texts.length - MOST_PROBLEMS} more`] : [];
    const shown = [...texts.slice(0, MOST_PROBLEMS), ...more];
    if (input) say(input, shown.join("\n"));
    else document.getElementById("other-problems").append(...shown.map((text) => made("li", [text])));
  }
  [...found.keys()].find(Boolean)?.focus();
}

const tell = (text) => (document.getElementById("doing").textContent = text);

/** Send the JSON as it stands there, and return what comes back. */
const send = async (path, headers) => (await ask(path, { method: "POST", body: json.value, headers })).json();

/** Ask what is found in the request, and show it; what was found in an earlier one goes away first. */
async function find(path, place, partsOf) {
  place.replaceChildren();
  const found = await send(path);
  if (found.error) showProblems(found.error);
  place.replaceChildren(...partsOf(found));
}

// Each says what it does, and returns whether the page is left.
const ACTIONS = {
  check: ["Checking every row…", () => find("/jobs/validate", document.getElementById("checked"), checkOf)],
  estimate: ["Checking every row, and estimating…", () => find("/jobs/estimate", document.getElementById("estimated"), estimateOf)],
  submit: ["Submitting…", async () => {
    const job = await send("/jobs", { "idempotency-key": `${form.dataset.key}-${submitted}` });
    submitted += 1;
    location.assign(`/ui/jobs/${job.id}`);
    return true;
  }],
};

/** One request at a time: a second click does nothing, also while the browser leaves the page. */
async function act([words, action]) {
  if (isSending) return;
  if (unread.size) return void [...unread][0].focus();
  forgetProblems();
  isSending = true;
  tell(words);
  try {
    isSending = Boolean(await action());
    tell("");
  } catch (error) {
    isSending = false;
    const refusal = parsed(error.cause ?? "")?.error;
    tell(refusal ? "The service refused this." : error.message);
    if (refusal) showProblems(refusal);
  }
}

async function upload(chooser) {
  const body = new FormData();
  if (spec.project) body.append("project", spec.project);
  body.append("file", chooser.files[0]);
  const about = document.getElementById("upload.about");
  say(chooser, "");
  about.textContent = "Uploading…";
  try {
    const file = await (await ask("/files", { method: "POST", body })).json();
    for (const select of fields.querySelectorAll("[data-files]")) select.add(new Option(`${file.filename}, ${file.records} records`, JSON.stringify(file.id)), 1);
    const input = document.getElementById("dataset.source.file");
    input.value = JSON.stringify(file.id);
    changeField(input);
    about.textContent = `${file.filename}: ${file.records} records of the layout ${file.layout}, ${file.problem_count} with problems`;
  } catch (error) {
    about.textContent = "";
    say(chooser, error.message);
  }
}

fields.addEventListener("input", (event) => {
  if (event.target.id !== "upload") changeField(event.target);
  else if (event.target.files.length) upload(event.target);
});
json.addEventListener("input", changeJson);
form.addEventListener("submit", (event) => event.preventDefault()); // Enter in a field submits no job
document.querySelectorAll("[data-action]").forEach((button) => button.addEventListener("click", () => act(ACTIONS[button.dataset.action])));
addEventListener("pageshow", (event) => { if (event.persisted) isSending = false; }); // the browser went back to this page
changeJson();
