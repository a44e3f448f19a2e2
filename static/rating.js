// Rating by keyboard: a number rates and goes on, the arrows look back and skip.

const WRITES = "input, textarea, select, [contenteditable], dialog[open] *";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches(WRITES)) return;
  const link = { ArrowLeft: "back", ArrowRight: "on" }[event.key];
  const found = link
    ? document.querySelector(`[data-rating="${link}"]:not(.disabled)`)
    : /^[1-5]$/.test(event.key) && document.querySelector(`[data-key="${event.key}"]`);
  if (!found) return;
  event.preventDefault();
  found.click();
});
