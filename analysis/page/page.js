"use strict";
/* Draws the front, then each chart as it comes near. */

/** Colours are the theme's, so a change of it draws all anew. */
function followTheme() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    showFront();
    for (const chart of charts.filter((one) => one.drawn)) chart.draw();
  });
}

function tellSettings() {
  const rows = new Map(front.rows.map((row) => [front.value("trial_id", row), row]));
  settingOf = (id) => (rows.has(id) ? [...setting(rows.get(id)), ["trial", id]] : []);
}

async function showPage() {
  tellSettings();
  await showFront();
  listen(document.getElementById("front-plot"));
  showCharts();
  followTheme();
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
}

showPage();
