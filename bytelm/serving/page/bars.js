// Tables of probabilities with bars: the next byte, and the likeliest endings.

import { bar, element, hint } from "./dom.js";
import { namedByte, probOf, shownByte, shownProb, shownText } from "./text.js";

const LEAST_LEAK = 1e-6; // less is rounding

/** The next byte: what /bytelm/next answers. */
export function nextBytes(answer) {
  const rows = answer.symbols.map(({ byte, logprob }) => row(symbol(byte), probOf(logprob)));
  if (answer.rest_logprob !== null) rows.push(row("all others", probOf(answer.rest_logprob), "rest"));
  const made = [table("Byte", rows)];
  if (answer.leak > LEAST_LEAK) {
    made.push(hint(`The model gives ${shownProb(answer.leak)} to tokens that spell no text.`));
  }
  return made;
}

/** The likeliest endings: what /bytelm/likeliest answers. `onKeep` gets the ending whose button is pressed. */
export function likeliestEndings(answer, onKeep) {
  if (answer.endings.length === 0) return [hint("No ending was found.")];
  const rows = answer.endings.map((ending) => {
    const shown = ending.text === "" ? "(nothing)" : shownText(ending.text) + (ending.complete ? "" : "…");
    const keep = element("button", { type: "button", "aria-label": `Keep ${shown}` }, "Keep");
    keep.addEventListener("click", () => onKeep(ending));
    return row(element("span", { class: "text" }, shown), probOf(ending.logprob), null, element("td", {}, keep));
  });
  if (answer.missing_logprob !== null) {
    rows.push(row("any other, at most", probOf(answer.missing_logprob), "rest", element("td")));
  }
  return [
    table("Ending", rows, element("td")),
    hint(
      answer.certified
        ? "No other ending is likelier than these."
        : "The search ended early: another ending may be likelier than these.",
    ),
  ];
}

function symbol(byte) {
  if (byte === null) return "end of text";
  return element(
    "span",
    {},
    element("span", { class: "text", "aria-hidden": "true" }, shownByte(byte)),
    element("span", { class: "unseen" }, namedByte(byte)),
  );
}

function row(head, prob, kind, ...more) {
  return element(
    "tr",
    { class: kind },
    element("th", { scope: "row" }, head),
    element("td", { class: "number" }, shownProb(prob)),
    element("td", { class: "bar-cell" }, bar(prob)),
    ...more,
  );
}

function table(head, rows, ...more) {
  const heads = element(
    "tr",
    {},
    element("th", { scope: "col" }, head),
    element("th", { scope: "col" }, "Probability"),
    element("td"),
    ...more,
  );
  return element("table", {}, element("thead", { class: "unseen" }, heads), element("tbody", {}, ...rows));
}
