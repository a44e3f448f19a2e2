// Talking to the server: JSON there and back, and an answer as it comes.

export const page = document.getElementById("chat");
export const text = page.dataset;

export class Refused extends Error {}

async function sent(method, path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "content-type": "application/json", accept: "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(text.textUnreachable);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(problem.detail ?? `HTTP ${response.status}`);
}

export async function call(method, path, body) {
  const response = await sent(method, path, body);
  return response.status === 204 ? null : response.json();
}

// Server-sent events as [name, data].
export async function* stream(path, body, signal) {
  const response = await sent("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused(text.textUnreachable);
    });
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

// A sentence in the corner; the console removes it.
export function tell(kind, sentence) {
  const box = document.createElement("div");
  box.className = "toast show";
  box.dataset.toast = kind;
  box.setAttribute("role", kind === "danger" ? "alert" : "status");
  const body = document.createElement("div");
  body.className = "toast-body";
  const words = document.createElement("strong");
  words.className = "flex-fill";
  words.textContent = sentence;
  const close = document.createElement("button");
  close.className = "btn-close";
  close.type = "button";
  close.dataset.dismiss = "";
  close.setAttribute("aria-label", document.body.dataset.textClose);
  body.append(words, close);
  box.append(body);
  document.getElementById("toasts").append(box);
}

export function guarded(act) {
  return async (...given) => {
    try {
      return await act(...given);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      tell("danger", error.message);
      return undefined;
    }
  };
}

const status = document.getElementById("chat-said");

// For screen readers: when an answer begins and when it ends, never each word.
export function announce(sentence) {
  status.textContent = sentence;
}
