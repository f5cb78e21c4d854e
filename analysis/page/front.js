"use strict";
/* The front's section: axes to choose, chips that filter, one plot. */

const front = {
  ...page.front,
  /** What is chosen: axes, scale, the facet that colours, values and kinds switched off. */
  chosen: { x: page.front.start.x, y: page.front.start.y, log: null, colour: "method" },
  hidden: Object.fromEntries(page.front.facets.map((facet) => [facet, new Set()])),
  without: new Set(),

  value(column, row, of = this.columns[column]) {
    return of.values ? of.values[row] : of.names[of.codes[row]];
  },
  axis(way) {
    return this[way].find((axis) => axis.name === this.chosen[way]);
  },
  rows: Array.from({ length: page.front.count }, (_, row) => row),
  at(place) {
    return this.rows.filter((row) => this.value("place", row) === place);
  },
  visible(row) {
    if (this.value("place", row) === "baseline") return true;
    return this.facets.every((facet) => !this.hidden[facet].has(this.value(facet, row)));
  },
  look(value) {
    const at = this.kinds[this.chosen.colour].indexOf(value);
    const names = page.palette.names;
    return { colour: coloured(names[at % names.length]), symbol: SYMBOLS[at % SYMBOLS.length] };
  },
};

/** The values of each facet that trials have, in order; of ranks by size. */
front.kinds = Object.fromEntries(front.facets.map((facet) => {
  const tried = front.rows.filter((row) => front.value("place", row) !== "baseline");
  const all = new Set(tried.map((row) => front.value(facet, row)));
  return [facet, [...all].sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : 1))];
}));

const KINDS = {
  validation: "on the front, validation",
  test: "on the front, test with 90% interval",
  seeds: "95% interval over seeds",
  line: "the front, joined",
  completed: "dominated",
  stopped: "dominated, stopped early",
  early: "on the front, stopped early",
  baseline: "baseline",
  published: "published",
};

/* Error on a log scale: from 98% to 99% is as far as from 80% to 90%. */
const FLOOR = 0.004;
const MARKS = [0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 1];

/** Whether the log of the error is drawn, of which the axis shows the metric. */
function ofError() {
  return front.chosen.log && front.axis("y").percent && front.axis("y").rising;
}

function placed(y) {
  return y === null || y === undefined ? null : ofError() ? 1 + FLOOR - y : y;
}

/** Rows of the front over the axes that are chosen: those of the line, and the study's own. */
function members() {
  const { line } = front.fronts[front.chosen.x][front.chosen.y];
  return [...new Set([...line, ...front.at("front")])];
}

/** Whether the metric is the one that intervals and means over seeds are of. */
function isOwn() {
  return front.chosen.y === front.start.y;
}

function score(row) {
  const mean = isOwn() ? front.value("val_mean", row) : null;
  return mean ?? front.value(front.chosen.y, row);
}

function at(rows, y) {
  const known = rows.filter((row) => front.value(front.chosen.x, row) !== null && y(row) !== null && y(row) !== undefined);
  return { rows: known, x: known.map((row) => front.value(front.chosen.x, row)), y: known.map((row) => placed(y(row))) };
}

/** Whiskers from two columns, as the library takes them: distances from the mark. */
function whiskers(rows, y, low, high, style) {
  const reach = (column, row, i) => Math.abs((placed(front.value(column, row)) ?? y[i]) - y[i]);
  const above = rows.map((row, i) => reach(high, row, i));
  const below = rows.map((row, i) => reach(low, row, i));
  const turned = ofError() || !front.axis("y").rising;
  return { type: "data", symmetric: false, array: turned ? below : above, arrayminus: turned ? above : below, width: 0, ...style };
}

function traces() {
  const rows = front.rows.filter((row) => front.visible(row));
  const onFront = new Set(members());
  const dominated = rows.filter((row) => front.value("place", row) === "dominated" && !onFront.has(row));
  const { pale } = theme();
  const found = [];
  for (const [status, style] of [["completed", { symbol: "circle", size: 5 }], ["stopped", { symbol: "x-thin", size: 6, line: { width: 1.2, color: pale } }]]) {
    const some = at(dominated.filter((row) => front.value("status", row) === status), score);
    found.push({ kind: status, ...markers(some.x, some.y, { color: pale, ...style }, { customdata: some.rows }) });
  }
  found.push(joined(), ...ofFront(rows.filter((row) => onFront.has(row))), ...baselines(), ...published());
  return found.filter((trace) => trace.x.length && !front.without.has(trace.kind));
}

/** Anything up to a member's compression reaches its metric, so the steps hang from it. */
function joined() {
  const { x, y } = at(front.fronts[front.chosen.x][front.chosen.y].line, score);
  return { kind: "line", type: "scatter", mode: "lines", x, y, line: { shape: "vh", color: theme().quiet, width: 1.2 }, hoverinfo: "skip" };
}

