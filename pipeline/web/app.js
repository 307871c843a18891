"use strict";
// Sends photos to the server, a few at a time, and shows what it says of each.
// Names of files and classes may be anything: they enter the page as text only, never as HTML.

const MOST_FILES = 200; // at a time: more are for `python -m pipeline.predict`
const AT_ONCE = 2;
const mostBytes = Number(document.body.dataset.mostBytes);
const answers = document.getElementById("answers");
const count = document.getElementById("count");
const clear = document.getElementById("clear");
const input = document.getElementById("files");
const queue = [];
let asking = 0;
let done = 0;

function create(tag, className, ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

const percent = (probability) => `${(100 * probability).toFixed(1)} %`;
const photos = (number) => `${number} photo${number === 1 ? "" : "s"}`;

function picture(address, description) {
  const image = create("img", "");
  image.alt = description;
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 96));
  image.src = address;
  return image;
}

function show(card, answer) {
  const [best] = answer.predictions;
  const rows = answer.predictions.map((each) => {
    const bar = create("i", "");
    bar.style.width = `${100 * each.probability}%`;
    return create("li", "", bar, create("span", "", each.class), create("span", "", percent(each.probability)));
  });
  const pictures = create("div", "pictures", picture(answer.picture, "what the network sees"));
  if (answer.explanation) pictures.append(picture(answer.explanation, `where it looks for ${best.class}`));
  const told = create("div", "", create("p", "best", best.class), create("ol", "classes-of", ...rows));
  card.lastChild.replaceWith(create("div", "answer", pictures, told));
}

function complain(card, reason) {
  card.lastChild.replaceWith(create("p", "error", reason));
}

async function ask(file, card) {
  if (file.size > mostBytes) return complain(card, `too_large: more than ${mostBytes / 1024 ** 2} MB`);
  let body;
  try {
    body = await file.arrayBuffer();
  } catch {
    return complain(card, "can't be read: expected a photo, not a folder");
  }
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const response = await fetch("classify", { method: "POST", headers, body });
    const answer = await response.json();
    return response.ok ? show(card, answer) : complain(card, answer.error);
  } catch {
    return complain(card, "no answer: does the server still run?");
  }
}

function tell(leftOut = 0) {
  const waiting = queue.length + asking;
  const words = [done ? `${photos(done)} answered` : "", waiting ? `${waiting} to come` : ""];
  if (leftOut) words.push(`only ${MOST_FILES} at a time: ${photos(leftOut)} left out`);
  count.textContent = words.filter(Boolean).join(", ");
  clear.hidden = !answers.children.length || waiting > 0;
}

async function work() {
  if (asking >= AT_ONCE || !queue.length) return;
  asking += 1;
  const { file, card } = queue.shift();
  await ask(file, card);
  asking -= 1;
  done += 1;
  tell(Number(count.dataset.leftOut));
  work();
}

function add(files) {
  const taken = [...files].slice(0, MOST_FILES);
  count.dataset.leftOut = files.length - taken.length;
  for (const file of taken) {
    const card = create("li", "card", create("p", "name", file.name), create("p", "wait", "…"));
    answers.append(card);
    queue.push({ file, card });
  }
  tell(files.length - taken.length);
  for (let started = 0; started < AT_ONCE; started += 1) work();
}

input.addEventListener("change", () => {
  add(input.files);
  input.value = ""; // the same photo may be chosen again
});
clear.addEventListener("click", () => {
  answers.replaceChildren();
  done = 0;
  count.dataset.leftOut = 0;
  tell();
  input.focus();
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault(); // the browser would leave the page and open the file
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});
