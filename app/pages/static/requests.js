"use strict";
// A job as a request that another program sends. No key stands in it.

const KEY = "TUNESMITH_API_KEY";

/** A value of JSON as Python writes it. */
function pythonOf(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const inner = `${indent}    `;
  const items = Object.entries(value).map(([name, one]) => `${inner}${isList ? "" : `${JSON.stringify(name)}: `}${pythonOf(one, inner)},\n`);
  const [open, close] = isList ? "[]" : "{}";
  return items.length ? `${open}\n${items.join("")}${indent}${close}` : open + close;
}

/** The shell does not look into the JSON, whatever stands in it: no line of it is the end mark. */
function asCurl(spec, needsKey) {
  const key = needsKey ? `  -H "authorization: Bearer $${KEY}" \\\n` : "";
  return `curl -s ${location.origin}/jobs \\\n${key}  -H 'content-type: application/json' \\\n  -d @- <<'END'\n${JSON.stringify(spec, null, 2)}\nEND`;
}

function asPython(spec, needsKey) {
  const key = needsKey ? `    headers={"authorization": f"Bearer {os.environ['${KEY}']}"},\n` : "";
  const imports = needsKey ? "import os\n\nimport httpx" : "import httpx";
  return `${imports}\n\nanswer = httpx.post(\n    "${location.origin}/jobs",\n${key}    json=${pythonOf(spec, "    ")},\n)\nprint(answer.json())`;
}
