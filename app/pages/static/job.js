"use strict";
// The page of a job: it follows events and log, and passes steps on to the curves.

const MOST_EVENTS = 500;
const LOG_SECONDS = 2;
const ENDED = ["succeeded", "failed", "cancelled"];
// The values of a step that stand on the page under their own name.
const LIVE = ["loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second"];
const events = document.getElementById("events");

/** One event in a line: its time, its kind, and its own fields. */
function lineOf(event) {
  const { seq, kind, at, attempt, ...fields } = event;
  const own = Object.entries(fields).filter(([, value]) => value !== null && typeof value !== "object");
  return `${at.slice(11, 19)} ${kind} ${own.map(([name, value]) => `${name}=${value}`).join(" ")}`;
}

function addEvent(event) {
  const item = document.createElement("li");
  item.textContent = lineOf(event);
  const isAtEnd = events.scrollTop + events.clientHeight > events.scrollHeight - 30;
  events.append(item);
  while (events.children.length > MOST_EVENTS) events.firstChild.remove();
  if (isAtEnd) events.scrollTop = events.scrollHeight;
}

function showStep(step) {
  const put = (name, text) => {
    const place = document.querySelector(`[data-live="${name}"]`);
    if (place) place.textContent = text;
  };
  put("step", `${step.step.toLocaleString("en")} / ${step.total_steps.toLocaleString("en")}`);
  for (const name of LIVE) if (step[name] !== null) put(name, Number(step[name]).toLocaleString("en", { maximumSignificantDigits: 4 }));
  const bar = document.querySelector("#job progress");
  if (bar) bar.value = (100 * step.step) / step.total_steps;
}

/** Follow the events while the page is looked at: a browser keeps only six connections to a service open. */
function follow() {
  let source = null;
  let last = events.dataset.last;
  let isOver = false;
  const got = (message) => {
    const event = JSON.parse(message.data);
    last = message.lastEventId || last;
    addEvent(event);
    isOver = event.kind === "deleted" || (event.kind === "status" && ENDED.includes(event.status));
    if (isOver) source.close();
    if (event.kind === "step") {
      showStep(event);
      document.dispatchEvent(new CustomEvent("step", { detail: event }));
      if (document.querySelector("[data-live]")) return;
    }
    if (event.kind === "eval") document.dispatchEvent(new CustomEvent("evaluation", { detail: event }));
    moved();
  };
  const open = () => {
    source?.close();
    if (isOver || document.visibilityState !== "visible") return;
    source = new EventSource(`${events.dataset.stream}?after=${last}`);
    for (const kind of events.dataset.kinds.split(" ")) source.addEventListener(kind, got);
  };
  document.addEventListener("visibilitychange", open);
  open();
}

async function start() {
  const recent = await (await ask(events.dataset.recent)).json();
  recent.data.forEach(addEvent);
  events.scrollTop = events.scrollHeight;
  if ("follow" in events.dataset) follow();
}

/** Ask for what was printed since, while the log is open. */
function followLog(details) {
  const shown = details.querySelector("pre");
  let offset = 0;
  let attempt = null;
  const more = async () => {
    if (!details.open || document.visibilityState !== "visible") return;
    const page = await (await ask(`${details.dataset.log}?offset=${offset}`)).json();
    if (page.attempt !== attempt && attempt !== null) {
      [offset, attempt, shown.textContent] = [0, page.attempt, ""];
      return;
    }
    [offset, attempt] = [page.next_offset, page.attempt];
    shown.append(page.text);
    if (page.text) shown.scrollTop = shown.scrollHeight;
  };
  details.addEventListener("toggle", more);
  setInterval(more, LOG_SECONDS * 1000);
}

start();
followLog(document.getElementById("printed"));
