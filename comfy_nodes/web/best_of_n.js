// Best of N: all candidates in a strip, best first, with their values; those that are kept stand out.
import { app } from "../../scripts/app.js";
import { element, onRun, picture } from "./dom.js";

app.registerExtension(
  onRun("RewardDanceBestOfN", "ranked", 180, ({ ranked, values, order, kept, method }) => {
    const cards = ranked.map((saved, rank) => {
      const value = values[rank].toFixed(2);
      const label = element("span", "rewarddance-value", `#${order[rank] + 1}  ${value}`);
      const card = element("figure", "rewarddance-card", picture(saved, `rank ${rank + 1}`), label);
      card.title = `rank ${rank + 1}: picture ${order[rank] + 1} of the batch, ${method[0]} value ${value}`;
      card.classList.toggle("rewarddance-kept", rank < kept[0]);
      return card;
    });
    return [element("div", "rewarddance-strip", ...cards)];
  }),
);
