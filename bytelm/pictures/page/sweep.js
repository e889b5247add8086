// A cursor that is swept through a text: what the word under it costs if the prompt ends there, by bytes and by tokens.
//
// Each byte has a column. Its lines are for a cursor in front of the byte: the surprisal of the word, of which the part
// before the cursor is given, and the rest is written by each method. By bytes it is the same at each cursor of a word.

import { namedBars } from "./bars.js";
import { element } from "./dom.js";
import { group, strip } from "./strip.js";
import { bitsOf, namedByte, shownByte, shownText } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const GRID = 4; // steps of a column; the sheet draws their lines

/** Methods at each cursor of a text; the first one is by bytes. */
export function sweep({ bytes, words, methods: given }) {
  const methods = given.map((each) => ({ ...each, word: each.word.map(cost) }));
  const all = methods.flatMap(({ word }) => word).filter((bits) => Number.isFinite(bits));
  const step = stepOf(Math.max(...all, 1) / GRID);
  const groups = bytes.map((byte, at) => {
    const values = methods.map(({ name, word }) => `${name} ${word[at] === null ? "none" : word[at] === Infinity ? "∞" : word[at].toFixed(1)}`);
    const label = `Cursor before ${namedByte(byte)} in ‘${shownText(words[at])}’: bits of the word ${values.join(", ")}`;
    const cell = element("span", { class: "cell byte", "aria-label": label, "data-byte": byte }, shownByte(byte));
    return group([cell], column(methods.map(({ word }) => word[at]), step * GRID));
  });
  const legend = methods.map(({ name }, i) =>
    element("li", {}, element("span", { class: `swatch line-${i}`, "aria-hidden": "true" }), name),
  );
  const told = `Each column is ${step * GRID} bits high, with a line every ${step} bits. Point at a byte to put the cursor in front of it.`;
  const more = (at) => [
    element("h3", {}, `The rest of ‘${shownText(words[at])}’ with the cursor in front of ${namedByte(bytes[at])}`),
    namedBars("Method", methods.map(({ name, rest }) => [name, typeof rest[at] === "number" ? rest[at] : null])),
  ];
  return [element("ul", { class: "legend" }, ...legend), ...strip("Cursors of the text", groups, told, more)];
}

/** Bits; null where there is no number. */
const cost = (logprob) => (logprob === null ? null : logprob === "impossible" ? Infinity : bitsOf(logprob));

/** A picture of each method's bits at one cursor. */
function column(costs, height) {
  const svg = drawn("svg", { class: "column-plot", viewBox: "0 0 10 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  const level = (bits) => 98 - 96 * Math.min(bits / height, 1);
  const exact = level(costs[0]);
  costs.forEach((bits, i) => {
    if (bits === null || i === 0) return;
    const [left, middle, right] = i === 1 ? [0.5, 2.5, 4.5] : [5.5, 7.5, 9.5];
    svg.append(drawn("path", { class: `line-${i}`, d: `M${middle} ${exact}V${level(bits)}M${left} ${level(bits)}H${right}` }));
  });
  svg.append(drawn("line", { class: "line-0", x1: 0, x2: 10, y1: exact, y2: exact }));
  return svg;
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A step of 1, 2 or 5 times a power of ten that is no less than a number. */
function stepOf(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}
