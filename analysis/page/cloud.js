"use strict";
/* Very many points: the library makes an element of each, so these are drawn on a canvas below its
   plot. It still has them as data, for axes and for what is under the pointer. */

const MANY = 1500; // from which on points are a cloud

/** One mark at the middle of a picture of 22 by 14, as the pictures of marks are. */
function stamp({ symbol, size, color, line = {} }) {
  const shape = symbol.replace("-open", "");
  const path = new Path2D();
  path.addPath(new Path2D(PATHS[shape]), new DOMMatrix().scale(size / 8).translate(-11, -7));
  const stroked = shape !== symbol || shape.endsWith("-thin");
  return { path, color: line.color ?? color, width: stroked ? line.width ?? 1 : 0 };
}

function drawStamp(brush, { path, color, width }) {
  brush.lineWidth = width;
  brush.fillStyle = brush.strokeStyle = color;
  if (width) brush.stroke(path);
  else brush.fill(path);
}

/** The clouds of a plot, where its axes are now. */
function drawClouds(plot) {
  const { xaxis, yaxis } = plot._fullLayout;
  const [width, height, sharp] = [xaxis._length, yaxis._length, devicePixelRatio];
  const { canvas } = plot;
  Object.assign(canvas, { width: width * sharp, height: height * sharp });
  Object.assign(canvas.style, { left: `${xaxis._offset}px`, top: `${yaxis._offset}px`, width: `${width}px`, height: `${height}px` });
  const brush = canvas.getContext("2d");
  for (const { x, y, marker } of plot.data.filter((trace) => trace.cloud)) {
    const one = stamp(marker);
    brush.globalAlpha = marker.opacity ?? 1;
    for (let i = 0; i < x.length; i += 1) {
      brush.setTransform(sharp, 0, 0, sharp, sharp * xaxis.d2p(x[i]), sharp * yaxis.d2p(y[i]));
      drawStamp(brush, one);
    }
  }
}

/** Draws a plot, or draws it anew; what the library draws is seen above the clouds. */
async function drawPlot(plot, found, layout) {
  const clouds = found.some((trace) => trace.cloud);
  const clear = clouds ? { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" } : {};
  // Its camera would leave the clouds out; pictures of all stand beside the page.
  const without = [...CONFIG.modeBarButtonsToRemove, ...(clouds ? ["toImage"] : [])];
  await Plotly.react(plot, found, { ...layout, ...clear }, { ...CONFIG, modeBarButtonsToRemove: without });
  if (plot.canvas) return;
  plot.canvas = make("canvas", { class: "clouds", "aria-hidden": "true" });
  plot.prepend(plot.canvas);
  const draw = () => drawClouds(plot);
  plot.on("plotly_afterplot", draw);
  plot.on("plotly_relayouting", draw);
  draw();
}
