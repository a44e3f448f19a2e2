// Markdown of a model, which is hostile: shown without raw HTML, scripts, pictures or styles.
import { Marked } from "./vendor/marked-18.2.1/marked.esm.js";

const { DOMPurify } = window;
const LONGEST = 400_000; // characters that are still rendered; beyond, plain text
const CELLS = 20_000; // of one table: a short text can ask for millions
const HIGHLIGHTED = 50_000; // characters of one piece of code

const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol",
    "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "title", "start", "align", "data-lang"],
  ALLOW_DATA_ATTR: false, // the console acts on data-… attributes
  ALLOW_ARIA_ATTR: false,
  ADD_URI_SAFE_ATTR: ["start", "align", "data-lang"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
};

const escaped = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

const parser = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    code: ({ text, lang }) =>
      `<pre><code data-lang="${escaped((lang ?? "").split(/\s/)[0].slice(0, 30))}">${escaped(text)}\n</code></pre>`,
  },
  tokenizer: {
    table(source) {
      if (!/^[^\n]*\n[ ]{0,3}[-:|][-:| \t]*(?:\n|$)/.test(source)) return undefined;
      const end = source.search(/\n[ \t]*\n/);
      const table = end < 0 ? source : source.slice(0, end);
      const columns = table.slice(0, table.indexOf("\n")).split("|").length;
      return columns * table.split("\n").length > CELLS ? undefined : false; // false: as usual
    },
  },
});

function plain(element, source) {
  const text = document.createElement("div");
  text.className = "chat-plain";
  text.textContent = source;
  element.replaceChildren(text);
}

export function markdown(element, source) {
  if (source.length > LONGEST) return plain(element, source);
  try {
    element.replaceChildren(DOMPurify.sanitize(parser.parse(source), { ...ALLOWED, RETURN_DOM_FRAGMENT: true }));
  } catch { // nested deeper than the parser can follow
    return plain(element, source);
  }
  for (const link of element.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of element.querySelectorAll("table")) {
    table.className = "table table-sm";
    wrapped(table, "table-scroll");
  }
  for (const code of element.querySelectorAll("pre > code")) {
    dress(code.parentElement);
    highlight(code);
  }
}

function wrapped(inner, name) {
  const outer = document.createElement("div");
  outer.className = name;
  inner.replaceWith(outer);
  outer.append(inner);
  return outer;
}

// A block of code: its language, and a button that copies it.
function dress(pre) {
  const box = wrapped(pre, "code-block chat-code");
  pre.tabIndex = 0;
  const button = document.getElementById("copy-template").content.firstElementChild.cloneNode(true);
  button.dataset.copy = pre.textContent;
  box.append(button);
  const lang = pre.firstElementChild.dataset.lang;
  if (!lang) return;
  const name = document.createElement("span");
  name.className = "chat-lang";
  name.textContent = lang;
  box.prepend(name);
}

let library = null;

async function highlight(code) {
  const text = code.textContent;
  if (!code.dataset.lang || text.length > HIGHLIGHTED) return;
  library ??= import("./vendor/highlight-11.12.0/highlight.min.js");
  const { default: hljs } = await library;
  const language = code.dataset.lang.toLowerCase();
  if (!hljs.getLanguage(language)) return;
  const { value } = hljs.highlight(text, { language, ignoreIllegals: true });
  code.innerHTML = DOMPurify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"] });
}

// What a model thinks, and what it says; as app/chat/streaming.py takes them apart.
export function parts(source) {
  const open = /^\s*<think>([\s\S]*?)(?:<\/think>\s*|$)/.exec(source);
  if (open) return { thought: open[1].trim(), said: source.slice(open[0].length) };
  const bare = /^([\s\S]*?)<\/think>\s*\n/.exec(source);
  return bare
    ? { thought: bare[1].trim(), said: source.slice(bare[0].length) }
    : { thought: "", said: source };
}

// -- while it is being written ----------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})/;

// Where the text can be cut: after a blank line that is outside of code, lists and tables, or
// before a line that opens code. 0 if nowhere.
function boundary(text) {
  let at = 0;
  let cut = 0;
  let fence = "";
  let blank = false;
  while (at < text.length) {
    const end = text.indexOf("\n", at);
    if (end < 0) break; // the last line may still grow
    const line = text.slice(at, end);
    const mark = FENCE.exec(line)?.[1];
    if (fence) {
      if (mark?.startsWith(fence) && line.trim() === mark) {
        fence = "";
        cut = end + 1;
      }
    } else if (mark) {
      fence = mark;
      cut = at;
    } else if (blank && line.trim() && !/^(?:\s|[-*+>]\s|\d+[.)]\s)/.test(line)) {
      cut = at;
    }
    blank = !fence && !line.trim();
    at = end + 1;
  }
  return cut;
}

// Renders a growing text: what is settled is left alone, so a long answer costs no more per word
// than a short one.
export class Writer {
  constructor(element) {
    this.element = element;
    this.start();
  }

  start() {
    this.settled = 0;
    this.tail = document.createElement("div");
    this.element.replaceChildren(this.tail);
  }

  write(source) {
    if (source.length > LONGEST) return plain(this.element, source);
    if (source.length < this.settled) this.start(); // a bare </think> turned all of it into thought
    const cut = boundary(source.slice(this.settled));
    if (cut) {
      const done = document.createElement("div");
      markdown(done, source.slice(this.settled, this.settled + cut));
      this.tail.before(done);
      this.settled += cut;
      this.code = null;
    }
    const rest = source.slice(this.settled);
    if (FENCE.test(rest) && rest.includes("\n")) this.append(rest.slice(rest.indexOf("\n") + 1));
    else markdown(this.tail, rest);
  }

  // Code that is not closed yet: only what is new is added.
  append(text) {
    if (!this.code?.isConnected) {
      const pre = document.createElement("pre");
      this.code = document.createTextNode("");
      pre.append(document.createElement("code"));
      pre.firstElementChild.append(this.code);
      this.tail.replaceChildren(pre);
    }
    this.code.appendData(text.slice(this.code.length));
  }
}
