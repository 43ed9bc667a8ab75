/** The result of a run: verdict, progress, pictures, text, JSON. */

/** @import { Envelope } from "./types.js" */
/** @typedef {NonNullable<ReturnType<typeof picture>>} Picture */

import { boxesIn, sizeIn } from "./boxes.js";
import { h, setText } from "./dom.js";
import { milliseconds, plural } from "./format.js";
import { picture } from "./picture.js";

const MAX_CHARACTERS = 100_000; // of JSON in the page; the saved file has all
const MAX_ITEMS = 200; // streamed items in the page

export function resultView() {
  const verdict = h("p", { class: "verdict", role: "status" });
  const bar = h("progress", { max: 1, "aria-label": "Progress of the run" });
  const progressText = h("span", { class: "sub" });
  const progress = h("p", { class: "progress" }, bar, progressText);
  const media = h("div", { class: "pictures" });
  const text = h("pre", { class: "text plain", tabindex: 0, role: "region", "aria-label": "Text of the result" });
  const items = h("ol", { class: "items", tabindex: 0, role: "region", "aria-label": "Items as they come" });
  const code = h("pre", { class: "text json", tabindex: 0, role: "region", "aria-label": "Result as JSON" });
  const save = h(
    "button",
    { type: "button", class: "small", onclick: () => saveAs(JSON.stringify(value(), null, 2), "result.json") },
    "Save the JSON",
  );
  const cut = h("span", { class: "sub" });
  const jsonBox = h(
    "details",
    { open: true },
    h("summary", {}, "JSON"),
    code,
    h("p", { class: "actions left" }, save, cut),
  );
  const element = h("div", { class: "result" }, verdict, progress, media, text, items, jsonBox);
  element.hidden = true;

  /** @type {Picture | null} */
  let input = null; // the picture that boxes are drawn over
  /** @type {unknown[]} */
  let all = [];
  /** @type {Envelope | null} */
  let ended = null;
  /** @type {Map<string, Uint8Array<ArrayBuffer>[]>} */
  let chunks = new Map();
  /** @type {Picture[]} */
  let made = [];
  let streamed = false;

  const value = () => (streamed ? all : ended?.ok ? ended.result : ended);

  function clear() {
    element.hidden = true;
    made.forEach((each) => each.close());
    [made, all, ended, streamed, chunks] = [[], [], null, false, new Map()];
    for (const each of [media, text, items, code]) each.replaceChildren();
    for (const each of [progress, text, items, jsonBox]) each.hidden = true;
    setText(verdict, "");
  }

  /** Collects a chunk of a file: `media_type` and base64 `data`. False for anything else. @param {unknown} data */
  function collectChunk(data) {
    if (typeof data !== "object" || data === null) return false;
    const { media_type: type, data: encoded } = /** @type {Record<string, unknown>} */ (data);
    if (typeof type !== "string" || typeof encoded !== "string") return false;
    try {
      const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
      chunks.set(type, [...(chunks.get(type) ?? []), bytes]);
    } catch {
      return false;
    }
    return true;
  }

  function showMedia() {
    for (const [type, content] of chunks) {
      const file = new Blob(content, { type });
      const shown = picture(file, `Result, ${type}`);
      if (shown) made.push(shown);
      const name = `result.${type.split("/")[1]?.replace(/[^a-z0-9].*$/i, "") || "bin"}`;
      media.append(
        ...(shown ? [shown.element] : []),
        h("button", { type: "button", class: "small", onclick: () => saveAs(file, name) }, `Save ${name}`),
      );
    }
  }

  function showJson() {
    const whole = JSON.stringify(value(), null, 2) ?? "null";
    setText(code, whole.slice(0, MAX_CHARACTERS));
    setText(
      cut,
      whole.length > MAX_CHARACTERS
        ? `The first ${plural(MAX_CHARACTERS, "character")} of ${whole.length.toLocaleString()}; the saved file has all.`
        : "",
    );
    jsonBox.hidden = false;
    jsonBox.open = !streamed; // its items are listed above
  }

  return {
    element,
    clear,
    /** @param {Picture | null} picked the picture that boxes are drawn over */
    begin(picked) {
      clear();
      input = picked;
      element.hidden = false;
      verdict.dataset["kind"] = "open";
      setText(verdict, "Running…");
    },
    /** @param {number | null} fraction @param {string} message */
    progress(fraction, message) {
      progress.hidden = false;
      if (fraction === null) bar.removeAttribute("value");
      else bar.value = fraction;
      setText(progressText, message);
    },
    /** @param {unknown} data */
    item(data) {
      streamed = true;
      items.hidden = false;
      if (collectChunk(data)) {
        all.push({ .../** @type {object} */ (data), data: "…" });
      } else all.push(data);
      const boxes = boxesIn(data);
      const time = /** @type {Record<string, unknown>} */ (data ?? {})["time_seconds"];
      if (input && typeof time === "number") input.add(time, boxes);
      else if (input && boxes.length) input.show(boxes, sizeIn(data));
      const atEnd = items.scrollTop + items.clientHeight >= items.scrollHeight - 30;
      items.append(h("li", { value: all.length }, JSON.stringify(all.at(-1)).slice(0, 500)));
      if (items.childElementCount > MAX_ITEMS) items.firstElementChild?.remove();
      if (atEnd) items.scrollTop = items.scrollHeight;
    },
    /** @param {Envelope} envelope */
    end(envelope) {
      ended = envelope;
      progress.hidden = true;
      const took = envelope.execution_time_ms ? ` in ${milliseconds(envelope.execution_time_ms)}` : "";
      verdict.dataset["kind"] = envelope.ok ? "good" : "bad";
      const what = [envelope.error_type, envelope.reason_code].filter(Boolean).join(", ");
      const count = streamed ? `, ${plural(all.length, "item")}` : "";
      setText(
        verdict,
        envelope.ok
          ? `Done${took}${count}`
          : `${envelope.error ?? "The run failed."}${what ? ` (${what})` : ""}${count}`,
      );
      if (envelope.ok && !streamed) {
        const { result } = envelope;
        if (collectChunk(result)) ended = { ...envelope, result: { .../** @type {object} */ (result), data: "…" } };
        const boxes = boxesIn(result);
        if (input && boxes.length) input.show(boxes, sizeIn(result));
        const words =
          typeof result === "string" ? result : /** @type {Record<string, unknown> | null} */ (result)?.["text"];
        text.hidden = typeof words !== "string" || words === "";
        setText(text, typeof words === "string" ? words.slice(0, MAX_CHARACTERS) : "");
      }
      showMedia();
      showJson();
    },
    /** @param {string} sentence */
    fail(sentence) {
      progress.hidden = true;
      verdict.dataset["kind"] = "bad";
      setText(verdict, sentence);
      if (streamed) showJson();
    },
    close() {
      made.forEach((each) => each.close());
    },
  };
}

/** @param {string | Blob} content @param {string} name */
function saveAs(content, name) {
  const blob = typeof content === "string" ? new Blob([content], { type: "application/json" }) : content;
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
