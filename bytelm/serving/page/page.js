// The page of `bytelm serve`: asks the server as one types, writes completions and infills, and lists endings.
//
// Two things go on at most: the update of the numbers after an edit, and a job (to write, or to search endings).
// A newer one aborts the older of its kind. An edit aborts both, as what they would show belongs to another text.

import { likeliestEndings, nextBytes } from "./bars.js";
import { byId, element, hint } from "./dom.js";
import { get, keepKey, KeyError, post, postForEvents } from "./server.js";
import { driven, surprisal } from "./strip.js";
import { bytesOf, count, fromBase64, readLines, shownBits, bitsOf, wholeText } from "./text.js";
import { coverTrees } from "./tree.js";

const PAUSE = 150; // milliseconds without a key until the numbers are asked for
const LONG = 500; // bytes of a prefix beyond which its tokens and its surprisal are shown on demand
const TAIL = 200; // characters of the prefix and the suffix that are shown around a completion
const PANELS = ["next", "cover", "surprisal"];
const LONG_TITLES = { cover: "Show its tokens", surprisal: "Show its surprisal" };
const ENDS = {
  eot: "The model ended the text.",
  stop: "A stop string came.",
  length: "It has as many bytes as it may have.",
  time: "The time for it was over.",
};

const form = byId("write-form");
const prefixField = byId("prefix");
const suffixField = byId("suffix");

let model = null; // what /bytelm/model says
let timer = null; // of the pause after a key
let update = null; // the AbortController of the update that goes on
let job = null; // and that of the job
let keepable = null; // the bytes that "Keep" puts into the prefix
const shownErrors = new Map(); // messages, by the kind of request that they belong to

// ---- what the user does

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run(write);
});
byId("likeliest").addEventListener("click", () => run(search));
byId("stop-writing").addEventListener("click", () => job?.abort());
byId("keep").addEventListener("click", () => keep(keepable));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value);
  byId("key-form").hidden = true;
  byId("key").value = "";
  start();
});
for (const field of [prefixField, suffixField]) field.addEventListener("input", edited);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") job?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
    event.preventDefault();
    run(write);
  }
});

start();

async function start() {
  tell("model", []);
  try {
    model = await get("bytelm/model");
  } catch (error) {
    byId("model").textContent = "";
    tell("model", [error]);
    return;
  }
  const fills = model.modes.filter((mode) => mode !== "left");
  const facts = [model.members.length > 1 ? `${model.members.join(" and ")} by ${model.combine}` : model.name];
  if (fills.length > 0) facts.push(`fills in (${fills.join(", ")})`);
  if (model.context_length) facts.push(`context of ${model.context_length} tokens`);
  byId("model").textContent = facts.join(" · ");
  document.title = `bytelm: ${model.name}`;
  byId("suffix-field").hidden = fills.length === 0;
  await showNumbers();
}

function edited() {
  job?.abort();
  keepable = null;
  byId("keep").hidden = true;
  byId("endings").hidden = true;
  update?.abort();
  for (const id of PANELS) byId(id).setAttribute("aria-busy", "true"); // what they show is of the older text
  clearTimeout(timer);
  timer = setTimeout(showNumbers, PAUSE);
}

// ---- the numbers of the prefix

/** Fill the panels one after the other: the cheapest first, and after an edit none that nobody needs. */
async function showNumbers() {
  update?.abort();
  update = new AbortController();
  const { signal } = update;
  const prefix = prefixField.value;
  const askFor = {
    next: async () => nextBytes(await post("bytelm/next", { prefix, top: 12 }, signal)),
    cover: async () => coverTrees(await post("bytelm/cover", { prefix, top: 12 }, signal), prefix),
    surprisal: async () => surprisal(await post("bytelm/logprobs", { text: prefix, tokens: true }, signal)),
  };
  const errors = [];
  const size = bytesOf(prefix).length;
  for (const id of PANELS) {
    if (id !== "next" && size > LONG) byId(id).replaceChildren(...onDemand(id, size, askFor[id], signal));
    else errors.push(...(await fill(id, askFor[id])));
    if (signal.aborted) return;
    byId(id).removeAttribute("aria-busy");
  }
  tell("numbers", errors);
}

/** Put an answer into a panel; where there is none the panel is empty, and the errors are returned. */
async function fill(id, asked) {
  const panel = byId(id);
  panel.setAttribute("aria-busy", "true"); // faded until the answer is there
  try {
    panel.replaceChildren(...(await asked()));
  } catch (error) {
    if (error.name === "AbortError") return []; // the newer update has the panel now
    panel.replaceChildren();
    return [error];
  }
  return [];
}

/** A button that fills a panel for a long text, as that takes the model a while. */
function onDemand(id, size, asked, signal) {
  const button = element("button", { type: "button" }, LONG_TITLES[id]);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const errors = await fill(id, asked);
    if (signal.aborted) return;
    byId(id).removeAttribute("aria-busy");
    byId(id).focus(); // the button is gone
    tell("numbers", errors);
  });
  return [hint(`This takes a while for ${count(size, "byte")}.`), element("div", { class: "row" }, button)];
}

// ---- jobs

