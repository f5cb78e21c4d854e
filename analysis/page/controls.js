"use strict";
/* What is chosen of the front: axes, scale, colour; chips that filter. */

function selector(label, options, value, changed) {
  const select = make("select");
  for (const [name, text] of options) select.append(make("option", { value: name, selected: name === value }, text));
  select.addEventListener("change", () => changed(select.value));
  return make("label", {}, label, select);
}

/** Whether the axis begins with a log scale: where values lie far apart. */
function startsLog() {
  const { percent, rising, log } = front.axis("y");
  front.chosen.log = false;
  const [a, b] = yEnds();
  if (percent && rising) return b - a > 0.1;
  return !percent && !rising && log && b > 3 * a && a > 0;
}

function showChoices() {
  const box = document.getElementById("front-choices");
  const set = (name) => (value) => {
    front.chosen[name] = value;
    if (name === "y") front.chosen.log = startsLog();
    showChoices();
    showFilters();
    drawFront();
  };
  const { percent, rising, log } = front.axis("y");
  const scales = [["", "as it is"], ["log", percent && rising ? "log of the error" : "log"]];
  const focused = document.activeElement?.closest?.("#front-choices label")?.firstChild?.textContent;
  box.replaceChildren(
    selector("metric", front.y.map((axis) => [axis.name, axis.label]), front.chosen.y, set("y")),
    selector("against", front.x.map((axis) => [axis.name, axis.label]), front.chosen.x, set("x")),
    ...(percent || log ? [selector("scale", scales, front.chosen.log ? "log" : "", (value) => set("log")(value === "log"))] : []),
    selector("colour by", front.facets.map((facet) => [facet, facet]), front.chosen.colour, set("colour")),
  );
  for (const label of box.children) if (label.firstChild.textContent === focused) label.lastChild.focus();
}

function showFilters() {
  const box = document.getElementById("front-filters");
  box.replaceChildren();
  for (const facet of front.facets) {
    const values = front.kinds[facet];
    if (values.length < 2) continue;
    const group = make("div", { role: "group", "aria-label": `show by ${facet}` }, make("span", { class: "facet" }, facet));
    for (const value of values) {
      const { colour, symbol } = front.look(value);
      const picture = facet === front.chosen.colour ? swatch(symbol, colour) : null;
      group.append(chip(String(value === "" ? "none" : value), picture, !front.hidden[facet].has(value), (on) => {
        front.hidden[facet][on ? "delete" : "add"](value);
        drawFront();
      }));
    }
    box.append(group);
  }
}

/** What is drawn, each switched on and off by a chip that shows its mark. */
function showKinds() {
  const { ink, quiet, pale } = theme();
  const pictures = {
    validation: swatch("circle", quiet, { hollow: true }),
    test: swatch("circle", quiet),
    seeds: swatch("block", quiet, { faint: true }),
    line: swatch("line", quiet),
    completed: swatch("circle", pale),
    stopped: swatch("x", pale),
    early: swatch("x", ink),
    baseline: swatch("diamond", ink, { hollow: true }),
    published: swatch("triangle-up", ink, { hollow: true }),
  };
  const kinds = new Set(traces().map((trace) => trace.kind).concat([...front.without]));
  const chips = Object.entries(KINDS).filter(([kind]) => kinds.has(kind)).map(([kind, text]) =>
    chip(text, pictures[kind], !front.without.has(kind), (on) => {
      front.without[on ? "delete" : "add"](kind);
      drawFront();
    }));
  document.getElementById("front-kinds").replaceChildren(...chips);
}
