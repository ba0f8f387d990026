"use strict";
// The playground: one question goes to the model of every column, and each answers in a chat of its own.

// Of a token: the class of its colour by the least probability.
const LEVELS = [[0.9, "p4"], [0.6, "p3"], [0.3, "p2"], [0.1, "p1"], [0, "p0"]];
const LAST_SEED = 2 ** 32 - 1;
const by = (id) => document.getElementById(id);
const cloneOf = (id) => by(id).content.firstElementChild.cloneNode(true);
const columns = new Set();
let asking = null; // aborts the answers that are on their way

/** The server-sent events of a response, each with its kind. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The answer broke off.");
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const kind = /^event: (.*)$/m.exec(part);
      const data = /^data: (.*)$/m.exec(part);
      if (kind && data) yield { kind: kind[1].trim(), ...JSON.parse(data[1]) };
    }
  }
}

/** Question and answer of one model. */
class Turn {
  constructor(body, place) {
    this.body = body; // exactly as it is sent
    this.messages = JSON.parse(body).messages;
    this.text = "";
    this.model = null;
    this.row = null; // the feedback that is kept of this answer
    this.unshown = []; // tokens whose text is not complete yet
    this.item = cloneOf("turn");
    this.find(".question").textContent = this.messages.at(-1).content;
    place.append(this.item);
    this.find(".curl").addEventListener("click", () => this.copy());
    this.find(".up")?.addEventListener("click", () => this.mark("up"));
    this.find(".down")?.addEventListener("click", () => this.mark("down"));
    this.find(".keep").addEventListener("click", () => this.rate("down", this.find(".correction textarea").value));
  }

  find(selector) { return this.item.querySelector(selector); }

  say(text, isWrong = false, place = ".facts-line") {
    const line = this.find(place);
    line.textContent = text;
    line.classList.toggle("wrong", isWrong);
  }

  async answer(signal) {
    const began = performance.now();
    this.say("waiting for the first token");
    try {
      const response = await request("/generate", { method: "POST", body: this.body, signal });
      for await (const event of eventsOf(response)) {
        if (event.kind === "delta") this.add(event);
        if (event.kind === "error") throw new Error(event.error.message);
        if (event.kind === "finish") return this.finish(event, (performance.now() - began) / 1000);
      }
    } catch (error) {
      if (error.name === "AbortError") this.say("stopped");
      else this.say(error.message, true);
      this.find(".actions").hidden = false;
      this.item.querySelectorAll(".up, .down").forEach((button) => button.remove()); // this is no whole answer
    }
  }

  /** One span a token, if the tokens of this piece are its text; a character of several tokens is one span. */
  add({ text, logprobs }) {
    if (!this.text && text) this.say("answering");
    this.text += text;
    this.unshown.push(...(logprobs || []));
    if (!text) return;
    const tokens = this.unshown.splice(0);
    const isWhole = tokens.map((one) => one.token).join("") === text;
    const pieces = isWhole ? tokens.map((one) => [one.token, [one]]) : [[text, tokens]];
    for (const [shown, scores] of pieces) {
      const span = document.createElement("span");
      span.textContent = shown;
      const chances = scores.map((one) => Math.exp(one.logprob));
      if (chances.length) {
        span.title = chances.map((chance) => `${(100 * chance).toFixed(1)} %`).join(", ");
        span.className = LEVELS.find(([least]) => Math.min(...chances) >= least)[1];
      }
      this.find(".answer").append(span);
    }
    const list = this.item.parentElement;
    if (list.scrollTop + list.clientHeight > list.scrollHeight - 80) list.scrollTop = list.scrollHeight;
  }

  finish({ model, checkpoint, usage, finish_reason, sampling }, seconds) {
    this.model = model;
    const tokens = usage.completion_tokens;
    const speed = (tokens / seconds).toLocaleString("en", { maximumSignificantDigits: 3 });
    const unproved = checkpoint ? ", a checkpoint that is not proved" : "";
    const ended = finish_reason === "length" ? "length, the most tokens are reached" : finish_reason;
    this.say(`${model}${unproved}. ${tokens} tokens in ${seconds.toFixed(1)} s, ${speed} tokens/s. Finish reason: ${ended}. Seed ${sampling.seed}.`);
    this.find(".actions").hidden = false;
  }

