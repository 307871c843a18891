"use strict";
// Sorts tables, filters experiments, brings curves to the front, copies commands.

// Sorting: by the cell's data-value, as numbers where both are; a cell without a value is always last

function compare(one, other, direction) {
  if (one === other) return 0;
  if (one === "" || other === "") return one === "" ? 1 : -1;
  const numbers = [Number(one), Number(other)];
  const order = numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
  return direction * order;
}

function sort(table, heading) {
  const first = heading.querySelector("button").dataset.first;
  const opposite = { ascending: "descending", descending: "ascending" };
  const now = heading.getAttribute("aria-sort");
  const order = now ? opposite[now] : first;
  for (const each of table.querySelectorAll("[aria-sort]")) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const column = heading.cellIndex;
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.value ?? "";
  const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), order === "ascending" ? 1 : -1));
  body.append(...rows);
}

for (const table of document.querySelectorAll("[data-sortable]")) {
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (event.target.closest("button")) sort(table, heading);
  });
}

// Filter: rows, names beside the charts, and curves

const filters = document.getElementById("filters");
const ofName = (root, name) => root.querySelectorAll(`[data-name="${CSS.escape(name)}"]`);

function filter() {
  const words = new FormData(filters).get("text").toLowerCase().split(/\s+/);
  const rows = [...document.querySelectorAll(".leaders tbody tr")];
  for (const row of rows) {
    const text = row.cells[0].textContent.toLowerCase();
    const matches = words.every((word) => text.includes(word));
    row.hidden = !matches;
    const charts = row.closest("section").querySelector("[data-charts]");
    if (charts) for (const element of ofName(charts, row.dataset.name)) element.toggleAttribute("data-filtered", !matches);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  filters.querySelector("[role=status]").textContent = shown < rows.length ? `${shown} of ${rows.length} experiments` : "";
}

if (filters) {
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filter(); // a browser that goes back keeps what was typed
}

// Curves: a tick shows an experiment; pointing at its name, here or in the table, brings it to the front

for (const charts of document.querySelectorAll("[data-charts]")) {
  const section = charts.closest("section");
  const show = (name, on) => {
    for (const curve of charts.querySelectorAll(`g[data-name="${CSS.escape(name)}"]`)) curve.toggleAttribute("data-off", !on);
  };
  const front = (name) => {
    charts.classList.toggle("focused", name !== null);
    for (const curve of charts.querySelectorAll("g[data-name]")) curve.classList.toggle("front", curve.dataset.name === name);
  };
  const nameAt = (event) => event.target.closest(".keys [data-name], .leaders tr[data-name]")?.dataset.name ?? null;
  for (const kind of ["mouseover", "focusin"]) section.addEventListener(kind, (event) => front(nameAt(event)));
  for (const kind of ["mouseleave", "focusout"]) section.addEventListener(kind, () => front(null));
  charts.addEventListener("change", (event) => show(nameAt(event), event.target.checked));
  for (const key of charts.querySelectorAll(".keys label")) show(key.dataset.name, key.querySelector("input").checked);
  for (const button of charts.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      for (const key of charts.querySelectorAll(".keys label:not([data-filtered])")) {
        key.querySelector("input").checked = button.dataset.show === "all";
        show(key.dataset.name, button.dataset.show === "all");
      }
    });
  }
}

// Commands

function copy(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.style.position = "fixed";
  document.body.append(area);
  area.select();
  document.execCommand("copy"); // works from file:// in every browser; the clipboard's newer interface does not
  area.remove();
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => {
    copy(button.dataset.copy);
    button.focus();
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
