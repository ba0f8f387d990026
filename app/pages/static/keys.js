"use strict";
// The form that makes a key. Its text is in one response only, so it stays on the page until it is hidden.

const form = document.getElementById("make");
const made = document.getElementById("made");
const shown = document.getElementById("made-key");

async function make(event) {
  event.preventDefault();
  const fields = new FormData(form);
  const wanted = {
    name: fields.get("name"),
    project: fields.get("project") || null,
    scopes: fields.getAll("scopes"),
    expires_in_days: fields.get("expires_in_days") ? Number(fields.get("expires_in_days")) : null,
  };
  const answer = await (await ask("/keys", { method: "POST", body: JSON.stringify(wanted) })).json();
  form.reset();
  shown.value = answer.key;
  made.hidden = false;
  shown.select();
  moved();
}

function hide() {
  shown.value = "";
  made.hidden = true;
}

async function copy() {
  shown.select();
  const isAllowed = navigator.clipboard !== undefined; // browsers have it on https and on this host only
  if (isAllowed) await navigator.clipboard.writeText(shown.value);
  document.getElementById("copy").textContent = isAllowed ? "Copied" : "It is selected: press Ctrl+C";
}

form.addEventListener("submit", (event) => make(event).catch(() => undefined)); // `ask` has shown why
document.getElementById("hide").addEventListener("click", hide);
document.getElementById("copy").addEventListener("click", copy);
