"use strict";
/* What is written on the plot of the front: names of baselines, the certificate, what lies below. */

/* Where a label may stand at its mark, as the library names it, and its middle from the mark's. */
const SIDES = {
  "bottom center": [0, 1], "top center": [0, -1], "middle right": [1, 0], "middle left": [-1, 0],
  "bottom right": [1, 1], "bottom left": [-1, 1], "top right": [1, -1], "top left": [-1, -1],
};

/** A side for each label on which it hides no mark and no other label, as far as there is one. */
function labelled({ x, y, text }, found, { xaxis, yaxis }) {
  const plot = document.getElementById("front-plot");
  const [width, height] = [plot.clientWidth - 80, plot.clientHeight - 40];
  const share = (value, axis) => ((axis.type === "log" ? Math.log10(value) : value) - axis.range[0]) / (axis.range[1] - axis.range[0]);
  const pixel = (a, b) => [width * share(a, xaxis), height * (1 - share(b, yaxis))];
  const box = ([a, b], w, h) => [a - w / 2, a + w / 2, b - h / 2, b + h / 2];
  const marks = found.filter((trace) => ["baseline", "validation", "test"].includes(trace.kind));
  const taken = marks.flatMap((trace) => trace.x.map((a, i) => box(pixel(a, trace.y[i]), 11, 11)));
  const common = (p, q) => Math.max(0, Math.min(p[1], q[1]) - Math.max(p[0], q[0])) * Math.max(0, Math.min(p[3], q[3]) - Math.max(p[2], q[2]));
  return text.map((label, i) => {
    const [a, b] = pixel(x[i], y[i]);
    const wide = 7 * label.length;
    const at = ([across, down]) => box([a + across * (wide / 2 + 7), b + down * 14], wide, 13);
    const outside = ([left, right, top, bottom]) => 13 * (Math.max(0, -left) + Math.max(0, right - width)) + wide * (Math.max(0, -top) + Math.max(0, bottom - height));
    const cost = (side) => outside(at(SIDES[side])) + taken.reduce((sum, other) => sum + common(at(SIDES[side]), other), 0);
    const best = Object.keys(SIDES).reduce((p, q) => (cost(q) < cost(p) ? q : p));
    taken.push(at(SIDES[best]));
    return best;
  });
}

/** The line and the words that mark the certified point, as in the picture. */
function certified([low, high]) {
  if (!front.certified) return null;
  const { row, text } = front.certified;
  const [x, y] = [front.value(front.chosen.x, row), placed(score(row))];
  if (x === null || y === null) return null;
  const { ink, quiet } = theme();
  const across = (Math.log10(x) - low) / (high - low);
  const xanchor = across < 0.25 ? "left" : across > 0.75 ? "right" : "center";
  return {
    line: { type: "line", x0: x, x1: x, y0: 0, y1: 0.94, yref: "paper", line: { color: quiet, width: 1, dash: "dot" }, layer: "below" },
    label: { text: `<b>${plain(text, 60)}</b>`, x: Math.log10(x), y: 1, yref: "paper", yanchor: "top", xanchor, showarrow: false, font: { color: ink, size: 12 } },
  };
}

/** How many trials the axis leaves out at its worse end, as it is drawn now. */
function showBelow(plot) {
  const [worst] = plot._fullLayout.yaxis.range.map((end) => (front.chosen.log ? 10 ** end : end));
  const turned = ofError() || !front.axis("y").rising;
  const below = (trace) => trace.y.filter((y) => (turned ? y > worst : y < worst)).length;
  const count = plot.data.filter((trace) => ["completed", "stopped"].includes(trace.kind)).reduce((sum, trace) => sum + below(trace), 0);
  document.getElementById("front-below").textContent = count ? `▾ ${grouped.format(count)} more below` : "";
}
