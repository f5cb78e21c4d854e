"use strict";
/* The table of the front: a click on a heading, or Enter, sorts by it. */

/** Files stand beside the page, but not beside a copy that somebody else's page shows. */
const STANDS_ALONE = /^(file|https?):$/.test(location.protocol);

function cellOf([text, key, address], column) {
  const link = STANDS_ALONE || /^https?:/.test(address) ? address : "";
  const shown = column.code && text ? make("code", {}, text) : text;
  const inside = link ? make("a", { href: link }, shown) : shown;
  const kind = column.code || text.length > 28 ? "long" : typeof key === "number" ? "number" : "";
  return make("td", kind ? { class: kind } : {}, inside);
}

/** Rows in the order of a column; what is empty comes last, either way. */
function ordered(rows, column, falling) {
  const known = rows.filter((row) => row[column][1] !== null && row[column][0] !== "");
  const sorted = known.sort((a, b) => {
    const [p, q] = [a[column][1], b[column][1]];
    return (falling ? -1 : 1) * (p < q ? -1 : p > q ? 1 : 0);
  });
  return [...sorted, ...rows.filter((row) => !sorted.includes(row))];
}

function showTable() {
  const { columns, rows } = page.table;
  const body = make("tbody");
  const fill = (some) => body.replaceChildren(...some.map((row) => make("tr", {}, ...row.map((cell, i) => cellOf(cell, columns[i])))));
  const heads = columns.map((column, i) => {
    const button = make("button", { type: "button", title: column.about }, column.head);
    const head = make("th", { scope: "col" }, button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      fill(ordered([...rows], i, falling));
    });
    return head;
  });
  fill(rows);
  document.getElementById("table").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
}
