// The chat page: sends a turn, shows the answer as it comes, renders Markdown safely.
import { marked } from "./vendor/marked-18.2.1/marked.esm.js";

const { DOMPurify } = window;

const page = document.getElementById("chat");
const log = document.getElementById("log");
const composer = document.getElementById("composer");
const input = document.getElementById("content");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const text = page.dataset;
let conversation = page.dataset.conversation || null;
let running = null; // the AbortController of the answer that is coming

// A model's answer is hostile: text only, links without scripts, no images, no forms.
const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol",
    "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "title", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
};

function markdown(element, source) {
  element.innerHTML = DOMPurify.sanitize(marked.parse(source, { gfm: true, breaks: true }), ALLOWED);
  for (const link of element.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
}

function atBottom() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 80;
}

function append(role, content) {
  const message = document.createElement("article");
  message.className = "chat-message";
  message.dataset.role = role;
  const body = document.createElement("div");
  body.className = "chat-text";
  body.textContent = content;
  message.append(body);
  log.append(message);
  log.scrollTop = log.scrollHeight;
  return message;
}

function button(label, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "btn btn-sm btn-ghost-secondary";
  element.textContent = label;
  element.addEventListener("click", onClick);
  return element;
}

// Under an answer: copy, regenerate (the last one only), tokens and speed.
function finish(message, source, usage) {
  markdown(message.querySelector(".chat-text"), source);
  const bar = document.createElement("footer");
  bar.className = "chat-bar text-secondary";
  bar.append(button(text.textCopy, () => navigator.clipboard.writeText(source)));
  const again = button(text.textAgain, () => ask("", true));
  again.classList.add("chat-again");
  bar.append(again);
  if (usage?.completion_tokens) {
    const facts = document.createElement("span");
    facts.textContent = `${usage.completion_tokens} ${text.textTokens} · ` +
      `${usage.tokens_per_second}/s · ${text.textFirst} ${usage.first_token_ms} ms`;
    bar.append(facts);
  }
  message.append(bar);
}

function settings() {
  const chosen = { system: document.getElementById("system").value };
  for (const name of ["temperature", "top_p", "max_tokens"]) {
    const value = document.getElementById(name).value;
    if (value !== "") chosen[name] = Number(value);
  }
  return chosen;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    const complete = pending.split("\n\n");
    pending = complete.pop();
    for (const event of complete) {
      const name = /^event: (.*)$/m.exec(event)?.[1] ?? "message";
      const data = /^data: (.*)$/m.exec(event)?.[1];
      if (data && data !== "[DONE]") yield [name, JSON.parse(data)];
    }
  }
}

function fail(message, reason) {
  message.classList.add("chat-failed");
  message.querySelector(".chat-text").textContent = `${text.textFailed}: ${reason}`;
}

function begun({ conversation: id, title }) {
  if (conversation) return;
  conversation = id;
  history.replaceState(null, "", `${text.base}/${id}`);
  const link = document.createElement("a");
  link.className = "list-group-item list-group-item-action text-truncate active";
  link.href = `${text.base}/${id}`;
  link.textContent = title;
  document.getElementById("conversations").prepend(link);
}

async function ask(content, regenerate = false) {
  if (running) return;
  running = new AbortController();
  if (regenerate) log.querySelector("article:last-of-type")?.remove();
  else append("user", content);
  const answer = append("assistant", "");
  answer.classList.add("chat-waiting");
  send.hidden = true;
  stop.hidden = false;
  let source = "";
  let usage = null;
  try {
    const response = await fetch(text.say, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify({
        conversation, content, regenerate, settings: settings(),
        model: document.getElementById("model").value,
      }),
      signal: running.signal,
    });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      fail(answer, problem.detail ?? `HTTP ${response.status}`);
      if (!regenerate) input.value = content; // nothing typed is lost
      return;
    }
    for await (const [name, data] of events(response)) {
      if (name === "turn") begun(data);
      else if (name === "done") usage = data;
      else if (data.error) fail(answer, data.error.message);
      else {
        const follow = atBottom();
        source += data.choices?.[0]?.delta?.content ?? "";
        answer.querySelector(".chat-text").textContent = source;
        answer.classList.toggle("chat-waiting", !source);
        if (follow) log.scrollTop = log.scrollHeight;
      }
    }
    if (source) finish(answer, source, usage);
  } catch (error) {
    if (error.name !== "AbortError") fail(answer, text.textUnreachable);
    else if (source) finish(answer, source, null);
    else fail(answer, text.textStopped);
  } finally {
    answer.classList.remove("chat-waiting");
    running = null;
    send.hidden = false;
    stop.hidden = true;
    input.focus();
  }
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = input.value.trim();
  if (!content || running) return;
  input.value = "";
  input.dispatchEvent(new Event("input"));
  ask(content);
});

input.addEventListener("keydown", (event) => {
  // isComposing: Enter picks a Chinese character, it does not send
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});

stop.addEventListener("click", () => running?.abort());

for (const message of log.querySelectorAll("article[data-role=assistant]")) {
  const source = message.querySelector(".chat-text").textContent;
  finish(message, source, JSON.parse(message.dataset.usage ?? "null"));
}
log.scrollTop = log.scrollHeight;
