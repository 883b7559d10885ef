// Compare: both pictures under a slider, the reward as a bar, and the judge's reasons.
import { app } from "../../scripts/app.js";
import { element, onRun, picture } from "./dom.js";

function slider(a, b) {
  const over = picture(a, "picture A");
  const stage = element("div", "rewarddance-stage", picture(b, "picture B"), over);
  stage.append(element("span", "rewarddance-tag rewarddance-left", "A"));
  stage.append(element("span", "rewarddance-tag rewarddance-right", "B"));
  const handle = element("input", "rewarddance-handle");
  Object.assign(handle, { type: "range", min: 0, max: 100, value: 50, ariaLabel: "how much of A is shown" });
  handle.oninput = () => (over.style.clipPath = `inset(0 ${100 - handle.value}% 0 0)`);
  handle.oninput();
  return [stage, handle];
}

function bar(reward) {
  const better = reward > 0.5 ? "A is better" : reward < 0.5 ? "B is better" : "neither is better";
  const fill = element("div", "rewarddance-fill");
  fill.style.width = `${100 * reward}%`;
  const words = element("span", "rewarddance-words", `${better}: P(A) = ${reward.toFixed(3)}`);
  return element("div", "rewarddance-bar", fill, words);
}

app.registerExtension(
  onRun("RewardDanceCompare", "compare", 320, ({ a_images, b_images, reward, text }) => {
    const shown = [...slider(a_images[0], b_images[0]), bar(reward[0])];
    return text[0] ? [...shown, element("div", "rewarddance-text", text[0])] : shown;
  }),
);
