"use strict";
// Tables sort by a click on a heading; the one of mistakes can be searched. Without this script they are plain tables.
const numberOf = (text) => {
  const found = text.replace(/,/g, "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found === null ? null : Number(found[0]);
};

const keyOf = (row, column, numeric) => {
  const text = row.cells[column].textContent.trim();
  return numeric ? numberOf(text) : text === "" || text === "–" ? null : text;
};

const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

function sortBy(table, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const numeric = heading.classList.contains("number");
  const keyed = Array.from(body.rows, (row) => ({ row, key: keyOf(row, heading.cellIndex, numeric) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // what is missing comes last
    return descending ? compare(b.key, a.key) : compare(a.key, b.key);
  });
  body.append(...keyed.map((each) => each.row));
}

function field(name, control) {
  const label = document.createElement("label");
  label.append(name + " ", control);
  return label;
}

function namesIn(cell) {
  const names = Array.from(cell.querySelectorAll("bdi"), (each) => each.textContent);
  return names.length ? names : [cell.textContent.trim()];
}

function addFilters(table) {
  const rows = Array.from(table.tBodies[0].rows);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const bar = document.createElement("div");
  bar.className = "filters";
  const search = document.createElement("input");
  search.type = "search";
  const choices = [];
  bar.append(field("Search", search));
  for (const heading of table.tHead.rows[0].querySelectorAll("th[data-choice]")) {
    const column = heading.cellIndex;
    const select = document.createElement("select");
    const names = new Set(rows.flatMap((row) => namesIn(row.cells[column])));
    const options = Array.from(names).sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    select.add(new Option("all", "all"));
    options.forEach((name, place) => select.add(new Option(name.slice(0, 60), String(place))));
    choices.push({ select, options, column });
    bar.append(field(heading.textContent, select));
  }
  const count = document.createElement("p");
  count.setAttribute("role", "status");
  bar.append(count);
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const kept = choices.every(({ select, options, column }) =>
        select.value === "all" || namesIn(row.cells[column]).includes(options[Number(select.value)]));
      row.hidden = !(kept && texts.get(row).includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  bar.addEventListener("input", update);
  table.closest(".scroll").before(bar);
  update();
}

for (const table of document.querySelectorAll("table.filtered")) addFilters(table);
for (const table of document.querySelectorAll("table.sorts")) {
  if (table.tBodies[0].rows.length < 2) continue;
  for (const heading of table.tHead.rows[0].querySelectorAll("th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, heading));
  }
}
