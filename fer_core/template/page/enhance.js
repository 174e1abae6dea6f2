
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
