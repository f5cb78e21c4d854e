"use strict";
/* The charts below the front: any chart's data as panels of plots. */

const charts = [];
const LABEL = 40; // pixels of a label in a cell

const PAINTERS = {
  points(series, x, y) {
    const style = { symbol: SYMBOLS[series.shape] + (series.hollow ? "-open" : ""), size: series.muted ? 5 : 8, color: coloured(series.colour) };
    return [{ ...markers(x, y, style), error_y: intervals(series, y) }];
  },
  line(series, x, y) {
    const few = x.length <= 40 && !series.muted;
    const colour = coloured(series.colour);
    return [{
      type: "scatter",
      mode: few ? "lines+markers" : "lines",
      x,
      y,
      line: { color: colour, width: series.muted ? 1.2 : 2, dash: DASHES[series.dash] },
      marker: { symbol: SYMBOLS[series.shape] + (series.hollow ? "-open" : ""), size: 6, color: colour },
      error_y: intervals(series, y),
      hoverinfo: "none",
    }];
  },
  step(series, x, y) {
    return [{ type: "scatter", mode: "lines", x, y, line: { shape: "hv", color: coloured(series.colour), width: 2, dash: DASHES[series.dash] }, hoverinfo: "none" }];
  },
  band(series, x) {
    const known = x.map((_, i) => i).filter((i) => isKnown(series.low?.[i]) && isKnown(series.high?.[i]));
    const edge = (column) => ({
      type: "scatter", mode: "lines", x: known.map((i) => x[i]), y: known.map((i) => series[column][i]),
      line: { width: 0, color: coloured(series.colour) }, hoverinfo: "skip",
    });
    return [edge("low"), { ...edge("high"), fill: "tonexty", fillcolor: faded(coloured(series.colour)) }];
  },
  bars(series, x, y) {
    const lying = typeof series.y[0] === "string";
    const style = { color: coloured(series.colour), opacity: 0.85 };
    const ends = { ...intervals(series, lying ? x : y), color: theme().ink };
    return [{ type: "bar", x, y, width: 0.7, orientation: lying ? "h" : "v", marker: style, hoverinfo: "none", [lying ? "error_x" : "error_y"]: ends }];
  },
  cells(series, x, y, plot) {
    const [columns, rows] = [Math.max(...x) + 1, Math.max(...y) + 1];
    const blank = () => Array.from({ length: rows }, () => Array(columns).fill(null));
    const [z, which] = [blank(), blank()];
    series.shade.forEach((value, i) => {
      z[y[i]][x[i]] = value;
      which[y[i]][x[i]] = i;
    });
    const shades = page.palette.shades;
    const known = series.shade.filter(isKnown);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const [zmin, zmax] = low < high ? [low, high] : [low - 1, high + 1];
    const colorbar = { thickness: 12, outlinewidth: 0, ...(series.percent ? { tickformat: ".4~%" } : {}) };
    const map = {
      type: "heatmap", z, zmin, zmax, customdata: which, xgap: 2, ygap: 2, hoverinfo: "none",
      colorscale: shades.map((colour, i) => [i / (shades.length - 1), colour]), colorbar,
    };
    const labels = {
      type: "scatter", mode: "text", x, y, hoverinfo: "skip",
      text: series.shade.map((value) => (isKnown(value) ? shownShade(value, series) : "")),
      textfont: { size: 11, color: series.inks.map((ink) => ink ?? theme().ink) },
    };
    // Where cells are too narrow for them a hover tells the values.
    return plot.clientWidth - 170 >= LABEL * columns ? [map, labels] : [map];
  },
};

function shownShade(value, { percent }) {
  return percent ? `${Number((100 * value).toPrecision(3))}%` : short(value);
}

function isKnown(value) {
  return value !== null && value !== undefined;
}

