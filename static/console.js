// The console's small manners. Every page works without them.

const root = document.documentElement;
const text = (name) => document.body.dataset[name] ?? "";
const lang = root.lang.startsWith("zh") ? "zh-CN" : "en";

function keep(name, value) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${name}=${value}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
}

// -- what is nearly used up: closed, it comes again with the next threshold ---------------

document.addEventListener("click", (event) => {
  const close = event.target.closest("[data-seen]");
  if (!close) return;
  keep("danlu_quota_seen", close.dataset.seen);
  close.closest("[role=status]").remove();
});

// -- all boxes of one name, by one at the head of their table ----------------------------

document.addEventListener("change", (event) => {
  const name = event.target.dataset?.checkAll;
  if (!name) return;
  for (const box of event.target.form.querySelectorAll(`input[type=checkbox][name="${name}"]`)) {
    box.checked = event.target.checked;
  }
});

// -- times: relative, the exact local one on hover --------------------------------------

const relative = new Intl.RelativeTimeFormat(lang, { numeric: "auto" });
const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(date) {
  const seconds = (date - Date.now()) / 1000;
  if (Math.abs(seconds) < 5) return relative.format(0, "second");
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
  return relative.format(Math.round(seconds / size), unit);
}

function refreshTimes(within = document) {
  for (const element of within.querySelectorAll("time[data-ago]")) {
    const date = new Date(element.dateTime);
    element.textContent = ago(date);
    element.title = date.toLocaleString(lang, { dateStyle: "medium", timeStyle: "long" });
  }
  for (const element of within.querySelectorAll("time[data-clock]")) {
    const date = new Date(element.dateTime);
    const far = date - Date.now() > 20 * 3600 * 1000;
    element.textContent = date.toLocaleString(lang, { ...(far && { dateStyle: "medium" }), timeStyle: "short" });
    element.title = date.toLocaleString(lang, { dateStyle: "medium", timeStyle: "long" });
  }
}

// -- toasts -----------------------------------------------------------------------------

export function toast(kind, title, detail = "") {
  const box = document.createElement("div");
  box.className = "toast show";
  box.dataset.toast = kind;
  box.setAttribute("role", kind === "danger" ? "alert" : "status");
  const body = document.createElement("div");
  body.className = "toast-body";
  const words = document.createElement("div");
  words.className = "flex-fill";
  const strong = document.createElement("strong");
  strong.textContent = title;
  words.append(strong);
  if (detail) {
    const line = document.createElement("div");
    line.className = "text-secondary";
    line.textContent = detail;
    words.append(line);
  }
  const close = document.createElement("button");
  close.className = "btn-close";
  close.type = "button";
  close.dataset.dismiss = "";
  close.setAttribute("aria-label", text("textClose"));
  body.append(words, close);
  box.append(body);
  document.getElementById("toasts").append(box);
  return box;
}

// Good news leaves by itself; a failure stays until it is read.
const leaving = new WeakSet();
new MutationObserver(() => {
  const toasts = document.querySelectorAll("#toasts .toast");
  for (const box of toasts) {
    if (box.dataset.toast !== "danger" && !leaving.has(box)) {
      leaving.add(box);
      setTimeout(() => box.remove(), 6000);
    }
  }
  if (toasts.length > 4) toasts[0].remove();
}).observe(document.getElementById("toasts"), { childList: true });

// -- copying ----------------------------------------------------------------------------

async function copy(button) {
  const value = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(value);
  } catch {
    // plain http on another machine has no clipboard API
    const area = document.createElement("textarea");
    area.value = value;
    area.className = "visually-hidden";
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.classList.add("copied");
  const label = button.getAttribute("aria-label");
  button.setAttribute("aria-label", button.dataset.copied);
  button.querySelector("use")?.setAttribute("href", iconHref(button, "check"));
  setTimeout(() => {
    button.classList.remove("copied");
    button.setAttribute("aria-label", label);
    button.querySelector("use")?.setAttribute("href", iconHref(button, "copy"));
  }, 1500);
}

function iconHref(button, name) {
  return button.querySelector("use").getAttribute("href").replace(/#.*/, `#${name}`);
}

// -- dialogs and confirmation -----------------------------------------------------------

export function confirmed(message) {
  const dialog = document.createElement("dialog");
  dialog.className = "dialog";
  dialog.dataset.testid = "confirm";
  const body = document.createElement("div");
  body.className = "dialog-body";
  const sentence = document.createElement("p");
  sentence.textContent = message || text("textConfirm");
  const actions = document.createElement("div");
  actions.className = "dialog-actions";
  const no = document.createElement("button");
  no.className = "btn";
  no.textContent = text("textNo");
  no.dataset.testid = "confirm-no";
  const yes = document.createElement("button");
  yes.className = "btn btn-danger";
  yes.textContent = text("textYes");
  yes.dataset.testid = "confirm-yes";
  actions.append(no, yes);
  body.append(sentence, actions);
  dialog.append(body);
  document.body.append(dialog);
  return new Promise((resolve) => {
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", () => dialog.close("yes"));
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    dialog.showModal();
  });
}

// -- busy: a pressed button says so at once ---------------------------------------------

const busyButtons = new Set();

const HTMX = "[hx-get],[hx-post],[hx-put],[hx-patch],[hx-delete]";

function busy(button) {
  if (!button || busyButtons.has(button)) return;
  busyButtons.add(button);
  button.classList.add("busy");
  button.setAttribute("aria-busy", "true");
  setTimeout(() => busyButtons.has(button) && (button.disabled = true)); // after it was sent
}

function idle(button) {
  busyButtons.delete(button);
  button.classList.remove("busy");
  button.removeAttribute("aria-busy");
  button.disabled = false;
}

// Before htmx and the browser see it: data-confirm on the form or on the pressed button.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  const button = event.submitter;
  const message = button?.dataset.confirm ?? form.dataset.confirm;
  if (message !== undefined && !form.dataset.sure) {
    event.preventDefault();
    event.stopImmediatePropagation();
    if (await confirmed(message)) {
      form.dataset.sure = "yes";
      form.requestSubmit(button);
      delete form.dataset.sure;
    }
    return;
  }
  if (form.method === "dialog" || form.target) return;
  const pressed = button ?? form.querySelector("button:not([type=button])");
  busy(pressed);
  // a page's own script took it over: it says itself what is under way
  const ours = form.matches(HTMX) || pressed?.matches(HTMX);
  setTimeout(() => pressed && event.defaultPrevented && !ours && idle(pressed));
}, true);

