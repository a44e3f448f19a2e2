// The chat page: columns that answer, one composer, and what concerns the whole conversation.
import { Column } from "./chat-column.js";
import { own } from "./chat-message.js";
import * as side from "./chat-settings.js";
import { call, guarded, page, Refused, tell, text } from "./chat-wire.js";

const get = (id) => document.getElementById(id);
const input = get("content");

const chat = {
  conversation: page.dataset.conversation || null,
  columns: [],
  settings: own ? side.settings : () => ({}),

  address() {
    return `${page.dataset.api}/${this.conversation}`;
  },

  get running() {
    return this.columns.some((one) => one.running);
  },

  // -- columns

  open(model, lane) {
    const column = new Column(lane, model, this);
    this.columns.push(column);
    get("columns").append(column.element);
    this.arranged();
    return column;
  },

  close(column) {
    if (this.columns.length < 2) return;
    column.stop();
    this.columns.splice(this.columns.indexOf(column), 1);
    column.element.remove();
    this.arranged();
  },

  // After a change of the columns: their number, the tabs that a phone shows.
  arranged() {
    get("columns").dataset.count = this.columns.length;
    const tabs = get("chat-tabs");
    tabs.hidden = this.columns.length < 2;
    tabs.replaceChildren(...this.columns.map((column) => {
      const tab = document.createElement("button");
      tab.className = "btn btn-sm btn-ghost-secondary text-truncate";
      tab.type = "button";
      tab.textContent = column.model;
      tab.addEventListener("click", () => column.element.scrollIntoView({ inline: "start", block: "nearest" }));
      return tab;
    }));
    if (get("add-column")) get("add-column").disabled = this.columns.length >= Number(page.dataset.most);
  },

  // What the other columns answered in the place of this answer.
  rivals(message, column) {
    const at = column.messages.indexOf(message) - column.messages.length;
    return this.columns
      .filter((one) => one !== column)
      .map((one) => one.messages.find((other) => other.answer && other.data.parent === message.data.parent)
        ?? one.messages.at(at))
      .filter((one) => one?.answer && one.data.id && one.data.content);
  },

  // -- asking

  async ask(content, edited = null) {
    if (this.running || !side.valid()) return false;
    const columns = this.columns.map(({ lane, model }) => ({ lane, model }));
    const body = {
      conversation: this.conversation, content, columns, settings: this.settings(), edits: edited?.data.id,
    };
    const begun = await guarded(call)("POST", page.dataset.api, body);
    if (!begun) return false;
    if (!this.conversation) this.named(begun);
    const answers = begun.asked.map(({ lane, question }) => {
      const column = this.columns.find((one) => one.lane === lane);
      let branches = [question];
      if (edited) {
        const old = column.messages.find((one) => one.data.id === edited.data.id);
        branches = [...(old?.data.branches ?? []), question];
        if (old) column.cut(old);
      }
      return column.ask(question, content, branches);
    });
    this.during(Promise.all(answers));
    return true;
  },

  // While something is being answered, the button stops it.
  async during(answers) {
    get("send").hidden = true;
    get("stop").hidden = false;
    await answers;
    if (this.running) return;
    get("send").hidden = false;
    get("stop").hidden = true;
    if (document.activeElement === document.body || document.activeElement === get("stop")) input.focus();
  },

  stop() {
    for (const column of this.columns) column.stop();
  },

  // A new conversation has its address now.
  named({ conversation, title }) {
    this.conversation = conversation;
    history.replaceState(null, "", `${page.dataset.page}/${conversation}`);
    const link = document.createElement("a");
    link.className = "list-group-item list-group-item-action text-truncate";
    link.href = `${page.dataset.page}/${conversation}`;
    link.dataset.id = conversation;
    link.textContent = title;
    const list = get("conversations");
    if (!list.querySelector("[data-id]")) list.replaceChildren();
    list.prepend(link);
    get("chat-actions").hidden = false;
    this.titled(title);
    addresses();
  },

  titled(title) {
    get("chat-title").textContent = title;
    document.title = document.title.replace(/^.*(?= · Danlu$)/, () => title);
    get("rename-title").value = title;
    const link = get("conversations").querySelector(`[data-id="${this.conversation}"]`);
    if (link) (link.querySelector("span") ?? link).textContent = title;
    mark();
  },

  async code(message) {
    const found = await guarded(call)("GET", `${this.address()}/messages/${message.data.id}/code`);
    if (!found) return;
    const show = (one) => {
      get("code-text").textContent = one.text;
      get("code-copy").dataset.copy = one.text;
      for (const tab of get("code-tabs").children) {
        tab.setAttribute("aria-pressed", String(tab.textContent === one.label));
        tab.classList.toggle("active", tab.textContent === one.label);
      }
    };
    get("code-tabs").replaceChildren(...found.map((one) => {
      const tab = document.createElement("button");
      tab.className = "btn btn-sm";
      tab.type = "button";
      tab.textContent = one.label;
      tab.addEventListener("click", () => show(one));
      return tab;
    }));
    show(found[0]);
    get("code-dialog").showModal();
  },
};

