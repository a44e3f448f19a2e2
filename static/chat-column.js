// A column: one model, and the branch of the conversation that it shows.
import { Message, own } from "./chat-message.js";
import { announce, call, guarded, page, Refused, stream, text } from "./chat-wire.js";

const template = document.getElementById("column-template").content.firstElementChild;
const names = JSON.parse(page.dataset.names);

export class Column {
  constructor(lane, model, chat) {
    this.lane = lane;
    this.chat = chat;
    this.messages = [];
    this.running = null; // the AbortController of the answer that is coming
    this.more = false;
    this.element = template.cloneNode(true);
    this.log = this.element.querySelector(".chat-log");
    this.select = this.element.querySelector("select");
    if (this.select) {
      for (const name of names.includes(model) || !model ? names : [model, ...names]) {
        this.select.append(new Option(name, name, false, name === model));
      }
      this.element.querySelector("[data-act=close]").addEventListener("click", () => chat.close(this));
      this.element.querySelector("[data-act=stop]").addEventListener("click", () => this.stop());
      this.select.addEventListener("change", () => chat.arranged());
    } else {
      this.element.querySelector("[data-model]").textContent = model;
    }
    this.shown = model;
    this.log.addEventListener("scroll", () => {
      if (this.log.scrollTop < 200) this.older();
    }, { passive: true });
    this.busy(false);
  }

  get model() {
    return this.select ? this.select.value : this.shown;
  }

  get last() {
    return this.messages.at(-1);
  }

  busy(is) {
    const button = this.element.querySelector("header [data-act=stop]");
    if (button) button.hidden = !is;
  }

  // -- what was said before

  async load(lane = this.lane) {
    const { data, has_more: more } = await call("GET", `${this.chat.address()}/messages?lane=${lane}`);
    this.more = more;
    this.messages = data.map((one) => new Message(one, this));
    this.log.replaceChildren(...this.messages.map((one) => one.element));
    this.down();
  }

  async older() {
    if (!this.more || this.loading) return;
    this.loading = true;
    const before = encodeURIComponent(this.messages[0].data.id);
    const path = `${this.chat.address()}/messages?lane=${this.lane}&before=${before}`;
    const found = await guarded(call)("GET", path);
    this.loading = false;
    if (!found) return;
    this.more = found.has_more;
    const above = found.data.map((one) => new Message(one, this));
    const height = this.log.scrollHeight - this.log.scrollTop;
    this.messages.unshift(...above);
    this.log.prepend(...above.map((one) => one.element));
    this.log.scrollTop = this.log.scrollHeight - height; // nothing moves under the eye
  }

  down() {
    this.log.scrollTop = this.log.scrollHeight;
    this.following = true;
  }

  follow() {
    if (this.following) this.log.scrollTop = this.log.scrollHeight;
  }

  add(data) {
    const message = new Message(data, this);
    this.messages.push(message);
    this.log.append(message.element);
    return message;
  }

  // Take away a message and what came after it.
  cut(message) {
    const at = this.messages.indexOf(message);
    if (at < 0) return;
    for (const gone of this.messages.splice(at)) gone.element.remove();
  }

  // -- asking

  ask(question, content, branches = [question]) {
    this.add({ id: question, role: "user", content, branches, state: "done" });
    this.down();
    return this.answer(question, []);
  }

