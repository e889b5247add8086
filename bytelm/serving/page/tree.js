// The cover at the cursor as a tree: each path from the left is a sequence of tokens that may spell the prefix.

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
  const root = { children: new Map() };
  for (const item of member.items) insert(root, item);
  return element("ul", { class: "tree", "aria-label": `Token sequences of ${member.name}` }, ...branches(root, prefix));
}

/** Add the path of an item, token by token; tokens are told apart by their ids. */
function insert(root, item) {
  let node = root;
  item.token_ids.forEach((id, at) => {
    if (!node.children.has(id)) node.children.set(id, { token: item.tokens[at], children: new Map() });
    node = node.children.get(id);
  });
  node.item = item;
}

function branches(root, prefix) {
  if (root.children.size === 0) return [leaf([], root.item, prefix)]; // the cover of the empty prefix
  return [...root.children.values()].map((child) => branch(child, prefix, true));
}

/** A node and those that follow it alone, as one line of tokens; below it, its branches. */
function branch(node, prefix, first) {
  const tokens = [node.token];
  while (node.children.size === 1 && !node.item) {
    [node] = node.children.values();
    tokens.push(node.token);
  }
  const hidden = first ? Math.max(tokens.length - KEPT - (node.item ? 1 : 0), 0) : 0;
  if (node.children.size === 0) return leaf(tokens, node.item, prefix, hidden);
  const line = element("div", { class: "line" }, ...chips(tokens, hidden));
  if (node.item) line.append(...share(node.item));
  const below = [...node.children.values()].map((child) => branch(child, prefix, false));
  return element("li", {}, line, element("ul", {}, ...below));
}

function leaf(tokens, item, prefix, hidden = 0) {
  const line = element("div", { class: "line leaf" }, ...chips(tokens, hidden, beyond(item, prefix)));
  if (tokens.length === 0) line.append(element("span", { class: "hint" }, "no token yet"));
  line.append(...share(item));
  return element("li", {}, line);
}

/** How many characters of an item's last token lie beyond the prefix; 0 where tokens cut characters. */
function beyond(item, prefix) {
  const spelled = item.tokens.join("");
  const start = [prefix, ` ${prefix}`].find((text) => spelled.startsWith(text)); // some tokenizers add a space in front
  return start === undefined ? 0 : spelled.length - start.length;
}

function chips(tokens, hidden, over = 0) {
  const shown = tokens.slice(hidden).map((token) => element("span", { class: "token" }, shownText(token)));
  if (over > 0 && shown.length > 0) {
    const token = tokens.at(-1);
    const cut = token.length - over;
    shown.at(-1).replaceChildren(shownText(token.slice(0, cut)), element("i", {}, shownText(token.slice(cut))));
  }
  if (hidden > 0) shown.unshift(element("span", { class: "hint" }, `${count(hidden, "token")} …`));
  return shown;
}

const share = (item) => [bar(item.share), element("span", { class: "number" }, shownProb(item.share))];
