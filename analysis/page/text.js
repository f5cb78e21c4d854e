"use strict";
/* The data, and text: set as text, never as markup. */

const page = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes, and children that are elements or text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Spans as elements: [style, text], where style is "", "strong" or "code". */
function said(spans) {
  return spans.map(([style, text]) => (style ? make(style, {}, text) : text));
}

/** Text for the plotting library, which reads a little markup: without any, and not too long. */
function plain(text, longest = 28) {
  const letters = Array.from(String(text).replace(/\s+/g, " "));
  const short = letters.length > longest ? letters.slice(0, longest - 1).join("") + "…" : letters.join("");
  return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/* Ties are rounded as in the tables, to the even digit. */
const rounded = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2, useGrouping: false, roundingMode: "halfEven" });
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });

/** A number with the unit of its axis: 97.35%, 12.3×, 4,096 B. */
function shown(value, { percent = false, unit = "" } = {}) {
  if (value === null || value === undefined) return "";
  if (percent) return rounded.format(100 * value) + "%";
  const text = Number.isInteger(value) ? grouped.format(value) : String(Number(value.toPrecision(5)));
  return unit === "×" ? text + unit : `${text} ${unit}`.trim();
}