  async answer(question, branches) {
    this.running = new AbortController();
    this.busy(true);
    const message = this.add({ role: "assistant", model: this.model, parent: question, state: "streaming", branches });
    this.down();
    const onScroll = () => {
      this.following = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    };
    this.log.addEventListener("scroll", onScroll, { passive: true });
    announce(text.textAnswering);
    let source = "";
    let reasoning = "";
    let end = ["stopped", null, ""];
    try {
      const body = { question, lane: this.lane, model: this.model, settings: this.chat.settings() };
      for await (const [name, data] of stream(`${this.chat.address()}/answers`, body, this.running.signal)) {
        if (name === "answer") this.named(message, data.id);
        else if (name === "waiting") message.wait(data.seconds, data.state);
        else if (name === "done") end = ["done", data, ""];
        else if (name === "failed") end = ["failed", null, data.error];
        else {
          const delta = data.choices?.[0]?.delta ?? {};
          source += delta.content ?? "";
          reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
          if (source || reasoning) message.grow(source, reasoning);
        }
      }
    } catch (error) {
      if (error instanceof Refused) end = ["failed", null, error.message];
      else if (error.name !== "AbortError") throw error;
    } finally {
      this.running = null;
      this.busy(false);
      message.end(...end);
      this.follow();
      this.log.removeEventListener("scroll", onScroll);
      announce(end[0] === "done" ? text.textDone : end[2] || text.textStopped);
    }
  }

  named(message, id) {
    message.data.id = id;
    message.element.dataset.id = id;
    message.data.branches = [...message.data.branches, id];
  }

  stop() {
    this.running?.abort();
  }

  // -- what is pressed under a message

  act(act, message) {
    if (act === "copy") return this.copy(message);
    if (act === "code") return this.chat.code(message);
    if (act === "previous" || act === "next") return this.turn(message, act === "next" ? 1 : -1);
    if (!own || this.running) return undefined;
    if (act === "edit") return this.edit(message);
    if (act === "again") return this.again(message);
    if (act === "up" || act === "down") return this.rate(message, act === "up" ? 1 : -1);
    if (act === "correct") return this.correct(message);
    if (act === "best") return this.best(message);
    return undefined;
  }

  async copy(message) {
    const button = document.getElementById("copy-template").content.firstElementChild.cloneNode(true);
    button.dataset.copy = message.data.content;
    button.hidden = true;
    message.element.append(button);
    button.click(); // the console knows how
    button.remove();
    announce(text.textCopied);
  }

  async turn(message, by) {
    const { branches, id } = message.data;
    const to = branches[branches.indexOf(id) + by];
    if (!to || this.running) return;
    await guarded(async () => {
      await call("POST", `${this.chat.address()}/show`, { message: to, lane: this.lane });
      await this.load();
    })();
  }

  edit(message, value = message.data.content) {
    message.edit(value, async (content) => {
      if (!(await this.chat.ask(content, message))) this.edit(message, content); // nothing is lost
    });
  }

  again(message) {
    const question = message.data.parent ?? this.messages[this.messages.indexOf(message) - 1]?.data.id;
    const empty = !message.data.content && !message.data.reasoning && message === this.last;
    const branches = message.data.branches.filter((one) => !(empty && one === message.data.id));
    this.cut(message);
    this.chat.during(this.answer(question, branches));
  }

  async judge(message, said) {
    const path = `${this.chat.address()}/messages/${message.data.id}/feedback`;
    const stored = await guarded(call)("PUT", path, said);
    if (!stored) return false;
    const { rating, correction, chosen_over } = stored;
    Object.assign(message.data, { rating, correction, chosen_over });
    message.drawBar();
    return true;
  }

  rate(message, rating) {
    return this.judge(message, { rating: message.data.rating === rating ? null : rating });
  }

  correct(message) {
    message.edit(
      message.data.correction ?? message.data.content,
      (correction) => this.judge(message, { correction }),
      { correction: true, clear: message.data.correction ? () => this.judge(message, { correction: null }) : null },
    );
  }

  // Better than what the other columns answered to the same question.
  async best(message) {
    const rivals = this.chat.rivals(message, this);
    const chosen = message.data.chosen_over?.length ? [] : rivals.map((one) => one.data.id);
    if (!(await this.judge(message, { chosen_over: chosen }))) return;
    for (const rival of chosen.length ? rivals : []) {
      rival.data.chosen_over = (rival.data.chosen_over ?? []).filter((one) => one !== message.data.id);
      rival.drawBar();
    }
  }
}
