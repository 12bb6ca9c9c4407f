"use strict";
// The page's data, its table of all runs, and the record that a link or a button opens.
const byId = (id) => document.getElementById(id);
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

const inflate = async (id) => {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
};
const lines = (columns, count = Object.values(columns)[0]?.length ?? 0) =>
  Array.from({ length: count }, (_, at) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]])));
const unpacked = ({ keys, columns, facts, operations }) => {
  const told = lines(facts).map((each) => Object.entries(each).filter(([, text]) => text !== null));
  const made = lines(columns).map((each, at) => [keys[at], { ...each, facts: told[at] }]);
  return { records: Object.fromEntries(made), operations };
};
let opened;
const records = () => (opened ??= inflate("data-records").then(unpacked)); // only when one is asked for

const fixed = (value, digits) => (value === null ? "-" : value.toFixed(digits));
const figure = (row) => fixed(row.top1, 2) + (row.sd === null ? "" : ` ± ${fixed(row.sd, 2)}`);
const named = (row) => `${row.method} + ${row.backend}`;
const spent = (row) =>
  row.cost === null ? "" : `${Number(row.cost.toPrecision(3))} ${row.device === "cpu" ? "core-s" : "s of a GPU"}`;

const COLUMNS = {
  kind: (row) => row.kind, data: (row) => row.data, model: (row) => row.model, bits: (row) => row.bits,
  method: (row) => row.method, backend: (row) => row.backend, settings: (row) => row.settings,
  top1: figure, se: (row) => fixed(row.se, 2), kept: (row) => fixed(row.kept, 1),
  agreement: (row) => fixed(row.agreement, 2), seeds: (row) => row.seeds, cost: spent,
  size: (row) => fixed(row.size, 2),
};
const WORDS = new Set(["kind", "data", "model", "method", "backend", "settings"]);
const AT_ONCE = 100;

const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
};

const table = (rows) => {
  const body = byId("runs").tBodies[0];
  const text = byId("filter-text");
  const lists = [...document.querySelectorAll("#filters select")];
  const searched = new Map(rows.map((row) => [row, Object.values(COLUMNS).map((of) => of(row)).join(" ").toLowerCase()]));
  let order = rows, kept = rows, shown = 0;

  const line = (row) => {
    const made = element("tr");
    for (const [name, of] of Object.entries(COLUMNS)) {
      made.append(element("td", { textContent: of(row), className: WORDS.has(name) ? `label ${name}` : "" }));
    }
    const link = element("a", { href: `#r=${row.keys[0]}`, textContent: "record" });
    link.setAttribute("aria-label", `Record of ${named(row)}, ${row.model} ${row.bits}`);
    made.append(element("td", {}, link));
    return made;
  };
  const grow = () => {
    body.append(...kept.slice(shown, shown + AT_ONCE).map(line));
    shown = Math.min(shown + AT_ONCE, kept.length);
    byId("more").hidden = shown === kept.length;
    byId("count").textContent = `${kept.length} of ${rows.length} runs`;
  };
  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = lists.filter((list) => list.value !== "").map((list) => [list.dataset.column, list.value]);
    kept = order.filter((row) => wanted.every(([name, value]) => row[name] === value) &&
      words.every((word) => searched.get(row).includes(word)));
    shown = 0;
    body.replaceChildren();
    grow();
  };
  for (const list of lists) {
    const values = [...new Set(rows.map((row) => row[list.dataset.column]))].sort(compare);
    list.append(...values.map((value) => new Option(value, value)));
    list.addEventListener("change", filter);
  }
  for (const button of document.querySelectorAll("#runs th button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th"), name = button.dataset.column;
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of document.querySelectorAll("#runs th[aria-sort]")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = rows.filter((row) => row[name] !== null).sort((a, b) => compare(a[name], b[name]) * (down ? -1 : 1));
      order = [...known, ...rows.filter((row) => row[name] === null)]; // what is unknown comes last, either way
      filter();
    });
  }
  text.addEventListener("input", filter);
  byId("more").addEventListener("click", grow);
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const link of document.querySelectorAll("a[data-model]")) {
    link.addEventListener("click", () => { byId("filter-model").value = link.dataset.model; filter(); });
  }
  filter();
};

const copied = (command) => {
  const button = element("button", { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command);
    button.textContent = "Copied";
  });
  return element("p", { className: "command" }, element("code", { textContent: command }), button);
};

const showRecord = async (rows) => {
  const key = decodeURIComponent(location.hash).match(/^#r=(.+)$/)?.[1];
  const row = key && rows.find((each) => each.keys.includes(key));
  const dialog = byId("record");
  if (!row) return dialog.close();
  const found = await records(), record = found.records[key], list = element("dl");
  for (const [term, text] of [["top-1", `${figure(row)} % (${row.seeds} seeds; this one: seed ${record.seed})`], ...record.facts]) {
    list.append(element("dt", { textContent: term }), element("dd", { textContent: text }));
  }
  const others = row.keys.filter((each) => each !== key).map((each) => element("a", { href: `#r=${each}`, textContent: `seed ${found.records[each].seed}` }));
  const operations = found.operations[record.operations];
  byId("record-title").textContent = `${row.model} ${row.bits}, ${named(row)}`;
  byId("record-body").replaceChildren(copied(record.command), list,
    element("p", {}, others.length ? "Other seeds: " : "", ...others.flatMap((link) => [link, " "])),
    element("details", {}, element("summary", { textContent: `${operations.length} quantized operations` }),
      element("pre", { textContent: operations.join("\n") })));
  if (!dialog.open) dialog.showModal();
  byId("record-title").focus();
};

const tips = (rows) => {
  const tip = byId("tip");
  document.addEventListener("pointerover", (event) => {
    const row = rows[event.target.dataset?.run];
    tip.hidden = !row;
    if (!row) return;
    tip.textContent = `${named(row)}${row.settings ? ` (${row.settings})` : ""}, ${row.bits}: ${figure(row)} %`;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 12}px`;
  });
};

(async () => {
  const rows = lines(await inflate("data-rows"));
  if (byId("advice")) recommender(rows.filter((row) => row.kind === "comparison" && row.top1 !== null && !row.meaningless));
  table(rows);
  tips(rows);
  addEventListener("hashchange", () => showRecord(rows));
  byId("record").addEventListener("close", () => { if (location.hash.startsWith("#r=")) history.replaceState(null, "", "#all"); });
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") target.open = true;
  await showRecord(rows);
  document.documentElement.dataset.ready = "yes";
})();
