// The official SDK, the Responses API.
import OpenAI from "openai";
import { listed, raised, report, task, versionOf } from "./report.mjs";

const client = new OpenAI({ baseURL: `${task.url}/v1`, apiKey: "unused", maxRetries: 0 });
const tool = { type: "function", strict: true, ...task.tool };

const ask = (fields = {}) =>
  client.responses.create({ model: task.model, input: task.question, temperature: 0, max_output_tokens: 60, ...fields });

const call = async () => (await ask({ input: task.weather, tools: [tool], tool_choice: "required", parallel_tool_calls: false })).output;

const format = { type: "json_schema", name: "person", schema: task.schema, strict: true };

await report(versionOf("openai"), {
  chat: async () => (await ask()).output_text,
  stream: async () => {
    const events = await listed(await ask({ stream: true }));
    return events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta);
  },
  usage: async () => {
    const { usage } = (await listed(await ask({ stream: true }))).at(-1).response;
    return [usage.input_tokens, usage.output_tokens];
  },
  tools: async () => (await call()).map(({ name, arguments: text }) => ({ name, arguments: JSON.parse(text) })),
  results: async () => {
    const output = await call();
    const said = { type: "function_call_output", call_id: output[0].call_id, output: task.output };
    const input = [{ role: "user", content: task.weather }, ...output, said];
    return (await ask({ input, tools: [tool], tool_choice: "none" })).output_text;
  },
  schema: async () => JSON.parse((await ask({ input: task.describe, text: { format } })).output_text),
  error: () => raised(() => ask({ model: task.unknown })),
}, { models: "as with chat completions", embed: "as with chat completions" });
