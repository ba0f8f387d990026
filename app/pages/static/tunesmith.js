"use strict";
// What all pages share: errors are shown in words, and what moves is asked for again while somebody looks at it.

// Of a list in which a job makes progress, and in how many times as long of one in which nothing happens.
const REFRESH_SECONDS = 3;
const QUIET_TIMES = 5;
const AWAY = "The service does not answer.";
const MOVED_MS = 400; // several changes at once are one refresh

/** Show the message of an error; an empty text takes it away. */
function alertOf(text) {
  document.getElementById("alerts").textContent = text;
}

/** The message of an error response of the service. */
function messageOf(text, status) {
  try {
    const error = JSON.parse(text).error;
    const details = (error.details || []).slice(1).map((one) => `${one.field || ""} ${one.found || ""} ${one.expected || ""}`);
    return [error.message, ...details].join("; ");
  } catch {
    return `The service answered with status ${status}.`;
  }
}

/** A request to the REST API. Returns the answer, or throws an error in words whose `cause` is the body. */
async function request(path, options = {}) {
  const token = JSON.parse(document.body.getAttribute("hx-headers"));
  const type = typeof options.body === "string" ? { "content-type": "application/json" } : {};
  const headers = { ...token, ...type, ...options.headers };
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(AWAY);
  });
  if (answer.ok) return answer;
  const body = await answer.text();
  throw new Error(messageOf(body, answer.status), { cause: body });
}

/** The same, and its error is shown above the page. */
async function ask(path, options) {
  try {
    const answer = await request(path, options);
    alertOf("");
    return answer;
  } catch (error) {
    alertOf(error.message);
    throw error;
  }
}

let waiting = null;

/** Something has changed: parts with `hx-trigger="moved from:body"` are asked for again. */
function moved() {
  waiting ??= setTimeout(() => {
    waiting = null;
    document.body.dispatchEvent(new Event("moved"));
  }, MOVED_MS);
}

document.addEventListener("htmx:responseError", (event) => alertOf(messageOf(event.detail.xhr.responseText, event.detail.xhr.status)));
document.addEventListener("htmx:sendError", () => alertOf(AWAY));
// While a change is under way nothing is replaced: htmx forgets the answer of a button that is gone.
let changes = 0;
const isChange = (event) => event.detail.requestConfig.verb !== "get";
document.addEventListener("htmx:beforeRequest", (event) => (changes += isChange(event)));
document.addEventListener("htmx:beforeSwap", (event) => {
  if (changes && !isChange(event)) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (!isChange(event)) return;
  changes -= 1;
  if (event.detail.successful) alertOf("");
  const { verb, path } = event.detail.requestConfig;
  const isGone = event.detail.successful && verb === "delete" && location.pathname.endsWith(path);
  if (isGone) location.assign("/ui/jobs");
  else moved();
});
let ticks = 0;
setInterval(() => {
  const list = document.querySelector("[data-refresh]");
  const isUsed = list?.querySelector(":focus-within"); // a refresh would take the focus away
  if (!list || isUsed || document.visibilityState !== "visible") return;
  ticks += 1;
  const isBusy = list.dataset.refresh === "soon" || list.querySelector("progress");
  if (isBusy || ticks % QUIET_TIMES === 0) moved();
}, REFRESH_SECONDS * 1000);
