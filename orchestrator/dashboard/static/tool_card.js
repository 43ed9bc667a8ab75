/** One tool: its form, the run started from it, the result. */

/** @import { Tool } from "./types.js" */

import { h, setAttribute, setText, uniqueId } from "./dom.js";
import { live } from "./live.js";
import { picture } from "./picture.js";
import { whyKeyMayNot } from "./refusals.js";
import { resultView } from "./result_view.js";
import { FieldError, schemaForm } from "./schema_form.js";
import { typeText } from "./schema_text.js";
import { toolRun } from "./tool_run.js";

const MAX_DESCRIPTION = 2000; // characters
const MAX_PICTURES = 12; // of the files for one parameter

/** @param {string} plugin @param {Tool} tool */
export function toolCard(plugin, tool) {
  const id = uniqueId("tool");
  const result = resultView(tool);
  /** @type {Map<string, NonNullable<ReturnType<typeof picture>>[]>} */
  const pictures = new Map();
  const shown = h("div", { class: "pictures" });
  const inOrder = () => Object.keys(tool.uploads).flatMap((name) => pictures.get(name) ?? []);
  const form = schemaForm(tool, (name, files) => {
    pictures.get(name)?.forEach((each) => each.close());
    const chosen = files.slice(0, MAX_PICTURES).map((file) => picture(file, `${name}: ${file.name}`));
    pictures.set(
      name,
      chosen.filter((each) => each !== null),
    );
    shown.replaceChildren(...inOrder().map((each) => each.element));
    result.clear();
  });
  const run = h("button", { type: "submit", class: "primary" }, "Run");
  const cancel = h("button", { type: "button", onclick: () => void running?.cancel() }, "Cancel");
  const clock = h("span", { class: "sub" });
  const wrong = h("p", { class: "notice", role: "alert", "data-kind": "bad" });
  const whyNot = h("p", { class: "sub why-not", id: uniqueId("why-not") });
  const element = h(
    "article",
    { class: "card tool", "aria-labelledby": id },
    h("h2", { id }, tool.name, tool.streaming && h("span", { class: "tag" }, "streams")),
    tool.description && h("p", { class: "sub" }, tool.description.slice(0, MAX_DESCRIPTION)),
    tool.output_schema &&
      h(
        "p",
        { class: "sub returns" },
        `${tool.streaming ? "yields" : "returns"} ${typeText(tool.output_schema, tool.output_schema)}`,
      ),
    h(
      "form",
      {
        novalidate: true,
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          void start();
        },
      },
      form.element,
      wrong,
      h("div", { class: "actions left" }, run, cancel, clock),
      whyNot,
    ),
    shown,
    result.element,
  );
  cancel.hidden = wrong.hidden = true;
  /** @type {ReturnType<typeof toolRun> | null} */
  let running = null;

  async function start() {
    let sent;
    wrong.hidden = true;
    try {
      sent = form.body();
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      wrong.hidden = false;
      setText(wrong, error.message);
      return;
    }
    for (const each of inOrder()) each.reset();
    result.begin(inOrder().at(-1) ?? null);
    busy(true);
    running = toolRun(plugin, tool, sent, result, (text) => setText(clock, text));
    await running.ended;
    running = null;
    busy(false);
  }

  /** @param {boolean} now */
  function busy(now) {
    run.disabled = now || !whyNot.hidden;
    cancel.hidden = !now;
    element.setAttribute("aria-busy", String(now));
  }

  const unwatch = live.watch(() => {
    const why = whyKeyMayNot("run");
    whyNot.hidden = why === "";
    setText(whyNot, why);
    run.disabled = running !== null || why !== "";
    setAttribute(run, "aria-describedby", why === "" ? null : whyNot.id);
  });
  const close = () => {
    unwatch();
    running?.leave();
    result.close();
    for (const each of inOrder()) each.close();
  };
  return { element, close };
}
