/** The result of a run: verdict, progress, files, text, JSON. */

/** @import { Envelope, FileReference, ResultFile, Tool } from "./types.js" */
/** @typedef {NonNullable<ReturnType<typeof import("./picture.js").picture>>} Picture */

import { boxesIn, sizeIn } from "./boxes.js";
import { h, setText } from "./dom.js";
import { fileView, saveAs } from "./file_view.js";
import { partJoiner, textsAreBytes, withoutFiles } from "./files.js";
import { milliseconds, plural } from "./format.js";

const MAX_CHARACTERS = 100_000; // of JSON in the page; the saved file has all
const MAX_ITEMS = 200; // streamed items in the page
const MAX_SHOWN = 24; // files that are shown at once
const MAX_FILES = 500; // in the page

/** @param {Tool} tool */
export function resultView(tool) {
  const areBytes = textsAreBytes(tool.output_schema);
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
    {
      type: "button",
      class: "small",
      onclick: () => saveAs(new Blob([JSON.stringify(value(), null, 2)]), "result.json"),
    },
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
  let parts = partJoiner(areBytes);
  /** @type {import("./file_view.js").FileView[]} */
  let made = [];
  /** The addresses of the files that are shown. @type {Set<string>} */
  let known = new Set();
  let streamed = false;

  const value = () => (streamed ? all : ended?.ok ? ended.result : ended);

  function clear() {
    element.hidden = true;
    made.forEach((each) => each.close());
    [made, all, ended, streamed, known, parts] = [[], [], null, false, new Set(), partJoiner(areBytes)];
    for (const each of [media, text, items, code]) each.replaceChildren();
    for (const each of [progress, text, items, jsonBox]) each.hidden = true;
    setText(verdict, "");
  }

  /** @param {ResultFile | null} file */
  function showFile(file) {
    if (!file || known.size >= MAX_FILES || known.has(file.url ?? "")) return;
    known.add(file.url ?? `inline ${known.size}`);
    const view = fileView(file, made.length < MAX_SHOWN);
    made.push(view);
    media.append(view.element);
  }

  /** Shows the files in a value, and gives the value without them. @param {unknown} data @param {(reference: FileReference) => boolean} listed */
  function showFiles(data, listed) {
    const { shown, files } = withoutFiles(data, listed);
    files.forEach(showFile);
    return shown;
  }

  /** Shows the files of an item once they are whole, and gives the item without them. @param {unknown} data @param {string} run */
  function collect(data, run) {
    const part = parts.take(data);
    showFile(part.ended);
    return part.isPart ? part.shown : showFiles(data, ({ url }) => url.startsWith(`/v1/runs/${run}/files/`));
  }

  /** The result of a tool that does not stream, or the items of one whose stream was collected. @param {Envelope} envelope */
  function showResult(envelope) {
    const { result, files = [] } = envelope;
    const urls = new Set(files.map(({ url }) => url));
    /** @param {unknown} data */
    const part = (data) => {
      const { ended: whole, isPart, shown } = parts.take(data);
      showFile(whole);
      return isPart ? shown : showFiles(data, ({ url }) => urls.has(url));
    };
    const inParts = tool.streaming && Array.isArray(result);
    const isBytes = areBytes && typeof result === "string";
    const shown = inParts ? result.map(part) : isBytes ? part(result) : showFiles(result, ({ url }) => urls.has(url));
    ended = { ...envelope, result: shown };
    const boxes = boxesIn(result);
    if (input && boxes.length) input.show(boxes, sizeIn(result));
    const words = typeof shown === "string" ? shown : /** @type {Record<string, unknown> | null} */ (shown)?.["text"];
    text.hidden = typeof words !== "string" || words === "" || (typeof shown === "string" && shown !== result);
    setText(text, typeof words === "string" && !text.hidden ? words.slice(0, MAX_CHARACTERS) : "");
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
    /** @param {unknown} data @param {string} run its id */
    item(data, run) {
      streamed = true;
      items.hidden = false;
      all.push(collect(data, run));
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
      if (envelope.ok && !streamed) showResult(envelope);
      showFile(parts.end());
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
