// Each figure says its note when a pointer rests on it; what is folded is printed all the same.
// Without this the page has everything but the hover, and scrolls its tables on a phone.

for (const link of document.querySelectorAll("a.n")) {
  const note = document.getElementById(link.hash.slice(1));
  if (!note) continue;
  const [, what, basis, source] = [...note.cells].map((cell) => cell.textContent);
  (link.closest(".f, figcaption") ?? link).title = link.title = `${what}\n${basis}: ${source}`;
}

// On a phone a row is a card, so each cell must say which column it is of.
for (const table of document.querySelectorAll(".wide table")) {
  if (table.tHead.rows[0].cells.length < 4) continue;
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of table.querySelectorAll("tbody tr, tfoot tr")) {
    [...row.cells].forEach((cell, place) => (cell.dataset.of = heads[place]));
  }
  table.classList.add("told");
}

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
});
