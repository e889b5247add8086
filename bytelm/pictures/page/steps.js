// The cover step by step along a text: a slider that is the cursor, the text, and the tree at the cursor.

import { element, hint } from "./dom.js";
import { bitsOf, shownBits, shownByte, shownText } from "./text.js";
import { coverTrees } from "./tree.js";

/** The cover at one cursor, behind a text. */
export function cover({ text, logprob, ...member }) {
  const told = `Cursor after ‘${shownText(text)}’, which has ${shownBits(bitsOf(logprob))}.`;
  const trees = coverTrees({ members: [{ name: "the text", ...member }] }, "");
  return [element("div", { class: "tree-alone" }, hint(told), ...trees)];
}

/** Covers along a text: `steps[i]` is the cover after the first `i` of `bytes`, and what stands before them. */
export function coverSteps({ bytes, steps, at }) {
  const cells = bytes.map((byte) => element("span", { class: "cell" }, shownByte(byte)));
  const rows = [[]];
  cells.forEach((cell, i) => {
    rows.at(-1).push(cell);
    if (bytes[i] === 10) rows.push([]);
  });
  const text = element(
    "div",
    { class: "strip steps", "aria-hidden": "true" },
    ...rows.map((row) => element("div", { class: "strip-row" }, ...row)),
  );
  const slider = element("input", {
    type: "range", min: 0, max: steps.length - 1, value: at, "aria-label": "Bytes before the cursor",
  });
  const tree = element("div", { class: "cover-tree" });
  const show = () => {
    const now = Number(slider.value);
    cells.forEach((cell, i) => {
      cell.classList.toggle("ahead", i >= now);
      cell.classList.toggle("cursor", i === now - 1);
    });
    const { logprob, ...member } = steps[now];
    const told = `Cursor after ${now} of ${bytes.length} bytes: all before it has ${shownBits(bitsOf(logprob))}.`;
    slider.setAttribute("aria-valuetext", told);
    tree.replaceChildren(hint(told), ...coverTrees({ members: [{ name: "the text", ...member }] }, ""));
    const cell = cells[Math.max(now - 1, 0)];
    if (!cell) return; // the text is empty
    const below = cell.offsetTop + cell.offsetHeight - text.clientHeight;
    if (cell.offsetTop < text.scrollTop || below > text.scrollTop) text.scrollTop = below;
  };
  slider.addEventListener("input", show);
  text.addEventListener("click", (event) => {
    const place = cells.indexOf(event.target.closest(".cell"));
    if (place < 0) return;
    slider.value = String(place + 1);
    show();
    slider.focus();
  });
  show();
  return [slider, text, tree];
}
