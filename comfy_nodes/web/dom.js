// What the widgets of this pack are made of. Text is set as text, never as markup: explanations come from a model.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** An element with a class, and what is in it: strings or elements. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

/** A picture that a node has saved; small ones are shown pixel by pixel. */
export function picture(saved, alt) {
  const made = element("img", "rewarddance-picture");
  made.alt = alt;
  made.draggable = false;
  made.onload = () => made.classList.toggle("rewarddance-pixels", made.naturalWidth < 256);
  made.src = api.apiURL(`/view?${new URLSearchParams(saved)}`);
  return made;
}

/**
 * Gives a node of this pack a place below its inputs, filled by `show(output)` whenever it has run, and again when one
 * comes back to a workflow that has.
 */
export function onRun(kind, name, minHeight, show) {
  return {
    name: `RewardDance.${name}`,
    nodeCreated(node) {
      if (node.comfyClass !== kind) return;
      const place = element("div", "rewarddance");
      const widget = node.addDOMWidget(name, `rewarddance_${name}`, place, {
        serialize: false,
        hideOnZoom: false,
        getMinHeight: () => (place.childElementCount ? minHeight : 0),
      });
      widget.serialize = false; // what is shown is no part of the workflow

      function fill(output) {
        const first = !place.childElementCount;
        place.replaceChildren(...show(output));
        if (first) {
          const [width, height] = node.computeSize();
          node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
        }
        node.setDirtyCanvas(true, true);
      }

      const { onExecuted, onDrawForeground } = node;
      node.onExecuted = function (output) {
        onExecuted?.apply(this, arguments);
        fill(output);
      };
      node.onDrawForeground = function () {
        onDrawForeground?.apply(this, arguments);
        const before = app.nodeOutputs?.[this.id];
        if (before && !place.childElementCount) fill(before);
      };
    },
  };
}

const style = element("link", "");
style.rel = "stylesheet";
style.href = new URL("./rewarddance.css", import.meta.url).href;
document.head.append(style);