// A page that comes back from the browser's memory has nothing under way.
addEventListener("pageshow", () => [...busyButtons].forEach(idle));

// -- the theme, the menu, the drawer ----------------------------------------------------

function toggleTheme() {
  const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
  root.dataset.bsTheme = next;
  keep("danlu_theme", next);
}

function fold() {
  const icons = root.dataset.nav !== "icons";
  if (icons) root.dataset.nav = "icons";
  else delete root.dataset.nav;
  keep("danlu_nav", icons ? "icons" : "full");
}

function drawer(open) {
  document.body.classList.toggle("drawer-open", open);
  if (open) document.querySelector(".side-link")?.focus();
  else document.querySelector("[data-drawer]")?.focus();
}

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) menu.open = false;
  }
}

const clicks = {
  "[data-copy]": copy,
  "[data-open]": (button) => document.getElementById(button.dataset.open)?.showModal(),
  "[data-close]": (button) => button.closest("dialog")?.close(),
  "[data-remove]": (button) => {
    const form = button.form;
    button.closest(button.dataset.remove)?.remove();
    document.getElementById(button.dataset.then)?.focus();
    form?.dispatchEvent(new Event("input", { bubbles: true }));
  },
  "[data-dismiss]": (button) => button.closest(".toast")?.remove(),
  "[data-back]": () => history.back(),
  "[data-theme-toggle]": toggleTheme,
  "[data-fold]": fold,
  "[data-drawer]": () => drawer(true),
  "[data-drawer-close]": () => drawer(false),
};

document.addEventListener("click", (event) => {
  closeMenus(event.target.closest("details.menu"));
  if (event.target.matches("dialog.dialog")) event.target.close(); // the backdrop
  for (const [selector, act] of Object.entries(clicks)) {
    const element = event.target.closest(selector);
    if (!element) continue;
    if (element.matches("a")) event.preventDefault();
    act(element);
    return;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (document.body.classList.contains("drawer-open")) drawer(false);
  const menu = document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// A form that saves itself when a control changes, with a button for those without script.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-submit-on-change]");
  if (form?.reportValidity()) form.requestSubmit();
});

// -- what arrives -----------------------------------------------------------------------

// What somebody has opened stays open when its part of the page is renewed.
const opened = new Set();

document.addEventListener(
  "toggle",
  (event) => {
    if (!event.target.matches("details[id]")) return;
    if (event.target.open) opened.add(event.target.id);
    else opened.delete(event.target.id);
  },
  true,
);

function arrived(within) {
  refreshTimes(within);
  for (const id of opened) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  for (const dialog of within.querySelectorAll("dialog[data-opened]")) {
    dialog.removeAttribute("data-opened");
    dialog.showModal();
  }
  if (!CSS.supports("field-sizing", "content")) {
    for (const area of within.querySelectorAll("textarea[data-autosize]")) area.rows = Math.max(area.rows, 3);
  }
}

document.addEventListener("htmx:after:swap", () => arrived(document));
document.addEventListener("htmx:before:request", (event) => {
  const source = event.detail?.ctx?.sourceElement;
  if (source?.matches("button")) busy(source);
});
document.addEventListener("htmx:finally:request", (event) => {
  const source = event.detail?.ctx?.sourceElement;
  for (const button of busyButtons) if (source?.contains(button)) idle(button);
});
document.addEventListener("htmx:error", (event) => {
  const failure = event.detail?.error;
  if (failure instanceof TypeError && !document.querySelector("[data-offline]")) {
    toast("danger", text("textOffline")).dataset.offline = "";
  }
});
document.addEventListener("htmx:after:request", () => document.querySelector("[data-offline]")?.remove());

arrived(document);
setInterval(() => refreshTimes(), 15000);

// -- datasets: the row that is open -----------------------------------------------------

document.addEventListener("click", (event) => {
  const picked = event.target.closest("[data-pick]");
  if (!picked) return;
  for (const other of document.querySelectorAll("[data-pick][aria-current]")) other.removeAttribute("aria-current");
  picked.setAttribute("aria-current", "true");
});
