"use strict";
/* What the page says: the answers above, the ground they stand on below. */

function showWords() {
  document.getElementById("name").textContent = page.name;
  document.getElementById("headline").append(...said(page.headline));
  document.getElementById("answers").append(...page.answers.map((line) => make("li", {}, ...said(line))));
  for (const [title, lines] of Object.entries(page.honest)) {
    if (!lines.length) continue;
    const list = make("ul", {}, ...lines.map((line) => make("li", {}, ...said(line))));
    document.getElementById("honest").append(make("h3", {}, title), list);
  }
}

showWords();
showTable();
