"use strict";
/* One box that says what is under the pointer. */

const tooltip = {
  box: document.getElementById("tooltip"),

  show(content, event) {
    this.box.replaceChildren(...content);
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const right = event.clientX + 16 + width < innerWidth;
    const left = right ? event.clientX + 16 : Math.max(4, event.clientX - 16 - width);
    const top = Math.min(event.clientY + 12, innerHeight - height - 4);
    this.box.style.left = `${left}px`;
    this.box.style.top = `${Math.max(4, top)}px`;
  },

  hide() {
    this.box.hidden = true;
  },
};

/** Pairs of a word and a value as a list; what is empty is left out. */
function facts(pairs) {
  const list = make("dl", { class: "facts" });
  for (const [word, value] of pairs) {
    if (value !== "" && value !== null && value !== undefined) {
      list.append(make("dt", {}, word), make("dd", {}, String(value)));
    }
  }
  return list;
}