/** Run a job in place of the one that goes on. */
async function run(work) {
  job?.abort();
  const own = new AbortController();
  job = own;
  byId("stop-writing").disabled = false;
  tell("job", []);
  try {
    await work(own.signal);
  } catch (error) {
    if (error.name !== "AbortError") tell("job", [error]);
  } finally {
    if (job === own) {
      job = null;
      if (document.activeElement === byId("stop-writing")) byId("write").focus();
      byId("stop-writing").disabled = true;
    }
  }
}

async function write(signal) {
  const prefix = prefixField.value;
  const suffix = suffixOrNone();
  const asked = {
    prefix,
    suffix,
    max_bytes: numberIn("max_bytes"),
    temperature: numberIn("temperature"),
    top_k: numberIn("top_k"),
    top_p: numberIn("top_p"),
    min_p: numberIn("min_p"),
    seed: numberIn("seed"),
    stop: readLines(form.elements.stop.value),
    stream: true,
  };
  const text = document.createTextNode("");
  frame(prefix, suffix, text);
  let completion = null;
  try {
    for await (const event of postForEvents("bytelm/sample", asked, signal)) {
      if (event.completion) completion = event.completion;
      else text.appendData(event.text);
    }
    if (!completion) throw new Error("The stream ended before the completion did.");
    const bytes = fromBase64(completion.base64);
    text.data = completion.text;
    const size = bytes.length === 0 ? "Nothing was written" : count(bytes.length, "byte");
    const surprise = shownBits(bitsOf(completion.logprob));
    note(`${size}, ${surprise}. ${ENDS[completion.finish_reason] ?? completion.finish_reason}`);
    offer(bytes);
    if (model?.members.length > 1 && suffix === undefined && bytes.length > 0) {
      const told = await post("bytelm/explain", { text: { base64: completion.base64 }, prefix }, signal);
      byId("driven").replaceChildren(...driven(told));
      byId("driven").hidden = false;
    }
  } catch (error) {
    if (!completion) {
      const bytes = bytesOf(text.data);
      note(`Stopped after ${count(bytes.length, "byte")}.`);
      if (prefixField.value === prefix) offer(bytes);
    }
    throw error;
  } finally {
    byId("new").removeAttribute("aria-busy");
  }
}

/** An empty completion between the end of the prefix and the beginning of the suffix. */
function frame(prefix, suffix, text) {
  keepable = null;
  byId("keep").hidden = true;
  byId("driven").hidden = true;
  byId("endings").hidden = true;
  byId("written").hidden = false;
  byId("written-title").textContent = suffix === undefined ? "Completion" : "Infill";
  byId("before").textContent = (prefix.length > TAIL ? "…" : "") + prefix.slice(-TAIL);
  byId("after").textContent = suffix === undefined ? "" : suffix.slice(0, TAIL) + (suffix.length > TAIL ? "…" : "");
  byId("new").setAttribute("aria-busy", "true"); // a screen reader waits for the whole text
  byId("new").replaceChildren(text);
  note("Writing…");
}

function offer(bytes) {
  keepable = bytes;
  byId("keep").hidden = bytes.length === 0;
}

async function search(signal) {
  const asked = {
    prefix: prefixField.value,
    suffix: suffixOrNone(),
    n: numberIn("endings_n"),
    max_bytes: numberIn("endings_max_bytes"),
    max_calls: numberIn("endings_max_calls"),
    stop: readLines(form.elements.endings_stop.value),
  };
  byId("endings-body").replaceChildren("Searching…");
  byId("endings").hidden = false;
  try {
    const answer = await post("bytelm/likeliest", asked, signal);
    byId("endings-body").replaceChildren(
      ...likeliestEndings(answer, (ending) => keep(fromBase64(ending.base64))),
    );
  } catch (error) {
    byId("endings").hidden = true;
    throw error;
  }
}

/** Put bytes behind the prefix, but for those at the end that are no whole character: a field cannot hold them. */
function keep(bytes) {
  const { text, left } = wholeText(bytes);
  prefixField.value += text;
  edited();
  prefixField.focus();
  prefixField.scrollTop = prefixField.scrollHeight;
  note(left > 0 ? `Kept without ${count(left, "byte")} at the end: a text field holds whole characters.` : "Kept.");
}

// ---- fields and lines

const suffixOrNone = () => (byId("suffix-field").hidden || suffixField.value === "" ? undefined : suffixField.value);

/** The number in a field; undefined where the field is empty, so that the server's default holds. */
function numberIn(name) {
  const value = form.elements[name].value.trim();
  if (value === "") return undefined;
  const number = Number(value);
  if (Number.isNaN(number) || Math.abs(number) > Number.MAX_SAFE_INTEGER) {
    throw new Error(`${name.replace("endings_", "")} must be a number; got ${value}`);
  }
  return number;
}

function note(text) {
  byId("written-note").textContent = text;
}

/** Show the errors of one kind of request in place of its older ones; an aborted request is no error. */
function tell(kind, errors) {
  const real = errors.filter((error) => error.name !== "AbortError");
  if (real.some((error) => error instanceof KeyError)) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  shownErrors.set(kind, real.map((error) => error.message));
  const messages = new Set([...shownErrors.values()].flat());
  byId("errors").replaceChildren(...[...messages].map((message) => element("p", {}, message)));
}
