// One message on the page. What is pressed under it is told to its column.
import { markdown, parts, Writer } from "./chat-markdown.js";
import { page, text } from "./chat-wire.js";

const template = document.getElementById("message-template").content.firstElementChild;
const editor = document.getElementById("editor-template").content.firstElementChild;
const words = document.getElementById("words-template")?.content.firstElementChild.dataset;
export const own = Boolean(page.dataset.own);
const QUESTION = ["copy", "edit"];
const ANSWER = ["copy", "again", "up", "down", "correct", "best", "code"];

export class Message {
  constructor(data, column) {
    this.data = data;
    this.column = column;
    this.element = template.cloneNode(true);
    this.element.dataset.role = data.role;
    this.element.dataset.id = data.id ?? "";
    this.find("[data-who]").textContent = data.role === "user" ? text.textYou : data.model;
    const kept = data.role === "user" ? QUESTION : ANSWER;
    for (const button of this.element.querySelectorAll(".chat-bar > [data-act]")) {
      if (!kept.includes(button.dataset.act)) button.remove();
    }
    this.element.addEventListener("click", (event) => {
      const act = event.target.closest("[data-act]")?.dataset.act;
      if (act) column.act(act, this);
    });
    if (data.state === "streaming") this.wait();
    else this.draw();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  get answer() {
    return this.data.role === "assistant";
  }

  // All of it, as stored.
  draw() {
    const { data } = this;
    this.element.classList.remove("chat-waiting");
    if (this.answer) {
      markdown(this.find(".chat-text"), data.content);
      this.think(data.reasoning ?? "");
    } else {
      this.find(".chat-text").textContent = data.content;
    }
    this.find(".chat-text").hidden = !data.content;
    const failed = data.state === "failed" || (!data.content && this.answer);
    const reason = data.error || (data.state === "stopped" ? text.textStopped : "");
    this.find(".chat-error").textContent = [text.textFailed, reason].filter(Boolean).join(": ");
    this.find(".chat-error").hidden = !failed;
    this.drawBar();
  }

  drawBar() {
    const { data } = this;
    const places = data.branches ?? [];
    this.find(".chat-branches").hidden = places.length < 2 || !own;
    const place = places.indexOf(data.id);
    this.find("[data-place]").textContent = `${place + 1}/${places.length}`;
    const edge = (act, off) => {
      this.find(`[data-act=${act}]`).disabled = off;
    };
    edge("previous", place <= 0);
    edge("next", place >= places.length - 1);
    if (!this.answer) return;
    this.press("up", data.rating === 1);
    this.press("down", data.rating === -1);
    this.press("best", data.chosen_over?.length > 0);
    this.find(".chat-correction").hidden = !data.correction;
    if (data.correction) markdown(this.find(".chat-correction-text"), data.correction);
    this.find(".chat-facts").textContent = this.facts();
  }

  press(act, on) {
    this.find(`.chat-bar > [data-act=${act}]`)?.setAttribute("aria-pressed", String(Boolean(on)));
  }

  facts() {
    const { usage, state, content } = this.data;
    const said = state === "stopped" && content ? [text.textCut] : [];
    if (usage?.completion_tokens) {
      said.push(`${usage.prompt_tokens || "?"} + ${usage.completion_tokens} ${text.textTokens}`);
      if (usage.tokens_per_second) said.push(`${usage.tokens_per_second} ${text.textPerSecond}`);
      said.push(`${text.textFirst} ${usage.first_token_ms} ms`);
    }
    return said.join(" · ");
  }

  think(thought) {
    this.find(".chat-thought").hidden = !thought;
    const place = this.find(".chat-thought-text");
    if (place.textContent !== thought) place.textContent = thought;
  }

  // -- while it comes

  wait(seconds = 0, state = "") {
    this.element.classList.add("chat-waiting");
    const waking = ["idle", "pending", "starting", "stopped"].includes(state);
    const sentence = waking ? text.textWaking : text.textWaiting;
    this.find(".chat-facts").textContent = seconds ? `${sentence} ${seconds} s` : "";
  }

  // The text so far: drawn at most once a frame.
  grow(source, reasoning) {
    this.coming = { source, reasoning };
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (!this.coming) return;
      const { thought, said } = parts(this.coming.source);
      this.writer ??= new Writer(this.find(".chat-text"));
      this.find(".chat-text").hidden = false;
      this.writer.write(said);
      this.think(this.coming.reasoning + thought);
      this.element.classList.remove("chat-waiting");
      this.find(".chat-facts").textContent = "";
      this.column.follow();
    });
  }

  end(state, usage, error) {
    const { source = "", reasoning = "" } = this.coming ?? {};
    this.coming = null;
    const { thought, said } = parts(source);
    Object.assign(this.data, { content: said, reasoning: reasoning + thought, state, usage, error });
    this.draw();
  }

  // -- changing what stands there: a question to ask anew, or what an answer should have been

  edit(value, save, { correction = false, clear = null } = {}) {
    const form = editor.cloneNode(true);
    const area = form.querySelector("textarea");
    area.value = value;
    form.querySelector("[data-testid=chat-editor-save]").textContent =
      correction ? words.saveCorrection : words.saveEdit;
    const place = this.find(correction ? ".chat-correction" : ".chat-text");
    const hidden = [place, this.find(".chat-bar")].map((part) => [part, part.hidden]);
    const close = () => {
      form.remove();
      for (const [part, was] of hidden) part.hidden = was;
      document.getElementById("content").focus();
    };
    for (const [part] of hidden) part.hidden = true;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const content = area.value.trim();
      if (!content) return;
      close();
      save(content);
    });
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !correction) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.querySelector("[data-cancel]").addEventListener("click", close);
    const undo = form.querySelector("[data-clear]");
    undo.hidden = !clear;
    undo.addEventListener("click", () => {
      close();
      clear();
    });
    place.after(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

