"use strict";
// Lists the findings, filters them, and turns ticked images into lines of the decision file.
// Names come from files of unknown origin: they enter the page as text only, never as HTML.

const page = JSON.parse(document.getElementById("data").textContent);
const images = page.images.map((row, number) => {
  const image = Object.fromEntries(page.columns.map((column, position) => [column, row[position]]));
  return { ...image, number, picture: page.pictures[number], search: image.path.toLowerCase() };
});
const sections = page.sections.map((section) => ({
  ...section,
  element: document.getElementById(section.code),
  entries: section.entries.map((entry, position) => ({
    images: entry.map((number) => images[number]),
    size: section.sizes[position],
    samePixels: section.samePixels[position],
  })),
}));
const gravest = ["label_conflict", "split_leak"];
const groupCodes = [...gravest, "near_duplicate", "exact_duplicate"];
const step = (section) => (section.groups ? 30 : 28); // entries that are shown at first, and more at a click

function create(tag, className, ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// One image: thumbnail or the reason why there is none, class, path, metadata

function card(image, section) {
  const slash = image.path.lastIndexOf("/") + 1;
  const box = create("input", "");
  box.type = "checkbox";
  box.disabled = image.decision !== null;
  box.checked = marked.get(image) === section.action;
  box.addEventListener("change", () => mark([image], box.checked, section.action));

  const element = create("label", "card",
    picture(image),
    create("span", "label", label(image, section)),
    create("span", "name", image.path.slice(slash)),
    create("span", "folder", image.path.slice(0, slash)),
    create("span", "metadata", metadata(image)),
  );
  for (const text of particulars(image, section)) element.append(create("span", "measure", text));
  if (image.reason && image.picture) element.append(create("span", "reason", image.reason));
  if (image.decision) element.append(create("span", "decided", decided(image.decision)));
  const tick = section.action === "relabel" ? page.classes[image.suggested] : "drop";
  element.append(create("span", "drop", create("span", "", tick), box));
  element.title = image.path;
  element.dataset.image = image.number;
  element.dataset.action = section.action;
  element.classList.toggle("quarantined", image.status === "quarantined");
  element.classList.toggle("marked", box.checked);
  return element;
}

function picture(image) {
  if (!image.picture) return create("span", "picture none", image.reason || "no preview in this page");
  const thumbnail = create("img", Math.max(image.width, image.height) <= 64 ? "tiny" : "");
  thumbnail.src = `data:image/jpeg;base64,${image.picture}`;
  thumbnail.alt = "";
  return create("span", "picture", thumbnail);
}

function label(image, section) {
  if (section.action === "relabel") return `${page.classes[image.label]} → ${page.classes[image.suggested]}?`;
  return image.label < 0 ? "no class" : page.classes[image.label];
}

function metadata(image) {
  const split = image.split ?? (image.official_split ? `official ${image.official_split}` : "");
  const size = image.width ? `${image.width} × ${image.height}` : "";
  return [image.status === "quarantined" ? "quarantined" : "", split, size].filter(Boolean).join(" · ");
}

// What the section is about: the number that is out of the ordinary, or what else there is to a duplicate
function particulars(image, section) {
  if (section.groups) return image.issues.filter((code) => ![section.code, "near_duplicate"].includes(code)).map(inWords);
  const value = image[section.measure] ?? null;
  if (value === null) return [];
  if (section.measure === "bytes") return [count(value, "byte")];
  return [["format", "mode"].includes(section.measure) ? value : `${inWords(section.measure)} ${value}`];
}

const inWords = (code) => code.replaceAll("_", " ");

function decided([decision, label, note]) {
  const verdict = [decision, label && `class ${label}`].filter(Boolean).join(", ");
  return `decided: ${verdict}${note ? ` (${note})` : ""}`;
}

function group(entry, section) {
  const kind = entry.samePixels ? "same pixels" : "nearly the same";
  const shown = entry.images.slice(0, page.members);
  const listed = shown.length < entry.size ? `${shown.length} of ` : "";
  const cards = create("div", "cards", ...shown.map((image) => card(image, section)));
  return create("article", "group", create("p", "kind", `${listed}${count(entry.size, "image")}, ${kind}`), cards);
}

// Filters: an entry is listed if one of its images matches all of them

const filters = document.getElementById("filters");

function matches(image, wanted) {
  if (wanted.label && String(image.label) !== wanted.label) return false;
  if (wanted.official_split && (image.official_split || "none") !== wanted.official_split) return false;
  if (wanted.status && image.status !== wanted.status) return false;
  return image.search.includes(wanted.text.toLowerCase());
}

function found(section, wanted) {
  let entries = section.entries;
  if (wanted.issue && wanted.issue !== section.code) {
    if (!section.groups || !groupCodes.includes(wanted.issue)) return [];
    entries = entries.filter((entry) => entry.images.some((image) => image.issues.includes(wanted.issue)));
  }
  return entries.filter((entry) => entry.images.some((image) => matches(image, wanted)));
}

function show(section) {
  const wanted = Object.fromEntries(new FormData(filters));
  const filtered = Object.values(wanted).some(Boolean);
  const entries = found(section, wanted);
  section.matching = entries;
  section.shown = entries.slice(0, section.limit);
  for (const entry of section.shown) {
    entry.element ??= section.groups ? group(entry, section) : card(entry.images[0], section);
  }
  const { element } = section;
  element.hidden = entries.length === 0;
  const few = entries.flatMap((entry) => entry.images).length <= 2 && !gravest.includes(section.code);
  element.classList.toggle("few", few); // several share a row
  element.querySelector(".list").replaceChildren(...section.shown.map((entry) => entry.element));
  element.querySelector(".shown span").textContent = caption(section, entries.length, filtered);
  const tick = element.querySelector(".tick");
  tick.hidden = gravest.includes(section.code); // there, each is a choice of its own
  tick.textContent = tickAll(section);
  const rest = entries.length - section.shown.length;
  const more = element.querySelector(".more");
  more.hidden = rest === 0;
  more.textContent = `Show ${Math.min(rest, step(section))} more`;
}

function tickAll({ groups, matching }) {
  const number = matching.length.toLocaleString("en");
  if (!groups) return `tick all ${number}`;
  const cut = matching.some((entry) => entry.images.length < entry.size);
  return `tick all but the first of each of the ${number}${cut ? ", as far as they are in this page" : ""}`;
}

function caption(section, matching, filtered) {
  const noun = section.groups ? "group" : "image";
  const held = section.entries.length;
  let text = count(section.total, noun);
  if (filtered) text = `${matching.toLocaleString("en")} of ${count(held, noun)} match`;
  if (section.shown.length < matching) {
    text = filtered ? `${text}, ${section.shown.length} shown` : `${section.shown.length} of ${text}`;
  }
  if (held < section.total) text += ` (${held.toLocaleString("en")} of all ${section.total.toLocaleString("en")} are in this page)`;
  return text;
}

function showAll() {
  for (const section of sections) {
    section.limit = step(section);
    show(section);
  }
  document.getElementById("nothing").hidden = sections.some((section) => !section.element.hidden);
}

// Decisions

const panel = document.getElementById("decisions");
const note = panel.querySelector("input");
const lines = panel.querySelector("textarea");
const marked = new Map(); // from an image to what is done with it: drop or relabel
const copied = new Set(); // images whose lines have been copied: they are in the file by now
let header = panel.dataset.header ? `${panel.dataset.header}\n` : ""; // for a table that is not begun yet

function mark(some, on, action) {
  for (const image of some.filter(({ decision }) => decision === null)) {
    if (on) marked.set(image, action);
    else marked.delete(image);
    for (const element of document.querySelectorAll(`[data-image="${image.number}"]`)) {
      const checked = marked.get(image) === element.dataset.action;
      element.classList.toggle("marked", checked);
      element.querySelector("input").checked = checked;
    }
  }
  panel.hidden = marked.size === 0;
  const waiting = [...marked].filter(([image]) => !copied.has(image));
  const actions = ["drop", "relabel"].map((name) => [name, waiting.filter(([, chosen]) => chosen === name).length]);
  const counts = actions.filter(([name, number]) => number || (name === "drop" && !waiting.length));
  panel.querySelector("b").textContent = `${counts.map(([name, number]) => `${count(number, "image")} to ${name}`).join(", ")}.`;
  lines.value = header + waiting.map(line).join("");
}

function line([image, action]) {
  const fields = action === "drop" ? ["drop", ""] : ["", page.classes[image.suggested]];
  return `${[image.path, ...fields, note.value].map(cell).join(",")}\n`;
}

// As in pipeline/system/csv_cells.py: a spreadsheet would run what begins like a formula
const escapeFormula = (text) => (/^'*[=+\-@＝＋－＠\t\r\n]/.test(text) ? `'${text}` : text);
const quoted = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const cell = (text) => quoted(escapeFormula(text));

// Of copies, one stays: the first that is not dropped already
function butOne(copies) {
  const stays = copies.find((image) => image.decision?.[0] !== "drop" && marked.get(image) !== "drop");
  return copies.filter((image) => image !== stays);
}

function start() {
  for (const section of sections) {
    const button = section.element.querySelector(".tick");
    button.addEventListener("click", () => {
      const ticked = (entry) => (section.groups ? butOne(entry.images) : entry.images);
      mark(section.matching.flatMap(ticked), true, section.action);
    });
    section.element.querySelector(".more").addEventListener("click", () => {
      section.limit += step(section);
      show(section);
    });
  }
  filters.addEventListener("input", showAll);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.querySelector("button").addEventListener("click", () => {
    filters.reset();
    showAll();
  });
  note.addEventListener("input", () => mark([], true));
  panel.querySelector(".clear").addEventListener("click", () => mark([...marked.keys()], false));
  panel.querySelector(".copy").addEventListener("click", (event) => {
    lines.select();
    document.execCommand("copy"); // works from file:// in every browser; the clipboard's newer interface does not
    // what comes next is added to what was copied: neither the header nor a line twice
    for (const image of marked.keys()) copied.add(image);
    header = "";
    event.target.textContent = "Copied";
    setTimeout(() => (event.target.textContent = "Copy lines"), 1500);
  });
  showAll();
}

if (sections.length) start();
