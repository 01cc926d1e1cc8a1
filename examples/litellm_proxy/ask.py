"""
Ask through a LiteLLM Proxy; three ways to name the task.

    pip install . 'litellm[proxy]'
    t2l serve &
    export T2L_BASE_URL=http://127.0.0.1:8000/v1 T2L_API_KEY=unused
    export LITELLM_MASTER_KEY=sk-choose-a-long-one
    litellm --config examples/litellm_proxy/config.yaml &
    python examples/litellm_proxy/ask.py http://127.0.0.1:4000 $LITELLM_MASTER_KEY
"""

import sys

from openai import OpenAI

TASK = "Tell which emotion the sentence expresses, in one word."
TEXT = [{"role": "user", "content": "i feel beaten down and nobody noticed"}]

url, key = sys.argv[1:]
with OpenAI(base_url=url, api_key=key) as client:
    ask = client.chat.completions.create
    answers = {
        "body": ask(model="smollm2", messages=TEXT, extra_body={"t2l_description": TASK}),
        "header": ask(model="smollm2", messages=TEXT, extra_headers={"x-t2l-description": TASK}),
        "alias": ask(model="emotions", messages=TEXT),
    }
    for way, answer in answers.items():
        print(f"{way:<7} {answer.t2l['adapter']} {answer.choices[0].message.content}")
    # Through the provider a stream says it, too: in its first chunk.
    task = {"t2l_description": TASK}
    for chunk in ask(model="explained", messages=TEXT, extra_body=task, stream=True):
        if facts := getattr(chunk, "t2l", None):
            print(f"{'stream':<7} {facts['adapter']}", end=" ")
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
