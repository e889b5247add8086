// Rows of cells, one cell for each byte: its surprisal under that of its token, or who drove it.
//
// A strip is one stop of the Tab key. Left and Right go along the bytes, Up and Down between a token and its bytes.
// The cell under the mouse or the focus is told in words below the strip; a screen reader reads it from the cell.

import { element, hint } from "./dom.js";
import { bitsOf, count, namedByte, probOf, shownBits, shownByte, shownProb, shownText } from "./text.js";

const HOTTEST = 12; // bits from which on the colour is the same
const DRAWN = 2000; // bytes at the end of a long text that are drawn

/** The surprisal of a text: what /bytelm/logprobs answers. */
export function surprisal({ bytes, tokens, logprob, bits_per_byte: rate }) {
  if (bytes.length === 0) return [hint("Nothing is written yet.")];
  const first = Math.max(0, bytes.length - DRAWN);
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
  if (first > 0) sums.push(`Only the last ${DRAWN} bytes are drawn.`);
  return [...strip("Surprisal of bytes and tokens", groups, sums.join(" ")), scale()];
}

/** Who drove each byte of an ensemble's text: what /bytelm/explain answers. */
export function driven({ bytes, members, combine }) {
  const drove = members.map((_, index) => bytes.filter(({ driver }) => driver === index).length);
  const cells = bytes.map(({ byte, driver, logprob, members: said }) => {
    const each = said.map((one, i) => `${members[i]} ${shownProb(probOf(one.logprob))}${weight(one)}`);
    const who = driver === null ? "no member drove it" : `driven by ${members[driver]}`;
    const cell = byteCell(byte, `${namedByte(byte)}: ${who}. Together ${shownProb(probOf(logprob))}, ${each.join(", ")}`);
    return driver === null ? cell : coloured(cell, driver);
  });
  const legend = members.map((name, index) => {
    const swatch = coloured(element("span", { class: "swatch", "aria-hidden": "true" }), index);
    return element("li", {}, swatch, `${name} drove ${count(drove[index], "byte")}`);
  });
  return [
    element("h3", {}, `Who drove each byte (${combine})`),
    element("ul", { class: "legend" }, ...legend),
    ...strip("Who drove each byte", cells.map((cell) => group([cell])), "Point at a byte to read the numbers."),
  ];
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
  cell.classList.add(`member-${member % 6}`);
  return cell;
}

/** Cells of bytes that stay together, with a cell of their token above them. */
function group(cells, head) {
  const last = cells.at(-1)?.dataset.byte === "10";
  const row = element("span", { class: "bytes", role: "presentation" }, ...cells);
  return element("span", { class: last ? "group last" : "group", role: "group" }, ...(head ? [head] : []), row);
}

/** Groups as one list to move in, and the line that tells of a cell. */
function strip(label, groups, sum) {
  const list = element("div", { class: "strip", role: "listbox", "aria-label": label }, ...groups);
  const line = element("p", { class: "hint readout", "aria-hidden": "true" }, sum);
  const cells = [...list.querySelectorAll(".cell")];
  for (const cell of cells) {
    cell.setAttribute("role", "option");
    cell.tabIndex = -1;
  }
  let stop = list.querySelector(".byte");
  stop.tabIndex = 0;
  const tell = (event) => {
    const cell = event.target.closest(".cell");
    if (cell) line.textContent = cell.getAttribute("aria-label");
  };
  list.addEventListener("pointerover", tell);
  list.addEventListener("focusin", (event) => {
    tell(event);
    stop.tabIndex = -1;
    stop = event.target;
    stop.tabIndex = 0;
  });
  const rest = () => {
    const held = list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    line.textContent = held ?? sum;
  };
  list.addEventListener("pointerleave", rest);
  list.addEventListener("focusout", () => queueMicrotask(rest));
  list.addEventListener("keydown", (event) => {
    const goal = neighbour(event.target, event.key, [...list.querySelectorAll(".byte")]);
    if (!goal) return;
    event.preventDefault();
    goal.focus();
  });
  return [list, line];
}

function neighbour(cell, key, bytes) {
  const own = cell.closest(".group");
  const at = bytes.indexOf(cell.matches(".byte") ? cell : own.querySelector(".byte"));
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