/** Validation as a ring, test as a dot that fits into it: both are seen where they agree. */
function ofFront(rows) {
  const found = [];
  for (const value of front.kinds[front.chosen.colour]) {
    const some = rows.filter((row) => front.value(front.chosen.colour, row) === value);
    const { colour, symbol } = front.look(value);
    const rings = at(some, score);
    const dots = at(some, (row) => front.value(front.axis("y").test, row));
    if (isOwn() && rings.rows.some((row) => front.value("val_low", row) !== null)) {
      const error_y = whiskers(rings.rows, rings.y, "val_low", "val_high", { color: colour, thickness: 7 });
      found.push({ kind: "seeds", ...markers(rings.x, rings.y, { opacity: 0 }, { error_y, opacity: 0.3, hoverinfo: "skip" }) });
    }
    const open = { symbol: `${symbol}-open`, size: 11, color: colour, line: { width: 2 } };
    found.push({ kind: "validation", ...markers(rings.x, rings.y, open, { customdata: rings.rows }) });
    const ends = front.axis("y").rising ? ["test_worst", "test_best"] : ["test_best", "test_worst"];
    const error_y = isOwn() ? whiskers(dots.rows, dots.y, ...ends, { color: colour, thickness: 1.5 }) : {};
    found.push({ kind: "test", ...markers(dots.x, dots.y, { symbol, size: 6, color: colour }, { customdata: dots.rows, error_y }) });
  }
  const early = at(rows.filter((row) => front.value("status", row) === "stopped"), score);
  found.push({ kind: "early", ...markers(early.x, early.y, { symbol: "x-thin", size: 9, line: { width: 1.3, color: theme().ink } }, { hoverinfo: "skip" }) });
  return found;
}

function baselines() {
  const some = at(front.at("baseline"), score);
  const dots = at(some.rows, (row) => front.value(front.axis("y").test, row));
  const tests = { kind: "baseline", ...markers(dots.x, dots.y, { symbol: "diamond", size: 5, color: theme().ink }, { customdata: dots.rows }) };
  const named = {
    kind: "baseline",
    ...markers(some.x, some.y, { symbol: "diamond-open", size: 10, color: theme().ink, line: { width: 2 } }, { customdata: some.rows }),
    mode: "markers+text",
    text: some.rows.map((row) => plain(front.value("role", row).replace("dense_recovered", "dense + recovery"), 20)),
    textposition: some.rows.map(() => "bottom center"),
    textfont: { color: theme().ink, size: 12 },
    cliponaxis: false,
  };
  return [named, tests];
}

function published() {
  const own = front.chosen.x === front.start.x && isOwn();
  return (own ? front.published : []).map((series, i) => ({
    kind: "published",
    ...markers(series.x, series.y.map(placed), { symbol: `${SYMBOLS[(i + 2) % SYMBOLS.length]}-open`, size: 9, color: theme().ink, line: { width: 1.5 } }),
    values: series.y,
    says: series.texts.map((text) => `${series.name}: ${text}`),
  }));
}

/** The least and the most of what a fit shows: the front, its intervals and the baselines. */
function yEnds() {
  const shownRows = [...members(), ...front.at("baseline")];
  const columns = ["test_worst", "test_best", "val_low", "val_high"];
  const values = shownRows.flatMap((row) => [score(row), front.value(front.axis("y").test, row), ...(isOwn() ? columns.map((name) => front.value(name, row)) : [])]);
  values.push(...published().flatMap((series) => series.values));
  const known = values.filter((value) => value !== null && value !== undefined).map(placed);
  return [Math.min(...known), Math.max(...known)];
}

/** Ends of the axis; dominated ones may lie below. */
function yRange() {
  let [low, high] = yEnds();
  if (front.chosen.log) {
    const pad = Math.max((high / low) ** 0.08, 1.05);
    [low, high] = [Math.log10(low / pad), Math.log10(high * pad)];
  } else {
    const pad = 0.08 * (high - low) || 0.05 * Math.abs(high) || 1;
    [low, high] = [low - pad, high + pad];
  }
  return ofError() || !front.axis("y").rising ? [high, low] : [low, high];
}

function yAxis() {
  const axis = { ...axisStyle(), range: yRange() };
  if (ofError()) {
    return { ...axis, type: "log", tickmode: "array", tickvals: MARKS.map(placed), ticktext: MARKS.map((mark) => short(mark, true)) };
  }
  if (front.chosen.log) {
    const [a, b] = yRange().map((end) => 10 ** end).sort((p, q) => p - q);
    const log = logAxis(a, b);
    return { ...axis, ...log, ticktext: log.tickvals.map((tick) => short(tick)) };
  }
  return front.axis("y").percent ? { ...axis, tickformat: ".4~%" } : axis;
}

