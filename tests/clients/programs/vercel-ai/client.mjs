// Vercel's AI SDK with its provider for servers like OpenAI's, which is also what opencode is made with.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { listed, raised, report, task, versionOf } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "shimmy",
  baseURL: `${task.url}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
// The small model likes to call again and again.
const providerOptions = { shimmy: { parallel_tool_calls: false } };
const settings = { temperature: 0, maxOutputTokens: 60, maxRetries: 0, providerOptions };
const asked = (prompt, model = task.model) => ({ model: provider(model), prompt, ...settings });
const tools = {
  get_weather: tool({ description: task.tool.description, inputSchema: jsonSchema(task.tool.parameters) }),
};
const answering = {
  get_weather: tool({ ...tools.get_weather, execute: async () => task.output }),
};

await report(`${versionOf("ai")}, ${versionOf("@ai-sdk/openai-compatible")}`, {
  chat: async () => (await generateText(asked(task.question))).text,
  stream: () => listed(streamText(asked(task.question)).textStream),
  usage: async () => {
    const { inputTokens, outputTokens } = await streamText(asked(task.question)).usage;
    return [inputTokens, outputTokens];
  },
  tools: async () => {
    const { toolCalls } = streamText({ ...asked(task.weather), tools, toolChoice: "required" });
    return (await toolCalls).map(({ toolName, input }) => ({ name: toolName, arguments: input }));
  },
  results: async () => {
    const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
    const stopWhen = ({ steps }) => steps.length === 2;
    const answer = await generateText({ ...asked(task.weather), tools: answering, prepareStep, stopWhen });
    return answer.text;
  },
  schema: async () => {
    const output = Output.object({ schema: jsonSchema(task.schema), name: "person" });
    return (await generateText({ ...asked(task.describe), output })).output;
  },
  embed: async () => {
    const model = provider.textEmbeddingModel(task.embedder);
    return (await embedMany({ model, values: task.sentences, maxRetries: 0 })).embeddings;
  },
  error: () => raised(() => generateText(asked(task.question, task.unknown))),
}, { models: "lists none" });
