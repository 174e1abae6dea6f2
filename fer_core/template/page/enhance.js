
"use strict";
// Everything here is a convenience: the page is whole without it.
const narrow = matchMedia("(max-width: 1099px)");
const contents = document.querySelector("details.toc");
const fold = () => { if (contents) contents.open = !narrow.matches; };
narrow.addEventListener("change", fold);
fold();

// The section being read is marked in the contents.
const links = new Map([...document.querySelectorAll(".toc a")].map(a => [a.hash.slice(1), a]));
const mark = () => {
  let current = null;
  for (const [id, link] of links) {
    const heading = document.getElementById(id);
    if (heading && heading.getBoundingClientRect().top < 120) current = link;
    link.removeAttribute("aria-current");
  }
  if (current) current.setAttribute("aria-current", "true");
};
addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
mark();

// One button for all code.
const folds = [...document.querySelectorAll("details.code")];
const place = document.querySelector(".place");
if (folds.length && place) {
  const button = document.createElement("button");
  const label = () => { button.textContent = folds.every(f => f.open) ? "Hide all code" : "Show all code"; };
  button.addEventListener("click", () => {
    const open = !folds.every(f => f.open);
    for (const f of folds) f.open = open;
    label();
  });
  label();
  place.append(button);
}

// Tables sort by a click on a column's head; numbers by value, text by letters.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if ("plain" in head.dataset) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const value = row => row.cells[column].innerText.trim();
      const number = text => { const n = parseFloat(text.replace("−", "-").replace(/,/g, "")); return isNaN(n) ? -Infinity : n; };
      const compare = (a, b) => "n" in head.dataset ? number(value(a)) - number(value(b)) : value(a).localeCompare(value(b));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...[...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b)));
    });
  });
}

// Faces that may not be redistributed, drawn from the reader's own file: it is read here, and nothing is sent.
// An image is known by the SHA-256 of its pixels, of which its id is the beginning; "-2" tells exact copies apart.
const own = document.querySelector(".load");
const withheld = new Map();
for (const face of document.querySelectorAll("[data-face]")) {
  const id = face.dataset.face.split("-")[0];
  withheld.set(id, [...withheld.get(id) ?? [], face]);
}

// Calls `found` with the pixels (Uint8Array) of each line of fer2013.csv or icml_face_data.csv, whatever its other
// columns; waits for it once a chunk, so that memory stays small, and leaves the page 40 times a second to its reader.
const readFaces = async (file, size, found, progress) => {
  const pixels = new Uint8Array(size);
  let count = 0, number = -1, whole = false, done = 0, work = [], since = performance.now();
  const next = () => { if (number >= 0) { if (count < size) pixels[count] = number; count++; number = -1; } };
  for (const reader = file.stream().getReader(); ;) {
    const chunk = await reader.read();
    for (const byte of chunk.done ? [10] : chunk.value) {
      if (byte >= 48 && byte <= 57) number = number < 0 ? byte - 48 : number * 10 + byte - 48;
      else if (byte === 32) next();
      else {  // a comma, a quote, a letter or the line's end
        next();
        if (count === size) { work.push(found(pixels.slice())); whole = true; }
        count = 0;
        if (performance.now() - since > 25) {
          await new Promise(resolve => setTimeout(resolve));
          since = performance.now();
        }
      }
    }
    const stop = (await Promise.all(work)).some(Boolean);
    if (chunk.done || stop) { reader.cancel(); return whole; }
    work = [];
    progress((done += chunk.value.length) / file.size);
  }
};

const draw = (face, pixels, width, height) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  pixels.forEach((grey, i) => image.data.set([grey, grey, grey, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  face.replaceChildren(canvas);
  face.setAttribute("aria-label", "The face itself, from your file");
};

if (own && withheld.size && globalThis.crypto?.subtle) {
  own.hidden = false;
  const said = own.querySelector("output");
  own.querySelector("input").addEventListener("change", async event => {
    const file = event.target.files[0];
    if (!file) return;
    const [height, width] = [...withheld.values()][0][0].dataset.size.split(" ").map(Number);
    const waiting = new Map(withheld);
    const found = async pixels => {
      const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
      const id = Array.from(bytes.subarray(0, 6), byte => byte.toString(16).padStart(2, "0")).join("");
      for (const face of waiting.get(id) ?? []) draw(face, pixels, width, height);
      return waiting.delete(id) && waiting.size === 0;
    };
    try {
      const whole = await readFaces(file, width * height, found, share => { said.textContent = `Reading: ${Math.round(share * 100)} %`; });
      const n = withheld.size - waiting.size;
      said.textContent = !whole ? `No line of ${file.name} holds the ${width * height} pixels of an image: choose fer2013.csv or icml_face_data.csv.`
        : `${n} of ${withheld.size} images found in ${file.name}.` + (n ? "" : " It holds other images than this page's.");
    } catch (error) {
      said.textContent = `${file.name} could not be read (${error.message}).`;
    }
  });
}

// Long tables are filtered by words, and with them the tables that tell more of the same rows (data-filtered-with);
// parameters (data-p) that no longer differ lose their column.
for (const table of document.querySelectorAll("table.filterable")) {
  const more = table.id ? document.querySelectorAll(`[data-filtered-with="${table.id}"]`) : [];
  const tables = [table, ...more].map(one => ({ head: one.tHead.rows[0], rows: [...one.tBodies[0].rows] }));
  const numbers = [...tables[0].rows.keys()];
  if (numbers.length < 3) continue;
  const texts = numbers.map(i => tables.map(one => one.rows[i].textContent).join(" ").toLowerCase());
  const input = document.createElement("input");
  const told = document.createElement("span");
  input.type = "search";
  input.placeholder = "Show rows with …";
  input.setAttribute("aria-label", "Show only rows with these words");
  told.setAttribute("role", "status");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const left = numbers.filter(i => words.every(word => texts[i].includes(word)));
    told.textContent = words.length ? `${left.length} of ${numbers.length} rows` : "";
    for (const { head, rows } of tables) {
      for (const i of numbers) rows[i].hidden = !left.includes(i);
      [...head.cells].forEach((cell, column) => {
        if (!("p" in cell.dataset)) return;
        const gone = words.length > 0 && new Set(left.map(i => rows[i].cells[column].textContent)).size < 2;
        for (const row of [head, ...rows]) row.cells[column].hidden = gone;
      });
    }
  });
  const bar = document.createElement("div");
  bar.className = "filter";
  bar.append(input, told);
  table.parentElement.before(bar);
}
