"use strict";
/* Draws the charts of a comparison. */

showCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts.filter((one) => one.drawn)) chart.draw();
});
document.documentElement.dataset.ready = "yes";
