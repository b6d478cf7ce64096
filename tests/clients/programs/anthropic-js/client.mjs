// The official SDK.
import Anthropic from "@anthropic-ai/sdk";
import { listed, raised, report, task, versionOf } from "./report.mjs";

const client = new Anthropic({ baseURL: task.url, apiKey: "unused", maxRetries: 0 });
const tool = { name: task.tool.name, description: task.tool.description, input_schema: task.tool.parameters };
const user = (content) => ({ role: "user", content });

const fieldsOf = (fields) => ({
  model: task.model,
  messages: [user(task.question)],
  max_tokens: 60,
  temperature: 0,
  ...fields,
});
const ask = (fields = {}) => client.messages.create(fieldsOf(fields));
const call = async () =>
  (await ask({ messages: [user(task.weather)], tools: [tool], tool_choice: { type: "any", disable_parallel_tool_use: true } })).content;

await report(versionOf("@anthropic-ai/sdk"), {
  models: async () => (await listed(client.models.list())).map((model) => model.id),
  chat: async () => (await ask()).content[0].text,
  stream: async () => {
    const pieces = [];
    await client.messages.stream(fieldsOf({})).on("text", (text) => pieces.push(text)).finalMessage();
    return pieces;
  },
  usage: async () => {
    const { usage } = await client.messages.stream(fieldsOf({})).finalMessage();
    return [usage.input_tokens + usage.cache_read_input_tokens, usage.output_tokens];
  },
  tools: async () => (await call()).map(({ name, input }) => ({ name, arguments: input })),
  results: async () => {
    const content = await call();
    const output = { type: "tool_result", tool_use_id: content[0].id, content: task.output };
    const messages = [user(task.weather), { role: "assistant", content }, user([output])];
    return (await ask({ messages, tools: [tool], tool_choice: { type: "none" } })).content[0].text;
  },
  schema: async () => {
    const format = { type: "json_schema", schema: task.schema };
    return JSON.parse((await ask({ messages: [user(task.describe)], output_config: { format } })).content[0].text);
  },
  error: () => raised(() => ask({ model: task.unknown })),
}, { embed: "Anthropic's API has none" });
