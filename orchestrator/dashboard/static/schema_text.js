/** JSON Schemas as a person reads them, in the words of `orchestrator tools`. */

/** @import { Schema } from "./types.js" */

/**
 * The type of a schema. An object's fields are named once, then its name stands for them: schemas may be cyclic.
 * @param {Schema | boolean | undefined} schema
 * @param {Schema} root holds the definitions
 * @param {Set<string>} [named] the definitions named so far
 * @returns {string}
 */
export function typeText(schema, root, named = new Set()) {
  if (typeof schema !== "object") return "any";
  const of = (/** @type {Schema | boolean | undefined} */ inner) => typeText(inner, root, named);
  if (schema.$ref) {
    const name = nameOf(schema.$ref);
    if (named.has(name)) return name;
    named.add(name);
    const definition = definitionOf(schema.$ref, root);
    return definition?.properties && !isFile(definition)
      ? `${name} ${of({ ...definition, title: "" })}`
      : of(definition);
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum?.length) return either(schema.enum.map((choice) => JSON.stringify(choice)));
  const options = schema.anyOf ?? schema.oneOf;
  if (options?.length) return either(options.map(of));
  if (Array.isArray(schema.type)) return either(schema.type.map((type) => of({ ...schema, type })));
  switch (schema.type) {
    case "array":
      return listText(schema, of);
    case "object":
      return objectText(schema, of);
    case "string":
      return stringText(schema);
    case "integer":
    case "number":
      return [schema.type, rangeText(schema)].filter(Boolean).join(" ");
  }
  return schema.type ?? "any";
}

/** The default, or that there is no need to give one. @param {Schema} schema @param {boolean} required */
export function restText(schema, required) {
  if (required) return "";
  return schema.default === undefined || schema.default === null
    ? " (optional)"
    : ` = ${JSON.stringify(schema.default)}`;
}

/**
 * What an upload parameter takes.
 * @param {Schema} schema
 * @param {Schema} root
 * @returns {{ several: boolean, count: string }}
 */
export function filesOf(schema, root) {
  const list = optionsOf(schema, root).find((option) => option.type === "array");
  return { several: list !== undefined, count: list ? countText(list) : "" };
}

/** The schema itself and what it refers to. @param {Schema} schema @param {Schema} root */
export function optionsOf(schema, root) {
  /** @type {Schema[]} */
  const found = [];
  const ahead = [schema];
  while (ahead.length && found.length < 64) {
    const each = ahead.shift();
    if (typeof each !== "object") continue;
    found.push(each);
    const definition = each.$ref && definitionOf(each.$ref, root);
    if (definition) ahead.push(definition);
    ahead.push(...(each.anyOf ?? []));
  }
  return found;
}

/** @param {string} reference */
const nameOf = (reference) => reference.split("/").at(-1) ?? "";

/** @param {string} reference @param {Schema} root */
export const definitionOf = (reference, root) => root.$defs?.[nameOf(reference)];

/** Each alternative once, null at the end. @param {string[]} words */
function either(words) {
  const once = [...new Set(words)];
  return [...once.filter((word) => word !== "null"), ...once.filter((word) => word === "null")].join(" or ");
}

/** @param {Schema} schema @param {(inner: Schema | boolean | undefined) => string} of */
function listText(schema, of) {
  if (schema.prefixItems?.length) return `[${schema.prefixItems.map(of).join(", ")}]`;
  if (typeof schema.items !== "object") return `list${countText(schema)}`;
  const inner = of(schema.items);
  const kind = schema.uniqueItems ? "set" : "list";
  return `${kind} of ${inner.includes(" or ") ? `(${inner})` : inner}${countText(schema)}`;
}

/** @param {Schema} schema @param {(inner: Schema | boolean | undefined) => string} of */
function objectText(schema, of) {
  const fields = Object.entries(schema.properties ?? {});
  if (isFile(schema)) return "File";
  if (fields.length === 0) {
    return typeof schema.additionalProperties === "object" ? `object of ${of(schema.additionalProperties)}` : "object";
  }
  const required = new Set(schema.required ?? []);
  const inner = fields.map(([name, field]) => `${name}: ${of(field)}${restText(field, required.has(name))}`);
  return `${schema.title ? `${schema.title} ` : ""}{${inner.join(", ")}}`;
}

/** Whether it describes the reference to a file of a result, and no type of an author with the same name. @param {Schema} schema */
function isFile({ title, properties = {} }) {
  return title === "File" && ["file", "sha256", "url"].every((name) => name in properties);
}

/** @param {Schema} schema */
function stringText(schema) {
  if (schema.contentEncoding === "base64") return "base64";
  const size = between(schema.minLength, schema.maxLength);
  return [
    "string",
    schema.format && `(${schema.format})`,
    size && `of ${size} characters`,
    schema.pattern && `matching ${schema.pattern}`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** @param {Schema} schema */
function rangeText(schema) {
  return [
    between(schema.minimum, schema.maximum),
    schema.exclusiveMinimum !== undefined && `over ${schema.exclusiveMinimum}`,
    schema.exclusiveMaximum !== undefined && `under ${schema.exclusiveMaximum}`,
    schema.multipleOf && `in steps of ${schema.multipleOf}`,
  ]
    .filter(Boolean)
    .join(", ");
}

/** @param {Schema} schema */
function countText(schema) {
  const size = between(schema.minItems, schema.maxItems);
  return size && `, ${size} of them`;
}

/** @param {number | undefined} least @param {number | undefined} most */
function between(least, most) {
  if (least === undefined) return most === undefined ? "" : `at most ${most}`;
  if (least === most) return String(least);
  return most === undefined ? `at least ${least}` : `${least} to ${most}`;
}
