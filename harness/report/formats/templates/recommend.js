"use strict";
// Which row to use, from records alone: the best that the choices allow, the next, and whether chance would do it.

// The same exact test as `harness.report.statistics.sign_flip_p`: each image's difference, summed over the common
// seeds, has either sign with equal chance; how likely is a sum as far from zero?
const signFlip = (differences) => {
  const sizes = differences.map(Math.abs).filter(Boolean);
  const reach = sizes.reduce((sum, size) => sum + size, 0);
  const total = Math.abs(differences.reduce((sum, each) => sum + each, 0));
  let chances = new Float64Array(2 * reach + 1);
  chances[reach] = 1;
  for (const size of sizes) {
    const next = new Float64Array(chances.length);
    for (let at = 0; at < chances.length; at += 1) {
      next[at] = 0.5 * ((chances[at - size] ?? 0) + (chances[at + size] ?? 0));
    }
    chances = next;
  }
  if (total === 0) return 1;
  return Math.min(1, 2 * chances.slice(reach + total).reduce((sum, chance) => sum + chance, 0));
};

const bitsOf = (record) => {
  const bytes = [...atob(record.hits)].map((sign) => sign.charCodeAt(0));
  return Array.from({ length: record.n }, (_, place) => (bytes[place >> 3] >> (7 - (place & 7))) & 1);
};

const paired = async (a, b) => {
  const all = (await records()).records;
  const seeds = (row) => new Map(row.keys.map((key) => all[key]).filter((each) => each.hits).map((each) => [each.seed, each]));
  const [left, right] = [seeds(a), seeds(b)];
  const common = [...left.keys()].filter((seed) => right.has(seed));
  if (common.length === 0) return null;
  const hits = common.map((seed) => [bitsOf(left.get(seed)), bitsOf(right.get(seed))]);
  return signFlip(hits[0][0].map((_, place) => hits.reduce((sum, [x, y]) => sum + x[place] - y[place], 0)));
};

const minutes = (row) => (row.cost === null ? Infinity : row.cost / 60);
const family = (model) => model.split("_")[0];

const terms = (told) => element("dl", {},
  ...told.flatMap(([term, ...words]) => [element("dt", { textContent: term }), element("dd", {}, ...words)]));

const described = (row) => {
  const several = row.seeds > 1 ? `sd over ${row.seeds} seeds` : "one seed";
  const sure = row.se === null ? several : `${several}; standard error of one figure ${fixed(row.se, 2)} points`;
  return [
    ["use", element("strong", { textContent: named(row) }), row.settings ? ` (${row.settings})` : ""],
    ["reached", element("strong", { textContent: `${figure(row)} %` }), ` top-1, ${fixed(row.kept, 1)} % of FP32 kept (${sure}; ${row.data})`],
    ["cost", spent(row) || "unknown"],
  ];
};

const spendings = (row) =>
  ["images", "steps"].filter((what) => row[what] !== null).map((what) => `${row[what]} ${what}`).join(", ");

const versus = async (best, next, term) => {
  if (!next) return [];
  const p = await paired(best, next);
  const gap = `${best.top1 >= next.top1 ? "+" : ""}${(best.top1 - next.top1).toFixed(2)} points`;
  const sure = p === null ? "not tested, no seed in common" : `${p <= 0.05 ? "beyond chance" : "within chance"}, p ${p < 0.0001 ? "< 0.0001" : `= ${p.toFixed(4)}`}`;
  const unequal = ["images", "steps"].some((what) => best[what] !== null && next[what] !== null && best[what] !== next[what]);
  const cost = unequal ? ` Not at equal cost: ${spendings(best)} against ${spendings(next)}.` : "";
  const told = `, ${sure}: ${named(next)}${next.settings ? ` (${next.settings})` : ""}, ${figure(next)} %.${cost}`;
  return [[term, element("strong", { textContent: gap }), told]];
};

const recommender = (rows) => {
  const [model, bits, images, most, real] = ["model", "bits", "images", "minutes", "real"].map((name) => byId(`for-${name}`));
  const models = [...new Set(rows.map((row) => row.model))];
  const families = [...new Set(models.map(family))];
  model.append(...models.map((name) => new Option(name, name)), ...families.map((name) => new Option(`any ${name}`, `${name}_*`)));
  const fits = (row) => row.model === model.value || `${family(row.model)}_*` === model.value;
  const widths = () => {
    const before = bits.value;
    const known = [...new Set(rows.filter(fits).map((row) => row.bits))].sort(compare);
    bits.replaceChildren(...known.map((name) => new Option(name, name)));
    bits.value = known.includes(before) ? before : known.includes("w4a4") ? "w4a4" : known[0];
  };
  let asked = 0;
  const advise = async () => {
    const mine = (asked += 1);
    const at = rows.filter((row) => fits(row) && row.bits === bits.value).sort((a, b) => b.top1 - a.top1);
    const allowed = at.filter((row) => (images.value === "" || (row.images !== null && row.images <= Number(images.value))) &&
      (most.value === "" || minutes(row) <= Number(most.value)));
    const mayUse = allowed.filter((row) => real.checked || !row.real_images), best = mayUse[0];
    if (!best) {
      byId("advised").replaceChildren(element("p", { textContent: "Nothing that was measured fits. Allow more, or other bits." }));
      return;
    }
    const here = (row) => row.model === best.model && row.data === best.data;
    const others = mayUse.filter((row) => here(row) && named(row) !== named(best));
    const oracle = real.checked ? null : allowed.find((row) => row.real_images && here(row));
    const command = (await records()).records[best.keys[0]].command;
    const told = [...described(best), ...await versus(best, oracle, "against real images"), ...await versus(best, others[0], "against the next")];
    if (mine !== asked) return; // another choice was made meanwhile
    const link = element("a", { href: `#r=${best.keys[0]}`, textContent: "Its record" });
    const newer = rows.some((row) => row.method === best.method && row.backend === best.backend && compare(row.version, best.version) > 0);
    byId("advised").replaceChildren(terms(told), copied(command),
      element("p", { className: "soft" }, `The best of ${mayUse.length} rows that fit${newer ? "; measured with an earlier version" : ""}. `, link));
  };
  model.addEventListener("change", widths);
  byId("advice").addEventListener("input", advise);
  byId("advice").addEventListener("submit", (event) => event.preventDefault());
  widths();
  advise();
};
