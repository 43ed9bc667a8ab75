/** A form made from a tool's JSON Schema. */

/** @import { Schema, Tool } from "./types.js" */

import { h, uniqueId } from "./dom.js";
import { dropZone } from "./drop_zone.js";
import { definitionOf, filesOf, optionsOf, restText, typeText } from "./schema_text.js";

/** @typedef {{ element: HTMLElement, value: () => unknown, fill: (value: unknown) => void }} Field */

/** The input cannot be sent. */
export class FieldError extends Error {}

/**
 * @param {Tool} tool
 * @param {(name: string, files: File[]) => void} onFiles called with the files that are chosen for a parameter
 */
export function schemaForm(tool, onFiles) {
  const schema = tool.input_schema;
  const required = new Set(schema.required ?? []);
  /** @type {Map<string, Field>} */
  const fields = new Map();
  /** @type {Map<string, { element: HTMLElement, files: () => File[] }>} */
  const uploads = new Map();
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    if (name in tool.uploads) {
      const about = {
        ...filesOf(property, schema),
        required: required.has(name),
        hint: descriptionOf(property, schema),
      };
      uploads.set(
        name,
        dropZone(name, about, (files) => onFiles(name, files)),
      );
    } else fields.set(name, fieldOf(name, property, schema, required.has(name)));
  }
  const area = h("textarea", { rows: 6, spellcheck: "false", "aria-label": `Arguments of ${tool.name} as JSON` });
  const asJson = h("input", { type: "checkbox", onchange: swap });
  const plain = h("div", { class: "fields" }, ...[...fields.values()].map(({ element }) => element));
  const element = h(
    "div",
    { class: "schema-form" },
    uploads.size > 0 && h("div", { class: "uploads" }, ...[...uploads.values()].map((zone) => zone.element)),
    plain,
    area,
    fields.size > 0 && h("label", { class: "as-json" }, asJson, " Arguments as JSON"),
  );
  area.hidden = true;

  function swap() {
    const failed = attempt(() => {
      if (asJson.checked) area.value = JSON.stringify(Object.fromEntries(fieldValues()), null, 2);
      else for (const [name, value] of Object.entries(parsedArea())) fields.get(name)?.fill(value);
    });
    if (failed) asJson.checked = !asJson.checked;
    area.hidden = !asJson.checked;
    plain.hidden = asJson.checked;
    if (asJson.checked) area.focus();
  }

  /** @returns {[string, unknown][]} */
  function fieldValues() {
    return [...fields]
      .map(([name, field]) => /** @type {[string, unknown]} */ ([name, field.value()]))
      .filter(([, value]) => value !== undefined);
  }

  /** @returns {Record<string, unknown>} */
  function parsedArea() {
    const value = parseJson("The arguments", area.value || "{}");
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new FieldError("The arguments must be a JSON object.");
    }
    return /** @type {Record<string, unknown>} */ (value);
  }

  /**
   * The request to send. Raises `FieldError`.
   * @returns {{ headers: Record<string, string>, body: string | FormData }}
   */
  function body() {
    const values = asJson.checked ? Object.entries(parsedArea()) : fieldValues();
    const files = [...uploads].flatMap(([name, zone]) =>
      zone.files().map((file) => /** @type {[string, File]} */ ([name, file])),
    );
    for (const name of uploads.keys()) {
      if (required.has(name) && !files.some(([chosen]) => chosen === name)) {
        throw new FieldError(`Choose a file for ${name} first.`);
      }
    }
    if (files.length === 0) {
      return { headers: { "Content-Type": "application/json" }, body: JSON.stringify(Object.fromEntries(values)) };
    }
    const form = new FormData();
    for (const [name, value] of values) form.append(name, typeof value === "string" ? value : JSON.stringify(value));
    for (const [name, file] of files) form.append(name, file, file.name);
    return { headers: {}, body: form };
  }

  return { element, body };
}

