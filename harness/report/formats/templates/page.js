"use strict";
(() => {
  const table = document.getElementById("measurements");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const text = document.getElementById("filter-text");
  const lists = [...document.querySelectorAll("select[data-column]")];
  const count = document.getElementById("count");

  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown comes last, either way
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const column = header.cellIndex;
      const known = rows.filter((row) => key(row, column) !== "");
      const unknown = rows.filter((row) => key(row, column) === "");
      known.sort((a, b) => compare(key(a, column), key(b, column)) * (down ? -1 : 1));
      body.append(...known, ...unknown);
    });
  }

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      const kept = words.every((word) => content.includes(word)) &&
        lists.every((list) => list.value === "" || key(row, Number(list.dataset.column)) === list.value);
      row.hidden = !kept;
      shown += kept;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  text.addEventListener("input", filter);
  for (const list of lists) list.addEventListener("change", filter);
  document.getElementById("filters").addEventListener("reset", () => setTimeout(filter));
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.querySelector("summary").focus();
    }
  };
  addEventListener("hashchange", open);
  open();
  filter();
})();
