// Ollama's own package.
import { Ollama } from "ollama";
import { listed, raised, report, task, versionOf } from "./report.mjs";

const client = new Ollama({ host: task.url });
const tool = { type: "function", function: task.tool };
const user = (content) => ({ role: "user", content });

const ask = (fields = {}) =>
  client.chat({
    model: task.model,
    messages: [user(task.question)],
    options: { temperature: 0, num_predict: 60 },
    ...fields,
  });

await report(versionOf("ollama"), {
  models: async () => {
    const { models } = await client.list();
    for (const { name } of models) (await client.show({ model: name })).model_info["general.architecture"].length;
    return models.map((model) => model.name);
  },
  chat: async () => (await ask()).message.content,
  stream: async () => {
    const parts = await listed(await ask({ stream: true }));
    return parts.map((part) => part.message.content).filter(Boolean);
  },
  usage: async () => {
    const last = (await listed(await ask({ stream: true }))).at(-1);
    return [last.prompt_eval_count, last.eval_count];
  },
  results: async () => {
    const call = { function: { name: "get_weather", arguments: { city: "Paris" } } };
    const output = { role: "tool", tool_name: "get_weather", content: task.output };
    const messages = [user(task.weather), { role: "assistant", content: "", tool_calls: [call] }, output];
    return (await ask({ messages, tools: [tool] })).message.content;
  },
  schema: async () => JSON.parse((await ask({ messages: [user(task.describe)], format: task.schema })).message.content),
  embed: async () => (await client.embed({ model: task.embedder, input: task.sentences })).embeddings,
  error: () => raised(() => ask({ model: task.unknown })),
}, { tools: "Ollama's API cannot demand a call, and the small model makes none" });
