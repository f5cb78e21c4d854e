"use strict";
/* The words and tables of a comparison of studies. */

function showTableOf({ head, rows }, id) {
  const heads = head.map((text) => make("th", { scope: "col" }, ...said(text)));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, ...said(cell)))));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
  return make("div", { class: "wide", role: "region", tabindex: "0", "aria-labelledby": id }, table);
}

function showPart(part, i) {
  const id = `part-${i}`;
  const section = make("section", { "aria-labelledby": id }, make("h2", { id }, part.title));
  if (part.rows.length) section.append(showTableOf(part, id));
  if (part.lines.length) section.append(make("ul", {}, ...part.lines.map((line) => make("li", {}, ...said(line)))));
  document.getElementById("parts").append(section);
}

document.getElementById("name").append(...said(page.title));
page.parts.forEach(showPart);