// The conversation that is open, in the list; again after a search drew it anew.
function mark() {
  for (const link of get("conversations").querySelectorAll("[data-id]")) {
    link.classList.toggle("active", link.dataset.id === chat.conversation);
  }
}

function addresses() {
  for (const link of document.querySelectorAll("[data-export]")) {
    link.href = `${chat.address()}/export?form=${link.dataset.export}`;
  }
  get("chat-delete")?.setAttribute("action", `${page.dataset.page}/${chat.conversation}/delete`);
  const address = `${location.origin}${page.dataset.page}/${chat.conversation}`;
  const link = get("share-link");
  if (!link) return;
  link.querySelector("input").value = address;
  link.querySelector("button").dataset.copy = address;
}

function shared(is) {
  get("share-said").textContent = is ? text.textShared : text.textUnshared;
  get("share-link").hidden = !is;
  get("share").checked = is;
}

async function send() {
  const content = input.value.trim();
  if (!content || chat.running || send.busy) return;
  send.busy = true;
  input.value = "";
  const took = await chat.ask(content);
  send.busy = false;
  if (!took && !input.value) input.value = content; // nothing typed is lost
}

function begin() {
  side.begin();
  get("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter picks a Chinese character, it does not send
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !input.value && !chat.running) {
      const column = chat.columns[0];
      const question = column?.messages.findLast((one) => !one.answer);
      if (!question) return;
      event.preventDefault();
      column.edit(question);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chat.running && !document.querySelector("dialog[open]")) chat.stop();
  });
  get("stop").addEventListener("click", () => chat.stop());
  get("add-column").addEventListener("click", guarded(async () => {
    const lanes = chat.columns.map((one) => one.lane);
    const lane = [0, 1, 2, 3].find((one) => !lanes.includes(one));
    const names = JSON.parse(page.dataset.names);
    const used = chat.columns.map((one) => one.model);
    const column = chat.open(names.find((one) => !used.includes(one)) ?? names[0], lane);
    if (chat.conversation) await column.load(chat.columns[0].lane);
  }));
  get("rename").addEventListener("submit", guarded(async () => {
    const changed = await call("PATCH", chat.address(), { title: get("rename-title").value });
    chat.titled(changed.title);
  }));
  get("share").addEventListener("change", async () => {
    try {
      shared((await call("PATCH", chat.address(), { shared: get("share").checked })).shared);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      shared(!get("share").checked);
      tell("danger", error.message);
    }
  });
  shared(Boolean(page.dataset.shared));
  input.focus();
}

const lanes = JSON.parse(page.dataset.lanes);
JSON.parse(page.dataset.chosen).forEach((model, at) => chat.open(model, lanes[at] ?? at));
if (own) begin();
if (chat.conversation) {
  addresses();
  mark();
  guarded(() => Promise.all(chat.columns.map((one) => one.load())))();
}
document.addEventListener("htmx:after:swap", mark);
if (matchMedia("(max-width: 991.98px)").matches) document.querySelector(".chat-drawer").open = false;

// a prompt from elsewhere, as of a row of an evaluation: behind the #, so that no server sees it
const say = new URLSearchParams(location.hash.slice(1)).get("say");
if (say && !input.value) {
  input.value = say;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  history.replaceState(null, "", location.pathname + location.search);
}