  /** The request in a shell. A quote ends the text, stands for itself, and begins it again. */
  get curl() {
    const key = "withKey" in by("columns").dataset ? ' -H "Authorization: Bearer $TUNESMITH_API_KEY"' : "";
    return `curl -sN ${location.origin}/generate${key} -H 'content-type: application/json' --data-raw '${this.body.replaceAll("'", "'\\''")}'`;
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.curl); // a browser permits it on https and on loopback only
      this.find(".curl").textContent = "Copied";
    } catch {
      const place = this.find(".command");
      place.textContent = this.curl;
      place.hidden = false;
      getSelection().selectAllChildren(place);
    }
  }

  mark(rating) {
    const isTaken = this.row?.rating === rating;
    this.find(".correction").hidden = rating === "up" || isTaken;
    if (isTaken) this.rate(null);
    else if (rating === "up") this.rate("up");
    else this.find(".correction textarea").focus();
  }

  /** Keep this rating in place of the one before; null takes it away. */
  async rate(rating, correction) {
    try {
      const before = this.row;
      this.row = rating && (await this.store(rating, correction));
      if (before) await request(`/feedback/${before.dataset}/${before.id}?project=${before.project}`, { method: "DELETE" });
      this.find(".correction").hidden = true;
      for (const each of ["up", "down"]) this.find(`.${each}`).setAttribute("aria-pressed", String(rating === each));
      this.say(this.row ? `Kept in the dataset ${this.row.dataset}.` : "The feedback was taken away.", false, ".kept");
      moved();
    } catch (error) {
      this.say(error.message, true, ".kept");
    }
  }

  async store(rating, correction) {
    const dataset = by("dataset").value;
    const row = { messages: this.messages, answer: this.text, model: this.model, rating, dataset };
    if (correction) row.correction = correction;
    return (await request("/feedback", { method: "POST", body: JSON.stringify(row) })).json();
  }
}

/** A model with its chat. */
class Column {
  constructor(model) {
    this.item = cloneOf("column");
    this.messages = [];
    this.select = this.item.querySelector("select");
    this.select.value = model ?? this.select.options[0]?.value;
    this.item.querySelector(".remove").addEventListener("click", () => this.remove());
    by("columns").append(this.item);
    columns.add(this);
    number();
  }

  remove() {
    this.item.remove();
    columns.delete(this);
    number();
  }

  clear() {
    this.messages = [];
    this.item.querySelector(".turns").replaceChildren();
  }

  async ask(question, system, settings, signal) {
    const asked = [...this.messages, { role: "user", content: question }];
    const messages = system ? [{ role: "system", content: system }, ...asked] : asked;
    const body = JSON.stringify({ model: this.select.value, messages, ...settings, logprobs: 0, stream: true });
    const turn = new Turn(body, this.item.querySelector(".turns"));
    await turn.answer(signal);
    if (turn.text) this.messages = [...asked, { role: "assistant", content: turn.text }];
  }
}

/** Name the columns, and allow what their number allows. */
function number() {
  [...columns].forEach(({ item }, place) => {
    item.setAttribute("aria-label", `Column ${place + 1}`);
    item.querySelector(".remove").hidden = columns.size === 1;
  });
  by("add").disabled = columns.size >= Number(by("columns").dataset.most);
}

/** The settings that every column gets. Without a seed one is chosen here, so that it is the same for all. */
function settingsOf(form) {
  const fields = [...form.querySelectorAll("input[type=number]")].filter((field) => field.value !== "");
  const settings = Object.fromEntries(fields.map((field) => [field.name, field.valueAsNumber]));
  return { ...settings, seed: settings.seed ?? Math.floor(Math.random() * LAST_SEED) };
}

async function askAll(form) {
  const question = by("prompt").value.trim();
  if (!question || asking || !form.reportValidity()) return;
  asking = new AbortController();
  [by("send").disabled, by("stop").disabled, by("clear").disabled] = [true, false, true];
  by("prompt").value = "";
  const [system, settings] = [by("system").value.trim(), settingsOf(form)];
  await Promise.all([...columns].map((column) => column.ask(question, system, settings, asking.signal)));
  asking = null;
  [by("send").disabled, by("stop").disabled, by("clear").disabled] = [false, true, false];
}

/** Store the rows of a dataset as a file, and say where it is. */
async function writeFile(path) {
  const file = await (await ask(path, { method: "POST" })).json();
  const link = document.createElement("a");
  link.href = `/ui/submit?file=${file.id}`;
  link.textContent = "Train on it";
  by("written").replaceChildren(`${file.filename} is stored as ${file.id}, with ${file.records} rows. `, link);
}

function start(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    askAll(form);
  });
  by("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    askAll(form);
  });
  by("add").addEventListener("click", () => new Column());
  by("stop").addEventListener("click", () => asking?.abort());
  by("clear").addEventListener("click", () => columns.forEach((column) => column.clear()));
  by("colour").addEventListener("change", ({ target }) => {
    by("columns").classList.toggle("coloured", target.checked);
    by("legend").hidden = !target.checked;
  });
  const chosen = JSON.parse(by("columns").dataset.chosen);
  for (const model of chosen.length ? chosen : [undefined]) new Column(model);
}

if (by("question")) start(by("question"));
document.addEventListener("click", ({ target }) => {
  if (target.dataset.write) writeFile(target.dataset.write).catch(() => {}); // `ask` has shown why
});
