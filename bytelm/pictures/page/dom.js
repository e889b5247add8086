// Builds elements. A text from the server or the user becomes a text node here, and never HTML.

/** An element with attributes (those that are null or false are left out) and children (elements or texts). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A paragraph that explains. */
export const hint = (text) => element("p", { class: "hint" }, text);

/** A bar as long as a share between 0 and 1. The number is beside it, so it says nothing to a screen reader. */
export function bar(share) {
  const made = element("span", { class: "bar", "aria-hidden": "true" });
  made.style.setProperty("--share", String(Math.min(Math.max(share, 0), 1)));
  return made;
}

export const byId = (id) => document.getElementById(id);
