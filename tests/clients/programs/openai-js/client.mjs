// The official SDK, chat completions.
import OpenAI from "openai";
import { listed, raised, report, task, versionOf } from "./report.mjs";

const client = new OpenAI({ baseURL: `${task.url}/v1`, apiKey: "unused", maxRetries: 0 });
const tool = { type: "function", function: task.tool };
const user = (content) => ({ role: "user", content });

const ask = (fields = {}) =>
  client.chat.completions.create({
    model: task.model,
    messages: [user(task.question)],
    temperature: 0,
    max_tokens: 60,
    ...fields,
  });

const call = async () => {
  const answer = await ask({ messages: [user(task.weather)], tools: [tool], tool_choice: "required", parallel_tool_calls: false });
  return answer.choices[0].message;
};

const format = {
  type: "json_schema",
  json_schema: { name: "person", schema: task.schema, strict: true },
};

await report(versionOf("openai"), {
  models: async () => (await listed(client.models.list())).map((model) => model.id),
  chat: async () => (await ask()).choices[0].message.content,
  stream: async () => {
    const chunks = await listed(await ask({ stream: true }));
    return chunks.map((chunk) => chunk.choices[0].delta.content).filter(Boolean);
  },
  usage: async () => {
    const chunks = await listed(await ask({ stream: true, stream_options: { include_usage: true } }));
    const { usage } = chunks.at(-1);
    return [usage.prompt_tokens, usage.completion_tokens];
  },
  tools: async () =>
    (await call()).tool_calls.map(({ function: { name, arguments: text } }) => ({ name, arguments: JSON.parse(text) })),
  results: async () => {
    const called = await call();
    const output = { role: "tool", tool_call_id: called.tool_calls[0].id, content: task.output };
    const messages = [user(task.weather), called, output];
    return (await ask({ messages, tools: [tool], tool_choice: "none" })).choices[0].message.content;
  },
  schema: async () => {
    const answer = await client.chat.completions.parse({
      model: task.model,
      messages: [user(task.describe)],
      temperature: 0,
      max_tokens: 60,
      response_format: format,
    });
    return JSON.parse(answer.choices[0].message.content);
  },
  embed: async () => {
    const answer = await client.embeddings.create({ model: task.embedder, input: task.sentences });
    return answer.data.map((entry) => entry.embedding);
  },
  error: () => raised(() => ask({ model: task.unknown })),
}, {});
