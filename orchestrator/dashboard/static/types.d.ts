/** The HTTP API's responses, as far as the page reads them. */

export type State = "LOADED" | "INITIALIZED" | "RUNNING" | "FAILED" | "UNAVAILABLE";

/** What the page shows: a plugin or instance that is parked is at rest, and no trouble. */
export type ShownState = State | "PARKED";

export interface Check {
  name: string;
  ok: boolean;
  detail: string;
  source: string;
}

export interface Gpu {
  uuid: string;
  index?: number | null;
  name?: string | null;
  memory_total_bytes?: number | null;
  memory_used_bytes?: number | null;
  utilization_percent?: number | null;
  temperature_celsius?: number | null;
  parent_uuid?: string | null;
  healthy?: boolean;
  fault?: string | null;
}

export interface Activity {
  what: string;
  since: string;
  line: string;
}

export interface Restart {
  state: "preparing" | "refused";
  requested_at: string;
  reason_code: string | null;
  reason: string | null;
}

export interface Instance {
  generation: number;
  state: State;
  role: "serving" | "draining" | "candidate";
  version: string;
  reason: string | null;
  reason_code: string | null;
  uptime_seconds: number | null;
  in_flight: number;
  container: Record<string, unknown>;
  gpus: Gpu[];
  checks: Check[];
}

export interface Plugin {
  name: string;
  state: State;
  description: string;
  version: string;
  reason: string | null;
  reason_code: string | null;
  uptime_seconds: number | null;
  last_used: string | null;
  success_count: number;
  error_count: number;
  last_execution_time_ms: number | null;
  avg_execution_time_ms: number | null;
  in_flight: number;
  queued: number;
  generation: number;
  observed_at: string;
  stale: boolean;
  checks: Check[];
  container: Record<string, unknown>;
  gpus: Gpu[];
  limits: Record<string, unknown>;
  activity: Activity | null;
  restart: Restart | null;
  replicas: { wanted: number; ready: number; in_manifest: number };
  degraded: boolean;
  degraded_reason: string | null;
  parked_since: string | null;
  start_estimate_seconds: number | null;
  instances: Instance[];
  candidate: Instance | null;
}

export interface PostMortem {
  ended_at: string;
  exit_code: number | null;
  signal: string | null;
  peak_memory_bytes: number | null;
  stacks: string;
  traceback: string;
  build_output: string;
  log_tail: string;
}

export interface PluginDetail extends Plugin {
  post_mortem: PostMortem | null;
}

export type UpdateStep =
  "PROPOSED" | "BUILT" | "STARTING" | "PROVING" | "SWITCHED" | "SETTLED" | "REJECTED" | "REVERTED";

export interface Release {
  id: string;
  version: string;
}

/** An update or a revert. `step_times`: when each step was reached, in their order. */
export interface Update {
  id: string;
  kind: "update" | "revert";
  step: UpdateStep;
  ended: boolean;
  requested_at: string;
  step_times: Partial<Record<UpdateStep, string>>;
  strategy: "overlap" | "replace" | null;
  strategy_reason: string | null;
  from_release: Release | null;
  to_release: Release | null;
  replicas: number;
  replicas_updated: number;
  switch_times?: string[];
  candidate: number | null;
  draining: number | null;
  proof: string | null;
  reason_code: string | null;
  reason: string | null;
  post_mortem: PostMortem | null;
}

/** What the plugin's instances are made from, and what a revert goes back to. */
export interface Releases {
  current: Release | null;
  revert: Release | null;
}

export type Right = "read" | "run" | "operate";

/** Who calls, by its key. */
export interface Caller {
  name: string | null;
  may: Right[];
  plugins: string[];
}

export interface LifecycleEvent {
  id: number;
  time: string;
  plugin: string;
  generation: number;
  previous: State | null;
  state: State;
  reason_code: string | null;
  reason: string | null;
}

/** The subset of JSON Schema that the runtime generates from type hints. */
export interface Schema {
  type?: string | string[];
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  title?: string;
  format?: string;
  pattern?: string;
  contentEncoding?: string;
  anyOf?: Schema[];
  oneOf?: Schema[];
  $ref?: string;
  $defs?: Record<string, Schema>;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  items?: Schema | boolean;
  prefixItems?: Schema[];
  uniqueItems?: boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
}

export interface Tool {
  name: string;
  description: string;
  input_schema: Schema;
  output_schema?: Schema | null;
  streaming: boolean;
  uploads: Record<string, "bytes" | "path">;
}

/** A file that the orchestrator has. */
export interface FileReference {
  file: string;
  media_type: string;
  size: number;
  sha256: string;
  url: string;
}

/** A file of a result: at `url`, or here as `content`. */
export interface ResultFile {
  name: string;
  type: string;
  size: number;
  url?: string;
  content?: Uint8Array<ArrayBuffer>[];
}

export interface Envelope {
  ok: boolean;
  result: unknown;
  error: string | null;
  error_type: string | null;
  reason_code: string | null;
  source: "plugin" | "orchestrator";
  plugin: string | null;
  tool: string | null;
  run_id: string | null;
  execution_time_ms: number;
  files?: FileReference[];
}

export type StreamEvent =
  | { event: "progress"; fraction: number | null; message: string | null }
  | { event: "item"; data: unknown }
  | { event: "heartbeat" }
  | ({ event: "end"; items?: number } & Envelope);

export interface Run {
  run_id: string;
  plugin: string;
  tool: string;
  state: "queued" | "running" | "finished" | "interrupted";
  accepted_at: string;
  started_at: string | null;
  finished_at: string | null;
  outcome: string | null;
  reason_code: string | null;
  execution_time_ms: number | null;
  request_bytes: number | null;
  response_bytes: number | null;
  queue_position: number | null;
  cancel_requested: boolean;
  progress: { fraction: number | null; message: string | null } | null;
}

export interface GpuHolder {
  plugin: string;
  instance: string;
  sharing: string;
  memory_bytes: number | null;
  phase: string;
}

export interface GpuDevice extends Omit<Gpu, "uuid"> {
  /** null: the GPU does not say which it is */
  uuid: string | null;
  state?: string;
  memory_available_bytes?: number | null;
  holders?: GpuHolder[];
}

/** An instance that has no GPUs yet. */
export interface GpuWait {
  plugin: string;
  generation: number;
  gpus: number;
  seconds: number;
  reason: string;
}

export interface GpuReport {
  driver_version?: string | null;
  cuda_version?: string | null;
  observed_at?: string;
  reason_code: string | null;
  reason: string | null;
  devices: GpuDevice[];
  quarantines: unknown[];
  waiting?: GpuWait[];
}

/** A rectangle, in pixels of the upright picture. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
  label: string;
}
