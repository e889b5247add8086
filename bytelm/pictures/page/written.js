// A text that a model wrote, in a box, and below it what is known of it.

import { element, hint } from "./dom.js";

/** A completion: its text as it is, and short statements about it. */
export function written({ text, facts }) {
  const box = element("pre", { class: "written-text", tabindex: 0, "aria-label": "The text" }, text);
  return [text === "" ? hint("Nothing was written.") : box, hint(facts.join(" · "))];
}
