/** A file of a result: a picture, a video or a sound where browsers show it, and always a way to save it. */

/** @import { ResultFile } from "./types.js" */
/** @typedef {ReturnType<typeof fileView>} FileView */

import { failure, key, request, urlOf } from "./api.js";
import { h, setText } from "./dom.js";
import { bytes } from "./format.js";
import { picture } from "./picture.js";

const MAX_SIZE = 64 * 1024 ** 2; // bytes of a file that is shown at once
const INERT = "application/octet-stream"; // what is saved is never opened as a page, whatever it is

/**
 * @param {ResultFile} file
 * @param {boolean} atOnce whether it is shown at once, unless it is large
 */
export function fileView(file, atOnce) {
  const closing = new AbortController();
  const note = h("span", { class: "sub", role: "status" });
  const label = `Save ${file.name}`;
  const size = h("span", { class: "sub" }, bytes(file.size));
  const visible = /^(image|video|audio)\//.test(file.type);
  const show = h("button", { type: "button", class: "small", onclick: () => void display() }, "Show");
  const save = file.url
    ? h("a", { class: "button small", href: urlOf(file.url), download: file.name, onclick: saveWithKey }, label)
    : h("button", { type: "button", class: "small", onclick: () => saveAs(blob(INERT), file.name) }, label);
  const element = h("div", { class: "file" }, h("p", { class: "actions left" }, save, show, size, note));
  /** @type {{ element: HTMLElement, close: () => void } | null} */
  let shown = null;
  show.hidden = !visible || (atOnce && file.size <= MAX_SIZE);

  /** @param {string} type */
  const blob = (type) => new Blob(file.content ?? [], { type });

  /** The content as `type`. @param {string} type */
  async function load(type) {
    if (!file.url) return blob(type);
    const response = await request(file.url, { signal: closing.signal });
    if (!response.ok) throw await failure(response);
    const loaded = await response.blob();
    if (loaded.size !== file.size) throw new Error("It did not arrive completely.");
    return loaded.slice(0, loaded.size, type);
  }

  /** @param {string} doing @param {() => Promise<void>} work */
  async function noted(doing, work) {
    setText(note, doing);
    try {
      await work();
      setText(note, "");
    } catch (error) {
      if (!closing.signal.aborted) setText(note, error instanceof Error ? error.message : String(error));
    }
  }

  async function display() {
    show.hidden = true;
    await noted("Loading…", async () => {
      const content = await load(file.type);
      if (closing.signal.aborted) return;
      shown = content.type.startsWith("audio/") ? player(content, file.name) : picture(content, file.name);
      if (shown) element.prepend(shown.element);
    });
  }

  /** Links carry no key: with one the page loads the file itself. @param {Event} event */
  function saveWithKey(event) {
    if (!key.get()) return;
    event.preventDefault();
    void noted("Loading…", async () => saveAs(await load(INERT), file.name));
  }

  if (visible && show.hidden) void display();
  return {
    element,
    close() {
      closing.abort();
      shown?.close();
    },
  };
}

/** @param {Blob} sound @param {string} name */
function player(sound, name) {
  const address = URL.createObjectURL(sound);
  const element = h("audio", { src: address, controls: true, "aria-label": name });
  return { element, close: () => URL.revokeObjectURL(address) };
}

/** @param {Blob} content @param {string} name */
export function saveAs(content, name) {
  const address = URL.createObjectURL(content);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
