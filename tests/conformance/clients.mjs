// What a user's program does with the npm packages; run by test_clients.py.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const baseURL = process.argv[2];
const messages = [{ role: "user", content: "hello there" }];

const client = new OpenAI({ baseURL, apiKey: "-", maxRetries: 0 });
const plain = await client.chat.completions.create({
  model: "echo", messages, t2l_description: "Greet back",
});
assert.match(plain.choices[0].message.content, /^\[t2l-.*\] hello there$/);
assert.equal(`[${plain.t2l.adapter}] hello there`, plain.choices[0].message.content);
let text = "";
const stream = await client.chat.completions.create({ model: "echo", messages, stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.equal(text, "[base] hello there");
await assert.rejects(
  client.chat.completions.create({ model: "gpt-4o", messages }),
  (error) => error.status === 404 && error.code === "model_not_found",
);
const vectors = await client.embeddings.create({ model: "echo", input: "hi" });
assert.equal(vectors.data[0].embedding.length, 384);

const provider = createOpenAICompatible({ name: "t2l", baseURL, apiKey: "-" });
const answer = await generateText({ model: provider("echo"), prompt: "hello there" });
assert.equal(answer.text, "[base] hello there");
const streamed = streamText({ model: provider("echo"), prompt: "hello there" });
assert.equal(await streamed.text, "[base] hello there");
console.log("npm clients", process.version);
