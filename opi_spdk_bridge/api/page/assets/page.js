// The live tree: asks for the state of what is open every few seconds, and draws it anew.

const INTERVAL_MS = 2000;
const ROWS = 100;
const LONGEST_QUERY = 6000; // characters; a URL may have 8 Ki

const tree = document.getElementById("tree");
const open = new Set(["nvmeSubsystems"]); // keys of groups and names of resources
let rows = ROWS;
let state = null;
let before = null; // the state before, for rates
let focused = null; // path of the item in the tab order
let selected = null; // name of the resource that is shown

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, number)) / 10));
  return `${(number / 1024 ** power).toLocaleString("en", { maximumFractionDigits: 1 })} ${units[power]}`;
}

function counters(of, name) {
  for (const { nodes } of Object.values(of?.open ?? {})) {
    const found = nodes.find((node) => node.name === name && node.counters);
    if (found) return found.counters;
  }
  return null;
}

function rate(node) {
  const earlier = node.counters && counters(before, node.name);
  if (!earlier) return "";
  const seconds = state.at_s - before.at_s;
  const perSecond = (key) => Math.max(0, node.counters[key] - earlier[key]) / seconds;
  return `${bytes(perSecond("bytes"))}/s · ${Math.round(perSecond("operations")).toLocaleString("en")} IO/s`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function item(path, key, level, parts, opens) {
  const made = element("li");
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", level);
  made.dataset.path = path;
  made.dataset.key = key;
  made.tabIndex = path === focused ? 0 : -1;
  if (opens) made.setAttribute("aria-expanded", open.has(key));
  made.setAttribute("aria-selected", key === selected);
  const row = element("div", "row");
  row.append(element("span", "twist", opens ? (open.has(key) ? "▾" : "▸") : ""), ...parts);
  made.append(row);
  return made;
}

function nodeItem(node, path, level) {
  const id = node.name.slice(node.name.lastIndexOf("/") + 1);
  const kind = node.kind.replace(/[A-Z]/g, " $&").toLowerCase().replace("nvme", "NVMe");
  const parts = [element("span", "kind", kind), element("span", "name", id)];
  parts.push(element("span", "facts", node.facts.join(" · ")));
  const [mood, mark] = node.good ? ["good", "●"] : ["bad", "○"];
  if (node.state) parts.push(element("span", `state ${mood}`, `${mark} ${node.state}`));
  parts.push(element("span", "rate", rate(node)));
  return item(path, node.name, level, parts, node.opens);
}

function branch(key, path, level) {
  const list = element("ul");
  list.setAttribute("role", "group");
  const below = state.open[key];
  for (const node of below?.nodes ?? []) {
    const at = `${path}>${node.name}`;
    const made = nodeItem(node, at, level);
    if (node.opens && open.has(node.name)) made.append(branch(node.name, at, level + 1));
    list.append(made);
  }
  if (below?.more) list.append(item(`${path}>+`, "+", level, [element("span", "name", "Show more")], false));
  if (below && !below.nodes.length) list.append(element("li", "facts", "nothing"));
  return list;
}

function draw() {
  const hadFocus = tree.contains(document.activeElement);
  focused ??= state.groups[0]?.key;
  tree.replaceChildren(
    ...state.groups.map(({ key, title, count }) => {
      const parts = [element("span", "name", title), element("span", "facts", String(count))];
      const made = item(key, key, 1, parts, true);
      if (open.has(key)) made.append(branch(key, key, 2));
      return made;
    }),
  );
  const current = items().find((found) => found.dataset.path === focused) ?? items()[0];
  focused = current?.dataset.path;
  if (current) current.tabIndex = 0;
  if (hadFocus) current?.focus({ preventScroll: true });
  drawHead();
  drawDetails();
}

function drawHead() {
  const { target } = state;
  document.getElementById("version").textContent = state.version;
  const text = target.connected
    ? `${target.version} at ${target.address}`
    : `the target at ${target.address} ${target.trouble}`;
  document.getElementById("target").textContent = text;
  document.getElementById("checks").replaceChildren(
    ...state.checks.map((check) => {
      const made = element("li", check.ok ? "good" : "bad", `${check.ok ? "✓" : "✗"} ${check.name}`);
      made.title = check.reason ?? "";
      if (check.reason) made.textContent += `: ${check.reason}`;
      return made;
    }),
  );
}

function drawDetails() {
  const nodes = Object.values(state.open).flatMap((below) => below.nodes);
  const node = nodes.find((found) => found.name === selected);
  const details = document.getElementById("details");
  const text = node ? JSON.stringify(node.resource, null, 2) : "Choose something in the tree.";
  if (details.textContent !== text) details.textContent = text;
}

async function look() {
  let query = `rows=${rows}`;
  for (const key of open) {
    const more = `&open=${encodeURIComponent(key)}`;
    if (query.length + more.length < LONGEST_QUERY) query += more;
  }
  const answer = await fetch(`/page/state?${query}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}

let looking = null;

function refresh(keepRates) {
  looking ??= look()
    .then((seen) => {
      if (!keepRates || !before) before = state;
      state = seen;
      problem("");
      draw();
    })
    .catch((reason) => problem(`The bridge does not answer (${reason.message}); what is shown may be old.`))
    .finally(() => (looking = null));
  return looking;
}

function problem(text) {
  const shown = document.getElementById("problem");
  shown.textContent = text;
  shown.hidden = !text;
}

async function changed() {
  draw();
  await looking;
  await refresh(true);
}

// Keys and clicks (WAI-ARIA Authoring Practices, tree view)

const items = () => [...tree.querySelectorAll('[role="treeitem"]')];

function move(to) {
  if (!to) return;
  for (const made of items()) made.tabIndex = -1;
  to.tabIndex = 0;
  focused = to.dataset.path;
  to.focus();
}

function toggle(at, wanted) {
  if (!at.hasAttribute("aria-expanded")) return;
  if (wanted) open.add(at.dataset.key);
  else open.delete(at.dataset.key);
  changed();
}

function choose(at) {
  if (at.dataset.key === "+") {
    rows += ROWS;
    changed();
  } else if (at.dataset.key.includes("/")) {
    selected = at.dataset.key;
    draw();
  } else {
    toggle(at, !open.has(at.dataset.key));
  }
}

const KEYS = {
  ArrowDown: (at, all) => move(all[all.indexOf(at) + 1]),
  ArrowUp: (at, all) => move(all[all.indexOf(at) - 1]),
  Home: (at, all) => move(all[0]),
  End: (at, all) => move(all.at(-1)),
  ArrowRight: (at) => {
    if (at.getAttribute("aria-expanded") === "true") move(at.querySelector('[role="treeitem"]'));
    else toggle(at, true);
  },
  ArrowLeft: (at) => {
    if (at.getAttribute("aria-expanded") === "true") toggle(at, false);
    else move(at.parentElement.closest('[role="treeitem"]'));
  },
  Enter: choose,
  " ": choose,
};

tree.addEventListener("keydown", (event) => {
  const at = event.target.closest('[role="treeitem"]');
  const act = KEYS[event.key];
  if (!at || !act || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  act(at, items());
});

tree.addEventListener("click", (event) => {
  const at = event.target.closest('[role="treeitem"]');
  if (!at) return;
  move(at);
  if (event.target.closest(".twist")) toggle(at, !open.has(at.dataset.key));
  else choose(at);
});

setInterval(() => document.hidden || refresh(false), INTERVAL_MS);
document.addEventListener("visibilitychange", () => document.hidden || refresh(false));
refresh(false);