/** @param {() => void} action whether it failed */
function attempt(action) {
  try {
    action();
    return false;
  } catch (error) {
    if (error instanceof FieldError) return true;
    throw error;
  }
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {Schema} root holds the definitions
 * @param {boolean} required
 * @returns {Field}
 */
function fieldOf(name, schema, root, required) {
  const id = uniqueId("field");
  const { plain, nullable } = resolved(schema, root);
  const input = inputOf(name, plain, root, schema.default, required && !nullable);
  input.control.id = id;
  const hint = hintOf(schema, plain, root, required);
  const hintElement = hint ? h("span", { class: "hint", id: `${id}-hint` }, hint) : null;
  if (hintElement) input.control.setAttribute("aria-describedby", hintElement.id);
  if (required) input.control.setAttribute("aria-required", "true");
  const label = h("label", { for: id }, name, required && h("span", { class: "hint" }, " (needed)"));
  const checkbox = plain.type === "boolean" && !plain.enum;
  const element = h(
    "div",
    { class: checkbox ? "field check" : "field" },
    ...(checkbox ? [input.control, label] : [label, input.control]),
    hintElement,
  );
  return { element, value: input.value, fill: input.fill };
}

/**
 * @param {string} name
 * @param {Schema} schema
 * @param {Schema} root holds the definitions
 * @param {unknown} preset
 * @param {boolean} required
 * @returns {{ control: HTMLElement, value: () => unknown, fill: (value: unknown) => void }}
 */
function inputOf(name, schema, root, preset, required) {
  if (schema.enum) {
    const choices = schema.enum;
    const control = h(
      "select",
      {},
      !required && h("option", { value: "" }, "—"),
      ...choices.map((choice, index) => h("option", { value: index }, String(choice))),
    );
    const fill = (/** @type {unknown} */ value) =>
      (control.value = choices.includes(value) ? String(choices.indexOf(value)) : required ? "0" : "");
    fill(preset);
    return { control, fill, value: () => (control.value === "" ? undefined : choices[Number(control.value)]) };
  }
  if (schema.type === "boolean") {
    const control = h("input", { type: "checkbox" });
    const fill = (/** @type {unknown} */ value) => (control.checked = value === true);
    fill(preset);
    return { control, fill, value: () => control.checked };
  }
  if (schema.type === "integer" || schema.type === "number") {
    const step = schema.type === "integer" ? 1 : "any";
    const control = h("input", {
      type: "number",
      step,
      min: schema.minimum,
      max: schema.maximum,
      inputmode: "decimal",
    });
    const fill = (/** @type {unknown} */ value) => (control.value = typeof value === "number" ? String(value) : "");
    fill(preset);
    const value = () => {
      if (control.validity.badInput) throw new FieldError(`${name} must be a number.`);
      return control.value === "" ? undefined : Number(control.value);
    };
    return { control, fill, value };
  }
  if (schema.type === "string") {
    const control = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
    const fill = (/** @type {unknown} */ value) => (control.value = typeof value === "string" ? value : "");
    fill(preset);
    return { control, fill, value: () => (control.value === "" && !required ? undefined : control.value) };
  }
  const control = h("textarea", { rows: 3, spellcheck: "false", placeholder: exampleOf(schema, root) });
  const fill = (/** @type {unknown} */ value) =>
    (control.value = value === null || value === undefined ? "" : JSON.stringify(value));
  fill(preset);
  return { control, fill, value: () => (control.value.trim() === "" ? undefined : parseJson(name, control.value)) };
}

/** The schema with references followed, and without the null that optional values admit. @param {Schema} schema @param {Schema} root */
function resolved(schema, root) {
  let plain = schema;
  let nullable = false;
  for (let depth = 0; depth < 8; depth += 1) {
    const rest = plain.anyOf?.filter((option) => option.type !== "null");
    if (plain.$ref) plain = definitionOf(plain.$ref, root) ?? {};
    else if (rest && rest.length === 1 && plain.anyOf) {
      nullable ||= rest.length < plain.anyOf.length;
      plain = rest[0] ?? {};
    } else break;
  }
  return { plain, nullable };
}

/** @param {Schema} schema @param {Schema} root */
const descriptionOf = (schema, root) => optionsOf(schema, root).find((option) => option.description)?.description ?? "";

/** @param {Schema} schema @param {Schema} plain @param {Schema} root @param {boolean} required */
function hintOf(schema, plain, root, required) {
  const choice = plain.enum || plain.type === "boolean"; // its control shows what there is to choose
  const type = choice ? "" : typeText(schema, root);
  const preset = plain.type === "boolean" || schema.default === null ? "" : restText(schema, required);
  return [descriptionOf(schema, root), (type + preset).trim()].filter(Boolean).join(" · ");
}

/** What the JSON of a value looks like: an object with its fields, a list with an item. @param {Schema} schema @param {Schema} root */
function exampleOf(schema, root) {
  /** @param {Schema} inner @param {number} depth @returns {string} */
  function example(inner, depth) {
    const { plain } = resolved(inner, root);
    const type = typeText(plain, root);
    if (plain.type === "object" && plain.properties && depth < 2) {
      const fields = Object.entries(plain.properties).map(([name, field]) => `"${name}": ${example(field, depth + 1)}`);
      return `{${fields.join(", ")}}`;
    }
    if (plain.type === "array" && typeof plain.items === "object" && depth < 2) {
      return `[${example(plain.items, depth + 1)}, …]`;
    }
    if (plain.type === "object") return "{…}";
    return plain.type === "array" ? "[…]" : type;
  }
  const text = example(schema, 0);
  return text === "any" ? "JSON" : `JSON: ${text}`;
}

/** @param {string} what @param {string} text @returns {unknown} */
function parseJson(what, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FieldError(`${what}: this is not JSON (${error instanceof Error ? error.message : ""}).`);
  }
}
