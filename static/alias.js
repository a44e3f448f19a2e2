// The weights of an alias: a slider beside each number, and the share that results.

const rows = [...document.querySelectorAll("[data-weight]")].map((row) => ({
  slider: row.querySelector("[type=range]"),
  number: row.querySelector("[type=number]"),
  share: row.querySelector("output"),
}));

function tell() {
  const total = rows.reduce((sum, { number }) => sum + (Number(number.value) || 0), 0);
  for (const { number, share } of rows) {
    const part = (100 * (Number(number.value) || 0)) / (total || 1);
    share.value = number.value === "" ? "–" : `${Number(part.toPrecision(3))} %`;
  }
}

for (const { slider, number } of rows) {
  slider.hidden = false;
  slider.addEventListener("input", () => {
    number.value = slider.value;
    tell();
  });
  number.addEventListener("input", () => {
    slider.value = number.value || 0;
    tell();
  });
}
tell();
