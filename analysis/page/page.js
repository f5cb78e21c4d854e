"use strict";
/* Draws the front, then each chart as it comes near. */

/** Colours are the theme's, so a change of it draws all anew. */
function followTheme() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    showFront();
    for (const chart of charts.filter((one) => one.drawn)) chart.draw();
  });
}

async function showPage() {
  await showFront();
  listen(document.getElementById("front-plot"));
  showCharts();
  followTheme();
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
}

showPage();
