// Rows of cells, one cell for each byte: its surprisal under that of its token, or who drove it.
//
// A strip is one stop of the Tab key. Left and Right go along the bytes, Up and Down between a token and its bytes.
// The cell under the mouse or the focus is told in words below the strip; a screen reader reads it from the cell.
// Where there is more to tell of a byte (the likeliest bytes at its place), that stands below the words.

import { byteBars, memberBars } from "./bars.js";
import { element, hint } from "./dom.js";
import { bitsOf, count, namedByte, probOf, shownBits, shownByte, shownProb, shownText } from "./text.js";

const HOTTEST = 12; // bits from which on the colour is the same
const MEMBERS = 6; // colours
const ROW = 128; // groups at most in a row of the strip: a browser lays out only rows that are in view
const DRAWN = 2000; // bytes at the end of a long text that are drawn

/** The surprisal of a text: what /bytelm/logprobs answers, and perhaps the likeliest bytes at each place. */
export function surprisal({ bytes, tokens, logprob, bits_per_byte: rate }, { drawn = DRAWN } = {}) {
  if (bytes.length === 0) return [hint("Nothing is written yet.")];
  const first = Math.max(0, bytes.length - drawn);
  const cells = bytes.map(({ byte, logprob: value }, at) => {
    const cell = byteCell(byte, `${told(namedByte(byte), value)}. Byte ${at + 1} of ${bytes.length}`);
    return heated(cell, bitsOf(value));
  });
  const groups = [];
  let at = first;
  for (const token of tokens ?? []) {
    if (token.end <= at) continue;
    if (token.start > at) groups.push(group(cells.slice(at, token.start)));
    const head = element("span", { class: "cell head" }, shownText(token.shown));
    head.setAttribute("aria-label", told(`Token ‘${token.shown}’`, token.logprob));
    groups.push(group(cells.slice(Math.max(at, token.start), token.end), heated(head, bitsOf(token.logprob))));
    at = token.end;
  }
  groups.push(...cells.slice(at).map((cell) => group([cell])));
  const sums = [`By bytes ${shownBits(bitsOf(logprob))}, ${rate === null ? "∞" : rate.toFixed(3)} bits per byte.`];
  if (tokens) sums.push(`By the canonical tokens ${shownBits(tokens.reduce((sum, t) => sum + bitsOf(t.logprob), 0))}.`);
  if (first > 0) sums.push(`Only the last ${drawn} bytes are drawn.`);
  const more = bytes[0].top && ((at) => byteBars(bytes[at + first], at + first));
  return [...strip("Surprisal of bytes and tokens", groups, sums.join(" "), more), scale()];
}

/** The surprisal of a text by any units: one cell for each. */
export function units({ units: all, by, logprob }) {
  const groups = all.map(({ text, end, ...unit }, at) => {
    const facts = [`${told(end ? "End of text" : `‘${shownText(text)}’`, unit.logprob)}. ${at + 1} of ${all.length}`];
    if (typeof unit.entropy === "number") facts.push(`Entropy before it ${shownBits(unit.entropy)}`);
    if (typeof unit.leak === "number") facts.push(`leak ${shownProb(unit.leak)}`);
    const shown = end ? "end" : text === "" ? "·" : shownText(text);
    const cell = element("span", { class: "cell byte", "aria-label": facts.join(", ") }, shown);
    if (text.endsWith("\n")) cell.dataset.byte = "10";
    return group([heated(cell, bitsOf(unit.logprob))]);
  });
  const sum = `${count(all.length, by)}, ${shownBits(bitsOf(logprob))}.`;
  return [...strip(`Surprisal by ${by}`, groups, sum), scale()];
}

/** Who drove each byte of an ensemble's text: what /bytelm/explain answers; with bars of the weights where asked. */
export function driven({ bytes, members, combine }, { weights = false } = {}) {
  if (bytes.length === 0) return [hint("Nothing was written.")];
  const drove = members.map((_, index) => bytes.filter(({ driver }) => driver === index).length);
  const cells = bytes.map(({ byte, driver, logprob, members: said }) => {
    const each = said.map((one, i) => `${members[i]} ${shownProb(probOf(one.logprob))}${weight(one)}`);
    const who = driver === null ? "no member drove it" : `driven by ${members[driver]}`;
    const cell = byteCell(byte, `${namedByte(byte)}: ${who}. Together ${shownProb(probOf(logprob))}, ${each.join(", ")}`);
    return driver === null ? cell : coloured(cell, driver);
  });
  const heads = bytes.map((each) => (weights ? weightBar(each.members) : undefined));
  const legend = members.map((name, index) => {
    const swatch = coloured(element("span", { class: "swatch", "aria-hidden": "true" }), index);
    return element("li", {}, swatch, `${name} drove ${count(drove[index], "byte")}`);
  });
  return [
    element("h3", {}, combine ? `Who drove each byte (${combine})` : "Who drove each byte"),
    element("ul", { class: "legend" }, ...legend),
    ...strip(
      "Who drove each byte",
      cells.map((cell, at) => group([cell], heads[at])),
      weights ? "The bars are the weights. Point at a byte to read the numbers." : "Point at a byte to read the numbers.",
      weights && ((at) => memberBars(bytes[at], members, at)),
    ),
  ];
}

