// The cover at the cursor as a tree: each path from the left is a sequence of tokens that may spell the prefix.
//
// A branch is as thick as its mass. A dead branch is grey: its tokens are none that a text has there, or the last byte
// ruled it out, or the model gives it nothing.

import { bar, element, hint } from "./dom.js";
import { count, shownProb, shownText } from "./text.js";

const KEPT = 2; // tokens of the common beginning that are drawn: enough to know the place
const LEAST = 0.0001;

/** One tree for each model: what /bytelm/cover answers. */
export function coverTrees(answer, prefix) {
  return answer.members.flatMap((member) => {
    const made = [tree(member, prefix)];
    if (answer.members.length > 1) made.unshift(element("h3", {}, member.name));
    if (member.left_out > 0) {
      const others = 1 - member.items.reduce((sum, item) => sum + item.share, 0);
      const known = others < LEAST ? `less than ${LEAST}` : shownProb(others); // a smaller difference is rounding
      made.push(hint(`${count(member.left_out, "other sequence")}, ${known} in all.`));
    }
    return made;
  });
}

function tree(member, prefix) {
  const root = { children: new Map(), mass: 0, hidden: member.hidden ?? 0 };
  for (const item of [...member.items, ...(member.dead ?? [])]) insert(root, item);
  return element("ul", { class: "tree", "aria-label": `Token sequences of ${member.name}` }, ...branches(root, prefix));
}

/** Add the path of an item, token by token; tokens are told apart by their ids. */
function insert(root, item) {
  let node = root;
  item.token_ids.forEach((id, at) => {
    if (!node.children.has(id)) node.children.set(id, { token: item.tokens[at], children: new Map(), mass: 0 });
    node = node.children.get(id);
    node.mass += item.dead ? 0 : item.share;
    node.alive ||= !item.dead;
  });
  node.item = item;
}

function branches(root, prefix) {
  if (root.children.size === 0) return [leaf([], root.item, prefix)]; // the cover of the empty prefix
  return [...root.children.values()].map((child) => branch(child, prefix, root.hidden));
}

/** A node and those that follow it alone, as one line of tokens; below it, its branches. `before`: tokens left out. */
function branch(node, prefix, before) {
  const tokens = [node.token];
  const { mass, alive } = node;
  while (node.children.size === 1 && !node.item) {
    [node] = node.children.values();
    tokens.push(node.token);
  }
  const hidden = before === null ? 0 : Math.max(tokens.length - KEPT - (node.item ? 1 : 0), 0);
  if (node.children.size === 0) return marked(leaf(tokens, node.item, prefix, hidden, before ?? 0), mass, alive);
  const line = element("div", { class: "line" }, ...chips(tokens, hidden, before ?? 0));
  if (node.item) line.append(...share(node.item));
  const below = [...node.children.values()].map((child) => branch(child, prefix, null));
  return marked(element("li", {}, line, element("ul", {}, ...below)), mass, alive);
}

function marked(made, mass, alive) {
  made.style.setProperty("--mass", String(Math.min(mass, 1)));
  if (!alive) made.classList.add("dead");
  return made;
}

function leaf(tokens, item, prefix, hidden = 0, before = 0) {
  const over = item.dead ? 0 : (item.beyond ?? beyond(item, prefix));
  const line = element("div", { class: "line leaf" }, ...chips(tokens, hidden, before, over));
  if (tokens.length === 0) line.append(element("span", { class: "hint" }, "no token yet"));
  if (item.why) line.append(element("span", { class: "hint" }, item.why));
  line.append(...share(item));
  return element("li", {}, line);
}

/** How many characters of an item's last token lie beyond the prefix; 0 where tokens cut characters. */
function beyond(item, prefix) {
  const spelled = item.tokens.join("");
  const start = [prefix, ` ${prefix}`].find((text) => spelled.startsWith(text)); // some tokenizers add a space in front
  return start === undefined ? 0 : spelled.length - start.length;
}

function chips(tokens, hidden, before, over = 0) {
  const spelled = tokens.slice(hidden).filter((token) => token !== null); // null: tokens that are only counted
  const shown = spelled.map((token) => element("span", { class: "token" }, shownText(token)));
  if (over > 0 && shown.length > 0) {
    const token = tokens.at(-1);
    const cut = token.length - over;
    shown.at(-1).replaceChildren(shownText(token.slice(0, cut)), element("i", {}, shownText(token.slice(cut))));
  }
  if (hidden + before > 0) shown.unshift(element("span", { class: "hint" }, `${count(hidden + before, "token")} …`));
  return shown;
}

const share = (item) => [bar(item.share), element("span", { class: "number" }, shownProb(item.share))];
