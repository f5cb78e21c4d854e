"use strict";
/* What all plots share: colours of the theme, axes, markers, chips that switch them on and off. */

const SYMBOLS = ["circle", "square", "triangle-up", "triangle-down", "cross", "x", "pentagon"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { paper: of("paper"), ink: of("ink"), quiet: of("quiet"), line: of("line"), pale: of("pale") };
}

/** A colour of the palette in this theme: grey and black are the theme's own. */
function coloured(colour) {
  const { ink, pale } = theme();
  return { "#000000": ink, "#B4B4B4": pale }[colour] ?? colour;
}

/** What every layout begins with. */
function layoutOf(x, y) {
  const { paper, ink, quiet } = theme();
  return {
    paper_bgcolor: paper,
    plot_bgcolor: paper,
    font: { color: quiet, size: 12, family: "system-ui, sans-serif" },
    margin: { l: 56, r: 14, t: 10, b: 24 },
    showlegend: false,
    hovermode: "closest",
    dragmode: "zoom",
    barmode: "overlay",
    modebar: { color: quiet, activecolor: ink, bgcolor: "rgba(0,0,0,0)" },
    xaxis: x,
    yaxis: y,
  };
}

function axisStyle() {
  const { line, quiet } = theme();
  return { gridcolor: line, linecolor: quiet, showline: true, zeroline: false, automargin: true, exponentformat: "SI" };
}

/** A logarithmic axis: ticks at doublings for ranks and ratios, at powers of ten for all else. */
function logAxis(low, high, doubles = true) {
  const twos = doubles && high <= 4096 && high < 2000 * low;
  const base = twos ? 2 : 10;
  const near = twos ? [[2.5, [1, 1.25, 1.5, 1.75]], [6, [1, 1.5]]] : [[3, [1, 1.5, 2, 3, 4, 5, 6, 8]], [30, [1, 2, 5]]];
  const steps = near.find(([most]) => high < most * low)?.[1] ?? [1];
  const ticks = [];
  for (let k = -24; k < 60; k += 1) for (const step of steps) ticks.push(step * base ** k);
  const kept = ticks.filter((tick) => tick > low / 1e4 && tick < high * 1e4);
  return { type: "log", tickmode: "array", tickvals: kept };
}

/** How to draw on one of a chart's axes. */
function scaleAxis(scale, values) {
  const numbers = values.filter((value) => typeof value === "number");
  if (numbers.length < values.length) {
    const names = [...new Set(values)];
    return { ...axisStyle(), tickmode: "array", tickvals: names.map((_, i) => i), ticktext: names.map((name) => plain(name, 20)), zeroline: false };
  }
  const axis = axisStyle();
  if (scale.log && numbers.length) {
    const ends = numbers.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const log = logAxis(...ends);
    Object.assign(axis, log, { ticktext: log.tickvals.map((v) => short(v, scale.percent)) });
  } else if (scale.percent) {
    axis.tickformat = ".4~%";
  }
  if (scale.reversed) axis.autorange = "reversed";
  return axis;
}

/** A tick's number: 64, 20k, 3M, 0.25. */
function short(value, percent = false) {
  if (percent) return `${Number((100 * value).toPrecision(4))}%`;
  for (const [factor, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= factor && !(prefix === "k" && value < 1e4)) return Number((value / factor).toPrecision(3)) + prefix;
  }
  return String(Number(value.toPrecision(4)));
}

/** Points of one kind; many of them are a cloud, which the library knows but does not draw. */
function markers(x, y, style, rest = {}) {
  const cloud = x.length > MANY;
  return { type: "scatter", mode: cloud ? "none" : "markers", cloud, x, y, marker: style, hoverinfo: "none", ...rest };
}

/** A button that is on or off, with a picture of the mark that it stands for. */
function chip(text, picture, on, toggled) {
  const button = make("button", { type: "button", class: "chip", "aria-pressed": String(on), title: text });
  if (picture) button.append(picture);
  button.append(make("span", {}, text));
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    toggled(now);
  });
  return button;
}

const PATHS = {
  circle: "M11 3a4 4 0 1 0 .01 0z",
  square: "M7 3h8v8h-8z",
  "triangle-up": "M11 2l5 9h-10z",
  "triangle-down": "M11 12l5-9h-10z",
  cross: "M9.5 2h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
  x: "M7 4.2l2-2 2 2.3 2-2.3 2 2-2.3 2.3 2.3 2.3-2 2-2-2.3-2 2.3-2-2 2.3-2.3z",
  pentagon: "M11 2l5 3.8-2 5.7h-6l-2-5.7z",
  diamond: "M11 1.5l5.5 5.5-5.5 5.5-5.5-5.5z",
  "x-thin": "M7.2 3.2l7.6 7.6M7.2 10.8l7.6-7.6",
  line: "M1 7h20",
  whisker: "M11 1v12",
  block: "M1 3h20v8h-20z",
};

/** A small picture of a mark. */
function swatch(shape, colour, { hollow = false, dash = 0, faint = false } = {}) {
  const space = "http://www.w3.org/2000/svg";
  const image = document.createElementNS(space, "svg");
  image.setAttribute("viewBox", "0 0 22 14");
  image.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  const stroke = shape === "line" || shape === "whisker";
  path.setAttribute("d", PATHS[shape]);
  path.setAttribute("fill", stroke || hollow ? "none" : colour);
  if (stroke || hollow) path.setAttribute("stroke", colour);
  path.setAttribute("stroke-width", "1.8");
  path.setAttribute("stroke-dasharray", ["", "5 3", "2 3", "6 3 2 3"][dash]);
  if (faint) path.setAttribute("opacity", "0.35");
  image.append(path);
  return image;
}
