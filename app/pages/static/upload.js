"use strict";
// The form that uploads a file. `fetch` does not tell how much was sent, so this is an XMLHttpRequest.

const form = document.getElementById("upload");
const bar = form?.querySelector("progress");
const said = form?.querySelector("output");
const counted = new Intl.NumberFormat("en");

/** What became of an upload, in a sentence with a link to its report. */
function showStored(file) {
  const link = document.createElement("a");
  link.href = `/ui/datasets/${file.id}`;
  link.textContent = file.filename;
  const good = `${counted.format(file.usable_records)} of its ${counted.format(file.records)} rows are good.`;
  said.replaceChildren("Stored ", link, `: ${good}`);
}

function showSent(sent, total) {
  [bar.max, bar.value] = [total, sent];
  const all = sent === total ? " All is sent; its rows are checked now." : "";
  said.textContent = `${counted.format(sent)} of ${counted.format(total)} bytes sent.${all}`;
}

function ended(problem) {
  bar.hidden = true;
  form.querySelector("button").disabled = false;
  said.textContent = "";
  alertOf(problem);
}

function upload(event) {
  event.preventDefault();
  const fields = new FormData(form);
  if (!fields.get("project")) fields.delete("project"); // the service takes that of the key
  const { size } = fields.get("file");
  if (size > Number(form.dataset.most)) {
    ended(`The file has ${counted.format(size)} bytes, and this service takes at most ${counted.format(form.dataset.most)}.`);
    return;
  }
  const request = new XMLHttpRequest();
  request.upload.addEventListener("progress", ({ loaded, total }) => showSent(loaded, total));
  request.addEventListener("error", () => ended("The upload broke off, and nothing was stored. Is the service up, and has its disk room for the file?"));
  request.addEventListener("load", () => {
    ended(request.status === 201 ? "" : messageOf(request.responseText, request.status));
    if (request.status !== 201) return;
    form.reset();
    showStored(JSON.parse(request.responseText));
    moved();
  });
  request.open("POST", "/files");
  for (const [name, value] of Object.entries(JSON.parse(document.body.getAttribute("hx-headers")))) request.setRequestHeader(name, value);
  bar.hidden = false;
  form.querySelector("button").disabled = true;
  alertOf("");
  request.send(fields);
}

form?.addEventListener("submit", upload);
