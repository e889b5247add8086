// A document of pictures: draws each section of the data that stands in the document.

import { byId, element, hint } from "./dom.js";
import { cover, coverSteps } from "./steps.js";
import { driven, surprisal, units } from "./strip.js";
import { sweep } from "./sweep.js";
import { written } from "./written.js";

const DRAW = {
  surprisal: (data) => surprisal(data, { drawn: Infinity }),
  units,
  cover: coverSteps,
  members: cover,
  written,
  driven: (data) => driven(data, { weights: true }),
  sweep,
};

for (const { kind, heading, note, data } of JSON.parse(byId("data").textContent)) {
  const panel = element("section", { class: `panel ${kind}`, "aria-label": heading }, element("h2", {}, heading));
  byId("pictures").append(panel);
  if (note) panel.append(hint(note));
  panel.append(element("div", {}, ...DRAW[kind](data)));
}
