// Settings of the conversation, at the right; and those kept under a name.
import { call, guarded, page, tell, text } from "./chat-wire.js";

const panel = document.getElementById("chat-settings");
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed", "presence_penalty",
  "frequency_penalty", "repetition_penalty", "top_k", "min_p"];
const field = (name) => document.getElementById(name);

export function settings() {
  const chosen = { system: field("system").value };
  for (const name of NUMBERS) {
    const value = field(name).value;
    if (value !== "") chosen[name] = Number(value);
  }
  const stop = field("stop-words").value.split("\n").filter(Boolean);
  if (stop.length) chosen.stop = stop;
  return chosen;
}

export function valid() {
  if (field("settings-form").checkValidity()) return true;
  open(true);
  field("settings-form").reportValidity();
  return false;
}

function fill(chosen) {
  field("system").value = chosen.system ?? "";
  for (const name of NUMBERS) field(name).value = chosen[name] ?? "";
  field("stop-words").value = (chosen.stop ?? []).join("\n");
}

function open(is) {
  panel.hidden = !is;
  field("settings-toggle").setAttribute("aria-expanded", String(is));
}

export function begin() {
  const presets = new Map(JSON.parse(page.dataset.presets).map((one) => [one.id, one]));
  const select = field("preset");
  const list = (chosen = "") => {
    const sorted = [...presets.values()].sort((a, b) => a.name.localeCompare(b.name));
    select.replaceChildren(select.options[0], ...sorted.map((one) => new Option(one.name, one.id)));
    select.value = chosen;
    field("preset-delete").disabled = !chosen;
  };
  list();
  select.addEventListener("change", () => {
    field("preset-delete").disabled = !select.value;
    if (select.value) fill(presets.get(select.value).settings);
    field("preset-name").value = presets.get(select.value)?.name ?? "";
  });
  field("preset-save").addEventListener("click", guarded(async () => {
    const name = field("preset-name").value.trim();
    if (!name) return field("preset-name").focus();
    if (!valid()) return undefined;
    const kept = await call("PUT", page.dataset.presetsApi, { name, settings: settings() });
    presets.set(kept.id, kept);
    list(kept.id);
    return tell("success", text.textSaved);
  }));
  field("preset-delete").addEventListener("click", guarded(async () => {
    await call("DELETE", `${page.dataset.presetsApi}/${select.value}`);
    presets.delete(select.value);
    list();
  }));
  field("settings-toggle").addEventListener("click", () => open(panel.hidden));
  field("settings-form").addEventListener("submit", (event) => event.preventDefault());
}