function xAxis(found) {
  const values = found.flatMap((trace) => trace.x);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const { unit } = front.axis("x");
  const log = logAxis(low, high, unit === "×");
  const pad = Math.max((high / low) ** 0.05, 1.12);
  return {
    ...axisStyle(),
    ...log,
    ticktext: log.tickvals.map((tick) => short(tick) + (unit === "×" ? unit : unit && ` ${unit}`)),
    range: [Math.log10(low / pad), Math.log10(high * pad)],
  };
}

function drawFront() {
  const found = traces();
  const layout = layoutOf(xAxis(found), yAxis());
  const named = found.find((trace) => trace.mode === "markers+text");
  if (named) named.textposition = labelled(named, found, layout);
  const { x, y, log } = front.chosen;
  layout.uirevision = `${x} ${y} ${log}`;
  if (front.band && isOwn()) {
    const [y0, y1] = front.band.map(placed);
    layout.shapes = [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0, y1, fillcolor: page.palette.names[0], opacity: 0.12, line: { width: 0 }, layer: "below" }];
  }
  const mark = certified(layout.xaxis.range);
  if (mark) {
    layout.shapes = [...(layout.shapes ?? []), mark.line];
    layout.annotations = [mark.label];
  }
  document.getElementById("front-y").textContent = front.axis("y").label;
  document.getElementById("front-x").textContent = `${front.axis("x").label} (log scale)`;
  document.getElementById("front-note").textContent = noteOfFront();
  return drawPlot(document.getElementById("front-plot"), found, layout);
}

function noteOfFront() {
  const { x, y } = front.chosen;
  const { own } = front.fronts[x][y];
  const parts = [
    own
      ? "The front was chosen on validation, then its points were scored on test; those that test shows dominated stay drawn."
      : "Over these axes the front joins what is best by the records, on validation only; the study's own front is of other axes, and its points are drawn, too.",
  ];
  if (front.band && isOwn()) parts.push(`Shaded: within ${front.margin} of dense on test.`);
  const without = front.rows.filter((row) => front.value("place", row) !== "baseline" && front.value(x, row) === null).length;
  if (without) parts.push(`${grouped.format(without)} of ${grouped.format(front.rows.length - front.at("baseline").length)} trials have no ${x} and are not drawn.`);
  if (front.missing.length) parts.push(`Baselines that this study has not: ${front.missing.join(", ")}.`);
  parts.push("Drag to zoom, double-click to see all; a click keeps a point's figures below.");
  return parts.join(" ");
}

/** The whole setting of a trial, put together from its columns. */
function setting(row) {
  const words = Object.entries(front.settings).map(([word, of]) => [word, front.value("", row, of)]);
  return words.map(([word, value]) => [word, typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value]);
}

/** The whole setting of a trial, and its figures. */
function aboutRow(row) {
  const value = (name) => front.value(name, row);
  const pairs = front.y.map((axis) => [axis.name, shown(value(axis.name), axis)]);
  const tests = front.y.map((axis) => [axis.test, shown(value(axis.test), axis)]);
  const percent = front.y.find((axis) => axis.name === front.start.y);
  const between = (low, high) => (value(low) === null ? "" : `${shown(value(low), percent)} to ${shown(value(high), percent)}`);
  const title = value("place") === "baseline" ? `Baseline ${value("role")}` : `Trial ${value("number")}, ${value("place") === "front" ? "on the front" : "dominated"}`;
  const figures = facts([
    ["ended", `${value("status")} after ${value("epochs_done")} epochs`],
    ...pairs,
    ["over seeds, 95%", between("val_low", "val_high")],
    ...tests,
    ["test, 90%", between("test_worst", "test_best")],
    ...front.x.map((axis) => [axis.name, shown(value(axis.name), axis)]),
    ["verified", value("verified") ? "yes" : "no"],
  ]);
  const asked = facts([...setting(row), ["trial", value("trial_id")]]);
  return [make("strong", {}, title), make("div", { class: "about" }, asked, figures)];
}

function listen(plot) {
  const about = ({ points: [point] }) => (point.data.says ? [point.data.says[point.pointNumber]] : aboutRow(point.customdata));
  plot.on("plotly_hover", (data) => tooltip.show(about(data), data.event));
  plot.on("plotly_unhover", () => tooltip.hide());
  plot.on("plotly_afterplot", () => showBelow(plot));
  showBelow(plot);
  plot.on("plotly_click", (data) => document.getElementById("front-picked").replaceChildren(...about(data)));
}

async function showFront() {
  front.chosen.log ??= startsLog();
  showChoices();
  showFilters();
  showKinds();
  return drawFront();
}