function faded(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, 0.22)`;
}

/** Whiskers of a series, as distances from its marks. */
function intervals(series, of) {
  if (!series.low?.some(isKnown) || !series.high) return { visible: false };
  const reach = (ends) => ends.map((end, i) => (isKnown(end) ? Math.abs(end - of[i]) : 0));
  return { type: "data", symmetric: false, array: reach(series.high), arrayminus: reach(series.low), width: 0, thickness: 1.5, color: coloured(series.colour) };
}

/** Where the names of an axis stand on it. */
function places(values, names) {
  return values.map((value) => (typeof value === "string" ? names.indexOf(value) : value));
}

/** The ends that an axis has in all panels of its chart, better at the end. */
function common(scale, [low, high]) {
  const ends = scale.log ? [Math.log10(low), Math.log10(high)] : [low, high];
  return { range: scale.reversed ? ends.reverse() : ends, autorange: false };
}

function drawPanel(plot, panel, hidden, ranges) {
  const all = { x: panel.series.flatMap((series) => series.x), y: panel.series.flatMap((series) => series.y) };
  const names = { x: [...new Set(all.x)], y: [...new Set(all.y)] };
  const layout = layoutOf(scaleAxis(panel.x, all.x), scaleAxis(panel.y, all.y));
  const found = panel.series.filter((series) => !hidden.has(series.name)).flatMap((series) => {
    const traces = PAINTERS[series.mark](series, places(series.x, names.x), places(series.y, names.y), plot);
    return traces.map((trace) => ({ ...trace, series }));
  });
  for (const way of ["x", "y"]) if (ranges[way]) Object.assign(layout[`${way}axis`], common(panel[way], ranges[way]));
  const lists = typeof all.y[0] === "string";
  if (lists) layout.yaxis.autorange = "reversed"; // the first name at the top
  if (lists) layout.yaxis.showgrid = false;
  if (panel.series.some((series) => series.mark === "cells")) layout.xaxis.showgrid = false;
  layout.margin = { l: 48, r: 10, t: 24, b: 24 };
  layout.uirevision = "kept";
  return drawPlot(plot, found, layout);
}

/** The whole setting of a trial by its id, as facts: of a page that has the settings. */
let settingOf = () => [];

function aboutMark(panel, { points: [point] }) {
  const { series } = point.data;
  const i = series.mark === "cells" ? point.customdata : point.pointNumber;
  const value = (way) => (typeof series[way][i] === "string" ? series[way][i] : shown(series[way][i], panel[way]));
  const ends = isKnown(series.low?.[i]) && isKnown(series.high?.[i]) ? `${shown(series.low[i], panel.y)} to ${shown(series.high[i], panel.y)}` : "";
  const asked = settingOf(series.trials?.[i]);
  return [
    make("strong", {}, series.texts?.[i] ?? series.name),
    facts([[panel.x.label || "x", value("x")], [panel.y.label || "y", value("y")], ["interval", ends], ["value", isKnown(series.shade?.[i]) ? shownShade(series.shade[i], series) : ""]]),
    ...(asked.length ? [facts(asked)] : []),
  ];
}

function showPanel(panel, hidden, ranges) {
  const plot = make("div", { class: "plot" });
  const box = make("div", { class: "panel" }, make("h3", { title: panel.title }, panel.title), make("p", { class: "axis" }, panel.y.label), plot, make("p", { class: "axis across" }, panel.x.label));
  let listening = false;
  const draw = async () => {
    await drawPanel(plot, panel, hidden, ranges);
    if (listening) return;
    listening = true;
    plot.on("plotly_hover", (data) => tooltip.show(aboutMark(panel, data), data.event));
    plot.on("plotly_unhover", () => tooltip.hide());
  };
  return { box, draw };
}

function picture(series) {
  const colour = coloured(series.colour);
  if (series.mark === "points") return swatch(SYMBOLS[series.shape], colour, { hollow: series.hollow });
  if (series.mark === "band" || series.mark === "bars") return swatch("block", colour, { faint: series.mark === "band" });
  return swatch("line", colour, { dash: series.dash });
}

function showChart(name, chart) {
  const hidden = new Set();
  const panels = chart.panels.map((panel) => showPanel(panel, hidden, chart.ranges));
  const named = new Map(chart.panels.flatMap((panel) => panel.series).filter((series) => series.mark !== "cells").map((series) => [series.name, series]));
  const redraw = async () => {
    for (const panel of panels) await panel.draw();
  };
  const legend = () => [...named].map(([text, series]) => chip(text, picture(series), !hidden.has(text), (on) => {
    hidden[on ? "delete" : "add"](text);
    redraw();
  }));
  const chips = make("div", { class: "chips", role: "group", "aria-label": "What is drawn" });
  const grid = make("div", { class: "grid", style: `--columns: ${chart.columns}` }, ...panels.map((panel) => panel.box));
  const section = make("section", { id: `chart-${name}` }, make("h2", {}, chart.title), make("p", { class: "note" }, chart.note), chips, grid);
  const draw = () => {
    if (named.size > 1) chips.replaceChildren(...legend());
    return redraw();
  };
  document.getElementById("charts").append(section);
  charts.push({ section, draw, drawn: false });
}

/** Charts are drawn when they come near, so that a long page is there at once. */
function showCharts() {
  for (const [name, chart] of Object.entries(page.charts)) showChart(name, chart);
  const near = new IntersectionObserver((seen) => {
    for (const entry of seen.filter((one) => one.isIntersecting)) {
      const chart = charts.find((one) => one.section === entry.target);
      near.unobserve(entry.target);
      chart.drawn = true;
      chart.draw();
    }
  }, { rootMargin: "600px" });
  for (const chart of charts) near.observe(chart.section);
}
