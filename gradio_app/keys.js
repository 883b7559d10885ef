// Votes by keyboard, wherever the arena's buttons are to be seen and nobody is writing.
const keys = {
  ArrowLeft: "arena-left",
  ArrowRight: "arena-right",
  t: "arena-tie",
  b: "arena-both-bad",
  u: "arena-undo",
};
document.addEventListener(
  "keydown",
  (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const button = document.getElementById(keys[event.key]);
    if (!button || button.offsetParent === null || button.disabled) return;
    event.preventDefault();
    event.stopPropagation();
    button.click();
  },
  true,
);
