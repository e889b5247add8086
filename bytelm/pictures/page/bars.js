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

/** The likeliest bytes at a place in a text, the leak there, and the text's own byte marked among them. */
export function byteBars({ byte: own, top, leak, entropy }, at) {
  const rows = top.map(([byte, logprob]) => row(symbol(byte), probOf(logprob), byte === own ? "own" : null));
  const facts = [];
  if (typeof leak === "number") facts.push(`Leak ${shownProb(leak)}: the model gives it to tokens that spell no text here.`);
  if (typeof entropy === "number") facts.push(`Entropy ${entropy.toFixed(2)} bits.`);
  return [element("h3", {}, `The likeliest at byte ${at + 1}`), table("Byte", rows), ...(facts.length > 0 ? [hint(facts.join(" "))] : [])];
}

/** What each member of an ensemble gave to a byte. */
export function memberBars({ members: said }, names, at) {
  const rows = said.map(({ logprob, weight }, i) => {
    const cell = element("td", { class: "number" }, `weight ${weight.toFixed(2)}`);
    const swatch = element("span", { class: `swatch member-${i % 6}`, "aria-hidden": "true" });
    return row(element("span", { class: "named" }, swatch, names[i]), probOf(logprob), null, cell);
  });
  return [element("h3", {}, `What each gave byte ${at + 1}`), table("Member", rows, element("td"))];
}

/** Some probabilities under their names. */
export const namedBars = (head, all) => table(head, all.map(([name, logprob]) => row(name, probOf(logprob))));

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