/** The weights of the members at a byte, as parts of a bar; of weights below 0 the size. */
function weightBar(members) {
  const sizes = members.map(({ weight }) => Math.abs(weight));
  const sum = sizes.reduce((sum, size) => sum + size, 0) || 1;
  let at = 0;
  const parts = sizes.map((size, index) => {
    const from = at;
    at += (100 * size) / sum;
    return `var(--member-${index % MEMBERS}) ${from}% ${at}%`;
  });
  const made = element("span", { class: "weights", "aria-hidden": "true" });
  made.style.setProperty("background", `linear-gradient(to right, ${parts.join(", ")})`);
  return made;
}

const told = (name, logprob) => `${name}: ${shownBits(bitsOf(logprob))}, probability ${shownProb(probOf(logprob))}`;
const weight = (one) => (typeof one.weight === "number" ? ` (weight ${one.weight.toFixed(2)})` : "");

function byteCell(byte, label) {
  return element("span", { class: "cell byte", "aria-label": label, "data-byte": byte }, shownByte(byte));
}

function heated(cell, bits) {
  cell.style.setProperty("--heat", String(Math.min(bits / HOTTEST, 1)));
  return cell;
}

function coloured(cell, member) {
  cell.classList.add(`member-${member % MEMBERS}`);
  return cell;
}

/** Cells of bytes that stay together, with a cell of their token above them. */
export function group(cells, head) {
  const last = cells.at(-1)?.dataset.byte === "10";
  const row = element("span", { class: "bytes", role: "presentation" }, ...cells);
  return element("span", { class: last ? "group last" : "group", role: "group" }, ...(head ? [head] : []), row);
}

/** Groups as one list to move in, the line that tells of a cell, and a place for `more` of the byte with a number. */
export function strip(label, groups, sum, more) {
  const list = element("div", { class: "strip", role: "listbox", "aria-label": label }, ...lines(groups));
  const line = element("p", { class: "hint readout", "aria-hidden": "true" }, sum);
  const beside = more ? [element("div", { class: "more" })] : [];
  const bytes = [...list.querySelectorAll(".byte")];
  const places = new Map(bytes.map((cell, at) => [cell, at]));
  for (const cell of list.querySelectorAll(".cell")) {
    cell.setAttribute("role", "option");
    cell.tabIndex = -1;
  }
  const placeOf = (cell) => places.get(cell.matches(".byte") ? cell : cell.closest(".group").querySelector(".byte"));
  const tell = (cell) => {
    line.textContent = cell.getAttribute("aria-label");
    beside[0]?.replaceChildren(...more(placeOf(cell)));
  };
  let stop = bytes[0];
  stop.tabIndex = 0;
  beside[0]?.replaceChildren(...more(0));
  list.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) tell(cell);
  });
  list.addEventListener("focusin", (event) => {
    tell(event.target);
    stop.tabIndex = -1;
    stop = event.target;
    stop.tabIndex = 0;
  });
  const rest = () => {
    if (list.contains(document.activeElement)) tell(document.activeElement);
    else line.textContent = sum;
  };
  list.addEventListener("pointerleave", rest);
  list.addEventListener("focusout", () => queueMicrotask(rest));
  list.addEventListener("keydown", (event) => {
    const goal = neighbour(event.target, event.key, bytes, placeOf(event.target));
    if (!goal) return;
    event.preventDefault();
    goal.focus();
  });
  return [list, line, ...beside];
}

/** The groups in rows that end where a line of the text does, or where they are long. */
function lines(groups) {
  const rows = [[]];
  for (const each of groups) {
    if (rows.at(-1).length === ROW || rows.at(-1).at(-1)?.matches(".last")) rows.push([]);
    rows.at(-1).push(each);
  }
  return rows.map((row) => element("div", { class: "strip-row", role: "presentation" }, ...row));
}

function neighbour(cell, key, bytes, at) {
  const own = cell.closest(".group");
  if (key === "ArrowUp") return own.querySelector(".head");
  if (key === "ArrowDown") return cell.matches(".head") ? bytes[at] : null;
  if (key === "ArrowLeft") return bytes[at - 1];
  if (key === "ArrowRight") return bytes[cell.matches(".head") ? at + own.querySelectorAll(".byte").length : at + 1];
  if (key === "Home") return bytes[0];
  if (key === "End") return bytes.at(-1);
  return null;
}

/** The legend of the colours. */
function scale() {
  const steps = [0, 1, 2, 4, 8, HOTTEST].map((bits) =>
    heated(element("span", { class: "cell" }, bits === HOTTEST ? `${bits}+` : String(bits)), bits),
  );
  return element("p", { class: "scale hint", "aria-hidden": "true" }, "bits ", ...steps);
}
