// Nodes whose result is a few lines of text.
import { app } from "../../scripts/app.js";
import { element, onRun } from "./dom.js";

for (const kind of ["RewardDanceScoreImages", "RewardDanceScoreVideo", "RewardDanceSavePreference"]) {
  app.registerExtension(onRun(kind, kind, 60, ({ text }) => [element("div", "rewarddance-text", text.join("\n"))]));
}
