// Uploads in pieces: progress, pause, going on after a lost connection or a closed page.
// Without this script the form sends its files as they are.

const DAY = 86400000;
const SILENCE = 30000; // ms without progress, after which a request is given up
const CHECKING = 600000; // ms that the check of what was sent may take
const MARK = "danlu-upload "; // in localStorage: the ids of files that are on their way

class Refusal extends Error {
  // what trying again does not help; `problem` is the server's
  constructor(problem) {
    super(problem?.detail ?? "");
    this.problem = problem;
  }
}

const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; bytes >= 1024 && at < 4; at += 1) bytes /= 1024;
  return `${at ? bytes.toFixed(1) : Math.round(bytes)} ${units[at]}`;
};

const duration = (seconds) => {
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.ceil(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${two((seconds % 3600) / 60)}m`;
};

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

// -- what this browser remembers ----------------------------------------------------------

const keyOf = (file, place) => `${MARK}${place} ${file.size} ${file.lastModified}`;

function remembered() {
  const found = [];
  try {
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(MARK)) continue;
      const value = JSON.parse(localStorage[key]);
      if (Date.now() - value.at > DAY) localStorage.removeItem(key);
      else found.push({ key, ...value });
    }
  } catch {
    // no storage here: an upload goes on as long as the page is open
  }
  return found;
}

function remember(key, value) {
  try {
    if (value) localStorage[key] = JSON.stringify({ ...value, at: Date.now() });
    else localStorage.removeItem(key);
  } catch {
    // as above
  }
}

// -- one request ---------------------------------------------------------------------------

function ask(method, url, { body = null, headers = {}, progress = null, control = {}, patience = SILENCE } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let watch;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => request.abort(), patience);
    };
    request.open(method, url);
    request.setRequestHeader("Accept", "application/json");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      alive();
      progress?.(event.loaded);
    };
    request.onloadend = () => {
      clearTimeout(watch);
      control.stop = null;
      let answer = null;
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // no JSON: a proxy's page, or nothing
      }
      const offset = request.getResponseHeader?.("Upload-Offset");
      if (request.status) resolve({ status: request.status, answer, offset: Number(offset ?? NaN) });
      else reject(new Error("connection"));
    };
    control.stop = () => request.abort();
    alive();
    request.send(body);
  });
}

const json = (value) => ({ body: JSON.stringify(value), headers: { "Content-Type": "application/json" } });

// -- one file ------------------------------------------------------------------------------

class Upload {
  // `place` is the file's name, with its folders where a folder was chosen
  constructor(form, { file, place }, row) {
    Object.assign(this, { form, file, place, row, offset: 0, state: "waiting", control: {}, marks: [] });
    this.key = keyOf(file, place);
    this.id = remembered().find((one) => one.key === this.key)?.id ?? null;
    row.querySelector(".upload-name").textContent = place;
    row.addEventListener("click", (event) => this.act(event.target.closest("[data-act]")?.dataset.act));
    this.show();
  }

  text(name, values = {}) {
    return filled(this.form.dataset[`text${name}`], values);
  }

  show(note = "") {
    const { row, state, offset, file } = this;
    const part = (selector) => row.querySelector(selector);
    const started = state !== "waiting" || offset > 0;
    row.dataset.state = state;
    part("progress").hidden = !started;
    part("progress").value = file.size ? offset / file.size : 1;
    part("[data-act=pause]").hidden = state !== "sending";
    part("[data-act=resume]").hidden = state !== "paused";
    const words = [started ? this.text("Progress", { received: size(offset), total: size(file.size) }) : size(file.size)];
    if (state === "sending" && this.speed) {
      words.push(this.text("Speed", { speed: size(this.speed), left: duration((file.size - offset) / this.speed) }));
    }
    if (state === "paused" || state === "sent") words.push(this.text(state === "sent" ? "Sent" : "Paused"));
    if (note) words.push(note);
    part(".upload-said").textContent = words.join(" · ");
  }

  act(what) {
    if (what === "pause") this.state = "paused";
    if (what === "resume") this.state = "sending";
    if (what === "cancel") this.forget();
    if (!what) return;
    if (what !== "resume") this.control.stop?.();
    this.wake?.();
    this.show();
  }

  // Remove it here and there; the form's list follows.
  forget() {
    this.state = "gone";
    if (this.id) ask("DELETE", `/api/v1/uploads/${this.id}`).catch(() => {});
    remember(this.key, null);
    this.form.dispatchEvent(new CustomEvent("upload:gone", { detail: this }));
  }

  // Resolves to its id once all of it is there, to null if it was removed. Rejects with Refusal.
  async send() {
    this.state = "sending";
    let failures = 0;
    while (this.state !== "sent") {
      if (this.state === "gone") return null;
      if (this.state === "paused") {
        await new Promise((resolve) => (this.wake = resolve));
        continue;
      }
      const before = this.offset;
      try {
        await this.further();
        failures = 0;
      } catch (error) {
        if (error instanceof Refusal) throw error;
        if (this.state !== "sending") continue;
        failures = this.offset > before ? 0 : failures + 1;
        await this.rest(Math.min(30, 2 ** failures), error.message);
      }
    }
    this.show();
    return this.id;
  }

  // The next piece, after asking where it begins.
  async further() {
    const { file, control } = this;
    if (!this.id) {
      const made = this.checked(await ask("POST", "/api/v1/uploads", { ...json({ file_name: this.place, size: file.size }), control }));
      this.id = made.answer.id;
      this.offset = 0;
      this.known = true;
      remember(this.key, { id: this.id, name: this.place, size: file.size });
    }
    if (!this.known) {
      const found = await ask("GET", `/api/v1/uploads/${this.id}`, { control });
      if (found.status === 404) {
        this.id = null;
        return;
      }
      this.offset = this.checked(found).answer.offset;
      this.known = true;
      this.show();
    }
    if (this.offset < file.size) {
      const start = this.offset;
      this.known = false; // unless the answer says so, nobody knows what has arrived
      const got = await ask("PATCH", `/api/v1/uploads/${this.id}`, {
        body: file.slice(start, start + Number(this.form.dataset.piece || 16777216)),
        headers: { "Content-Type": "application/octet-stream", "Upload-Offset": start },
        progress: (loaded) => this.came(Math.min(start + loaded, file.size)),
        control,
      });
      if (got.status === 404 || (got.status === 409 && got.answer?.code === "upload.offset")) return;
      if (got.status === 409) throw new Error("busy");
      this.offset = this.checked(got).answer.offset;
      this.known = true;
      this.show();
    }
    if (this.offset === file.size) this.state = "sent";
  }

  checked(got) {
    if (got.status < 300) return got;
    if (got.status >= 500 || got.status === 429) throw new Error(got.answer?.detail ?? "server");
    throw new Refusal(got.answer);
  }

  // Speed over the last five seconds.
  came(offset) {
    this.offset = offset;
    const now = performance.now();
    this.marks = [...this.marks.filter(([at]) => now - at < 5000), [now, offset]];
    const [at, then] = this.marks[0];
    this.speed = now - at > 300 ? Math.max(0, ((offset - then) * 1000) / (now - at)) : this.speed;
    if (now - (this.shown ?? 0) > 150) {
      this.shown = now;
      this.show();
    }
  }

  // Wait, shorter if the network comes back or somebody presses a button.
  async rest(seconds, why) {
    this.marks = [];
    this.speed = 0;
    const end = performance.now() + seconds * 1000;
    const known = why.includes(" ") ? why : "";
    while (this.state === "sending" && performance.now() < end) {
      const left = Math.ceil((end - performance.now()) / 1000);
      this.show([known, this.text("Again", { seconds: left })].filter(Boolean).join(" "));
      const soon = new Promise((resolve) => (this.wake = resolve));
      const online = new Promise((resolve) => addEventListener("online", () => resolve(true), { once: true }));
      const woken = await Promise.race([soon, online, new Promise((resolve) => setTimeout(resolve, 500))]);
      if (woken) return;
    }
  }
}

// What was dropped: files, and those in folders, with their places.
async function dropped(transfer) {
  const walk = async (entry) => {
    if (entry.name.startsWith(".")) return [];
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [{ file, place: entry.fullPath.slice(1) }];
    }
    const found = [];
    const reader = entry.createReader();
    for (let some = [0]; some.length; ) {
      some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at a time
      for (const one of some) found.push(...(await walk(one)));
    }
    return found;
  };
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  return (await Promise.all(entries.map(walk))).flat();
}

// -- the form ------------------------------------------------------------------------------

function take(form) {
  const input = form.querySelector("input[type=file]");
  const list = form.querySelector("[data-uploads]");
  const button = form.querySelector("button:not([type=button])");
  const drop = form.querySelector("[data-drop]");
  const folder = form.querySelector("[data-folder]");
  let uploads = [];
  let busy = false;

  const keep = (chosen) => {
    const all = new DataTransfer();
    for (const { file } of chosen) all.items.add(file);
    input.files = all.files;
  };

  const plain = (files) => [...files].map((file) => ({ file, place: file.webkitRelativePath || file.name }));
  function choose(chosen) {
    if (busy) return;
    const rows = form.querySelector("template[data-upload]").content;
    uploads = chosen.map((one) => new Upload(form, one, rows.firstElementChild.cloneNode(true)));
    list.replaceChildren(...uploads.map((one) => one.row));
    form.querySelector("[data-unfinished]").replaceChildren();
    form.querySelector("#e-file")?.remove();
    input.classList.remove("is-invalid");
  }

  function say(field, message) {
    const control = form.querySelector(`#f-${field}`) ?? input;
    const id = `e-${control.name}`;
    form.querySelector(`#${id}`)?.remove();
    const box = document.createElement("div");
    box.className = "invalid-feedback d-block";
    box.id = id;
    box.setAttribute("role", "alert");
    box.textContent = message || form.dataset.textFailed;
    control.classList.add("is-invalid");
    control.after(box);
    control.focus();
  }

  async function submit() {
    for (const old of form.querySelectorAll(".invalid-feedback")) old.remove();
    for (const old of form.querySelectorAll(".is-invalid")) old.classList.remove("is-invalid");
    busy = button.disabled = input.disabled = true;
    form.dataset.sending = "";
    try {
      for (const one of uploads) await one.send();
      const here = uploads.filter((one) => one.state === "sent");
      if (!here.length) return;
      for (const one of here) one.show(form.dataset.textChecking);
      const name = form.querySelector("[name=name]")?.value ?? "";
      const also = Object.fromEntries([...form.querySelectorAll("[data-also]")].map((one) => [one.name, one.type === "checkbox" ? one.checked : one.value]));
      const made = await ask("POST", form.dataset.resumable, { ...json({ ...also, name, uploads: here.map((one) => one.id) }), control: here[0].control, patience: CHECKING });
      if (made.status === 201) {
        for (const one of here) remember(one.key, null);
        location.assign(form.dataset.then ?? `/datasets/${made.answer.id}`);
        return;
      }
      const fault = made.answer?.errors?.[0];
      // what was refused for its content is gone at the server; what was not, is still there
      if (fault?.field !== "name") for (const one of here) Object.assign(one, { known: false, state: "waiting" });
      say(fault?.field, fault?.message ?? made.answer?.detail);
    } catch (error) {
      const fault = error.problem?.errors?.[0];
      say(fault?.field ?? "file", fault?.message ?? error.problem?.detail);
      for (const one of uploads) if (one.state === "sending") Object.assign(one, { state: "waiting" });
    } finally {
      busy = button.disabled = input.disabled = false;
      delete form.dataset.sending;
      for (const one of uploads) one.show();
    }
  }

  input.addEventListener("change", () => choose(plain(input.files)));
  folder.hidden = false;
  folder.querySelector("button").addEventListener("click", () => folder.querySelector("input").click());
  folder.querySelector("input").addEventListener("change", ({ target }) => {
    const seen = plain(target.files).filter(({ place }) => !/(^|\/)\./.test(place));
    keep(seen);
    choose(seen);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!busy && uploads.length) submit();
  });
  form.addEventListener("upload:gone", ({ detail }) => {
    detail.row.remove();
    uploads = uploads.filter((one) => one !== detail);
    keep(uploads);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, async (event) => {
      event.preventDefault();
      drop.classList.toggle("drop-over", kind === "dragover");
      if (kind !== "drop" || busy) return;
      const chosen = [...uploads, ...(await dropped(event.dataTransfer))].map(({ file, place }) => ({ file, place }));
      keep(chosen);
      choose(chosen);
    });
  }
  unfinished(form);
  if (input.files.length) choose(plain(input.files)); // a page that the browser brought back
}

// Files that were on their way when the page was closed: they go on once they are chosen again.
async function unfinished(form) {
  const list = form.querySelector("[data-unfinished]");
  for (const one of remembered()) {
    const found = await ask("GET", `/api/v1/uploads/${one.id}`).catch(() => null);
    if (found?.status === 404) remember(one.key, null);
    if (found?.status !== 200) continue;
    const line = document.createElement("li");
    const percent = `${Math.floor((100 * found.answer.offset) / one.size)}%`;
    const words = document.createElement("span");
    words.textContent = filled(form.dataset.textUnfinished, { name: one.name, percent });
    const discard = form.querySelector("template[data-forget]").content.firstElementChild.cloneNode(true);
    discard.addEventListener("click", () => {
      ask("DELETE", `/api/v1/uploads/${one.id}`).catch(() => {});
      remember(one.key, null);
      line.remove();
    });
    line.append(words, " ", discard);
    list.append(line);
  }
}

for (const form of document.querySelectorAll("form[data-resumable]")) take(form);
